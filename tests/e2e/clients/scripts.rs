//! Clients in Python and JavaScript, each a script that does the same calls and prints the results.
//!
//! They list the tools, call with three profiles and with an unknown one, answer a question of the server during a
//! call, read a resource and get a prompt; over stdio and over HTTP, in each kind of protocol version that the client
//! speaks.

use std::path::Path;

use serde_json::{Value, json};
use sigward_tests::upstream::{Answers, Era, Gate, ID, Received, Reply, Step};
use sigward_tests::{deadline, processes, tools};
use tokio::process::Command;

use super::{Transport, assert_signed};
use crate::setup::{THREE, World, assert_names, listening};

const SESSIONS: &str = "sessions";
const STATELESS: &str = "stateless";

/// The question of the server during the call of `write_note`.
const QUESTION: &str = "What is your name?";

#[tokio::test]
async fn the_official_python_client_works() {
    let client = || script(tools::python(), "official.py");
    over_both_transports(client, SESSIONS).await;
}

#[tokio::test]
async fn the_official_python_client_2_0_works() {
    let client = || script(tools::fastmcp(), "current.py");
    over_both_transports(client, SESSIONS).await;
    over_both_transports(client, STATELESS).await;
}

#[tokio::test]
async fn fastmcp_works() {
    let client = || script(tools::fastmcp(), "fast.py");
    over_both_transports(client, SESSIONS).await;
    over_both_transports(client, STATELESS).await;
}

#[tokio::test]
async fn the_official_typescript_client_works() {
    let client = || {
        let mut command = script(&tools::node().program, "typescript.cjs");
        command.env("NODE_PATH", &tools::node().packages);
        command
    };
    over_both_transports(client, SESSIONS).await;
    over_both_transports(client, STATELESS).await;
}

fn script(interpreter: &Path, name: &str) -> Command {
    let mut command = processes::command(interpreter);
    // No bytecode is written next to the scripts.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/clients").join(name));
    command
}

/// Runs the client's script over stdio and over HTTP.
async fn over_both_transports(client: impl Fn() -> Command, generation: &str) {
    let era = if generation == SESSIONS { Era::Sessions } else { Era::Stateless };
    for (transport, answers) in
        [(Transport::Stdio, Answers::Events), (Transport::Http, Answers::Json)]
    {
        let world = World::with(|builder| builder.era(era).answers(answers)).await;
        let progress_received = Gate::default();
        world.upstream.hook(move |request| {
            if request.method() == "prompts/get" {
                progress_received.open();
            }
            ask_during_the_call(request, &progress_received)
        });
        let mut command = client();
        command.envs(world.home.environment()).kill_on_drop(true).arg(generation);
        let proxy = world.private_proxy(&THREE, &[]);
        let mut served = None;
        match transport {
            Transport::Stdio => {
                command.arg(proxy.as_std().get_program()).args(proxy.as_std().get_args())
            }
            Transport::Http => command.arg(&served.insert(listening(proxy).await).1),
        };
        let story = format!("{command:?}");
        let output =
            deadline::within_long(command.output(), || format!("{story} doesn't end")).await;
        let output = output.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        processes::assert_no_canary("what a client saw", &String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{story}\n{errors}");
        let seen = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {errors}"));
        check(&world, generation, &seen);
    }
}

/// The server's answer to `write_note`: progress, a question once the client has received that, and the usual result
/// once the question is answered. Without sessions, the question is a result, and the answer comes with another call.
fn ask_during_the_call(request: &Received, progress_received: &Gate) -> Option<Reply> {
    if !request.calls("write_note") || request.param("/inputResponses").is_object() {
        return None;
    }
    let progress = json!({
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {
            "progressToken": request.param("/_meta/progressToken"),
            "progress": 0.5,
            "total": 1.5,
            "message": "half",
        },
    });
    let question = json!({
        "mode": "form",
        "message": QUESTION,
        "requestedSchema": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
        },
    });
    let mut steps = vec![Step::Data(progress.to_string()), Step::Wait(progress_received.clone())];
    if request.header("mcp-session-id").is_some() {
        let question = json!({
            "jsonrpc": "2.0",
            "id": "question",
            "method": "elicitation/create",
            "params": question,
        });
        steps.push(Step::Data(question.to_string()));
        steps.push(Step::AwaitResponse(r#""question""#.to_owned()));
        steps.push(Step::UsualResponse);
        return Some(Reply::Stream(steps));
    }
    let result = json!({
        "resultType": "input_required",
        "inputRequests": {"name": {"method": "elicitation/create", "params": question}},
        "requestState": "as it was",
    });
    let response = format!(r#"{{"jsonrpc":"2.0","id":{ID},"result":{result}}}"#);
    steps.push(Step::Data(response));
    Some(Reply::Stream(steps))
}

/// Asserts what every client must have received, and what the server must have received from it.
fn check(world: &World, generation: &str, saw: &Value) {
    let identity = |profile: &str| world.home.identity(profile);
    let text = |result: &str| saw[result]["content"][0]["text"].clone();
    let version = if generation == SESSIONS { "2025-11-25" } else { "2026-07-28" };
    for request in world.upstream.requests_of("tools/call") {
        assert_eq!(request.header("mcp-protocol-version"), Some(version));
    }
    assert_eq!(saw["server"], "verifying-upstream");

    let tools = saw["tools"].as_array().unwrap();
    let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["whoami", "echo", "slow", "switch_account", "write_note", "lookup"]);
    for tool in tools {
        let own = tool["name"] == "switch_account";
        let argument = if own { "proxy_aws_profile" } else { "aws_profile" };
        assert_eq!(tool["inputSchema"]["properties"][argument]["enum"], json!(THREE), "{tool}");
    }

    assert_eq!(text("default"), identity("dev"));
    assert_eq!(text("staging"), identity("staging"));
    let structured = json!({"identity": identity("staging"), "region": "eu-central-1"});
    assert_eq!(saw["staging"]["structuredContent"], structured);
    assert_eq!(saw["refused"]["isError"], true);
    let refusal = text("refused");
    assert_names(refusal.as_str().unwrap(), &["nobody", "dev", "staging", "prod"]);
    assert_names(saw["unknown"].as_str().unwrap(), &["Unknown tool: no_such"]);
    assert_eq!(saw["resource"]["contents"][0]["text"], "a note");
    assert_eq!(saw["prompt"]["messages"][0]["content"]["text"], "Hello");

    // After this report, a client may report progress of its own.
    assert_eq!(saw["progress"][0], json!([0.5, 1.5, "half"]));
    assert_eq!(saw["questions"], json!([QUESTION]));
    assert_eq!(text("noted"), r#"{"note":"1"}"#);
    let requests = world.upstream.requests();
    let answered = requests.iter().find_map(|request| match generation {
        SESSIONS => request.is_response_to(r#""question""#).then(|| {
            let message: Value = serde_json::from_slice(&request.body).unwrap();
            (request, message["result"].clone())
        }),
        _ => {
            let answer = request.param("/inputResponses/name");
            answer.is_object().then(|| {
                assert_eq!(request.param("/requestState"), "as it was");
                (request, answer)
            })
        }
    });
    let (request, answer) = answered.expect("an answer of the user");
    assert_eq!(request.identity(), identity("prod"), "the answer goes to the profile of the call");
    assert_eq!(
        (&answer["action"], &answer["content"]),
        (&json!("accept"), &json!({"name": "Ada"}))
    );
    assert_signed(world);
}
