//! The signature: SigV4, or SigV4a for a set of regions, as a pure function of a grant, credentials and
//! a time.
//!
//! Invariant: what is signed is the request inside the grant, for the endpoint's own host, service
//! and regions. There is no clock and no I/O here.
//!
//! The signer itself checks nothing (its URI may panic, its method and hash may be any text); that is
//! what [`crate::request`] is for.

use std::fmt;
use std::time::SystemTime;

use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningParams,
    SigningSettings, UriPathNormalizationMode,
};
use aws_sigv4::sign::{v4, v4a};
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use crate::endpoint::{Regions, Scope};
use crate::error::{Denial, Reason};
use crate::policy::Grant;
use crate::secret::Credentials;

/// What to add to a request so that AWS takes it.
pub struct Signature {
    /// `x-amz-date`, `authorization`, `x-amz-security-token` where the credentials have one, and
    /// `x-amz-region-set` for a set of regions.
    pub headers: Vec<(&'static str, String)>,
    /// `20261123/us-east-1/aws-mcp/aws4_request`; for a set of regions without one:
    /// `20261123/aws-mcp/aws4_request`.
    pub scope: String,
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Signature").field("scope", &self.scope).field("headers", &names).finish()
    }
}

/// Signs the request that the grant is for.
///
/// # Errors
/// The signer refused what passed our checks: a fault of ours.
pub fn sign(
    grant: &Grant<'_>,
    credentials: &Credentials,
    time: SystemTime,
) -> Result<Signature, Denial> {
    let (request, head) = (grant.request(), grant.request().head());
    let endpoint = head.endpoint();
    let scope = &endpoint.scope;
    // A `Host` header of our own would be taken over as it is; without one the signer derives it from
    // the URI, as an HTTP client does.
    let uri = format!(
        "{}://{}{}",
        endpoint.url.scheme(),
        endpoint.url.authority(),
        head.path_and_query()
    );
    let headers = head.headers().iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let signable = SignableRequest::new(
        head.method().as_str(),
        uri,
        headers,
        SignableBody::Precomputed(hex::encode(request.body_sha256())),
    );
    let signable = signable.map_err(|error| fault(error.to_string()))?;
    let headers = signed(signable, credentials.expose_identity(), scope, settings(scope), time)
        .map_err(fault)?;
    Ok(Signature { headers, scope: credential_scope(scope, time).map_err(fault)? })
}

/// The signer with its parameters; apart, so that AWS's own test vectors reach it.
fn signed(
    request: SignableRequest<'_>,
    identity: &Identity,
    scope: &Scope,
    settings: SigningSettings,
    time: SystemTime,
) -> Result<Vec<(&'static str, String)>, String> {
    let (service, regions) = (scope.service.as_str(), &scope.regions);
    let params: SigningParams<'_> = match regions {
        Regions::One(region) => v4::SigningParams::builder()
            .identity(identity)
            .region(region.as_str())
            .name(service)
            .time(time)
            .settings(settings)
            .build()
            .map_err(|error| error.to_string())?
            .into(),
        Regions::Set(set) => v4a::SigningParams::builder()
            .identity(identity)
            .region_set(set.as_str())
            .name(service)
            .time(time)
            .settings(settings)
            .build()
            .map_err(|error| error.to_string())?
            .into(),
    };
    let output =
        aws_sigv4::http_request::sign(request, &params).map_err(|error| error.to_string())?;
    let (instructions, _signature) = output.into_parts();
    let (headers, _query) = instructions.into_parts();
    Ok(headers.into_iter().map(|header| (header.name(), header.value().to_owned())).collect())
}

/// All services but S3 decode the path once more before they check the signature: `%3A` is signed as
/// `%253A`. S3 takes the path as it is, and wants the body's hash in a header.
fn settings(scope: &Scope) -> SigningSettings {
    let mut settings = SigningSettings::default();
    if scope.service.as_str() == "s3" {
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    settings
}

fn credential_scope(scope: &Scope, time: SystemTime) -> Result<String, String> {
    let time = DateTime::from(time).fmt(Format::DateTime).map_err(|error| error.to_string())?;
    let day: String = time.chars().filter(|c| *c != '-').take_while(char::is_ascii_digit).collect();
    let service = scope.service.as_str();
    Ok(match &scope.regions {
        Regions::One(region) => format!("{day}/{}/{service}/aws4_request", region.as_str()),
        Regions::Set(_) => format!("{day}/{service}/aws4_request"),
    })
}

fn fault(why: String) -> Denial {
    Denial::new(Reason::Internal, why)
}

#[cfg(test)]
mod tests;
