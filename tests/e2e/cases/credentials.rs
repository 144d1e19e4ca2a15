//! Cases of AWS files and environments: the identity of the AWS CLI, or a refusal with a helpful message.
//!
//! The real programs run each case against an AWS and an MCP server that verify every signature: `check`, and a proxy
//! with its private broker. botocore runs it too, to verify the claims of the case about the AWS CLI.

mod observed;
mod scene;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use sigward_tests::known_aws::Answers;
use tokio::sync::Mutex;

use self::observed::Observed;
use self::scene::Scene;
use crate::botocore::Botocore;

/// A `case.json`. The README of the cases documents each entry.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(rename = "title")]
    _title: String,
    #[serde(rename = "source")]
    _source: Value,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "today", default)]
    _today: Value,
    #[serde(rename = "note", default)]
    _note: Value,
    profile: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, Option<String>>,
    passwd_home: Option<String>,
    #[serde(default)]
    aws: Value,
    #[serde(default = "once")]
    repeat: usize,
    #[serde(default)]
    aws_cli: Value,
    right: Right,
    #[serde(skip)]
    directory: PathBuf,
}

fn once() -> usize {
    1
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Right {
    outcome: Outcome,
    signs: Option<Signs>,
    #[serde(default)]
    refusal_names: Vec<String>,
    #[serde(default)]
    client_is_told: Vec<String>,
    #[serde(default)]
    client_is_not_told: Vec<String>,
    #[serde(default)]
    never_signs: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Outcome {
    #[serde(rename = "same")]
    Same,
    #[serde(rename = "refused")]
    Refused,
    #[serde(rename = "same or refused")]
    Either,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signs {
    key: String,
    region: Option<String>,
    role: Option<String>,
    by: Option<String>,
    by_token: Option<String>,
    sts_region: Option<String>,
}

impl Case {
    fn read(directory: &Path) -> Self {
        let text = std::fs::read_to_string(directory.join("case.json")).expect("a case.json");
        let mut case: Self = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}"));
        directory.clone_into(&mut case.directory);
        if case.right.outcome != Outcome::Refused {
            assert!(case.right.signs.is_some(), "`signs` is missing");
        }
        if case.right.outcome != Outcome::Same {
            assert!(!case.right.refusal_names.is_empty(), "`refusal_names` is missing");
        }
        case
    }

    /// The special answers of AWS, for the directory of the run.
    fn answers(&self, directory: &str) -> Answers {
        if self.aws.is_null() {
            return Answers::default();
        }
        let text = self.aws.to_string().replace("{dir}", directory);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credential_cases_have_the_right_outcome() {
    let botocore = Arc::new(Mutex::new(Botocore::start()));
    super::run_all(super::found("credentials"), |directory| {
        let botocore = Arc::clone(&botocore);
        async move {
            let case = Case::read(&directory);
            let mut wrong = Vec::new();
            for run in 0..case.repeat {
                for found in judge(&case).await {
                    wrong.push(if run == 0 { found } else { format!("run {run}: {found}") });
                }
            }
            wrong.extend(claim(&case, &botocore).await);
            wrong
        }
    })
    .await;
}

/// Runs a case once, and returns what is wrong. Each program has its own scene, as one may renew a token.
async fn judge(case: &Case) -> Vec<String> {
    let checked = Scene::set(case).await.check().await;
    let scene = Scene::set(case).await;
    let client = scene.client().await;
    let mut wrong = checked.wrong(case, "check");
    wrong.extend(client.wrong(case, "the client"));
    if checked.refused != client.refused {
        let does = |seen: &Observed| if seen.refused { "refuses" } else { "signs" };
        wrong.push(format!("check {}, and the client's broker {}", does(&checked), does(&client)));
    }
    if client.refused && case.right.outcome != Outcome::Same {
        wrong.extend(wrong_message(case, &scene, &checked, &client));
    }
    wrong
}

fn wrong_message(case: &Case, scene: &Scene, checked: &Observed, client: &Observed) -> Vec<String> {
    let mut wrong = Vec::new();
    let refusal = format!("{}\n{}\n{}", checked.said, checked.errors, client.said);
    let shown = format!("{}\n{}", client.said, client.errors);
    for word in &case.right.refusal_names {
        if !words::names(&refusal, word, scene) {
            wrong.push(format!("the refusal doesn't name {word:?}:\n{refusal}"));
        }
    }
    for word in &case.right.client_is_told {
        if !words::names(&shown, word, scene) {
            wrong.push(format!("the client doesn't get {word:?}:\n{shown}"));
        }
    }
    for word in &case.right.client_is_not_told {
        if client.said.contains(word) {
            wrong.push(format!("the client gets {word:?}: {}", client.said));
        }
    }
    wrong
}

/// Compares what the case claims about the AWS CLI with botocore.
async fn claim(case: &Case, botocore: &Mutex<Botocore>) -> Option<String> {
    if case.aws_cli.is_null() {
        return None;
    }
    let scene = Scene::set(case).await;
    let answer = botocore.lock().await.ask(&scene.question(case)).await;
    let found = scene.in_case_format(&answer);
    let claimed = case.aws_cli.as_object().expect("an object");
    let differs = claimed.iter().any(|(name, value)| found[name] != *value)
        || claimed.contains_key("error") != found["error"].is_string()
        || claimed.contains_key("role") != found["role"].is_string();
    differs
        .then(|| format!("the case claims that the AWS CLI has {}; it has {found}", case.aws_cli))
}
