//! The private parsers of this crate, for `broker/fuzz` and for the tests of its corpus. It is
//! hidden, because no other crate may depend on it: a broker is a program.
//!
//! Each function calls a parser as the broker does, and returns the result in public types, without
//! secrets.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::bytes::Bytes;
use sigward_proto::v1::sign_request::Payload;
use sigward_proto::v1::{Header, SignRequest};

use crate::call::BodyReader;
use crate::endpoint::{Endpoint, EndpointUrl, Paths, Regions, Scope, Service};
use crate::peer::PeerId;
use crate::profile::fuzz as profile;
use crate::request::Head;
use crate::service::budget::{Budget, Share};
use crate::service::message::{self, Incoming};

/// A Sign message in these pieces, with the hash of its body in place of the body; `None` if it is
/// refused.
pub async fn sign_message(pieces: Vec<Bytes>) -> Option<SignRequest> {
    let frames = stream::iter(pieces).map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    let mut share = Share::new(&Arc::new(Budget::default()), PeerId::Uid(1));
    let mut incoming = Incoming::new(tonic::body::Body::new(StreamBody::new(frames)), &mut share);
    let head = incoming.head().await.ok()?;
    let payload = match head.payload {
        message::Payload::None => None,
        message::Payload::Hash(hash) => Some(Payload::BodySha256(hash)),
        message::Payload::Follows => {
            let mut reader = BodyReader::hashing();
            incoming.read_body(&mut reader).await.ok()?;
            Some(Payload::BodySha256(Bytes::copy_from_slice(&reader.finish(&[]).sha256)))
        }
    };
    let message::MessageHead { profile, method, uri, headers, .. } = head;
    Some(SignRequest { profile, method, uri, headers, payload })
}

/// The path and query and the headers that would be signed, for an endpoint at `endpoint` and, with
/// `prefix`, below it; `None` if they are refused, or the endpoint is invalid.
pub fn head(
    endpoint: &str,
    prefix: bool,
    uri: &str,
    headers: &[Header],
) -> Option<(String, Vec<(String, String)>)> {
    let url = EndpointUrl::parse(endpoint).ok()?;
    let scope =
        Scope { service: Service::parse("x").ok()?, regions: Regions::parse("us-east-1").ok()? };
    let paths = if prefix { Paths::Prefix } else { Paths::Exact };
    let endpoints = [Arc::new(Endpoint { name: "endpoint".to_owned(), url, paths, scope })];
    let head = Head::check("dev".to_owned(), "POST", uri, headers, &endpoints).ok()?;
    Some((head.path_and_query().to_owned(), head.headers().to_vec()))
}

/// These settings of these profiles in AWS's files, one profile after the other, or the error of
/// the files or of a setting.
#[must_use]
pub fn aws_settings(
    config: &str,
    credentials: &str,
    profiles: &[&str],
    keys: &[&str],
) -> Vec<Result<Option<String>, String>> {
    profile::settings(config, credentials, profiles, keys)
}

/// The expiry of an IAM Identity Center token.
#[must_use]
pub fn sso_token(json: &[u8]) -> Option<SystemTime> {
    profile::sso_token(json)
}

/// The expiry of an `aws login` session.
///
/// # Errors
/// The error of the token.
pub fn login_token(json: &[u8]) -> Result<SystemTime, String> {
    profile::login_token(json)
}

/// The key id and the expiry in the output of a `credential_process`.
///
/// # Errors
/// The error of the output.
pub fn process_output(text: &str) -> Result<(String, Option<SystemTime>), &'static str> {
    profile::process_output(text)
}

/// A point in time.
#[must_use]
pub fn point_in_time(text: &str) -> Option<SystemTime> {
    profile::point_in_time(text)
}
