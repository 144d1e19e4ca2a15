//! A default profile that can't sign when the client starts, since its sign-in has expired. The client gets a running
//! server with instructions, and everything works once the user has signed in.

use serde_json::{Value, json};
use sigward_tests::aws::Aws;
use sigward_tests::aws_home::AwsHome;
use sigward_tests::processes::{Process, StdioClient, call};
use sigward_tests::upstream::Builder;

use crate::agent::SESSIONS;
use crate::http::{Listening, data};
use crate::setup::{World, assert_names, failure, rpc_error, stateless, text, tool_error};

/// A world with the profile `person`, whose sign-in has expired.
async fn signed_out(build: impl FnOnce(Builder) -> Builder) -> (World, Aws) {
    let home = AwsHome::new();
    Aws::sign_in(&home, "person", "Developer");
    std::fs::remove_dir_all(home.path().join(".aws/sso")).unwrap();
    let world = World::at_home(home, build).await;
    let aws = Aws::start(world.home.keys()).await;
    (world, aws)
}

fn start(world: &World, aws: &Aws, profiles: &[&str]) -> StdioClient {
    let mut command = world.private_proxy(profiles, &[]);
    command.envs(aws.environment());
    StdioClient::start(command)
}

fn is_changed(message: &Value) -> bool {
    message["method"] == "notifications/tools/list_changed"
}

fn names(list: &Value) -> Vec<&str> {
    let tools = list["result"]["tools"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
    tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

/// No profile can sign for the server: the proxy announces only tools, and has one, which says what to do.
#[tokio::test]
async fn the_proxy_answers_itself_if_no_profile_can_sign() {
    let (world, aws) = signed_out(|builder| builder).await;
    let mut client = start(&world, &aws, &["person"]);
    let begun = client.initialize_as("2025-06-18", "{}").await;
    assert_eq!(begun["protocolVersion"], "2025-06-18");
    assert_eq!(begun["capabilities"], json!({"tools": {"listChanged": true}}));
    assert_eq!(begun["serverInfo"]["name"], "sigward-proxy");
    let what_to_do = ["person", "needs a sign-in", "aws sso login --profile person"];
    assert_names(begun["instructions"].as_str().unwrap(), &what_to_do);

    let list = client.request("tools/list", "{}").await;
    assert_eq!(names(&list), ["sigward_sign_in"]);
    assert_names(list["result"]["tools"][0]["description"].as_str().unwrap(), &what_to_do);
    assert_eq!(client.request("ping", "{}").await["result"], json!({}));
    for tool in ["whoami", "sigward_sign_in"] {
        assert_names(tool_error(&client.call(tool, "{}").await), &what_to_do);
    }
    for other in ["resources/list", "prompts/list"] {
        assert_names(rpc_error(&client.request(other, "{}").await).1, &what_to_do);
    }
    let signed = world.upstream.requests().into_iter().filter(|it| it.signature.is_ok()).count();
    assert_eq!(signed, 0);

    aws.sign_in_again(&world.home);
    client.expect("the change", is_changed).await;
    let list = client.request("tools/list", "{}").await;
    assert!(
        names(&list).contains(&"whoami") && !names(&list).contains(&"sigward_sign_in"),
        "{list}"
    );
    assert_names(text(&client.call("whoami", "{}").await), &["AWSReservedSSO_Developer"]);
    assert_names(text(&client.call("sigward_sign_in", "{}").await), &["can sign now"]);
    let opened = world.upstream.requests_of("initialize");
    let opened: Vec<_> = opened.iter().filter(|it| it.signature.is_ok()).collect();
    assert_eq!(opened.len(), 1, "one session, by a replay of the client's own handshake");
    assert_eq!(opened[0].param("/protocolVersion"), "2025-06-18");
    assert_eq!(world.upstream.requests_of("notifications/initialized").len(), 1);
    let (status, unread, _) = client.close().await;
    assert!(status.success());
    assert!(!unread.iter().any(|line| line.contains("list_changed")), "reported twice");
    assert!(world.upstream.sessions_of("").is_empty());
}

/// Another profile that can sign is used for the handshake, and for lists until the default one works; never for a
/// call.
#[tokio::test]
async fn another_profile_is_used_for_handshake_and_lists_but_never_for_calls() {
    let (world, aws) = signed_out(|builder| builder).await;
    let mut client = start(&world, &aws, &["person", "dev"]);
    let begun = client.initialize().await;
    assert_eq!(begun["serverInfo"]["name"], "verifying-upstream");
    assert_eq!(begun["capabilities"]["resources"], json!({"subscribe": true}));
    let list = client.request("tools/list", "{}").await;
    assert!(names(&list).contains(&"whoami"), "{list}");
    assert!(client.request("ping", "{}").await["result"].is_object());
    assert_names(tool_error(&client.call("whoami", "{}").await), &["person", "needs a sign-in"]);
    let of_dev = client.call("whoami", r#"{"aws_profile":"dev"}"#).await;
    assert_eq!(text(&of_dev), world.home.identity("dev"));
    let calls = world.upstream.requests_of("tools/call");
    assert_eq!(calls.len(), 1, "only the one that named the profile");

    aws.sign_in_again(&world.home);
    client.expect("the change", is_changed).await;
    assert_names(text(&client.call("whoami", "{}").await), &["AWSReservedSSO_Developer"]);
    let dev = world.home.identity("dev");
    assert_eq!(
        world.upstream.sessions_of(dev).len(),
        1,
        "the session of the handshake is dev's own"
    );
    let (status, ..) = client.close().await;
    assert!(status.success());
    assert!(world.upstream.sessions_of(dev).is_empty(), "dev's session wasn't ended");
}

/// A server that accepts unsigned handshakes and lists gets them unsigned, but never calls.
#[tokio::test]
async fn a_server_that_accepts_unsigned_lists_answers_them_itself() {
    let methods = ["initialize", "notifications/initialized", "tools/list"];
    let (world, aws) = signed_out(|builder| builder.unsigned(&methods)).await;
    let mut client = start(&world, &aws, &["person"]);
    let begun = client.initialize().await;
    assert_eq!(begun["serverInfo"]["name"], "verifying-upstream");
    let list = client.request("tools/list", "{}").await;
    assert!(names(&list).contains(&"whoami"), "{list}");
    assert_names(tool_error(&client.call("whoami", "{}").await), &["person", "needs a sign-in"]);
    assert!(world.upstream.requests_of("tools/call").is_empty(), "no call is sent unsigned");
    aws.sign_in_again(&world.home);
    client.expect("the change", is_changed).await;
    assert_names(text(&client.call("whoami", "{}").await), &["AWSReservedSSO_Developer"]);
}

/// An error that needs a change of the configuration is reported at once.
#[tokio::test]
async fn a_misconfigured_profile_is_an_error_of_the_handshake() {
    let home = AwsHome::new();
    home.config("[profile wrong]\nrole_arn = arn:aws:iam::123456789012:role/R\n");
    let world = World::at_home(home, |builder| builder).await;
    let mut client = StdioClient::start(world.private_proxy(&["wrong"], &[]));
    let refused = client.request("initialize", r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}"#).await;
    assert_names(rpc_error(&refused).1, &["wrong", "no source_profile"]);
    // With another profile, the client still gets a server.
    let mut client = client_with(&world, &["wrong", "dev"]).await;
    assert_names(failure(&client.call("whoami", "{}").await), &["no source_profile"]);
    let of_dev = client.call("whoami", r#"{"aws_profile":"dev"}"#).await;
    assert_eq!(text(&of_dev), world.home.identity("dev"));
}

async fn client_with(world: &World, profiles: &[&str]) -> StdioClient {
    world.client(profiles, &[]).await
}

/// 2026-07-28: requests are independent of each other, and none is refused for good.
#[tokio::test]
async fn without_sessions_the_proxy_answers_until_the_sign_in() {
    let (world, aws) = signed_out(|builder| builder).await;
    let what_to_do = ["person", "needs a sign-in", "aws sso login --profile person"];
    let mut client = start(&world, &aws, &["person"]);
    let found = client.request("server/discover", &stateless("{}")).await;
    let found = &found["result"];
    assert_eq!(found["supportedVersions"], json!(["2026-07-28"]));
    assert_eq!(found["capabilities"], json!({"tools": {}}));
    assert_eq!((&found["resultType"], &found["ttlMs"]), (&json!("complete"), &json!(0)));
    assert_names(found["instructions"].as_str().unwrap(), &what_to_do);
    let list = client.request("tools/list", &stateless("{}")).await;
    assert_eq!(names(&list), ["sigward_sign_in"]);
    assert_eq!(list["result"]["ttlMs"], 0, "the client must ask again");
    for tool in ["whoami", "sigward_sign_in"] {
        let refused = client.request("tools/call", &stateless(&call(tool, "{}"))).await;
        assert_names(failure(&refused), &what_to_do);
    }
    aws.sign_in_again(&world.home);
    let signed_in = client.request("tools/call", &stateless(&call("sigward_sign_in", "{}"))).await;
    // The broker notices the new token within a second.
    if signed_in["result"]["isError"] == true {
        assert_names(failure(&signed_in), &what_to_do);
    }
    let mut both = start(&world, &aws, &["person", "dev"]);
    let list = both.request("tools/list", &stateless("{}")).await;
    assert!(names(&list).contains(&"whoami"), "{list}");
    let found = both.request("server/discover", &stateless("{}")).await;
    assert_eq!(found["result"]["instructions"], "Ask whoami.");
}

/// Over HTTP the client gets a session of the proxy, with a stream for notifications.
#[tokio::test]
async fn over_http_the_proxy_has_a_session_of_its_own_until_the_sign_in() {
    let (world, aws) = signed_out(|builder| builder).await;
    let what_to_do = ["person", "needs a sign-in"];
    let mut command = world.private_proxy(&["person"], &["--listen", "127.0.0.1:0"]);
    command.envs(aws.environment());
    let proxy = Listening::started(Process::start(command)).await;
    let session = proxy.session(SESSIONS).await;
    let session: Vec<_> = session.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let id = session.iter().find(|(name, _)| *name == "mcp-session-id").expect("a session").1;
    assert!(id.starts_with("sigward-") && id.len() > 32, "{id}");
    let ask = async |method: &str, params: &str| -> Value {
        let text = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{params}}}"#);
        proxy.post(&session, &text).await.message().await
    };
    let mut stream = proxy.get(&session).await;
    assert_eq!(names(&ask("tools/list", "{}").await), ["sigward_sign_in"]);
    assert_names(tool_error(&ask("tools/call", &call("whoami", "{}")).await), &what_to_do);
    aws.sign_in_again(&world.home);
    let changed: Value =
        serde_json::from_str(&data(&stream.expect_event("the change").await)).unwrap();
    assert!(is_changed(&changed), "{changed}");
    assert!(names(&ask("tools/list", "{}").await).contains(&"whoami"));
    let called = ask("tools/call", &call("whoami", "{}")).await;
    assert_names(text(&called), &["AWSReservedSSO_Developer"]);
    let identity = text(&called).to_owned();
    assert_eq!(world.upstream.sessions_of(&identity).len(), 1);
    // Another session id is unknown, and the session can be ended.
    let other = [("mcp-session-id", "sigward-00000000000000000000000000000000")];
    let unknown = proxy.post(&other, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await;
    assert_eq!(unknown.status, 404);
    let ended = proxy.request("DELETE", "/mcp", &session, "").await;
    assert_eq!(ended.status, 204);
    let gone = proxy.post(&session, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await;
    assert_eq!(gone.status, 404);
    world.upstream.expect("the end of the session", |it| it.http_method == "DELETE").await;

    // 2026-07-28, without sessions.
    let (world, aws) = signed_out(|builder| builder).await;
    let mut command = world.private_proxy(&["person"], &["--listen", "127.0.0.1:0"]);
    command.envs(aws.environment());
    let proxy = Listening::started(Process::start(command)).await;
    let list =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}}"#, stateless("{}"));
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/list")];
    let list = proxy.post(&headers, &list).await.message().await;
    assert_eq!(names(&list), ["sigward_sign_in"]);
}

/// AWS accepts connections and never answers. The handshake is answered before the client gives up.
#[tokio::test]
async fn an_sts_that_never_answers_does_not_block_the_handshake() {
    let home = AwsHome::new();
    home.role("reader", "dev", "arn:aws:iam::123456789012:role/reader");
    let world = World::at_home(home, |builder| builder).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut command = world.private_proxy(&["reader"], &[]);
    command.env("AWS_ENDPOINT_URL_STS", url);
    let mut client = StdioClient::start(command);
    let started = std::time::Instant::now();
    let begun = client.initialize_as("2025-06-18", "{}").await;
    let took = started.elapsed();
    assert!(took < std::time::Duration::from_secs(20), "{took:?}");
    assert_eq!(begun["serverInfo"]["name"], "sigward-proxy");
    assert_names(begun["instructions"].as_str().unwrap(), &["reader", "AWS"]);
    drop(silent);
}
