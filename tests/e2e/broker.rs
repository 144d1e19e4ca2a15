//! A shared broker: a Unix socket, a configuration, rules. What a rule permits works, and similar requests are denied.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::PathBuf;

use bytes::Bytes;
use sigward_proto::v1::sign_request::Payload;
use sigward_proto::v1::{Header, ListProfilesRequest, SignRequest};
use sigward_tests::processes::{self, StdioClient};
use sigward_tests::upstream::Upstream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::setup::{THREE, World, assert_names, connect, copy_program, failure, own_uid, text};

/// A uid without a user on this machine.
pub(crate) const OTHER_UID: u32 = 54_321;

/// A rule for `uid` and `profiles`, with `more` lines.
fn rule(uid: u32, profiles: &[&str], more: &str) -> String {
    format!(
        "[[rule]]\npeer = {{ uid = {uid} }}\nprofiles = {profiles:?}\nendpoints = [\"upstream\"]\n{more}\n"
    )
}

/// A request to sign a POST of `body`.
fn post(world: &World, profile: &str, body: &'static str) -> SignRequest {
    sigward_tests::broker::post(&world.upstream.url(), profile, &[], body)
}

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

/// The code and the reason of a refusal.
fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status}"));
    assert_eq!(info.domain, sigward_proto::ERROR_DOMAIN);
    // Only the id of the audit record is given.
    assert!(info.metadata.keys().all(|key| key == "audit_id"), "{info:?}");
    (status.code(), info.reason)
}

#[tokio::test]
async fn rules_restrict_profiles() {
    let world = World::new().await;
    let config = world.configuration(&rule(own_uid(), &["dev", "staging"], ""));
    let _broker = world.broker(&config).await;
    let mut client = world.client_of(&world.socket(), &THREE).await;
    for profile in ["dev", "staging"] {
        let called = client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
        assert_eq!(text(&called), world.home.identity(profile));
    }
    let refused = client.call("whoami", r#"{"aws_profile":"prod"}"#).await;
    assert_names(failure(&refused), &["prod", "rule"]);
    assert!(
        world.upstream.requests().iter().all(|it| it.identity() != world.home.identity("prod"))
    );
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"), "the session still works");
}

#[tokio::test]
async fn rules_restrict_users() {
    let world = World::new().await;
    let config = for_another_group(world.configuration(&rule(OTHER_UID, &["dev"], "")));
    let _broker = world.broker(&config).await;
    let refused = connect(&world.socket()).await.sign(post(&world, "dev", PING)).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::PermissionDenied, "PEER_NOT_ALLOWED".to_owned()));

    // Only root can run a proxy as another user.
    if own_uid() == 0 {
        let mut client = other_user(&world, &["dev"]);
        client.initialize().await;
        let called = client.call("whoami", "{}").await;
        assert_eq!(text(&called), world.home.identity("dev"));
    }

    let world = World::new().await;
    let config = for_another_group(world.configuration(&rule(own_uid(), &["dev"], "")));
    let _broker = world.broker(&config).await;
    let signed = connect(&world.socket()).await.sign(post(&world, "dev", PING)).await;
    signed.expect("the current user is allowed");
    if own_uid() == 0 {
        let mut client = other_user(&world, &["dev"]);
        let refused = client.request("initialize", INITIALIZE).await;
        assert_names(failure(&refused), &["rule"]);
    }
}

/// Lets the other user connect to the socket, if we are root; its requests are up to the rules.
pub(crate) fn for_another_group(config: String) -> String {
    if own_uid() != 0 {
        return config;
    }
    config.replace("mode = \"0660\"", &format!("mode = \"0660\"\ngroup = \"{OTHER_UID}\""))
}

pub(crate) const INITIALIZE: &str =
    r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;

/// A proxy of another user, for the broker of `world`.
pub(crate) fn other_user(world: &World, profiles: &[&str]) -> StdioClient {
    other_user_in(world, &[], profiles)
}

/// The same, for a user with these supplementary groups.
fn other_user_in(world: &World, groups: &[u32], profiles: &[&str]) -> StdioClient {
    // A copy that the other user can read.
    let program = world.directory.path().join("sigward-proxy");
    if !program.exists() {
        copy_program(&processes::binaries().proxy, &program);
    }
    for path in [world.directory.path().to_owned(), program.clone()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let socket = format!("unix:{}", world.socket().display());
    let mut proxy = world.proxy(&["--broker", &socket, "--profile"]);
    proxy.args(profiles);
    let uid = OTHER_UID.to_string();
    let mut command = processes::command(&PathBuf::from("/usr/bin/setpriv"));
    command.args(["--reuid", &uid, "--regid", &uid]);
    match groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",") {
        none if none.is_empty() => command.arg("--clear-groups"),
        groups => command.args(["--groups", &groups]),
    };
    command.arg(program).args(proxy.as_std().get_args());
    StdioClient::start(command)
}

/// A rule for a group applies to processes with this primary or supplementary group, as the kernel reports them.
#[tokio::test]
async fn rules_restrict_groups() {
    const TEAM: u32 = 61_234;
    if own_uid() != 0 {
        return; // Only root can run a proxy as another user.
    }
    let world = World::new().await;
    for (gid, groups, allowed) in [
        (TEAM, &[TEAM][..], true),
        (TEAM, &[5, TEAM, 7], true),
        (OTHER_UID, &[], true),
        (TEAM, &[], false),
        (TEAM, &[TEAM - 1, TEAM + 1], false),
        // The uid of the broker isn't a group of the caller.
        (0, &[TEAM], false),
    ] {
        let rule = format!(
            "[[rule]]\npeer = {{ gid = {gid} }}\nprofiles = [\"dev\"]\nendpoints = [\"upstream\"]\n"
        );
        let mut broker = world.broker(&for_another_group(world.configuration(&rule))).await;
        let mut client = other_user_in(&world, groups, &["dev"]);
        let opened = client.request("initialize", INITIALIZE).await;
        let shown = format!("rule for {gid}, a process in {groups:?}: {opened}");
        if allowed {
            assert!(opened["result"].is_object(), "{shown}");
        } else {
            assert_names(failure(&opened), &["rule"]);
        }
        client.close().await;
        broker.signal(rustix::process::Signal::TERM);
        broker.ended().await;
    }
}

/// After a reload, the first rule that checks the executable applies to open connections too.
#[tokio::test]
async fn a_rule_for_the_executable_applies_to_open_connections() {
    let world = World::new().await;
    let config = |peer: &str| {
        let rule = rule(own_uid(), &["dev"], "");
        world.configuration(&rule.replace("peer = { ", &format!("peer = {{ {peer}")))
    };
    let broker = world.broker(&config("")).await;
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
    let program = processes::binaries().proxy.canonicalize().unwrap();
    for (program, allowed) in [(program.to_str().unwrap(), true), ("/usr/bin/other", false)] {
        world.write("broker.toml", &config(&format!("exe = {program:?}, ")));
        broker.signal(rustix::process::Signal::HUP);
        let reloads = || broker.errors().matches("the configuration was reloaded").count();
        let wanted = if allowed { 1 } else { 2 };
        let reloaded = async {
            while reloads() < wanted {
                tokio::task::yield_now().await;
            }
        };
        sigward_tests::deadline::within(reloaded, || broker.errors()).await;
        let called = client.call("whoami", "{}").await;
        if allowed {
            assert_eq!(text(&called), world.home.identity("dev"));
        } else {
            assert_names(failure(&called), &["rule"]);
        }
    }
}

/// Without rules, the user of the broker may use all profiles of the command line, and no other user may use any.
#[tokio::test]
async fn without_rules_only_the_own_user_is_allowed() {
    let world = World::new().await;
    let socket = world.socket();
    let url = world.upstream.url();
    let arguments = [
        "serve",
        "--profile",
        "dev",
        "staging",
        "--endpoint",
        &url,
        "--service",
        "aws-mcp",
        "--region",
        "us-east-1",
        "--socket",
        socket.to_str().unwrap(),
        "--audit",
        "none",
    ];
    let broker = processes::Process::start(world.broker_command(&arguments));
    broker.logged("listening").await;
    let mode = fs::metadata(&socket).unwrap();
    assert!(mode.file_type().is_socket());
    assert_eq!(mode.permissions().mode() & 0o077, 0, "not for other users");

    let mut client = world.client_of(&socket, &["dev", "staging"]).await;
    let called = client.call("whoami", r#"{"aws_profile":"staging"}"#).await;
    assert_eq!(text(&called), world.home.identity("staging"));

    let mut broker = connect(&socket).await;
    let refused = broker.sign(post(&world, "prod", PING)).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::PermissionDenied, "PROFILE_NOT_ALLOWED".to_owned()));
    let unknown = broker.sign(post(&world, "no-such-profile", PING)).await.unwrap_err();
    assert_eq!(reason(&unknown), reason(&refused), "names can't be probed");
    assert_eq!(unknown.message(), refused.message());

    let listed = broker.list_profiles(ListProfilesRequest {}).await.unwrap().into_inner();
    let names: Vec<_> = listed.profiles.iter().map(|profile| profile.name.as_str()).collect();
    assert_eq!(names, ["dev", "staging"]);
}

#[tokio::test]
async fn a_caller_lists_only_its_own_profiles() {
    let world = World::new().await;
    let rules = rule(own_uid(), &["staging"], "") + &rule(OTHER_UID, &["dev", "prod"], "");
    let _broker = world.broker(&world.configuration(&rules)).await;
    let mut broker = connect(&world.socket()).await;
    let listed = broker.list_profiles(ListProfilesRequest {}).await.unwrap().into_inner();
    let names: Vec<_> = listed.profiles.iter().map(|profile| profile.name.as_str()).collect();
    assert_eq!(names, ["staging"]);
}

#[tokio::test]
async fn rules_restrict_tools() {
    let world = World::new().await;
    let tools = r#"tools = { allow = ["who*", "echo"], deny = ["echo"] }"#;
    let _broker = world.broker(&world.configuration(&rule(own_uid(), &["dev"], tools))).await;
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"));
    for tool in ["echo", "write_note"] {
        let refused = client.call(tool, "{}").await;
        assert_names(failure(&refused), &["tool", "dev"]);
    }
    assert_eq!(world.upstream.requests_of("tools/call").len(), 1);

    // The broker parses the body itself: a proxy can't hide the tool from it.
    let mut broker = connect(&world.socket()).await;
    for (body, expected) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whoami"}}"#, None),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write_note"}}"#,
            Some((Code::PermissionDenied, "TOOL_NOT_ALLOWED")),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whoami","name":"write_note"}}"#,
            Some((Code::InvalidArgument, "AMBIGUOUS_JSON")),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","\u006dethod":"tools/call","params":{"name":"write_note"}}"#,
            Some((Code::InvalidArgument, "AMBIGUOUS_JSON")),
        ),
        (
            r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write_note"}}]"#,
            Some((Code::InvalidArgument, "AMBIGUOUS_JSON")),
        ),
        ("not JSON", Some((Code::InvalidArgument, "AMBIGUOUS_JSON"))),
    ] {
        let answer = broker.sign(post(&world, "dev", body)).await;
        let refused = answer.err().map(|status| reason(&status));
        assert_eq!(refused, expected.map(|(code, name)| (code, name.to_owned())), "{body}");
    }
    let mut hashed = post(&world, "dev", PING);
    hashed.payload = Some(Payload::BodySha256(Bytes::from_static(&[7; 32])));
    let refused = broker.sign(hashed).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::InvalidArgument, "BODY_REQUIRED".to_owned()));
}

#[tokio::test]
async fn rules_limit_the_rate() {
    let world = World::new().await;
    let slow = "rate = { per_second = 1, burst = 3 }";
    let rules = rule(own_uid(), &["dev"], slow) + &rule(own_uid(), &["staging"], "");
    let _broker = world.broker(&world.configuration(&rules)).await;
    let mut broker = connect(&world.socket()).await;
    let mut refusals = Vec::new();
    for _ in 0..30 {
        refusals.extend(broker.sign(post(&world, "dev", PING)).await.err());
    }
    // 30 calls take milliseconds; on a machine that stalls for seconds, a few more may pass.
    assert!((10..=27).contains(&refusals.len()), "{} of 30 were refused", refusals.len());
    for refusal in &refusals {
        assert_eq!(reason(refusal), (Code::ResourceExhausted, "RATE_LIMITED".to_owned()));
        let retry = refusal.get_details_retry_info().and_then(|info| info.retry_delay);
        assert!(retry.is_some_and(|wait| !wait.is_zero() && wait.as_secs() <= 1), "{retry:?}");
    }
    for _ in 0..30 {
        broker.sign(post(&world, "staging", PING)).await.expect("the other rule has no rate");
    }
}

#[tokio::test]
async fn invalid_requests_are_never_signed() {
    let world = World::new().await;
    let _broker = world.broker(&world.configuration(&rule(own_uid(), &["dev"], ""))).await;
    let mut broker = connect(&world.socket()).await;
    let elsewhere = Upstream::start(world.home.keys()).await;
    let base = world.upstream.url();
    let denied = |name: &str| (Code::PermissionDenied, name.to_owned());
    let invalid = |name: &str| (Code::InvalidArgument, name.to_owned());
    type Change = Box<dyn Fn(&mut SignRequest)>;
    let uri = |uri: String| -> Change { Box::new(move |request| uri.clone_into(&mut request.uri)) };
    let method = |method: &'static str| -> Change {
        Box::new(move |request| method.clone_into(&mut request.method))
    };
    let header = |name: &'static str, value: &'static [u8]| -> Change {
        Box::new(move |request| {
            request
                .headers
                .push(Header { name: name.to_owned(), value: Bytes::from_static(value) });
        })
    };
    let cases: Vec<(Change, (Code, String))> = vec![
        (uri(elsewhere.url()), denied("ENDPOINT_NOT_ALLOWED")),
        (uri(base.replace("/mcp", "/other")), denied("ENDPOINT_NOT_ALLOWED")),
        (uri(base.replace("/mcp", "/mcp-admin")), denied("ENDPOINT_NOT_ALLOWED")),
        (uri(base.replace("/mcp", "/mcp/../admin")), denied("ENDPOINT_NOT_ALLOWED")),
        (uri(base.replace("/mcp", "/mcp/%2e%2e/admin")), denied("ENDPOINT_NOT_ALLOWED")),
        (uri(base.replace("http:", "https:")), denied("ENDPOINT_NOT_ALLOWED")),
        (uri(base.replace("127.0.0.1", "evil@127.0.0.1")), invalid("INVALID_URI")),
        (uri("/mcp".to_owned()), invalid("INVALID_URI")),
        (uri(String::new()), invalid("INVALID_URI")),
        (uri(format!("{base}#fragment")), invalid("INVALID_URI")),
        (uri(format!("{base}?b=1&a=2")), invalid("NON_CANONICAL_QUERY")),
        (uri(format!("{base}?a=%2f")), invalid("NON_CANONICAL_QUERY")),
        (uri(format!("{base}?a=b+c")), invalid("NON_CANONICAL_QUERY")),
        (method("PUT"), denied("METHOD_NOT_ALLOWED")),
        (method("post"), denied("METHOD_NOT_ALLOWED")),
        (method("PO ST\nx"), invalid("INVALID_METHOD")),
        (header("Host", b"evil.example"), invalid("RESERVED_HEADER")),
        (header("authorization", b"mine"), invalid("RESERVED_HEADER")),
        (header("X-Amz-Security-Token", b"mine"), invalid("RESERVED_HEADER")),
        (header("x-amz-date", b"20200101T000000Z"), invalid("RESERVED_HEADER")),
        (header("date", b"x"), invalid("RESERVED_HEADER")),
        (header("connection", b"x"), invalid("RESERVED_HEADER")),
        (header("x y", b"x"), invalid("INVALID_HEADER")),
        (header("x", b"a\r\nhost: evil"), invalid("INVALID_HEADER")),
        (header("x", b"\xff"), invalid("INVALID_HEADER")),
        (
            Box::new(|request| {
                request.payload = Some(Payload::BodySha256(Bytes::from_static(b"x")))
            }),
            invalid("INVALID_BODY_HASH"),
        ),
        (Box::new(|request| request.payload = None), invalid("BODY_REQUIRED")),
    ];
    broker.sign(post(&world, "dev", PING)).await.expect("the unchanged request is signed");
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        let mut request = post(&world, "dev", PING);
        change(&mut request);
        let shown = format!("case {number}: {request:?}");
        let refused = broker.sign(request).await.expect_err(&shown);
        assert_eq!(reason(&refused), expected, "{shown}");
    }
    broker.sign(post(&world, "dev", PING)).await.expect("and still is afterwards");
}

#[tokio::test]
async fn a_response_holds_no_secret() {
    let world = World::new().await;
    let rules = rule(own_uid(), &["dev", "staging"], "");
    let _broker = world.broker(&world.configuration(&rules)).await;
    let mut broker = connect(&world.socket()).await;
    for profile in ["dev", "staging"] {
        let key = world.home.key(profile);
        let answer = broker.sign(post(&world, profile, PING)).await.unwrap().into_inner();
        assert_eq!(answer.access_key_id, key.access_key_id);
        assert_names(&answer.credential_scope, &["/us-east-1/aws-mcp/aws4_request"]);
        assert_eq!(answer.path_and_query, "/mcp");
        assert!(!answer.audit_id.is_empty());
        let shown = format!("{answer:?}");
        assert!(!shown.contains(&key.secret), "{shown}");
        let token =
            answer.headers.iter().find(|it| it.name.eq_ignore_ascii_case("x-amz-security-token"));
        let token = token.map(|header| String::from_utf8(header.value.to_vec()).unwrap());
        assert_eq!(token, key.session_token);
    }
}

/// The attack: a process takes over the socket of a running broker.
#[tokio::test]
async fn a_second_broker_does_not_replace_the_first() {
    let world = World::new().await;
    let config = world.configuration(&rule(own_uid(), &["dev"], ""));
    let _first = world.broker(&config).await;
    let second = world.write("second.toml", &config);
    let arguments = ["serve", "--config", second.to_str().unwrap()];
    let mut second = processes::Process::start(world.broker_command(&arguments));
    let (status, errors) = second.ended().await;
    assert!(!status.success());
    assert_names(&errors, &["broker.sock"]);
    let signed = connect(&world.socket()).await.sign(post(&world, "dev", PING)).await;
    signed.expect("the first one still works");
}
