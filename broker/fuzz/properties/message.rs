//! What holds for every message that someone calls `Sign` with: the fuzz target `message` looks for one where it doesn't.
//!
//! The first byte says how the rest is cut into pieces; that is the message, to which the prefix of gRPC is added.

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use sigward_broker::fuzz;
use sigward_proto::v1::SignRequest;
use sigward_proto::v1::sign_request::Payload;

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// Fails if something doesn't hold for `data`.
pub(crate) fn check(data: &[u8]) {
    let Some((&size, message)) = data.split_first() else { return };
    let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
    let framed = [&[0][..], &length, message].concat();
    let whole = read(&framed, framed.len());
    assert_eq!(read(&framed, usize::from(size).max(1)), whole, "the pieces make a difference");
    assert_eq!(read(&framed, 1), whole, "the pieces make a difference");
    // Whatever is read is what prost reads, which is what everybody else reads.
    let Some(read) = whole else { return };
    let decoded = SignRequest::decode(message).expect("prost reads it too");
    let payload = match &decoded.payload {
        Some(Payload::Body(body)) => {
            Some(Payload::BodySha256(Bytes::copy_from_slice(&Sha256::digest(body))))
        }
        other => other.clone(),
    };
    assert_eq!(read, SignRequest { payload, ..decoded });
}

fn read(framed: &[u8], size: usize) -> Option<SignRequest> {
    let pieces = framed.chunks(size).map(Bytes::copy_from_slice).collect();
    RUNTIME.with(|runtime| runtime.block_on(fuzz::sign_message(pieces)))
}
