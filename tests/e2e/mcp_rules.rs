//! A rule about tools applies to all MCP requests: messages that a security review got signed under `tools = { allow =
//! ["aws___*"], deny = ["aws___run_script"] }`, and the audit record of each.

use std::fs;

use serde_json::{Value, json};
use sigward_proto::v1::sign_request::Payload;
use sigward_proto::v1::{Header, SignRequest};
use tonic_types::StatusExt as _;

use crate::setup::{World, connect, own_uid};

const NO_METHOD: Option<&str> = Some("METHOD_NOT_ALLOWED");
const AMBIGUOUS: Option<&str> = Some("AMBIGUOUS_JSON");

fn call(method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string()
}

fn tool(name: &str) -> String {
    call("tools/call", &json!({"name": name, "arguments": {}}))
}

/// Has each message signed with its own headers; returns the reason of a denial, and the audit record.
async fn sign_all(cases: &[(String, Vec<(&str, &str)>)]) -> Vec<(Option<String>, Value)> {
    let world = World::new().await;
    let audit = world.directory.path().join("audit.jsonl");
    let rule = format!(
        "[audit]\nfile = {audit:?}\n[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\"]\n\
         tools = {{ allow = [\"aws___*\"], deny = [\"aws___run_script\"] }}\n",
        own_uid()
    );
    let _broker = world.broker(&world.configuration(&rule)).await;
    let mut client = connect(&world.socket()).await;
    let mut found = Vec::new();
    for (body, more) in cases {
        let headers = [("content-type", "application/json")].iter().chain(more);
        let headers = headers.map(|(name, value)| Header {
            name: (*name).to_owned(),
            value: value.as_bytes().to_vec().into(),
        });
        let request = SignRequest {
            profile: "dev".to_owned(),
            method: "POST".to_owned(),
            uri: world.upstream.url(),
            headers: headers.collect(),
            payload: Some(Payload::Body(body.clone().into_bytes().into())),
        };
        let reason = client.sign(request).await.err().map(|status| {
            let details = status.get_error_details();
            details.error_info().map_or_else(|| status.to_string(), |info| info.reason.clone())
        });
        let log = fs::read_to_string(&audit).unwrap();
        let record = log.lines().rfind(|line| line.contains("\"sign\"")).expect("a record");
        found.push((reason, serde_json::from_str(record).unwrap()));
    }
    found
}

#[tokio::test]
async fn a_rule_about_tools_permits_nothing_else_but_the_session() {
    let none = json!({});
    let cases = [
        (tool("aws___call_aws"), None, "tools/call", json!("aws___call_aws")),
        (
            tool("aws___run_script"),
            Some("TOOL_NOT_ALLOWED"),
            "tools/call",
            json!("aws___run_script"),
        ),
        (
            call("resources/read", &json!({"uri": "file:///etc/passwd"})),
            NO_METHOD,
            "resources/read",
            json!("file:///etc/passwd"),
        ),
        (
            call("prompts/get", &json!({"name": "run_script"})),
            NO_METHOD,
            "prompts/get",
            json!("run_script"),
        ),
        (
            call("completion/complete", &json!({"ref": {"type": "ref/prompt", "name": "p"}})),
            NO_METHOD,
            "completion/complete",
            json!("p"),
        ),
        (call("no/such/method", &none), NO_METHOD, "no/such/method", Value::Null),
        // These are permitted with the tools, or with the session.
        (call("tasks/result", &json!({"taskId": "1"})), None, "tasks/result", json!("1")),
        (call("tasks/cancel", &json!({"taskId": "1"})), None, "tasks/cancel", json!("1")),
        (call("ping", &none), None, "ping", Value::Null),
    ];
    let messages: Vec<_> = cases.iter().map(|it| (it.0.clone(), Vec::new())).collect();
    let found = sign_all(&messages).await;
    for ((message, reason, method, target), (found, record)) in cases.iter().zip(&found) {
        assert_eq!(found.as_deref(), *reason, "{message}");
        let (decision, rule) = match reason {
            None => ("allow", json!("rule 1")),
            Some("TOOL_NOT_ALLOWED") => ("deny", json!("rule 1")),
            Some(_) => ("deny", Value::Null),
        };
        assert_eq!(record["decision"], decision, "{message}: {record}");
        assert_eq!(record["rule"], rule, "{message}: {record}");
        assert_eq!((&record["method"], &record["target"]), (&json!(method), target), "{record}");
    }
}

/// Names that a server may trim, fold, cut or decode to the denied tool, and bodies that aren't MCP.
#[tokio::test]
async fn another_spelling_of_a_denied_tool_is_not_signed() {
    let plain = |body: String| (body, Vec::new());
    let cases = [
        plain("{}".to_owned()),
        // A request for an endpoint that isn't MCP.
        plain(r#"{"prompt":"run the script"}"#.to_owned()),
        plain(tool("aws___run_script ")),
        plain(tool("aws___run_script\u{200b}")),
        plain(tool("aws___run_script\u{0}")),
        plain(tool(&format!("aws___{}", "x".repeat(2_000_000)))),
        plain(
            r#"{"method":"ping","method\u0000":"tools/call","params":{"name":"aws___run_script"}}"#
                .to_owned(),
        ),
        (
            tool("aws___call_aws"),
            vec![("mcp-method", "tools/call"), ("mcp-name", "aws___run_script")],
        ),
        (tool("aws___call_aws"), vec![("mcp-method", "resources/read")]),
        (tool("aws___call_aws"), vec![("content-encoding", "gzip")]),
    ];
    for ((message, headers), (reason, record)) in cases.iter().zip(sign_all(&cases).await) {
        let shown = &message[..message.len().min(200)];
        assert_eq!(reason.as_deref(), AMBIGUOUS, "{shown} {headers:?}");
        assert_eq!(record["reason"], "AMBIGUOUS_JSON", "{shown} {headers:?}: {record}");
    }
    // The twins of those with headers. MCP's names are case-sensitive: the last is another tool.
    let twins = [
        (
            tool("aws___call_aws"),
            vec![("mcp-method", "tools/call"), ("mcp-name", "aws___call_aws")],
        ),
        plain(tool("aws___Run_script")),
    ];
    for (reason, record) in sign_all(&twins).await {
        assert_eq!(reason, None, "{record}");
    }
}
