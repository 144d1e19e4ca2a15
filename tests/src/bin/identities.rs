//! Prints the identity that the broker uses for given AWS files and environments: the twin of
//! `e2e/botocore/identities.py`.
//!
//! Reads requests as JSON lines (`id`, `home`, `env`, and `profile` or null), and answers each with one line, in any
//! order: the ARN from `sts:GetCallerIdentity` and the profile's region, or `refused`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program for tests: what it prints is what it is for"
)]

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Value, json};
use sigward_broker::config::{self, Config, Flags};
use sigward_broker::profile::{Profiles, Surroundings};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The number of requests that are answered at the same time.
const AT_A_TIME: usize = 8;
/// The endpoint, and the region of its signatures.
const ENDPOINT: (&str, &str) = ("http://127.0.0.1:9/mcp", "us-east-1");

#[derive(Deserialize)]
struct Request {
    id: u64,
    env: BTreeMap<String, String>,
    profile: Option<String>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let room = Arc::new(Semaphore::new(AT_A_TIME));
    let mut answering = JoinSet::new();
    let (lines, mut received) = tokio::sync::mpsc::channel(64);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            lines.blocking_send(line.expect("text")).expect("the program goes on");
        }
    });
    while let Some(line) = received.recv().await {
        let place = Arc::clone(&room).acquire_owned().await.expect("never closed");
        answering.spawn(async move {
            let request: Request = serde_json::from_str(&line).expect("a request");
            let mut answer = match identity(&request).await {
                Ok(answer) => answer,
                Err(refused) => json!({ "refused": refused }),
            };
            answer["id"] = request.id.into();
            println!("{answer}");
            drop(place);
        });
        while answering.try_join_next().is_some() {}
    }
    while answering.join_next().await.is_some() {}
}

async fn identity(request: &Request) -> Result<Value, String> {
    let config = configuration(request.profile.as_deref())?;
    let profiles = Profiles::new(&config, &surroundings(&request.env)?, std::sync::Arc::new(()));
    let name = profiles.names().next().expect("one profile").clone();
    let found = profiles.identity(&name, None, now()).await.map_err(|denial| denial.to_string())?;
    let view = profiles.view(&name, None, now()).await.map_err(|denial| denial.to_string())?;
    Ok(json!({ "arn": found.arn, "region": view.region }))
}

/// A configuration with one endpoint and one profile: that of the AWS files, or the default chain.
fn configuration(profile: Option<&str>) -> Result<Config, String> {
    let (url, region) = ENDPOINT;
    let Some(profile) = profile else {
        let flags = Flags {
            endpoints: vec![url.to_owned()],
            service: Some("aws-mcp".to_owned()),
            region: Some(region.to_owned()),
            ..Flags::default()
        };
        return flags.into_config(0).map_err(|error| error.to_string());
    };
    let text = format!(
        "[[endpoint]]\nname = \"e\"\nurl = \"{url}\"\nservice = \"aws-mcp\"\nregion = \"{region}\"\n[[profile]]\nname = \"asked\"\naws_profile = {}\nendpoints = [\"e\"]\n",
        quoted(profile)
    );
    config::parse(&text, Path::new("broker.toml"), 0).map_err(|faults| faults.to_string())
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// Parses the environment as the broker's command line does.
fn surroundings(env: &BTreeMap<String, String>) -> Result<Surroundings, String> {
    let home = env.get("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let variables = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let surroundings = Surroundings { home, variables };
    surroundings.check()?;
    Ok(surroundings)
}

#[allow(clippy::disallowed_methods, reason = "the edge: a program reads the clock")]
fn now() -> SystemTime {
    SystemTime::now()
}
