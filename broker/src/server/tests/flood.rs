//! The attack: a caller that may sign fills the broker's memory.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tower::{Service, ServiceExt};

use super::*;

/// Less than the largest head, in bytes.
const PIECE: usize = 80 << 10;

/// The beginning of a request for a signature, whose end is never sent.
fn endless() -> http::Request<Body> {
    // gRPC over HTTP/2, "Length-Prefixed-Message": not compressed, and the length. Then the length
    // of a URI.
    let mut head = vec![0];
    head.extend_from_slice(&(1_u32 << 20).to_be_bytes());
    head.extend_from_slice(b"\x1a\x80\xf0\x05");
    head.extend_from_slice(&[b'a'; PIECE]);
    let pieces = stream::iter([Ok::<_, Status>(Frame::data(Bytes::from(head)))]);
    let body = StreamBody::new(pieces.chain(stream::pending()));
    let request = http::Request::post("http://broker/sigward.broker.v1.Broker/Sign");
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    request.body(Body::new(body)).expect("a request")
}

#[tokio::test]
async fn a_caller_s_heads_have_a_limit_together() {
    let broker = Broker::start("");
    let mut channel = broker.channel().await;
    let mut others = Vec::new();
    for _ in 0..120 {
        let ready = channel.ready().await.expect("a connection");
        others.push(tokio::spawn(ready.call(endless())));
    }
    // With 8 MiB, 102 requests have all of their bytes, and the rest doesn't suffice for a small one.
    while others.len() > 102 {
        let first = futures_util::future::select_all(others);
        let (refused, _, rest) = deadline::within(first).await;
        let refused = refused.expect("no panic").expect("an answer");
        let status = Status::from_header_map(refused.headers()).expect("a status");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().map(|it| it.reason.as_str()), Some("TOO_MUCH_IN_FLIGHT"));
        assert!(details.retry_info().is_some());
        others = rest;
    }
    broker.client().await.sign(request("dev")).await.expect("a signature");
    others.iter().for_each(JoinHandle::abort);
}

/// Lists and similar calls have a rate for each user, because they are expensive.
#[tokio::test]
async fn frequent_lists_are_rate_limited() {
    let broker = Broker::start("");
    let client = broker.client().await;
    let asking = || {
        let mut client = client.clone();
        async move {
            loop {
                if let Err(status) = client.list_profiles(v1::ListProfilesRequest {}).await {
                    return status;
                }
            }
        }
    };
    let all = futures_util::future::join_all((0..100).map(|_| asking()));
    for status in deadline::within(all).await {
        assert_eq!(reason(&status), "RATE_LIMITED");
        assert!(status.get_error_details().retry_info().is_some());
    }
    // Signatures have rates of their own.
    client.clone().sign(request("dev")).await.expect("a signature");
}
