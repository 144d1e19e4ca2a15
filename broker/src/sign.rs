//! Signs requests with SigV4, or with SigV4a for a set of regions; a pure function of a grant,
//! credentials and a time.
//!
//! Invariant: only the request in the grant is signed, for the endpoint's own host, service and
//! regions. This module uses no clock and no I/O.
//!
//! The signers check nothing (AWS's may panic on a URI, and accepts any text as method and hash);
//! [`crate::request`] checks the request before.

mod v4;

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningParams,
    SigningSettings, UriPathNormalizationMode,
};
use aws_sigv4::sign::v4a;
use aws_smithy_runtime_api::client::identity::Identity;

use crate::endpoint::{RegionSet, Regions, Scope};
use crate::error::{Denial, Reason};
use crate::log::timestamp_compact;
use crate::policy::Grant;
use crate::request::Head;
use crate::secret::Credentials;

/// The headers that authenticate a request to AWS.
pub struct Signature {
    /// `x-amz-date`, `authorization`, `x-amz-security-token` if the credentials have one, and
    /// `x-amz-region-set` for a set of regions.
    pub headers: Vec<(&'static str, String)>,
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Signature").field("headers", &names).finish()
    }
}

/// Signs the request of a grant.
///
/// # Errors
/// The signer refused a request that passed the checks: a bug.
pub fn sign(
    grant: &Grant<'_>,
    credentials: &Credentials,
    time: SystemTime,
) -> Result<Signature, Denial> {
    let (request, head) = (grant.request(), grant.request().head());
    let scope = &head.endpoint().scope;
    let body = hex::encode(request.body_sha256());
    let headers = match &scope.regions {
        Regions::One(region) => {
            let (path, query) =
                head.path_and_query().split_once('?').unwrap_or((head.path_and_query(), ""));
            let s3 = is_s3(scope);
            let path = if s3 { Cow::Borrowed(path) } else { v4::encode(path).into() };
            let canonical = v4::Canonical {
                method: head.method().as_str(),
                path: &path,
                query,
                host: head.endpoint().url.authority(),
                headers: head.headers(),
                body_sha256: &body,
                body_header: s3,
            };
            let validity = v4::Validity {
                region: region.as_str(),
                service: scope.service.as_str(),
                time: &timestamp_compact(time),
                scope: &credential_scope(scope, time),
            };
            v4::headers(&canonical, credentials.expose_keys(), &validity)
                .map_err(|error| fault(error.to_string()))?
        }
        Regions::Set(set) => {
            let request = signable(head, body).map_err(fault)?;
            let identity = credentials.expose_identity();
            signed_for_set(request, identity, scope, set, time).map_err(fault)?
        }
    };
    Ok(Signature { headers })
}

/// The credential scope, like `20261123/us-east-1/aws-mcp/aws4_request`; for a set of regions it
/// has no region: `20261123/aws-mcp/aws4_request`.
#[must_use]
pub fn credential_scope(scope: &Scope, time: SystemTime) -> String {
    let service = scope.service.as_str();
    let region = match &scope.regions {
        Regions::One(region) => Some(region.as_str()),
        Regions::Set(_) => None,
    };
    let mut text = timestamp_compact(time);
    // Keeps the date, and reserves space for the rest.
    text.truncate(8);
    text.reserve(service.len() + region.map_or(0, str::len) + "//aws4_request/".len());
    for part in region.into_iter().chain([service, "aws4_request"]) {
        text.push('/');
        text.push_str(part);
    }
    text
}

/// The request in the form that AWS's signer takes.
fn signable(head: &Head, body_sha256: String) -> Result<SignableRequest<'_>, String> {
    let url = &head.endpoint().url;
    // An explicit `Host` header would be used unchanged; without one the signer derives it from the
    // URI, as an HTTP client does.
    let uri = format!("{}://{}{}", url.scheme(), url.authority(), head.path_and_query());
    let headers = head.headers().iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let body = SignableBody::Precomputed(body_sha256);
    SignableRequest::new(head.method().as_str(), uri, headers, body)
        .map_err(|error| error.to_string())
}

fn signed_for_set(
    request: SignableRequest<'_>,
    identity: &Identity,
    scope: &Scope,
    regions: &RegionSet,
    time: SystemTime,
) -> Result<Vec<(&'static str, String)>, String> {
    let params = v4a::SigningParams::builder()
        .identity(identity)
        .region_set(regions.as_str())
        .name(scope.service.as_str())
        .time(time)
        .settings(settings(scope))
        .build()
        .map_err(|error| error.to_string())?;
    added(request, &params.into())
}

/// The headers that AWS's signer adds.
fn added(
    request: SignableRequest<'_>,
    params: &SigningParams<'_>,
) -> Result<Vec<(&'static str, String)>, String> {
    let output =
        aws_sigv4::http_request::sign(request, params).map_err(|error| error.to_string())?;
    let (instructions, _signature) = output.into_parts();
    let (headers, _query) = instructions.into_parts();
    Ok(headers.into_iter().map(|header| (header.name(), header.value().to_owned())).collect())
}

/// Whether the service is S3. All services but S3 encode the path once more before they check the
/// signature: `%3A` is signed as `%253A`. S3 uses the path unchanged, and requires the body's hash
/// in a header.
fn is_s3(scope: &Scope) -> bool {
    scope.service.as_str() == "s3"
}

fn settings(scope: &Scope) -> SigningSettings {
    let mut settings = SigningSettings::default();
    if is_s3(scope) {
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    settings
}

fn fault(why: String) -> Denial {
    Denial::new(Reason::Internal, why)
}

#[cfg(test)]
mod tests;
