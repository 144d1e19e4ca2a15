//! The server alone: it refuses what it should, and answers in both versions.

use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::*;

/// The status of the response to an unsigned request.
async fn status(upstream: &Upstream, method: &str, body: &'static str) -> u16 {
    let stream = TcpStream::connect(upstream.server.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri("/mcp")
        .header("host", upstream.server.address.to_string())
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    status
}

#[tokio::test]
async fn unsigned_requests_are_refused() {
    let upstream = Upstream::start(KeyTable::default()).await;
    for (method, body) in [("POST", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#), ("GET", "")] {
        assert_eq!(status(&upstream, method, body).await, 403);
    }
    let refused = upstream.expect("the ping", |request| request.method() == "ping").await;
    assert_eq!(refused.signature.unwrap_err().to_string(), "no Authorization header");
}

#[test]
fn ids_and_arguments_stay_text() {
    let body = br#"{"id": 1.0, "method":"tools/call","params":{"name":"echo","arguments":{"b":1.10, "a":1e400}}}"#;
    let message = Message::parse(body).unwrap();
    assert_eq!(message.id_text(), "1.0");
    assert_eq!(message.arguments(), r#"{"b":1.10, "a":1e400}"#);
    assert!(message.result("{}").contains(r#""id":1.0,"#));
}
