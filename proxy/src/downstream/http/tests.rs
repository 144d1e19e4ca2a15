use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::client::Shared;
use crate::config::{Listen, ListenAddress};

const SOON: Duration = Duration::from_millis(20);
const NEVER: Duration = Duration::from_secs(3600);
/// The time within which an expected event must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// The client's end of a connection with such limits.
fn connected(limits: Limits) -> DuplexStream {
    let address = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
    let listen = Listen { address, mode: 0o600, token_file: None };
    let handler = Handler::new(Shared::unconnected());
    let part = handler.part();
    let service = Service {
        guard: Guard::new(&listen).unwrap(),
        handler,
        limits,
        draining: CancellationToken::new(),
    };
    let (client, server) = duplex(1024);
    let entry = Entry { place: Strangers::new(1).admit(), room: Arc::new(Semaphore::new(1)), part };
    tokio::spawn(connection(server, Arc::new(service), entry));
    client
}

/// All data until the connection ends.
async fn answer(mut client: DuplexStream) -> String {
    let mut answer = String::new();
    let reading = tokio::time::timeout(DEADLINE, client.read_to_string(&mut answer)).await;
    reading.expect("the connection stays open").unwrap();
    answer
}

fn post(length: usize) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    for begun in ["", "GET /healthz HTTP/1.1\r\nhost: loc"] {
        let mut client = connected(Limits { head: SOON, ..Limits::USUAL });
        client.write_all(begun.as_bytes()).await.unwrap();
        let answer = answer(client).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let mut client = connected(Limits { head: SOON, ..Limits::USUAL });
    client.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let answer = answer(client).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
}

#[tokio::test]
async fn a_stalled_body_is_refused() {
    let limits = Limits { head: NEVER, body: SOON, discard: SOON, ..Limits::USUAL };
    let mut client = connected(limits);
    client.write_all(format!("{}{{\"jsonrpc\"", post(100)).as_bytes()).await.unwrap();
    let answer = answer(client).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_disconnected() {
    let limits = Limits { head: NEVER, write: SOON, ..Limits::USUAL };
    let mut client = connected(limits);
    // The answers fill the pipe between the two, until one of them can't be written.
    let asked = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let asking = async { while client.write_all(asked).await.is_ok() {} };
    tokio::time::timeout(DEADLINE, asking).await.expect("the connection is never closed");
}

#[tokio::test]
async fn a_client_that_is_slow_within_the_limits_is_served() {
    let mut client = connected(Limits::USUAL);
    let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    for byte in request.bytes() {
        client.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(answer(client).await.starts_with("HTTP/1.1 200"));
}

/// A hard limit of descriptors may be low, as in a container.
#[test]
fn connections_reserve_descriptors_for_the_server() {
    for descriptors in [0, 64, 128, 256, 1024, 4096, 16_384] {
        let room = Room::within(descriptors);
        assert!(room.clients >= 1 && room.strangers >= 1, "{descriptors}");
        let all = u64::try_from(2 * (room.clients + room.strangers)).unwrap();
        assert!(all <= descriptors.max(68) - 64, "{descriptors}: {room:?}");
    }
    let usual = Room { clients: MAX_CONNECTIONS, strangers: MAX_STRANGERS };
    assert_eq!(Room::within(u64::MAX), usual);
}
