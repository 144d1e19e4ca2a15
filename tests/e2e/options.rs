//! The options of the reference proxy and our own: each has its effect, and none without the option.

use sigward_tests::processes::StdioClient;
use sigward_tests::upstream::{REGION, Reply, SERVICE};

use crate::setup::{THREE, World, assert_names, failure, rpc_error, text, tool_error};

async fn listed(client: &mut StdioClient) -> Vec<String> {
    let mut names = Vec::new();
    let mut params = "{}".to_owned();
    loop {
        let page = client.request("tools/list", &params).await;
        for tool in page["result"]["tools"].as_array().unwrap() {
            names.push(tool["name"].as_str().unwrap().to_owned());
        }
        let cursor = &page["result"]["nextCursor"];
        if cursor.is_null() {
            return names;
        }
        params = serde_json::json!({ "cursor": cursor }).to_string();
    }
}

#[tokio::test]
async fn hidden_tools_are_not_listed_and_refused() {
    let all = ["whoami", "echo", "slow", "switch_account", "write_note", "lookup"];
    for (options, kept) in [
        (vec![], all.to_vec()),
        (vec!["--read-only"], vec!["whoami", "slow", "lookup"]),
        (vec!["--tools-allow", "who*", "echo"], vec!["whoami", "echo"]),
        (vec!["--tools-deny", "*o*"], vec![]),
        (vec!["--tools-deny", "echo", "s*"], vec!["whoami", "write_note", "lookup"]),
        (
            vec!["--tools-allow", "*o*", "--tools-deny", "echo"],
            ["whoami", "slow", "switch_account", "write_note", "lookup"].to_vec(),
        ),
        (vec!["--read-only", "--tools-deny", "lookup"], vec!["whoami", "slow"]),
    ] {
        let kept: Vec<_> = if options == ["--tools-deny", "*o*"] {
            all.iter().copied().filter(|name| !name.contains('o')).collect()
        } else {
            kept
        };
        let world = World::new().await;
        world.upstream.slow().open();
        let mut client = world.client(&["dev"], &options).await;
        // Before the tools were listed, too.
        for tool in all {
            let called = client.call(tool, r#"{"region":"x"}"#).await;
            if kept.contains(&tool) {
                text(&called);
            } else {
                assert_names(failure(&called), &[tool]);
            }
        }
        let called: Vec<_> = world.upstream.requests_of("tools/call");
        assert_eq!(called.len(), kept.len(), "{options:?}: the others weren't sent");
        assert_eq!(listed(&mut client).await, kept, "{options:?}");
    }
}

/// Escapes and repeated members don't get a denied tool called.
#[tokio::test]
async fn a_denied_tool_is_refused_in_every_spelling() {
    let world = World::new().await;
    let mut client = world.client(&["dev"], &["--tools-deny", "write_note"]).await;
    for params in [
        r#"{"name":"write\u005fnote","arguments":{}}"#,
        r#"{"n\u0061me":"write_note","arguments":{}}"#,
        r#"{"name":"whoami","name":"write_note","arguments":{}}"#,
        r#"{"name":"write_note","name":"whoami","arguments":{}}"#,
    ] {
        let called = client.request("tools/call", params).await;
        failure(&called);
    }
    assert_eq!(world.upstream.requests_of("tools/call").len(), 0);
}

#[tokio::test]
async fn headers_are_sent_and_signed() {
    let world = World::new().await;
    let options = ["--header", "X-Team=platform", "--header", "x-trace=a=b c"];
    let mut client = world.client(&["dev"], &options).await;
    client.call("whoami", "{}").await;
    let requests = world.upstream.requests();
    assert!(requests.len() >= 3);
    for request in requests {
        let signed = request.signature.as_ref().unwrap();
        for (name, value) in [("x-team", "platform"), ("x-trace", "a=b c")] {
            assert_eq!(request.header(name), Some(value));
            assert!(signed.signed_headers.iter().any(|it| it == name), "{signed:?}");
        }
    }
}

#[tokio::test]
async fn metadata_is_added_to_meta_and_the_client_s_own_wins() {
    let world = World::new().await;
    let options = ["--metadata", "team=platform", "cost=42"];
    let mut client = world.client(&["dev"], &options).await;
    client
        .request("tools/call", r#"{"name":"whoami","_meta":{"cost":"mine","more":[1.10]}}"#)
        .await;
    client.request("resources/list", "{}").await;
    let call = &world.upstream.requests_of("tools/call")[0];
    assert_eq!(call.param("/_meta/team"), "platform");
    assert_eq!(call.param("/_meta/cost"), "mine");
    assert_eq!(call.param("/_meta/AWS_REGION"), "us-west-2");
    assert_names(call.text(), &["[1.10]"]);
    let list = &world.upstream.requests_of("resources/list")[0];
    assert_eq!(list.param("/_meta/cost"), "42");

    let world = World::new().await;
    let mut client = world.client(&["dev"], &[]).await;
    client.call("whoami", "{}").await;
    let call = &world.upstream.requests_of("tools/call")[0];
    assert_eq!(call.param("/_meta/team"), serde_json::Value::Null);
}

#[tokio::test]
async fn the_endpoint_may_come_after_the_profiles() {
    let world = World::new().await;
    let usual = world.proxy(&[]);
    let mut command = sigward_tests::processes::command(usual.as_std().get_program().as_ref());
    command.envs(world.home.environment()).env("XDG_RUNTIME_DIR", world.directory.path());
    command.args(["--service", SERVICE, "--region", REGION, "--broker", "private"]);
    command.args(["--profile", "staging", "dev", &world.upstream.url()]);
    let mut client = StdioClient::start(command);
    client.initialize().await;
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("staging"));
}

#[tokio::test]
async fn profiles_can_come_from_the_environment() {
    let world = World::new().await;
    for (name, value, expected) in [
        ("AWS_MCP_PROXY_PROFILES", "staging dev", "staging"),
        ("AWS_PROFILE", "prod", "prod"),
        ("AWS_DEFAULT_PROFILE", "staging", "staging"),
    ] {
        let mut command = world.proxy(&["--broker", "private"]);
        command.env(name, value);
        let mut client = StdioClient::start(command);
        client.initialize().await;
        let called = client.call("whoami", "{}").await;
        assert_eq!(text(&called), world.home.identity(expected), "{name}");
    }
}

/// The order of mcp-proxy-for-aws 1.7.0: AWS_DEFAULT_REGION, the profile's region, AWS_REGION, the endpoint's.
#[tokio::test]
async fn the_region_in_meta_is_found_as_boto3_finds_it() {
    let world = World::new().await;
    let default = ("AWS_DEFAULT_REGION", "ap-south-1");
    let region = ("AWS_REGION", "eu-central-1");
    for (profile, variables, expected) in [
        ("dev", vec![], "us-west-2"),
        ("dev", vec![region], "us-west-2"),
        ("dev", vec![default, region], "ap-south-1"),
        ("dev", vec![("AWS_DEFAULT_REGION", ""), region], "us-west-2"),
    ] {
        let mut command = world.private_proxy(&[profile], &[]);
        command.envs(variables.clone());
        let mut client = StdioClient::start(command);
        client.initialize().await;
        client.call("whoami", "{}").await;
        let call = world.upstream.requests_of("tools/call").pop().unwrap();
        assert_eq!(call.param("/_meta/AWS_REGION"), expected, "{variables:?}");
    }
    let mut command = world.private_proxy(&["dev"], &["--metadata", "AWS_REGION=eu-south-1"]);
    command.envs([default, region]);
    let mut client = StdioClient::start(command);
    client.initialize().await;
    client.call("whoami", "{}").await;
    let call = world.upstream.requests_of("tools/call").pop().unwrap();
    assert_eq!(call.param("/_meta/AWS_REGION"), "eu-south-1", "the option wins");
}

#[tokio::test]
async fn only_lists_and_read_only_tools_are_retried() {
    let unavailable = || Reply::Http(503, Vec::new(), String::new());
    let world = World::new().await;
    let mut client = world.client(&THREE, &["--retries", "2"]).await;
    world.upstream.next("tools/list", unavailable());
    assert_eq!(listed(&mut client).await.len(), 6);
    assert_eq!(world.upstream.requests_of("tools/list").len(), 3, "two pages and one retry");

    world.upstream.next("tools/call", unavailable());
    world.upstream.next("tools/call", unavailable());
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"));
    assert_eq!(world.upstream.requests_of("tools/call").len(), 3);

    world.upstream.next("tools/call", unavailable());
    let failed = client.call("write_note", "{}").await;
    assert_names(failure(&failed), &["503"]);
    assert_eq!(world.upstream.requests_of("tools/call").len(), 4, "the tool may have written");

    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    world.upstream.next("tools/list", unavailable());
    let failed = client.request("tools/list", "{}").await;
    assert_names(rpc_error(&failed).1, &["503"]);
    assert_eq!(world.upstream.requests_of("tools/list").len(), 1, "no retries without --retries");
}

#[tokio::test]
async fn skip_auth_sends_unsigned_requests_only_without_any_credentials() {
    let world = World::new().await;
    world.home.config("\n[profile bare]\nregion = us-west-2\n");
    for (profile, options, received) in [
        ("bare", vec!["--skip-auth"], 1),
        ("bare", vec![], 0),
        // An unknown profile is an error of mcp-proxy-for-aws too, and no reason to send unsigned requests.
        ("misspelt", vec!["--skip-auth"], 0),
    ] {
        let mut client = StdioClient::start(world.private_proxy(&[profile], &options));
        let params = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;
        let before = world.upstream.requests().len();
        let answer = client.request("initialize", params).await;
        rpc_error(&answer);
        let unsigned: Vec<_> = world.upstream.requests().split_off(before);
        assert_eq!(unsigned.len(), received, "{options:?}");
        assert!(unsigned.iter().all(|request| request.header("authorization").is_none()));
    }
}

#[tokio::test]
async fn a_tool_call_times_out_after_tool_timeout() {
    let world = World::new().await;
    let mut client = world.client(&["dev"], &["--tool-timeout", "0.3"]).await;
    let failed = client.call("slow", "{}").await;
    assert_names(failure(&failed), &["tool-timeout"]);
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"));
}

/// An error from a tool is forwarded as it is, not replaced by one of the proxy's.
#[tokio::test]
async fn a_tool_s_own_error_is_forwarded() {
    let world = World::new().await;
    let mut client = world.client(&["dev"], &[]).await;
    let own = r#"{"content":[{"type":"text","text":"its own"}],"isError":true}"#;
    world.upstream.next("tools/call", Reply::Result(own.to_owned()));
    let failed = client.call("echo", "{}").await;
    assert_eq!(tool_error(&failed), "its own");
    world.upstream.next("tools/call", Reply::Error(-32050, "its own code".to_owned()));
    let failed = client.call("echo", "{}").await;
    assert_eq!(rpc_error(&failed), (-32050, "its own code"));
}

/// Requests for this machine must not travel to a proxy in clear text, where their signature and token could be used.
#[tokio::test]
async fn a_loopback_endpoint_is_never_reached_through_a_proxy() {
    let world = World::new().await;
    let trap = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", trap.local_addr().unwrap());
    let mut command = world.proxy(&["--profile", "dev"]);
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env(name, &proxy);
    }
    let mut client = StdioClient::start(command);
    client.initialize().await;
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"));
    trap.set_nonblocking(true).unwrap();
    assert!(trap.accept().is_err(), "something was sent to the proxy");
}

/// Support reads this first, and it shows options that have no effect.
#[tokio::test]
async fn the_log_shows_the_settings_of_the_proxy() {
    let world = World::new().await;
    let options =
        ["--log-level", "INFO", "--header", "x-team=SgwCanaryHeader", "--metadata", "k=v"];
    let mut client = world.client(&THREE, &options).await;
    text(&client.call("whoami", "{}").await);
    let start = client.process().logged("starting").await;
    assert_names(&start, &[SERVICE, REGION, "\"dev\"", "a private one", "x-team", "/mcp"]);
    assert!(!start.contains("SgwCanaryHeader"), "{start}");
    let signs = client.process().logged("the broker signs").await;
    assert_names(&signs, &["profile=dev", &format!("/{REGION}/{SERVICE}/aws4_request")]);
}

/// Otherwise they would wait forever: their SDK skips an error in response to `initialize`.
#[tokio::test]
async fn old_clients_get_a_failed_start_as_an_error_of_the_next_request() {
    let world = World::new().await;
    for (name, is_old) in [("Q DEV CLI", true), ("Kiro CLI", true), ("claude", false)] {
        let mut client = StdioClient::start(world.private_proxy(&["misspelt"], &[]));
        let params = format!(
            r#"{{"protocolVersion":"2025-06-18","capabilities":{{}},"clientInfo":{{"name":"{name}","version":"1"}}}}"#
        );
        let answer = client.request("initialize", &params).await;
        if is_old {
            assert_eq!(answer["result"]["protocolVersion"], "2025-06-18", "{answer}");
            client.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        } else {
            assert_names(rpc_error(&answer).1, &["misspelt"]);
        }
        let listed = client.request("tools/list", "{}").await;
        assert_names(rpc_error(&listed).1, &["misspelt"]);
    }
}

/// A client's name is in the requests that it causes, as far as a header can hold it.
#[tokio::test]
async fn a_client_s_name_is_sanitized_and_cut_in_the_user_agent() {
    let world = World::new().await;
    let mut client = StdioClient::start(world.private_proxy(&["dev"], &[]));
    let name = "My Client/é".to_owned() + &"x".repeat(20_000);
    let params = format!(
        r#"{{"protocolVersion":"2025-11-25","capabilities":{{}},"clientInfo":{{"name":"{name}","version":"1.0 (beta)"}}}}"#
    );
    client.request("initialize", &params).await;
    let requests = world.upstream.requests();
    let agent = requests[0].header("user-agent").unwrap();
    assert!(agent.contains(" my-client--xxx") && agent.ends_with("/1.0--beta-"), "{agent}");
    assert!(agent.len() < 160, "{agent}");
}
