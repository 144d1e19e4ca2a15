//! For tests: checks a request whose body is available as a whole.

use std::sync::Arc;

use sigward_proto::call::Want;
use sigward_proto::v1::SignRequest;
use sigward_proto::v1::sign_request::Payload;

use super::{CheckedRequest, Head};
use crate::endpoint::Endpoint;
use crate::error::Denial;

/// Checks a request, and reads its body for `want`.
pub(crate) fn check(
    request: SignRequest,
    endpoints: &[Arc<Endpoint>],
    want: Option<&Arc<Want>>,
) -> Result<CheckedRequest, Denial> {
    let SignRequest { profile, method, uri, headers, payload } = request;
    let head = Head::check(profile, &method, &uri, &headers, endpoints)?;
    match payload {
        Some(Payload::Body(body)) => {
            let mut reader = head.body_reader(want);
            reader.push(&body);
            head.with_body(reader)
        }
        Some(Payload::BodySha256(hash)) => head.with_hash(&hash),
        None => head.without_body(),
    }
}
