//! A caller that may sign, and tries to fill the broker's memory.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use tonic::body::Body;
use tower::{Service, ServiceExt};

use super::*;

const PIECE: usize = 1 << 20;

/// The beginning of a request for a signature, of `pieces` MiB; its end never comes.
fn endless(pieces: usize) -> http::Request<Body> {
    let length = u32::try_from(MAX_MESSAGE_BYTES).expect("a length");
    // gRPC over HTTP/2, "Length-Prefixed-Message": not compressed, and so many bytes.
    let mut head = vec![0];
    head.extend_from_slice(&length.to_be_bytes());
    let data = Bytes::from(vec![0; PIECE]);
    let pieces = std::iter::once(Bytes::from(head)).chain(std::iter::repeat_n(data, pieces));
    let frames = stream::iter(pieces).map(|piece| Ok::<_, Status>(Frame::data(piece)));
    let body = StreamBody::new(frames.chain(stream::pending()));
    let request = http::Request::post("http://broker/sigward.broker.v1.Broker/Sign");
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    request.body(Body::new(body)).expect("a request")
}

#[tokio::test]
async fn a_caller_s_messages_have_a_limit_together() {
    let broker = Broker::start("");
    let mut channel = broker.channel().await;
    let most = MAX_MESSAGE_BYTES / PIECE - 1;
    // Four of the largest fit, and what they leave of the limit is less than a fifth wants.
    let mut sent = Vec::new();
    for _ in 0..5 {
        let ready = channel.ready().await.expect("a connection");
        sent.push(tokio::spawn(ready.call(endless(most))));
    }
    let (first, _, others) = deadline::within(futures_util::future::select_all(sent)).await;
    let refused = first.expect("no panic").expect("an answer");
    let status = Status::from_header_map(refused.headers()).expect("a status");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().map(|it| it.reason.as_str()), Some("RATE_LIMITED"));
    assert!(others.iter().all(|other| !other.is_finished()), "one of them is enough");

    // What the others leave is enough for a small one.
    broker.client().await.sign(request("dev")).await.expect("a signature");
    others.iter().for_each(JoinHandle::abort);
}
