//! Profiles per call, case by case of the design, each with its deny twin.

use serde_json::{Value, json};
use sigward_tests::upstream::{Gate, Received, Reply};

use crate::setup::{THREE, World, assert_names, own_uid, stateless, text, tool_error};

/// The requests of `method` that a profile signed.
fn signed_by(world: &World, method: &str, profile: &str) -> Vec<Received> {
    let mut requests = world.upstream.requests_of(method);
    requests.retain(|request| request.identity() == world.home.identity(profile));
    requests
}

#[tokio::test]
async fn every_tool_has_the_profile_argument_and_is_otherwise_unchanged() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    let mut page = client.request("tools/list", "{}").await;
    let cursor = page["result"]["nextCursor"].take();
    let mut tools = page["result"]["tools"].as_array().unwrap().clone();
    let next = client.request("tools/list", &json!({"cursor": cursor}).to_string()).await;
    tools.extend(next["result"]["tools"].as_array().unwrap().clone());
    assert_eq!(tools.len(), 6);
    for tool in &tools {
        let own = tool["name"] == "switch_account";
        let argument = if own { "proxy_aws_profile" } else { "aws_profile" };
        let property = &tool["inputSchema"]["properties"][argument];
        assert_eq!(property["type"], "string", "{tool}");
        assert_eq!(property["enum"], json!(THREE), "{tool}");
        assert_names(property["description"].as_str().unwrap(), &["dev"]);
        let required = tool["inputSchema"]["required"].as_array();
        let required = required.is_some_and(|names| names.contains(&argument.into()));
        assert!(!required, "the argument is optional: {tool}");
    }
    let own = &tools[3]["inputSchema"]["properties"]["aws_profile"];
    assert_eq!(own["description"], "the server's own meaning");
}

#[tokio::test]
async fn numbers_in_the_tool_list_keep_their_spelling() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    client.start_request("tools/list", "{}").await;
    let line = client.expect_line("the list", |line| line.contains("\"tools\"")).await;
    assert_names(&line, &[r#""maximum":1e2"#, r#""x-odd":1.10"#, r#""taskSupport":"optional""#]);
}

#[tokio::test]
async fn with_one_profile_there_is_no_profile_argument() {
    let world = World::new().await;
    let mut client = world.client(&["staging"], &[]).await;
    client.start_request("tools/list", "{}").await;
    let line = client.expect_line("the list", |line| line.contains("\"tools\"")).await;
    assert!(!line.contains("aws_profile"), "{line}");
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("staging"));
    // The proxy ignores the argument now: it is sent to the server, which decides.
    let echoed = client.call("echo", r#"{"aws_profile":"dev"}"#).await;
    assert_eq!(text(&echoed), r#"{"aws_profile":"dev"}"#);
}

#[tokio::test]
async fn descriptions_in_the_broker_s_configuration_reach_the_model() {
    let world = World::new().await;
    let rule = format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\", \"staging\", \"prod\"]\nendpoints = [\"upstream\"]",
        own_uid()
    );
    let _broker = world.broker(&world.configuration(&rule)).await;
    let mut client = world.client_of(&world.socket(), &THREE).await;
    let page = client.request("tools/list", "{}").await;
    let property = &page["result"]["tools"][0]["inputSchema"]["properties"]["aws_profile"];
    let words = ["dev", "Development, everything goes", "Production, be careful"];
    assert_names(property["description"].as_str().unwrap(), &words);
}

#[tokio::test]
async fn an_absent_or_null_argument_selects_the_default_profile() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    for (arguments, profile) in [
        ("{}", "dev"),
        (r#"{"aws_profile":null}"#, "dev"),
        (r#"{"aws_profile":"dev"}"#, "dev"),
        (r#"{"aws_profile":"staging"}"#, "staging"),
        (r#"{"aws_profile":"prod"}"#, "prod"),
        (r#"{"aws_profile":"st\u0061ging"}"#, "staging"),
        (r#"{"aws\u005fprofile":"staging"}"#, "staging"),
        ("{}", "dev"),
    ] {
        let called = client.call("whoami", arguments).await;
        assert_eq!(text(&called), world.home.identity(profile), "{arguments}");
    }
    let without = client.request("tools/call", r#"{"name":"whoami"}"#).await;
    assert_eq!(text(&without), world.home.identity("dev"));

    for (profile, calls) in [("dev", 5), ("staging", 3), ("prod", 1)] {
        let identity = world.home.identity(profile);
        let calls_seen = signed_by(&world, "tools/call", profile);
        assert_eq!(calls_seen.len(), calls, "{profile}");
        let sessions = world.upstream.sessions_of(identity);
        assert_eq!(sessions.len(), 1, "{profile} has one session");
        for call in calls_seen {
            assert_eq!(call.header("mcp-session-id"), Some(sessions[0].as_str()), "{profile}");
        }
    }
}

#[tokio::test]
async fn the_region_in_meta_is_that_of_the_profile() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    for (profile, region) in sigward_tests::aws_home::PROFILES {
        let called = client.call("whoami", &json!({"aws_profile": profile}).to_string()).await;
        assert_eq!(called["result"]["structuredContent"]["region"], region, "{profile}");
    }
    let own = r#"{"name":"whoami","arguments":{"aws_profile":"prod"},"_meta":{"AWS_REGION":"sa-east-1"}}"#;
    let called = client.request("tools/call", own).await;
    assert_eq!(
        called["result"]["structuredContent"]["region"], "sa-east-1",
        "the client's own region wins"
    );
}

#[tokio::test]
async fn any_other_value_is_refused_and_nothing_is_sent() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    client.request("tools/list", "{}").await;
    for given in [
        r#""nobody""#,
        r#""DEV""#,
        r#""dev ""#,
        r#""""#,
        "5",
        "true",
        "{}",
        r#"["staging"]"#,
        r#""..""#,
    ] {
        let arguments = format!(r#"{{"text":"secret","aws_profile":{given}}}"#);
        let called = client.call("echo", &arguments).await;
        let message = tool_error(&called);
        assert_names(message, &["dev", "staging", "prod"]);
        assert_names(message, &[given.trim_matches('"')]);
    }
    let twice = client.call("echo", r#"{"aws_profile":"dev","aws_profile":"staging"}"#).await;
    assert_names(tool_error(&twice), &["aws_profile"]);
    let spelled = client.call("echo", r#"{"aws_profile":"dev","aws\u005fprofile":"prod"}"#).await;
    assert_names(tool_error(&spelled), &["aws_profile"]);

    assert_eq!(world.upstream.requests_of("tools/call").len(), 0, "nothing went upstream");
    let called = client.call("echo", r#"{"aws_profile":"staging"}"#).await;
    assert_eq!(text(&called), "{}", "a valid call is forwarded");
}

#[tokio::test]
async fn the_argument_is_removed_and_every_other_byte_stays() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    for (sent, received) in [
        (r#"{"aws_profile":"staging"}"#, "{}"),
        (r#"{"aws_profile":"staging","b":1.10}"#, r#"{"b":1.10}"#),
        (r#"{"b":1.10,"aws_profile":"staging"}"#, r#"{"b":1.10}"#),
        (
            r#"{"b":1.10,"aws_profile":"staging","a":123456789012345678901,"e":1e400}"#,
            r#"{"b":1.10,"a":123456789012345678901,"e":1e400}"#,
        ),
        (
            r#"{"x":{"aws_profile":"prod"},"aws_profile":"staging","s":"\u00e9\/ \"aws_profile\""}"#,
            r#"{"x":{"aws_profile":"prod"},"s":"\u00e9\/ \"aws_profile\""}"#,
        ),
        (r#"{"lone":"\ud800","aws\u005fprofile":"staging"}"#, r#"{"lone":"\ud800"}"#),
        (r#"{"z":1,"a":2,"z":3,"aws_profile":"staging"}"#, r#"{"z":1,"a":2,"z":3}"#),
    ] {
        client.start_request("tools/call", &sigward_tests::processes::call("echo", sent)).await;
        let request = world
            .upstream
            .expect(received, |request| {
                request.calls("echo")
                    && request.text().contains(&format!("\"arguments\":{received}"))
            })
            .await;
        assert_eq!(request.identity(), world.home.identity("staging"), "{sent}");
    }
    // Without the argument nothing changes: white space, order, and names that only look like it.
    let odd = "{ \"aws_profiles\" : 1.0 ,\t\"AWS_PROFILE\":null, \"n\": -0 }";
    client.start_request("tools/call", &sigward_tests::processes::call("echo", odd)).await;
    let request = world.upstream.expect(odd, |request| request.text().contains(odd)).await;
    assert_eq!(request.identity(), world.home.identity("dev"));
}

#[tokio::test]
async fn a_session_is_opened_once_and_delays_no_other_profile() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    // The session of the default profile is open; opening the next one waits.
    let gate = Gate::default();
    let held = gate.clone();
    let staging = world.home.identity("staging").to_owned();
    world.upstream.hook(move |request| {
        let opens = request.method() == "initialize" && request.identity() == staging;
        opens.then(|| Reply::Usual.held(&held))
    });
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(
            client
                .start_request(
                    "tools/call",
                    r#"{"name":"whoami","arguments":{"aws_profile":"staging"}}"#,
                )
                .await,
        );
    }
    let opens = |request: &Received| {
        request.method() == "initialize" && request.identity() == world.home.identity("staging")
    };
    world.upstream.expect("the opening for staging", opens).await;
    for profile in ["prod", "dev"] {
        let called = client.call("whoami", &json!({"aws_profile": profile}).to_string()).await;
        assert_eq!(text(&called), world.home.identity(profile), "{profile} doesn't wait");
    }
    assert_eq!(signed_by(&world, "tools/call", "staging").len(), 0);

    gate.open();
    for id in &waiting {
        let called = client.response(id).await;
        assert_eq!(text(&called), world.home.identity("staging"));
    }
    assert_eq!(signed_by(&world, "initialize", "staging").len(), 1, "opened once for all eight");
    assert_eq!(signed_by(&world, "notifications/initialized", "staging").len(), 1);
}

/// A session that can't be opened is an error only for its callers, and the next caller tries again.
#[tokio::test]
async fn a_session_that_fails_to_open_fails_only_its_callers() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    world.upstream.next("initialize", Reply::Http(500, Vec::new(), "{}".to_owned()));
    let failed = client.call("whoami", r#"{"aws_profile":"prod"}"#).await;
    assert_names(crate::setup::failure(&failed), &["500"]);
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"));
    let again = client.call("whoami", r#"{"aws_profile":"prod"}"#).await;
    assert_eq!(text(&again), world.home.identity("prod"));
}

#[tokio::test]
async fn a_tool_keeps_its_own_argument_of_the_same_name() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    // Before any list: the proxy must find out by itself.
    let called = client.call("switch_account", r#"{"aws_profile":"the server's"}"#).await;
    assert_eq!(text(&called), r#"{"aws_profile":"the server's"}"#);
    assert_eq!(signed_by(&world, "tools/call", "dev").len(), 1);

    let both = r#"{"aws_profile":"the server's","proxy_aws_profile":"prod"}"#;
    let called = client.call("switch_account", both).await;
    assert_eq!(text(&called), r#"{"aws_profile":"the server's"}"#);
    assert_eq!(signed_by(&world, "tools/call", "prod").len(), 1);

    let refused = client.call("switch_account", r#"{"proxy_aws_profile":"nobody"}"#).await;
    assert_names(tool_error(&refused), &["nobody"]);
    // For a tool without an argument of that name, the longer name has no meaning.
    let echoed = client.call("echo", r#"{"proxy_aws_profile":"prod"}"#).await;
    assert_eq!(text(&echoed), r#"{"proxy_aws_profile":"prod"}"#);
    assert_eq!(signed_by(&world, "tools/call", "prod").len(), 1);
}

#[tokio::test]
async fn the_argument_can_be_renamed_and_limited_to_tools() {
    let world = World::new().await;
    let options = ["--profile-argument", "account", "--profile-tools", "who*", "l?okup"];
    let mut client = world.client(&THREE, &options).await;
    let page = client.request("tools/list", "{}").await;
    for tool in page["result"]["tools"].as_array().unwrap() {
        let offered = tool["inputSchema"]["properties"]["account"].is_object();
        assert_eq!(offered, tool["name"] == "whoami", "{tool}");
        assert!(tool["inputSchema"]["properties"]["aws_profile"].is_null());
    }
    let called = client.call("whoami", r#"{"account":"prod"}"#).await;
    assert_eq!(text(&called), world.home.identity("prod"));
    let called = client.call("whoami", r#"{"aws_profile":"prod"}"#).await;
    assert_eq!(text(&called), world.home.identity("dev"), "that name has no meaning now");
    // A tool that doesn't offer the argument never runs with another profile than the requested one.
    let refused = client.call("echo", r#"{"account":"prod"}"#).await;
    tool_error(&refused);
    assert_eq!(signed_by(&world, "tools/call", "prod").len(), 1);
}

/// The same in the version without sessions.
#[tokio::test]
async fn stateless_calls_can_choose_a_profile() {
    let world = World::new().await;
    let mut client = sigward_tests::processes::StdioClient::start(world.private_proxy(&THREE, &[]));
    let page = client.request("tools/list", &stateless("{}")).await;
    assert_eq!(
        page["result"]["tools"][0]["inputSchema"]["properties"]["aws_profile"]["enum"],
        json!(THREE)
    );
    assert_eq!(page["result"]["cacheScope"], "private", "an injected list is the user's own");

    let call = async |client: &mut sigward_tests::processes::StdioClient, arguments: &str| {
        let params = stateless(&format!(r#"{{"name":"lookup","arguments":{arguments}}}"#));
        client.request("tools/call", &params).await
    };
    let called = call(&mut client, r#"{"region":"x","aws_profile":"staging"}"#).await;
    assert_eq!(text(&called), r#"{"region":"x"}"#);
    let called = call(&mut client, r#"{"region":"naïve","aws_profile":null}"#).await;
    assert_eq!(text(&called), r#"{"region":"naïve"}"#);
    let refused = call(&mut client, r#"{"region":"x","aws_profile":"nobody"}"#).await;
    assert_names(tool_error(&refused), &["nobody", "dev", "staging", "prod"]);

    let calls = world.upstream.requests_of("tools/call");
    let identities: Vec<_> = calls.iter().map(Received::identity).collect();
    assert_eq!(identities, [world.home.identity("staging"), world.home.identity("dev")]);
    for call in calls {
        assert!(!format!("{:?}{}", call.headers, call.text()).contains("aws_profile"));
        assert_eq!(call.header("mcp-name"), Some("lookup"));
    }
    assert_eq!(Value::from(0), world.upstream.requests_of("initialize").len());
}
