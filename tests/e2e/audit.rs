//! The audit log: one record for each decision (caller, request, reason), without secrets.

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
async fn each_decision_is_one_record() {
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
    // Only messages are compared: the GET stream of a session may still be in flight.
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
    assert_eq!(ids.len(), records.len(), "each record has its own id");
}

/// No record, no signature, unless the configuration permits that.
#[tokio::test]
async fn a_request_that_cannot_be_recorded_is_not_signed() {
    let world = World::new().await;
    let more =
        "[audit]\nfile = \"/dev/full\"\non_failure = \"deny\"\n[metrics]\nlisten = \"127.0.0.1:0\"";
    let broker = world.broker(&world.configuration(&rule(more))).await;
    let line = broker.logged("serving metrics").await;
    let address = line.split("address=").nth(1).unwrap().trim().to_owned();
    let socket = format!("unix:{}", world.socket().display());
    let command = world.proxy(&["--broker", &socket, "--profile", "dev"]);
    let mut client = sigward_tests::processes::StdioClient::start(command);
    let params = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;
    let failed = client.request("initialize", params).await;
    assert_names(failure(&failed), &["audit"]);
    assert_eq!(world.upstream.requests().len(), 0);
    // The metrics count the outcome that was answered.
    let metrics = crate::metrics::get(&address, "/metrics").await;
    assert_names(&metrics, &["outcome=\"AUDIT_UNAVAILABLE\"}", "sigward_audit_failures "]);
    assert!(!metrics.contains("outcome=\"signed\""), "{metrics}");
    assert!(!metrics.contains("sigward_audit_failures 0"), "{metrics}");

    let world = World::new().await;
    let config =
        world.configuration(&rule("[audit]\nfile = \"/dev/full\"\non_failure = \"allow\""));
    let _broker = world.broker(&config).await;
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
}

/// Runs `audit verify`; returns whether the log is intact, and the output.
async fn verify(world: &World, path: &std::path::Path) -> (bool, String) {
    let mut command = world.broker_command(&["audit", "verify", path.to_str().unwrap()]);
    let ended = command.output().await.unwrap();
    (ended.status.success(), String::from_utf8(ended.stdout).unwrap())
}

fn records(path: &std::path::Path) -> Vec<serde_json::Value> {
    let log = fs::read_to_string(path).unwrap();
    log.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// The disk gets full within a record, and then has room again: the partial record doesn't corrupt the next one, and
/// there are as many records as signatures. (A limit on file sizes stands for the disk.)
#[tokio::test]
async fn a_record_after_a_full_disk_is_whole() {
    let world = World::new().await;
    let path = world.directory.path().join("audit.jsonl");
    let config = world.configuration(&rule(&format!("[audit]\nfile = {path:?}")));
    let config = world.write("broker.toml", &config);
    let mut command = sigward_tests::processes::command("/bin/sh".as_ref());
    command.envs(world.home.environment());
    // Writing beyond the limit raises a signal, which kills the process by default.
    let script = "trap '' XFSZ; exec prlimit --fsize=6000: \"$@\"";
    command.args(["-c", script, "sh"]).arg(&sigward_tests::processes::binaries().broker);
    command.arg("serve").arg("--config").arg(config);
    let broker = sigward_tests::processes::Process::start(command);
    broker.logged("listening").await;
    let mut client = crate::setup::connect(&world.socket()).await;
    let mut sign = async || client.sign(crate::setup::ping(&world, "dev")).await;
    let mut signed = 0;
    let refused = loop {
        match sign().await {
            Ok(_) => signed += 1,
            Err(refused) => break refused,
        }
        assert!(signed < 100, "the disk doesn't get full");
    };
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(signed > 0);
    assert!(sign().await.is_err(), "the disk is still full");
    let pid = broker.pid().to_string();
    let larger = ["--fsize=1000000:", "--pid", &pid];
    let room = std::process::Command::new("prlimit").args(larger).status();
    assert!(room.unwrap().success());
    for _ in 0..3 {
        sign().await.expect("there is room again");
        signed += 1;
    }
    let signatures = records(&path).into_iter();
    let signatures = signatures.filter(|it| it["action"] == "sign" && it["decision"] == "allow");
    assert_eq!(signatures.count(), signed);
    let (whole, output) = verify(&world, &path).await;
    assert!(whole, "{output}");
}

/// Rotation by another program: SIGHUP reopens the file even if the configuration has errors, and both are recorded.
#[tokio::test]
async fn a_rotated_log_is_reopened_even_with_a_faulty_configuration() {
    let world = World::new().await;
    let path = world.directory.path().join("audit.jsonl");
    let good = world.configuration(&rule(&format!("[audit]\nfile = {path:?}")));
    let broker = world.broker(&good).await;
    let mut client = crate::setup::connect(&world.socket()).await;
    client.sign(crate::setup::ping(&world, "dev")).await.unwrap();
    let old = path.with_extension("jsonl.1");
    fs::rename(&path, &old).unwrap();
    let before = fs::read(&old).unwrap();
    world.write("broker.toml", &world.configuration("nonsense = 1\n"));
    broker.signal(rustix::process::Signal::HUP);
    broker.logged("nonsense").await;
    client
        .sign(crate::setup::ping(&world, "dev"))
        .await
        .expect("the previous configuration is in force");
    world.write("broker.toml", &good);
    broker.signal(rustix::process::Signal::HUP);
    broker.logged("the configuration was reloaded").await;
    client.sign(crate::setup::ping(&world, "dev")).await.unwrap();
    assert_eq!(fs::read(&old).unwrap(), before, "the old file is unchanged");
    let found: Vec<_> = records(&path)
        .iter()
        .map(|it| format!("{} {}", it["action"], it["outcome"]).replace('"', ""))
        .collect();
    let expected = ["open null", "reload rejected", "sign null", "reload accepted", "sign null"];
    assert_eq!(found, expected);
    // The first record of the new file continues the chain of the old one.
    let head = hex::encode(Sha256::digest(
        before.trim_ascii_end().rsplit(|it| *it == b'\n').next().unwrap(),
    ));
    assert_eq!(records(&path)[0]["prev"], head);
    let (whole, output) = verify(&world, &path).await;
    assert!(whole, "{output}");
}

/// Changes of the log are detected, and so is a removed end.
#[tokio::test]
async fn a_changed_or_shortened_log_is_detected() {
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
