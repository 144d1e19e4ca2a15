//! rmcp over stdio, in its two lifecycles and with its fallback.

use rmcp::model::{CallToolRequestParams, ProtocolVersion, Tool};
use rmcp::service::RunningService;
use rmcp::transport::TokioChildProcess;
use rmcp::{ClientLifecycleMode, ClientServiceExt as _, RoleClient, ServiceExt as _};
use serde_json::{Value, json};
use sigward_tests::deadline;
use sigward_tests::upstream::Era;

use crate::setup::{THREE, World, assert_names};

type Client = RunningService<RoleClient, ()>;

#[tokio::test]
async fn rmcp_works_with_a_session() {
    let world = World::with(|builder| builder.era(Era::Sessions)).await;
    let client = ().serve(process(&world)).await.unwrap();
    let info = client.peer_info().unwrap();
    assert_eq!(info.protocol_version, ProtocolVersion::LATEST_WITH_INITIALIZE);
    assert_usable(&world, client).await;
    let initialized = world.upstream.requests_of("initialize");
    assert_eq!(initialized.len(), 2, "one session for the default profile, one for staging");
}

#[tokio::test]
async fn rmcp_works_without_sessions() {
    let world = World::with(|builder| builder.era(Era::Stateless)).await;
    let mode =
        ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] };
    let client = ().serve_with_lifecycle(process(&world), mode).await.unwrap();
    assert_usable(&world, client).await;

    assert_eq!(world.upstream.requests_of("initialize").len(), 0);
    for request in world.upstream.requests() {
        assert_eq!(request.header("mcp-session-id"), None);
        assert_eq!(request.header("mcp-protocol-version"), Some("2026-07-28"));
        assert_eq!(request.header("mcp-method"), Some(request.method()));
    }
}

/// A client that speaks both versions falls back to the older one of the server.
#[tokio::test]
async fn rmcp_falls_back_to_the_version_of_the_server() {
    let world = World::with(|builder| builder.era(Era::Sessions)).await;
    let mode = ClientLifecycleMode::Auto {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        legacy_version: None,
    };
    let starting = ().serve_with_lifecycle(process(&world), mode);
    let client = deadline::within(starting, || "no fall back".to_owned()).await.unwrap();
    assert_usable(&world, client).await;
}

fn process(world: &World) -> TokioChildProcess {
    TokioChildProcess::new(world.private_proxy(&THREE, &[])).unwrap()
}

async fn assert_usable(world: &World, client: Client) {
    let tools = client.list_all_tools().await.unwrap();
    let names: Vec<_> = tools.iter().map(|tool| tool.name.as_ref()).collect();
    assert_eq!(names, ["whoami", "echo", "slow", "switch_account", "write_note", "lookup"]);
    for tool in &tools {
        let name = if tool.name == "switch_account" { "proxy_aws_profile" } else { "aws_profile" };
        assert_eq!(offered(tool, name), THREE, "{}", tool.name);
    }

    let own = whoami(&client, json!({})).await.unwrap();
    assert_eq!(own, world.home.identity("dev"));
    let other = whoami(&client, json!({"aws_profile": "staging"})).await.unwrap();
    assert_eq!(other, world.home.identity("staging"));

    let refused = whoami(&client, json!({"aws_profile": "nobody"})).await.unwrap_err();
    assert_names(&refused, &["nobody", "dev", "staging", "prod"]);
    let known = whoami(&client, json!({"aws_profile": "dev"})).await.unwrap();
    assert_eq!(known, world.home.identity("dev"), "the session still works");
    client.cancel().await.unwrap();
}

/// The text of the result of `whoami`, or of its error.
async fn whoami(client: &Client, arguments: Value) -> Result<String, String> {
    let arguments = arguments.as_object().cloned().unwrap();
    let call = CallToolRequestParams::new("whoami").with_arguments(arguments);
    let result = client.call_tool(call).await.unwrap();
    let text = result.content[0].as_text().unwrap().text.clone();
    if result.is_error == Some(true) { Err(text) } else { Ok(text) }
}

/// The values that a tool offers for an argument.
fn offered(tool: &Tool, argument: &str) -> Vec<String> {
    let schema = Value::Object(tool.input_schema.as_ref().clone());
    let names = &schema["properties"][argument]["enum"];
    serde_json::from_value(names.clone()).unwrap_or_else(|_| panic!("{}: {schema}", tool.name))
}
