//! The MCP Inspector on the command line: a process for each method.

use futures_util::future::join_all;
use serde_json::{Value, json};
use sigward_tests::upstream::Era;
use sigward_tests::{deadline, processes, tools};

use super::{Transport, assert_signed};
use crate::setup::{THREE, World, assert_names, listening};

/// The exit code after a failed tool call.
const TOOL_FAILED: i32 = 5;

/// The methods to run.
const METHODS: [&[&str]; 5] = [
    &["tools/list"],
    &["tools/call", "--tool-name", "whoami", "--tool-arg", "aws_profile=staging"],
    &["tools/call", "--tool-name", "whoami", "--tool-arg", "aws_profile=nobody"],
    &["resources/read", "--uri", "test://note"],
    &["prompts/get", "--prompt-name", "greet"],
];

#[tokio::test]
async fn the_inspector_works_over_stdio() {
    inspect(Transport::Stdio, Era::Sessions).await;
    inspect(Transport::Stdio, Era::Stateless).await;
}

#[tokio::test]
async fn the_inspector_works_over_http() {
    inspect(Transport::Http, Era::Sessions).await;
    inspect(Transport::Http, Era::Stateless).await;
}

async fn inspect(transport: Transport, era: Era) {
    let world = World::with(|builder| builder.era(era)).await;
    let served = match transport {
        Transport::Http => Some(listening(world.private_proxy(&THREE, &[])).await),
        Transport::Stdio => None,
    };
    let url = served.as_ref().map(|(_, url)| url.as_str());
    let done = join_all(METHODS.map(|method| run(&world, url, era, method))).await;
    let [(0, listed), (0, called), (TOOL_FAILED, refused), (0, resource), (0, prompt)] = &done[..]
    else {
        panic!("{done:#?}")
    };

    let tools = listed["tools"].as_array().unwrap();
    assert_eq!(tools.len(), 6, "all pages: {listed}");
    for tool in tools {
        let own = tool["name"] == "switch_account";
        let argument = if own { "proxy_aws_profile" } else { "aws_profile" };
        assert_eq!(tool["inputSchema"]["properties"][argument]["enum"], json!(THREE), "{tool}");
    }
    let identity = world.home.identity("staging");
    assert_eq!(called["content"][0]["text"], identity);
    let structured = json!({"identity": identity, "region": "eu-central-1"});
    assert_eq!(called["structuredContent"], structured);
    assert_eq!(refused["isError"], true);
    let text = refused["content"][0]["text"].as_str().unwrap();
    assert_names(text, &["nobody", "dev", "staging", "prod"]);
    assert_eq!(resource["contents"][0]["text"], "a note");
    assert_eq!(prompt["messages"][0]["content"]["text"], "Hello");
    assert_eq!(world.upstream.requests_of("tools/call").len(), 1, "the refused call isn't sent");
    assert_signed(&world);
}

/// Runs one method, through the proxy at `url` or one that the Inspector starts; returns the exit code and the result.
async fn run(world: &World, url: Option<&str>, era: Era, method: &[&str]) -> (i32, Value) {
    let node = tools::node();
    let mut command = processes::command(&node.program);
    command.envs(world.home.environment()).kill_on_drop(true).arg(node.inspector());
    let era = if era == Era::Sessions { "legacy" } else { "modern" };
    command.args(["--cli", "--format", "json", "--protocol-era", era, "--method"]).args(method);
    match url {
        Some(url) => command.args(["--transport", "http", "--server-url", url]),
        None => {
            let proxy = world.private_proxy(&THREE, &[]);
            command.arg("--").arg(proxy.as_std().get_program()).args(proxy.as_std().get_args())
        }
    };
    let story = format!("{command:?}");
    let output = deadline::within_long(command.output(), || format!("{story} doesn't end")).await;
    let output = output.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    processes::assert_no_canary("what the Inspector wrote", &errors);
    let written: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{story}: {error}\n{errors}"));
    (output.status.code().unwrap_or_default(), written["result"].clone())
}
