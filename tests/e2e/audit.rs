//! The audit log: one record for each decision, with who, what and why, and no secret.

use std::fs;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::setup::{World, assert_names, failure, own_uid, text};

fn rule(more: &str) -> String {
    format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\", \"staging\"]\nendpoints = [\"upstream\"]\ntools = {{ deny = [\"write_note\"] }}\n{more}",
        own_uid()
    )
}

#[tokio::test]
async fn every_decision_is_one_record() {
    let world = World::new().await;
    let path = world.directory.path().join("audit.jsonl");
    let config = world.configuration(&rule(&format!("[audit]\nfile = {path:?}")));
    let _broker = world.broker(&config).await;
    let mut client = world.client_of(&world.socket(), &["dev", "staging", "prod"]).await;
    text(&client.call("whoami", r#"{"aws_profile":"staging"}"#).await);
    failure(&client.call("write_note", "{}").await);
    failure(&client.call("whoami", r#"{"aws_profile":"prod"}"#).await);

    let log = fs::read_to_string(&path).unwrap();
    let mut records: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let loaded: Vec<_> = records.extract_if(.., |it| it["action"] == "load").collect();
    let loaded: Vec<_> = loaded.iter().map(|it| (&it["profile"], &it["outcome"])).collect();
    let done = "done".into();
    assert_eq!(loaded, [(&"dev".into(), &done), (&"staging".into(), &done)], "{log}");
    assert!(
        records.iter().all(|it| it["decision"] == "allow" || it["decision"] == "deny"),
        "{log}"
    );
    // Messages alone: the stream of a session may be on its way.
    let allowed =
        records.iter().filter(|it| it["decision"] == "allow" && it["http_method"] == "POST");
    let received = world.upstream.requests().into_iter().filter(|it| it.http_method == "POST");
    assert_eq!(allowed.count(), received.count(), "{log}");

    let call = world.upstream.requests_of("tools/call").remove(0);
    let hash = hex::encode(Sha256::digest(&call.body));
    let allowed = records.iter().find(|record| record["body_sha256"] == *hash).expect("the call");
    assert_eq!(allowed["decision"], "allow");
    assert_eq!(allowed["profile"], "staging");
    assert_eq!(allowed["endpoint"], "upstream");
    assert_eq!(allowed["http_method"], "POST");
    assert_eq!((&allowed["method"], &allowed["target"]), (&"tools/call".into(), &"whoami".into()));
    assert_eq!(allowed["rule"], "rule 1");
    assert_eq!(allowed["uid"], own_uid());
    assert_eq!(allowed["access_key_id"], *world.home.key("staging").access_key_id);
    assert_eq!(allowed["pid"], client.process().pid());

    let denied: Vec<_> = records.iter().filter(|record| record["decision"] == "deny").collect();
    let reason = |name: &str| denied.iter().find(|record| record["reason"] == name).copied();
    let tool = reason("TOOL_NOT_ALLOWED").unwrap_or_else(|| panic!("{log}"));
    assert_eq!((&tool["profile"], &tool["target"]), (&"dev".into(), &"write_note".into()));
    let profile = reason("PROFILE_NOT_ALLOWED").unwrap_or_else(|| panic!("{log}"));
    assert_eq!(profile["profile"], "prod");
    let mut ids: Vec<_> = records.iter().map(|record| record["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), records.len(), "every record has an id of its own");
}

/// No record, no signature; unless the configuration says otherwise.
#[tokio::test]
async fn what_cannot_be_recorded_is_not_signed() {
    let world = World::new().await;
    let config = world.configuration(&rule("[audit]\nfile = \"/dev/full\"\non_failure = \"deny\""));
    let _broker = world.broker(&config).await;
    let socket = format!("unix:{}", world.socket().display());
    let command = world.proxy(&["--broker", &socket, "--profile", "dev"]);
    let mut client = sigward_tests::processes::StdioClient::start(command);
    let params = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;
    let failed = client.request("initialize", params).await;
    assert_names(failure(&failed), &["audit"]);
    assert_eq!(world.upstream.requests().len(), 0);

    let world = World::new().await;
    let config =
        world.configuration(&rule("[audit]\nfile = \"/dev/full\"\non_failure = \"allow\""));
    let _broker = world.broker(&config).await;
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
}

/// A change of the log shows, also one that takes the end away.
#[tokio::test]
async fn the_chain_of_the_log_is_verified() {
    let world = World::new().await;
    let path = world.directory.path().join("audit.jsonl");
    let more = format!("[audit]\nfile = {path:?}\n[metrics]\nlisten = \"127.0.0.1:0\"");
    let broker = world.broker(&world.configuration(&rule(&more))).await;
    let line = broker.logged("serving metrics").await;
    let address = line.split("address=").nth(1).unwrap().trim().to_owned();
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    for _ in 0..3 {
        text(&client.call("whoami", "{}").await);
    }
    drop(client);
    let metrics = crate::metrics::get(&address, "/metrics").await;
    let head = metrics.split("sigward_audit_head{sha256=\"").nth(1).unwrap()[..64].to_owned();
    drop(broker);
    let verify = |path: &std::path::Path, head: Option<&str>| {
        let mut command = world.broker_command(&["audit", "verify", path.to_str().unwrap()]);
        command.args(head.iter().flat_map(|head| ["--head", head]));
        async move {
            let ended = command.output().await.unwrap();
            (ended.status.success(), String::from_utf8(ended.stdout).unwrap())
        }
    };
    let log = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    let at_head = lines.iter().position(|line| hex::encode(Sha256::digest(line)) == head).unwrap();
    let until_head = world.write("head.jsonl", &(lines[..=at_head].join("\n") + "\n"));
    let (whole, output) = verify(&until_head, Some(&head)).await;
    assert!(whole, "{output}");
    let shorter = world.write("shorter.jsonl", &(lines[..at_head].join("\n") + "\n"));
    assert!(verify(&shorter, None).await.0);
    let (whole, output) = verify(&shorter, Some(&head)).await;
    assert!(!whole);
    assert_names(&output, &["missing at the end"]);
    let changed = world.write("changed.jsonl", &log.replacen("\"dev\"", "\"prod\"", 1));
    let (whole, output) = verify(&changed, None).await;
    assert!(!whole);
    assert_names(&output, &["line 2", "broken"]);
}
