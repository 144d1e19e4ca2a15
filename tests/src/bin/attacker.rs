//! Runs one attack on a broker, as the current user: `attacker SOCKET ATTACK [ARGUMENTS]`.
//!
//! It prints `placed …` on standard error when the attack is in place, and holds it until its standard input ends.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a panic here is a failed test"
)]

use std::io::{self, Read as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

use prost::Message as _;
use sigward_proto::v1::sign_request::Payload;
use sigward_proto::v1::{Header, SignRequest};
use sigward_tests::frames::Connection;

const SIGN: &str = "/sigward.broker.v1.Broker/Sign";
const LIST: &str = "/sigward.broker.v1.Broker/ListProfiles";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    raise_descriptors();
    let [socket, rest @ ..] = &arguments[..] else { panic!("no socket") };
    let socket = Path::new(socket);
    match rest {
        ["sign", kind, uri] => sign(socket, kind, uri),
        ["streams", path, streams, head, connections] => {
            streams_of(socket, path, number(streams), number(head), number(connections));
        }
        ["malformed", count] => malformed(socket, number(count)),
        ["idle", count] => hold("open", open(number(count), || UnixStream::connect(socket))),
        ["idle-tcp", address, count] => {
            hold("open", open(number(count), || TcpStream::connect(address)));
        }
        ["denials", count] => denials(socket, number(count)),
        _ => panic!("no such attack: {rest:?}"),
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
}

/// Reports that the attack is in place, and keeps `what` until standard input ends.
fn hold<T>(word: &str, what: Vec<T>) {
    eprintln!("placed {word}={}", what.len());
    io::stdin().read_to_end(&mut Vec::new()).ok();
    drop(what);
}

/// As many connections as possible, up to `count`; those that the broker closes are kept too.
fn open<T>(count: usize, connect: impl Fn() -> io::Result<T>) -> Vec<T> {
    (0..count).filter_map(|_| connect().ok()).collect()
}

/// Sends one message of 71 MiB.
fn sign(socket: &Path, kind: &str, uri: &str) {
    const SIZE: usize = 71 << 20;
    let repeat = |begin: &str, each: &str, end: &str| {
        [begin, &each.repeat(SIZE / each.len()), end].concat().into_bytes()
    };
    let body = match kind {
        // Field 4, length 0.
        "headers" => return message(socket, &[0x22, 0].repeat(SIZE / 2)),
        "nested" => repeat(
            r#"{"jsonrpc":"2.0","id":1,"params":{"name":["#,
            "0,",
            r#"0]},"method":"tools/call"}"#,
        ),
        "deep" => repeat(r#"{"jsonrpc":"2.0","id":1,"params":{"arguments":"#, "[", ""),
        "keys" => {
            let mut text =
                String::from(r#"{"jsonrpc":"2.0","id":1,"params":{"name":"whoami","arguments":{"#);
            for key in 0.. {
                text += &format!("\"{key:x}\":0,");
                if text.len() > SIZE {
                    break;
                }
            }
            (text + r#""z":0}},"method":"tools/call"}"#).into_bytes()
        }
        "name" => repeat(
            r#"{"jsonrpc":"2.0","id":1,"params":{"name":""#,
            "a",
            r#""},"method":"tools/call"}"#,
        ),
        _ => panic!("no such message: {kind}"),
    };
    let asked = SignRequest {
        profile: "dev".to_owned(),
        method: "POST".to_owned(),
        uri: uri.to_owned(),
        // Without this header, the broker doesn't read the body as JSON.
        headers: vec![Header { name: "content-type".to_owned(), value: "application/json".into() }],
        payload: Some(Payload::Body(body.into())),
    };
    message(socket, &asked.encode_to_vec());
}

fn message(socket: &Path, message: &[u8]) {
    let mut connection = Connection::open(socket).expect("a broker");
    connection.accept_settings().expect("settings");
    connection.request(SIGN, &[], false).expect("a stream");
    let length = u32::try_from(message.len()).expect("a length of gRPC");
    let mut sent = vec![0];
    sent.extend_from_slice(&length.to_be_bytes());
    sent.extend_from_slice(message);
    // The broker may stop reading before the end.
    let sent = connection.send(&sent, true);
    drop(connection.wait(|seen| seen.answered + seen.reset > 0));
    hold(if sent.is_ok() { "whole" } else { "cut" }, vec![connection]);
}

/// Requests that never end, with headers of `head` bytes, as many as each connection accepts.
fn streams_of(socket: &Path, path: &str, streams: usize, head: usize, connections: usize) {
    let value = "x".repeat(head);
    let mut held = Vec::new();
    let mut sent = 0;
    for _ in 0..connections {
        let Ok(mut connection) = Connection::open(socket) else { continue };
        for _ in 0..streams / connections {
            if connection.request(path, &[("x-filler", &value)], false).is_err() {
                break;
            }
            sent += 1;
        }
        held.push(connection);
    }
    eprintln!("sent {sent}");
    hold("connections", held);
}

/// Requests with a header that HTTP/2 forbids, each of which the broker resets (RUSTSEC-2024-0003).
fn malformed(socket: &Path, count: usize) {
    let mut connection = Connection::open(socket).expect("a broker");
    connection.accept_settings().expect("settings");
    let mut sent = 0;
    while sent < count && connection.request(LIST, &[("connection", "close")], true).is_ok() {
        sent += 1;
    }
    let done = |seen: &sigward_tests::frames::Seen| seen.reset >= count;
    let closed = connection.wait(done).is_err();
    eprintln!("resets={} closed={closed}", connection.seen().reset);
    hold("connections", vec![connection]);
}

/// Calls that are denied, on one connection after another, until `count` were answered.
fn denials(socket: &Path, count: usize) {
    const IN_FLIGHT: usize = 100;
    let mut answered = 0;
    while answered < count {
        let mut connection = Connection::open(socket).expect("a broker");
        let mut sent = 0;
        loop {
            let wanted = sent < count - answered && connection.request(LIST, &[], true).is_ok();
            sent += usize::from(wanted);
            let enough =
                |seen: &sigward_tests::frames::Seen| seen.answered + seen.reset + IN_FLIGHT > sent;
            if !wanted || connection.wait(enough).is_err() {
                break;
            }
        }
        // Waits for the last ones, or for the end of the connection.
        drop(connection.wait(|seen| seen.answered + seen.reset >= sent));
        answered += connection.seen().answered;
    }
    hold("denied", vec![(); answered]);
}
