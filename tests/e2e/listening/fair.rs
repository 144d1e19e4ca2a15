//! Clients that take more than their share, or stay silent, don't affect other clients.

use bytes::Bytes;
use futures_util::future::join_all;
use sigward_tests::deadline;
use sigward_tests::processes::Process;
use sigward_tests::upstream::{Gate, Received, Reply, Step};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::{INITIALIZE, whoami};
use crate::agent::SESSIONS;
use crate::http::{Listening, lines, request};
use crate::nasty::pressure::{one_was_taken, peak};
use crate::setup::{THREE, World, assert_names, rpc_error, text};

const MIB: usize = 1 << 20;
/// The size of the results of a client that reads them, in MiB.
const POLITE: u64 = 4;

/// A call of `echo` whose result has `size` MiB.
fn call(profile: &str, size: usize) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{size},"method":"tools/call","params":{{"name":"echo","arguments":{{"aws_profile":"{profile}","size":{size}}}}}}}"#
    )
}

/// A result of the size that the call asks for. `taken` opens once a large one has left the server.
fn sized(request: &Received, taken: &Gate) -> Option<Reply> {
    let size = request.param("/arguments/size").as_u64()?;
    let head = r#"{"jsonrpc":"2.0","id":$ID,"result":{"content":[{"type":"text","text":""#;
    let mut steps = vec![
        Step::Raw(head.to_owned()),
        Step::Filler(usize::try_from(size).unwrap() * MIB),
        Step::Raw("\"}]}}".to_owned()),
    ];
    if size > POLITE {
        steps.push(Step::Open(taken.clone()));
    }
    Some(Reply::Pieces(steps))
}

/// The attack: one client asks for more than the memory of all messages, and reads none of it.
#[tokio::test]
async fn a_client_that_does_not_read_does_not_block_others() {
    let world = World::new().await;
    let taken = Gate::default();
    let gate = taken.clone();
    world.upstream.hook(move |request| sized(request, &gate));
    let proxy = Listening::start(&world, &THREE, &[]).await;
    let slow = proxy.session(SESSIONS).await;
    let mut held = Vec::new();
    let sizes = [130, 90, 80, 70];
    for size in sizes {
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("accept", "application/json, text/event-stream".to_owned()),
        ];
        let headers = [&headers[..], &slow].concat();
        let address = proxy.address.clone();
        held.push(tokio::spawn(async move {
            let body = Bytes::from(call("prod", size));
            let answer = request(&address, "POST", "/mcp", &lines(&headers), body).await;
            // Reads the head at most, and none of the body.
            std::future::pending::<()>().await;
            drop(answer);
        }));
        let came = |it: &Received| it.param("/arguments/size") == size;
        world.upstream.expect("the call", came).await;
    }
    one_was_taken(&taken).await;
    let polite = proxy.session(SESSIONS).await;
    for profile in ["prod", "dev", "staging"] {
        let answer = proxy.post(&lines(&polite), &call(profile, 4)).await;
        assert_eq!(text(&answer.message().await).len(), 4 * MIB, "{profile}");
    }
    held.iter().for_each(tokio::task::JoinHandle::abort);
}

/// The attack (Slowloris): connections on which nothing is ever sent, more than the listener keeps open.
#[tokio::test]
async fn silent_connections_do_not_block_new_clients() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &[]).await;
    let session = proxy.session(SESSIONS).await;
    let mut silent = Vec::new();
    for _ in 0..1100 {
        silent.push(TcpStream::connect(&proxy.address).await.unwrap());
    }
    let health = proxy.request("GET", "/healthz", &[], "").await;
    assert_eq!((health.status, health.text().await.as_str()), (200, "ok\n"));
    let called = proxy.post(&lines(&session), &whoami(1, "{}")).await.message().await;
    assert_eq!(text(&called), world.home.identity("dev"));
    assert_eq!(proxy.post(&[], INITIALIZE).await.status, 200, "a new client");
    // The oldest silent connection was closed to make room.
    let mut byte = [0];
    let ended = deadline::within(silent[0].read(&mut byte), || "it is still open".to_owned()).await;
    assert_eq!(ended.unwrap_or(0), 0);
}

/// The attack: filling memory with what each session keeps while it lives.
#[tokio::test]
async fn an_initialize_that_is_too_long_is_refused_and_keeps_no_memory() {
    let world = World::new().await;
    let mut proxy = Listening::start(&world, &THREE, &[]).await;
    let before = world.upstream.requests().len();
    let at_first = peak(proxy.proxy.pid());
    let note = "x".repeat(4 * MIB);
    let long = INITIALIZE
        .replace("\"capabilities\":{}", &format!("\"capabilities\":{{\"x\":\"{note}\"}}"));
    for _ in 0..10 {
        let refused = join_all((0..4).map(|_| proxy.post(&[], &long))).await;
        for answer in refused {
            assert_eq!(answer.status, 400);
            assert_names(rpc_error(&answer.message().await).1, &["initialize", "64 KiB"]);
        }
    }
    assert_eq!(world.upstream.requests().len(), before);
    let grown = peak(proxy.proxy.pid()) - at_first;
    assert!(grown < 80 * MIB, "{} MiB for 40 clients", grown / MIB);
    assert_eq!(proxy.post(&[], INITIALIZE).await.status, 200);
    proxy.proxy.signal(rustix::process::Signal::TERM);
    proxy.proxy.ended().await;
}

/// A client that writes more than the connection buffers must still get to read the error.
#[tokio::test]
async fn a_client_that_is_still_sending_gets_the_error() {
    let world = World::new().await;
    let file = world.write("token", "0123456789abcdef0123\n");
    let arguments = ["--listen-token-file", file.to_str().unwrap()];
    let proxy = Listening::start(&world, &THREE, &arguments).await;
    let token = "authorization: Bearer 0123456789abcdef0123";
    let length = 8 * MIB;
    for (path, headers, status) in [
        ("/mcp", vec![], 401),
        ("/other", vec![], 404),
        ("/mcp", vec![token, "origin: http://evil.example"], 403),
        ("/mcp", vec![token, "mcp-session-id: nobody"], 404),
    ] {
        let length_line = format!("content-length: {length}");
        let usual = ["host: localhost", "content-type: application/json", &length_line];
        let head = |more: &[&str]| {
            let lines = [&usual[..], &headers, more].concat().join("\r\n");
            format!("POST {path} HTTP/1.1\r\n{lines}\r\n\r\n")
        };
        // A client that writes everything before it reads.
        let mut plain = TcpStream::connect(&proxy.address).await.unwrap();
        let exchange = async {
            plain.write_all(head(&[]).as_bytes()).await.unwrap();
            plain.write_all(&vec![b' '; length]).await.unwrap();
            first_line(&mut plain).await
        };
        let first = deadline::within(exchange, || "the body isn't read".to_owned()).await;
        assert_names(&first, &[&format!("HTTP/1.1 {status}")]);
        // A client that sends `Expect: 100-continue` gets the error without sending the body.
        let mut asking = TcpStream::connect(&proxy.address).await.unwrap();
        let exchange = async {
            asking.write_all(head(&["expect: 100-continue"]).as_bytes()).await.unwrap();
            first_line(&mut asking).await
        };
        let first = deadline::within(exchange, || "no answer".to_owned()).await;
        assert_names(&first, &[&format!("HTTP/1.1 {status}")]);
    }
}

async fn first_line(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') {
        let byte = stream.read_u8().await.expect("an answer");
        answer.push(byte);
    }
    String::from_utf8(answer).unwrap()
}

/// The usual soft limit of 1024 descriptors is for programs that use `select`; the proxy needs two for each client.
#[tokio::test]
async fn the_soft_limit_of_open_files_is_raised() {
    let world = World::new().await;
    let plain = world.private_proxy(&THREE, &["--listen", "127.0.0.1:0"]);
    let plain = plain.as_std();
    let mut command = Command::new("/bin/sh");
    command.env_clear();
    let set = plain.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command.envs(set);
    command.args(["-c", "ulimit -Sn 64; exec \"$@\"", "sh"]);
    command.arg(plain.get_program()).args(plain.get_args());
    let proxy = Listening::started(Process::start(command)).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", proxy.proxy.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let fields: Vec<_> = line.split_whitespace().collect();
    let [soft, hard] = [3, 4].map(|at| fields[at].parse().unwrap_or(u64::MAX));
    assert_eq!(soft, hard.min(16_384), "{line}");
    let clients = join_all((0..100).map(|_| proxy.post(&[], INITIALIZE))).await;
    assert!(clients.iter().all(|answer| answer.status == 200));
}
