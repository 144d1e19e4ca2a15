//! The listening proxy: Streamable HTTP for clients that can't start a process.

mod clients;
mod fair;
mod limits;
mod passing;
mod resumed;

use std::os::unix::fs::MetadataExt as _;

use sigward_tests::processes::Process;
use sigward_tests::upstream::{Received, Reply, Step};

use crate::agent::{SESSIONS, STATELESS};
use crate::http::{Listening, connect, lines};
use crate::setup::{THREE, World, rpc_error, stateless, text, tool_error};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;

fn whoami(id: u32, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"whoami","arguments":{arguments}}}}}"#
    )
}

#[tokio::test]
async fn calls_are_signed_per_profile_and_upstream_sessions_end_with_the_client() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &[]).await;
    let session = proxy.session(SESSIONS).await;
    let session = lines(&session);
    for (arguments, profile) in [
        ("{}", "dev"),
        (r#"{"aws_profile":"prod"}"#, "prod"),
        (r#"{"aws_profile":"staging"}"#, "staging"),
        (r#"{"aws_profile":"dev"}"#, "dev"),
    ] {
        let called = proxy.post(&session, &whoami(2, arguments)).await.message().await;
        assert_eq!(text(&called), world.home.identity(profile), "{arguments}");
    }
    let refused = proxy.post(&session, &whoami(2, r#"{"aws_profile":"root"}"#)).await;
    assert!(tool_error(&refused.message().await).contains("dev, staging, prod"));
    assert!(world.upstream.requests().iter().all(|it| !it.text().contains("aws_profile")));

    let prod = world.upstream.sessions_of(world.home.identity("prod")).remove(0);
    let ended = proxy.request("DELETE", "/mcp", &session, "").await;
    assert_eq!(ended.status, 200);
    let of_prod = |request: &Received| {
        request.http_method == "DELETE" && request.header("mcp-session-id") == Some(&prod)
    };
    world.upstream.expect("the end of prod's session", of_prod).await;
    assert_eq!(proxy.post(&session, &whoami(3, "{}")).await.status, 404);
}

/// A server may refuse DELETE and end its sessions by itself. The client has left nevertheless.
#[tokio::test]
async fn a_session_ends_although_the_server_refuses_delete() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &[]).await;
    let session = proxy.session(SESSIONS).await;
    let called = proxy.post(&lines(&session), &whoami(2, r#"{"aws_profile":"prod"}"#)).await;
    assert_eq!(text(&called.message().await), world.home.identity("prod"));
    world.upstream.next("DELETE", Reply::Http(405, Vec::new(), String::new()));
    assert_eq!(proxy.request("DELETE", "/mcp", &lines(&session), "").await.status, 405);
    let of_prod = |request: &Received| {
        request.http_method == "DELETE" && request.identity() == world.home.identity("prod")
    };
    world.upstream.expect("the end of prod's session", of_prod).await;
    assert_eq!(proxy.post(&lines(&session), &whoami(3, "{}")).await.status, 404);
}

/// Dropping a header that can't be signed would change the request.
#[tokio::test]
async fn a_header_that_cannot_be_signed_is_named_in_the_error() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &["dev"], &[]).await;
    let session = proxy.session(SESSIONS).await;
    let before = world.upstream.requests().len();
    for (name, value) in [("last-event-id", "a  b"), ("x-tenant", "a\tb")] {
        let headers = [&lines(&session)[..], &[(name, value)]].concat();
        for refused in [proxy.post(&headers, &whoami(2, "{}")).await, proxy.get(&headers).await] {
            assert_eq!(refused.status, 400);
            let message = refused.message().await;
            let (code, why) = rpc_error(&message);
            assert!(code == -32600 && why.contains(name), "{message}");
        }
    }
    assert_eq!(world.upstream.requests().len(), before, "nothing went upstream");
}

/// The proxy completes the handshake of another profile's session, whether or not the client has completed its own.
#[tokio::test]
async fn another_profile_s_session_is_initialized_before_the_client_s_own() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &[]).await;
    let opened = proxy.post(&[], INITIALIZE).await;
    let session = opened.header("mcp-session-id").unwrap().to_owned();
    opened.message().await;
    // A tool call would make the proxy list the tools first, in the client's own session.
    world.upstream.next("prompts/get", Reply::Result(r#"{"messages":[]}"#.to_owned()));
    let get = r#"{"jsonrpc":"2.0","id":2,"method":"prompts/get","params":{"name":"p","_meta":{"sigward/profile":"prod"}}}"#;
    let got = proxy.post(&[("mcp-session-id", &session)], get).await.message().await;
    assert!(got["result"]["messages"].is_array(), "{got}");
    let initialized = world.upstream.requests_of("notifications/initialized");
    let by: Vec<_> = initialized.iter().map(Received::identity).collect();
    assert_eq!(by, [world.home.identity("prod")]);
}

/// A client's own headers (a trace, a tenant) are sent with the calls of every profile.
#[tokio::test]
async fn client_headers_are_sent_with_the_calls_of_every_profile() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &[]).await;
    let session = proxy.session(SESSIONS).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [&lines(&session)[..], &[("traceparent", trace)]].concat();
    for profile in THREE {
        let arguments = format!(r#"{{"aws_profile":"{profile}"}}"#);
        proxy.post(&headers, &whoami(2, &arguments)).await.message().await;
        let call = world.upstream.requests_of("tools/call").pop().unwrap();
        assert_eq!(call.identity(), world.home.identity(profile));
        assert_eq!(call.header("traceparent"), Some(trace), "{profile}");
        let sessions = world.upstream.sessions_of(world.home.identity(profile));
        assert_eq!(call.header("mcp-session-id"), Some(sessions[0].as_str()), "{profile}");
    }
}

/// A client that accepts only JSON gets the response of another profile's call as JSON, although the server streams it.
#[tokio::test]
async fn a_client_that_accepts_only_json_gets_no_events() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &[]).await;
    let session = proxy.session(SESSIONS).await;
    let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"x"}}"#;
    world
        .upstream
        .next("tools/call", Reply::Stream(vec![Step::Data(note.to_owned()), Step::UsualResponse]));
    let mut headers = lines(&session);
    headers.extend([("accept", "application/json"), ("content-type", "application/json")]);
    let call = whoami(2, r#"{"aws_profile":"prod"}"#);
    let answer = proxy.request("POST", "/mcp", &headers, call).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(text(&answer.message().await), world.home.identity("prod"));
}

/// DNS rebinding: a page of another site whose name now resolves to this machine. And a page of a development server on
/// this machine, whose browser would send a CORS preflight first.
#[tokio::test]
async fn foreign_host_names_and_origins_are_refused() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &[]).await;
    for header in [
        ("host", "evil.example"),
        ("host", "127.0.0.1.nip.io"),
        ("origin", "http://evil.example"),
        ("origin", "http://localhost.evil.example"),
        ("origin", "http://localhost:6274"),
        ("origin", "null"),
    ] {
        assert_eq!(proxy.post(&[header], INITIALIZE).await.status, 403, "{header:?}");
        for method in ["GET", "DELETE", "OPTIONS"] {
            let refused = proxy.request(method, "/mcp", &[header], "").await;
            assert_eq!(refused.status, 403, "{method} {header:?}");
            assert_eq!(refused.header("access-control-allow-origin"), None, "{header:?}");
        }
    }
    assert_eq!(proxy.request("OPTIONS", "/mcp", &[], "").await.status, 405);
    let form = [("content-type", "text/plain")];
    assert_eq!(proxy.request("POST", "/mcp", &form, INITIALIZE).await.status, 415);
    assert_eq!(world.upstream.requests().len(), 0, "nothing went upstream");
    for header in [("origin", "http://localhost"), ("host", "[::1]:9")] {
        assert_eq!(proxy.post(&[header], INITIALIZE).await.status, 200, "{header:?}");
    }
}

#[tokio::test]
async fn the_listen_token_is_required_and_never_sent_upstream() {
    let world = World::new().await;
    let file = world.write("token", "0123456789abcdef0123\n");
    let arguments = ["--listen-token-file", file.to_str().unwrap()];
    let proxy = Listening::start(&world, &THREE, &arguments).await;
    let wrong = [("authorization", "Bearer wrong-wrong-wrong-wr")];
    let other = [("authorization", "Basic 0123456789abcdef0123")];
    for headers in [&[][..], &wrong, &other] {
        let refused = proxy.post(headers, INITIALIZE).await;
        assert_eq!(refused.status, 401);
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(world.upstream.requests().len(), 0);
    let right = [("authorization", "Bearer 0123456789abcdef0123")];
    assert_eq!(proxy.post(&right, INITIALIZE).await.status, 200);
    let leaked = |it: &Received| format!("{it:?}").contains("abcdef0123");
    assert!(!world.upstream.requests().iter().any(leaked), "the token went upstream");
    let health = proxy.request("GET", "/healthz", &[], "").await;
    assert_eq!((health.status, health.text().await.as_str()), (200, "ok\n"));
}

/// A server sees each client's own name, not the first client's name for all.
#[tokio::test]
async fn each_client_s_own_name_is_in_the_user_agent() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &["dev"], &[]).await;
    let mut sessions = Vec::new();
    for name in ["First Agent", "second"] {
        let initialize = INITIALIZE.replace(r#""name":"c""#, &format!(r#""name":"{name}""#));
        let opened = proxy.post(&[], &initialize).await;
        sessions.push(opened.header("mcp-session-id").unwrap().to_owned());
        opened.message().await;
    }
    for (session, name) in sessions.iter().zip([" first-agent/1", " second/1"]) {
        proxy.post(&[("mcp-session-id", session)], &whoami(2, "{}")).await.message().await;
        let call = world.upstream.requests_of("tools/call").pop().unwrap();
        assert!(call.header("user-agent").unwrap().ends_with(name), "{call:?}");
    }
}

#[tokio::test]
async fn a_socket_file_has_its_mode_requires_the_token_and_accepts_any_host() {
    let world = World::new().await;
    let token = world.write("token", "0123456789abcdef0123\n");
    let path = world.directory.path().join("mcp.sock");
    let place = format!("unix:{}", path.display());
    for (mode, expected) in [(None, 0o600), (Some("0660"), 0o660)] {
        let mut arguments = vec!["--listen", &place, "--listen-token-file"];
        arguments.push(token.to_str().unwrap());
        arguments.extend(mode.iter().flat_map(|mode| ["--listen-mode", mode]));
        let proxy = Process::start(world.private_proxy(&THREE, &arguments));
        let mut proxy = Listening::started(proxy).await;
        assert_eq!(proxy.address, place);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, expected);

        // DNS rebinding can't reach a socket file: any Host is accepted, but no Origin.
        let token = ("authorization", "Bearer 0123456789abcdef0123");
        let host = ("host", "agent.internal");
        assert_eq!(proxy.post(&[host], INITIALIZE).await.status, 401);
        let page = ("origin", "http://evil.example");
        assert_eq!(proxy.post(&[host, token, page], INITIALIZE).await.status, 403);
        let params = stateless(r#"{"name":"whoami","arguments":{"aws_profile":"prod"}}"#);
        let call = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let headers = [
            host,
            token,
            ("mcp-protocol-version", STATELESS),
            ("mcp-method", "tools/call"),
            ("mcp-name", "whoami"),
        ];
        let called = proxy.post(&headers, &call).await.message().await;
        assert_eq!(text(&called), world.home.identity("prod"));

        proxy.proxy.signal(rustix::process::Signal::TERM);
        let (status, errors) = proxy.proxy.ended().await;
        assert!(status.success(), "{errors}");
        assert!(!path.exists(), "the socket file wasn't removed");
        assert!(connect(&place).await.is_err());
    }
}

#[tokio::test]
async fn bad_messages_get_a_json_rpc_error() {
    let world = World::new().await;
    let proxy = Listening::start(&world, &THREE, &[]).await;
    for (body, code) in [
        ("{", -32700),
        ("", -32700),
        ("5", -32600),
        ("{}", -32600),
        (&format!("[{INITIALIZE}]"), -32600),
    ] {
        let refused = proxy.post(&[], body).await;
        assert_eq!(refused.status, 400, "{body}");
        assert_eq!(rpc_error(&refused.message().await).0, code, "{body}");
    }
    let unknown = proxy.post(&[("mcp-session-id", "nobody")], &whoami(1, "{}")).await;
    assert_eq!(unknown.status, 404);
    let put = proxy.request("PUT", "/mcp", &[], "").await;
    assert_eq!((put.status, put.header("allow")), (405, Some("GET, POST, DELETE")));
    assert_eq!(proxy.request("GET", "/other", &[], "").await.status, 404);
    assert_eq!(world.upstream.requests().len(), 0);
}
