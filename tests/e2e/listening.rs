//! The listening proxy: Streamable HTTP for clients that can't start a process.

use sigward_tests::processes::Process;
use sigward_tests::upstream::Upstream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::setup::{THREE, World};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;

/// A listening proxy and its address.
struct Listening {
    proxy: Process,
    address: String,
}

impl Listening {
    async fn start(world: &World, arguments: &[&str]) -> Self {
        let arguments = [&["--listen", "127.0.0.1:0"], arguments].concat();
        let proxy = Process::start(world.private_proxy(&THREE, &arguments));
        proxy.logged("path=/mcp").await;
        let errors = proxy.errors();
        let address = errors.split("address=").nth(1).unwrap().split(' ').next().unwrap();
        Self { address: address.to_owned(), proxy }
    }

    /// One request on a connection of its own; the whole answer as text.
    async fn send(&self, method: &str, path: &str, headers: &[&str], body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|header| header.starts_with("Host:")) {
            head += "Host: localhost\r\n";
        }
        for header in headers {
            head += &format!("{header}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        sigward_tests::processes::assert_no_canary("an answer over HTTP", &answer);
        answer
    }

    async fn post(&self, more: &[&str], body: &str) -> String {
        let accept = "Accept: application/json, text/event-stream";
        let headers = [&["Content-Type: application/json", accept], more].concat();
        self.send("POST", "/mcp", &headers, body).await
    }

    /// A session: the headers that go with it.
    async fn session(&self) -> String {
        let answer = self.post(&[], INITIALIZE).await;
        let id = answer.lines().find_map(|line| line.strip_prefix("mcp-session-id: "));
        let id = id.unwrap_or_else(|| panic!("no session: {answer}"));
        format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25")
    }
}

fn whoami(id: u32, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"whoami","arguments":{arguments}}}}}"#
    )
}

fn deletes(upstream: &Upstream) -> usize {
    upstream.requests().iter().filter(|it| it.http_method == "DELETE").count()
}

#[tokio::test]
async fn each_profile_s_calls_are_signed_by_it_and_a_session_ends_with_its_client_s() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &[]).await;
    let session = proxy.session().await;
    let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let taken = proxy.post(&[&session], ready).await;
    assert!(taken.starts_with("HTTP/1.1 202"), "{session}: {taken}");
    for (arguments, profile) in [
        ("{}", "dev"),
        (r#"{"aws_profile":"prod"}"#, "prod"),
        (r#"{"aws_profile":"staging"}"#, "staging"),
        (r#"{"aws_profile":"dev"}"#, "dev"),
    ] {
        let answer = proxy.post(&[&session], &whoami(2, arguments)).await;
        assert!(answer.contains(world.home.identity(profile)), "{arguments}: {answer}");
    }
    let refused = proxy.post(&[&session], &whoami(2, r#"{"aws_profile":"root"}"#)).await;
    assert!(refused.contains("isError") && refused.contains("dev, staging, prod"), "{refused}");
    assert!(world.upstream.requests().iter().all(|it| !it.text().contains("aws_profile")));

    let ended = proxy.send("DELETE", "/mcp", &[&session], "").await;
    assert!(ended.starts_with("HTTP/1.1 200"), "{ended}");
    let prod = world.upstream.sessions_of(world.home.identity("prod")).remove(0);
    let of_prod = |request: &sigward_tests::upstream::Received| {
        request.http_method == "DELETE" && request.header("mcp-session-id") == Some(&prod)
    };
    world.upstream.expect("the end of prod's session", of_prod).await;
    let gone = proxy.post(&[&session], &whoami(3, "{}")).await;
    assert!(gone.starts_with("HTTP/1.1 404"), "{gone}");
}

#[tokio::test]
async fn other_names_and_other_pages_are_refused() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &[]).await;
    for header in ["Host: evil.example", "Origin: http://evil.example", "Origin: null"] {
        let refused = proxy.post(&[header], INITIALIZE).await;
        assert!(refused.starts_with("HTTP/1.1 403"), "{header}: {refused}");
    }
    let form = proxy.send("POST", "/mcp", &["Content-Type: text/plain"], INITIALIZE).await;
    assert!(form.starts_with("HTTP/1.1 415"), "{form}");
    assert_eq!(world.upstream.requests().len(), 0, "nothing went upstream");
    let allowed = proxy.post(&["Origin: http://localhost:6274"], INITIALIZE).await;
    assert!(allowed.starts_with("HTTP/1.1 200"), "{allowed}");
}

#[tokio::test]
async fn a_token_opens_the_port_and_stays_there() {
    let world = World::new().await;
    let file = world.write("token", "0123456789abcdef0123\n");
    let arguments = ["--listen-token-file", file.to_str().unwrap()];
    let proxy = Listening::start(&world, &arguments).await;
    for header in ["X-None: 1", "Authorization: Bearer wrong-wrong-wrong-wr"] {
        let refused = proxy.post(&[header], INITIALIZE).await;
        assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
        assert!(refused.contains("www-authenticate: Bearer"), "{refused}");
    }
    assert_eq!(world.upstream.requests().len(), 0);
    let right = "Authorization: Bearer 0123456789abcdef0123";
    let allowed = proxy.post(&[right], INITIALIZE).await;
    assert!(allowed.starts_with("HTTP/1.1 200"), "{allowed}");
    let leaked = |it: &sigward_tests::upstream::Received| format!("{it:?}").contains("abcdef0123");
    assert!(!world.upstream.requests().iter().any(leaked), "the token went upstream");
    let health = proxy.send("GET", "/healthz", &[], "").await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
}

#[tokio::test]
async fn bad_messages_are_refused_in_words() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &[]).await;
    let cut = proxy.post(&[], "{").await;
    assert!(cut.starts_with("HTTP/1.1 400") && cut.contains("-32700"), "{cut}");
    let batch = proxy.post(&[], &format!("[{INITIALIZE}]")).await;
    assert!(batch.starts_with("HTTP/1.1 400") && batch.contains("-32600"), "{batch}");
    let unknown = proxy.post(&["Mcp-Session-Id: nobody"], &whoami(1, "{}")).await;
    assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");
    let put = proxy.send("PUT", "/mcp", &[], "").await;
    assert!(put.starts_with("HTTP/1.1 405") && put.contains("allow: GET, POST, DELETE"), "{put}");
    assert_eq!(world.upstream.requests().len(), 0);
}

#[tokio::test]
async fn a_signal_ends_every_session() {
    let world = World::new().await;
    let mut proxy = Listening::start(&world, &[]).await;
    let session = proxy.session().await;
    let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    proxy.post(&[&session], ready).await;
    let called = proxy.post(&[&session], &whoami(2, r#"{"aws_profile":"prod"}"#)).await;
    assert!(called.contains(world.home.identity("prod")), "{called}");
    proxy.proxy.signal(rustix::process::Signal::TERM);
    let (status, errors) = proxy.proxy.ended().await;
    assert!(status.success(), "{errors}");
    assert_eq!(deletes(&world.upstream), 2, "dev's and prod's");
}
