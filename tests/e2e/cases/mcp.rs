//! Cases of MCP servers and clients: each has a server as a list of rules, the lines that a client writes over stdio,
//! and the right results.

use std::collections::BTreeMap;
use std::process::ExitStatus;

use serde::Deserialize;
use serde_json::{Value, json};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::keys::Key;
use sigward_tests::processes::{self, StdioClient};
use sigward_tests::ruled_server::{Came, Rule, RuledServer};
use sigward_tests::upstream::{REGION, SERVICE};

/// A case. The README of the cases documents each entry.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(rename = "title")]
    _title: String,
    #[serde(rename = "source")]
    _source: Value,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "note", default)]
    _note: Value,
    #[serde(default)]
    proxy: Proxy,
    server: Vec<Rule>,
    client: Vec<Step>,
    right: Vec<Right>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Proxy {
    profiles: Vec<String>,
    env: BTreeMap<String, String>,
    endpoint: String,
}

impl Default for Proxy {
    fn default() -> Self {
        let endpoint = "http://{server}/mcp".to_owned();
        Self { profiles: vec!["p".to_owned()], env: BTreeMap::new(), endpoint }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Step {
    Initialize(String),
    Write(Vec<Value>),
    Await(Vec<Value>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Right {
    replies: BTreeMap<String, Reply>,
    notifications: Vec<String>,
    nowhere: Vec<String>,
    all_signed: bool,
    every_request_has: BTreeMap<String, String>,
    requests: Option<usize>,
    ends_at_the_start: bool,
    standard_error: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Reply {
    Text(String),
    Fails(Vec<String>),
    Any(bool),
}

/// The result of a case.
struct Outcome {
    /// Replies by id, as text.
    replies: BTreeMap<String, Value>,
    /// Lines that aren't awaited replies.
    others: Vec<String>,
    /// Whether the proxy ended on its own.
    ended: bool,
    status: ExitStatus,
    errors: String,
    came: Vec<Came>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcp_cases_have_the_right_outcome() {
    super::run_all(super::found("mcp"), |path| async move {
        let text = std::fs::read_to_string(&path).expect("a case");
        let case: Case = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}"));
        assert!(!case.right.is_empty(), "`right` is empty");
        let outcome = run(&case).await;
        let wrong: Vec<_> = case.right.iter().map(|right| right.wrong(&outcome)).collect();
        match wrong.iter().any(Vec::is_empty) {
            true => Vec::new(),
            false => wrong.into_iter().flatten().collect(),
        }
    })
    .await;
}

async fn run(case: &Case) -> Outcome {
    let mut home = AwsHome::new();
    for profile in &case.proxy.profiles {
        home.config(&format!("[profile {profile}]\nregion = us-west-2\n"));
        home.static_keys(profile, &Key::user(profile));
    }
    let server = RuledServer::start(home.keys(), case.server.clone()).await;
    let runtime = tempfile::tempdir().unwrap();
    let mut command = processes::command(&processes::binaries().proxy);
    command.envs(home.environment()).env("XDG_RUNTIME_DIR", runtime.path());
    command.envs(&case.proxy.env);
    command.arg(case.proxy.endpoint.replace("{server}", &server.address()));
    command.args(["--service", SERVICE, "--region", REGION, "--broker", "private", "--profile"]);
    command.args(&case.proxy.profiles);
    let mut client = StdioClient::start(command);
    let mut replies = BTreeMap::new();
    let mut ended = false;
    for step in &case.client {
        let (lines, ids) = match step {
            Step::Initialize(version) => {
                let hello = json!({
                    "jsonrpc": "2.0", "id": 1, "method": "initialize",
                    "params": {
                        "protocolVersion": version, "capabilities": {},
                        "clientInfo": {"name": "client", "version": "1"},
                    },
                });
                (vec![hello], vec![json!(1)])
            }
            Step::Write(lines) => (lines.clone(), Vec::new()),
            Step::Await(ids) => (Vec::new(), ids.clone()),
        };
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        ended = ended || !client.try_send(&lines).await;
        for id in ids {
            match client.response_or_end(&id).await {
                Some(reply) => drop(replies.insert(as_key(&id), reply)),
                None => ended = true,
            }
        }
        let greeted = replies.get("1").is_some_and(|reply| reply["result"].is_object());
        if matches!(step, Step::Initialize(_)) && greeted {
            client.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        }
        if ended {
            break;
        }
    }
    let (status, others, errors) = client.close().await;
    Outcome { replies, others, ended, status, errors, came: server.came() }
}

/// An id as the cases write it.
fn as_key(id: &Value) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}

impl Right {
    /// What is wrong.
    fn wrong(&self, outcome: &Outcome) -> Vec<String> {
        let mut wrong = Vec::new();
        for (id, right) in &self.replies {
            match outcome.replies.get(id) {
                Some(reply) if right.holds(reply) => {}
                Some(reply) => wrong.push(format!("{id} isn't {right:?}: {reply}")),
                None => wrong.push(format!("{id} isn't answered; {}", outcome.errors)),
            }
        }
        let methods = outcome.others.iter().filter_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            message["method"].as_str().map(str::to_owned)
        });
        let mut methods: Vec<_> = methods.collect();
        methods.retain(|method| self.notifications.contains(method));
        if methods != self.notifications {
            wrong.push(format!("the notifications are {methods:?}: {:?}", outcome.others));
        }
        let lines = outcome.replies.values().map(Value::to_string);
        let lines: Vec<_> = lines.chain(outcome.others.iter().cloned()).collect();
        for word in &self.nowhere {
            let found = lines.iter().filter(|line| line.contains(word));
            wrong.extend(found.map(|line| format!("{word:?} is in {line}")));
        }
        if self.all_signed {
            if outcome.came.is_empty() {
                wrong.push("no request was received".to_owned());
            }
            let unsigned = outcome.came.iter().filter_map(|came| came.unsigned.as_ref());
            wrong.extend(unsigned.map(|why| format!("a signature is invalid: {why}")));
        }
        for (name, value) in &self.every_request_has {
            let has = |came: &&Came| came.headers.get(name).is_some_and(|found| found == value);
            if let Some(other) = outcome.came.iter().find(|came| !has(came)) {
                wrong.push(format!("{name} isn't {value}: {:?}", other.headers));
            }
        }
        if let Some(requests) = self.requests.filter(|right| *right != outcome.came.len()) {
            wrong.push(format!("{} requests instead of {requests}", outcome.came.len()));
        }
        if self.ends_at_the_start && (!outcome.ended || outcome.status.success()) {
            wrong.push(format!("the proxy doesn't fail at the start ({})", outcome.status));
        }
        for word in self.standard_error.iter().filter(|word| !outcome.errors.contains(*word)) {
            wrong.push(format!("standard error lacks {word:?}: {}", outcome.errors));
        }
        wrong
    }
}

impl Reply {
    fn holds(&self, reply: &Value) -> bool {
        let result = &reply["result"];
        let text = result["content"][0]["text"].as_str().unwrap_or_default();
        match self {
            Self::Text(right) => result["isError"] != true && text == right,
            Self::Any(any) => result.is_object() == *any,
            Self::Fails(words) => {
                let message = match reply["error"]["message"].as_str() {
                    Some(message) => message,
                    None if result["isError"] == true => text,
                    None => return false,
                };
                words.iter().all(|word| message.contains(word))
            }
        }
    }
}
