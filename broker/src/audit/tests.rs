use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::config::{AuditTarget, Rotate, Sync};
use crate::peer::tests::{machine, workload};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn settings(path: &Path) -> config::Audit {
    config::Audit {
        target: AuditTarget::File(path.to_owned()),
        sign_unrecorded: false,
        sync: Sync::Batch,
        rotate: None,
    }
}

fn open(path: &Path) -> Audit {
    Audit::open(&settings(path), NOW).expect("a log")
}

/// The lock of the previous log is released with its thread, a moment after its last sender.
async fn open_when_free(path: &Path) -> Audit {
    let mut opened = None;
    crate::deadline::until(|| {
        opened = Audit::open(&settings(path), NOW).ok();
        opened.is_some()
    })
    .await;
    opened.expect("a log")
}

fn peer() -> Peer {
    crate::peer::tests::process(1000)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a log");
    text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

fn report(path: &Path) -> Report {
    verify(std::fs::read(path).expect("a log").as_slice()).expect("readable")
}

async fn write(audit: &Audit, profile: &str) {
    let mut record = audit.begin("sign", &peer(), NOW);
    record.asked(profile, Some("POST"));
    audit.write(&record).await.expect("written");
}

#[tokio::test]
async fn no_text_of_a_caller_breaks_the_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.jsonl");
    let audit = open(&path);
    let nasty = "a\n{\"decision\":\"allow\"}\r\u{1b}[2J\u{9b}\u{202e}\u{2028}\0\"\\é\u{1f600}";
    for _ in 0..2 {
        let mut record = audit.begin("sign", &peer(), NOW);
        record.asked(nasty, Some(nasty));
        record.deny(&Denial::new(Reason::ProfileNotAllowed, nasty));
        audit.write(&record).await.expect("written");
    }
    let text = std::fs::read_to_string(&path).expect("a log");
    assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{text}");
    let lines = lines(&path);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["profile"], nasty);
    assert_eq!(lines[0]["decision"], "deny");
    assert_eq!(lines[0]["reason"], "PROFILE_NOT_ALLOWED");
    assert_eq!(lines[0]["time"], "1970-01-01T00:00:00.000Z");
    assert_ne!(lines[0]["id"], lines[1]["id"]);
    let mode = std::fs::metadata(&path).expect("a log").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_long_text_is_cut_with_a_mark() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a");
    let audit = open(&path);
    write(&audit, &"x".repeat(100_000)).await;
    let profile = lines(&path)[0]["profile"].as_str().expect("a text").to_owned();
    assert_eq!(profile, format!("{}…", "x".repeat(record::MAX_CHARS)));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_decision_without_a_record_is_denied_unless_configured_otherwise() {
    let full = Path::new("/dev/full");
    let strict = open(full);
    let record = strict.begin("sign", &peer(), NOW);
    let denial = strict.write(&record).await.expect_err("a full disk");
    assert_eq!(denial.reason(), Reason::AuditUnavailable);
    assert_eq!(strict.health().failures, 1);
    let lax = config::Audit { sign_unrecorded: true, ..settings(full) };
    let lax = Audit::open(&lax, NOW).expect("a log");
    assert!(lax.write(&record).await.is_ok());
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error_on_start() {
    let path = Path::new("/no/such/directory/a");
    let error = Audit::open(&settings(path), NOW).expect_err("no directory");
    assert!(error.to_string().contains("/no/such/directory/a"));
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a");
    let _first = open(&path);
    assert!(Audit::open(&settings(&path), NOW).is_err(), "one process writes to a file");
    // The attack: a user with write access to the directory redirects the records.
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path().join("target"), &link).expect("a link");
    assert!(Audit::open(&settings(&link), NOW).is_err(), "a link");
}

/// The chain continues across a restart; a record that was cut by a crash is reported, and doesn't
/// damage others.
#[tokio::test]
async fn the_chain_continues_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a");
    for n in 0..3 {
        let audit = open_when_free(&path).await;
        write(&audit, &n.to_string()).await;
        assert_eq!(audit.health().head, report(&path).head);
        audit.close(NOW).await;
    }
    let whole = report(&path);
    assert_eq!((whole.records, whole.faults.len()), (3, 0), "{whole:?}");
    let text = std::fs::read_to_string(&path).expect("a log");
    std::fs::write(&path, &text[..text.len() - 9]).expect("cut");
    let audit = open_when_free(&path).await;
    write(&audit, "after").await;
    let cut = report(&path);
    assert_eq!(
        (cut.records, cut.faults.as_slice()),
        (4, ["line 3 isn't a record".to_owned()].as_slice())
    );
    let text = std::fs::read_to_string(&path).expect("a log");
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("a record");
    assert_eq!(last["profile"], "after");
}

#[tokio::test]
async fn a_rotated_log_is_reopened_and_continues_the_chain() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a");
    let audit = open(&path);
    write(&audit, "first").await;
    let old = directory.path().join("a.old");
    std::fs::rename(&path, &old).expect("rotated");
    audit.reopen(None).await.expect("reopened");
    write(&audit, "second").await;
    assert_eq!(lines(&old).len(), 1);
    let (before, after) = (report(&old), report(&path));
    assert_eq!((after.first.as_str(), after.faults.len()), (before.head.as_str(), 0));
    let actions: Vec<Value> = lines(&path).iter().map(|line| line["action"].clone()).collect();
    assert_eq!(actions, ["open", "sign"]);
    // Without rotation, reopening changes nothing.
    audit.reopen(None).await.expect("reopened");
    assert_eq!(lines(&path).len(), 2);
}

#[tokio::test]
async fn a_large_log_rotates_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a");
    let settings =
        config::Audit { rotate: Some(Rotate { bytes: 2000, keep: 2 }), ..settings(&path) };
    let audit = Audit::open(&settings, NOW).expect("a log");
    for n in 0..40 {
        write(&audit, &format!("p{n}")).await;
    }
    let numbered = |number: u32| directory.path().join(format!("a.{number}"));
    assert!(numbered(2).exists() && !numbered(3).exists());
    for file in [&path, &numbered(1), &numbered(2)] {
        assert!(std::fs::metadata(file).expect("a log").len() < 3000);
        assert_eq!(report(file).faults, [""; 0]);
    }
    assert_eq!(report(&path).first, report(&numbered(1)).head);
    assert_eq!(report(&numbered(1)).first, report(&numbered(2)).head);
}

#[tokio::test]
async fn concurrent_records_are_all_written_in_one_chain() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a");
    let audit = open(&path);
    let names: Vec<String> = (0..500).map(|n| format!("p{n}")).collect();
    futures_util::future::join_all(names.iter().map(|name| write(&audit, name))).await;
    let found = report(&path);
    assert_eq!((found.records, found.faults.len()), (500, 0));
    assert_eq!(found.head, audit.health().head);
}

#[tokio::test]
async fn a_flood_of_denials_is_summed_up() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a");
    let audit = open(&path);
    let now = Instant::now();
    let mut record = audit.begin("call", &peer(), NOW);
    record.deny(&Denial::new(Reason::PeerNotAllowed, "no rule"));
    let mut recorded = 0;
    for _ in 0..1000 {
        recorded += usize::from(audit.write_denial(&record, true, now, NOW).await);
    }
    audit.close(NOW).await;
    let lines = lines(&path);
    assert_eq!(lines.len(), recorded + 1);
    let sum = &lines[recorded];
    assert_eq!((&sum["action"], &sum["uid"]), (&"denials".into(), &1000.into()));
    assert_eq!(sum["reasons"]["PEER_NOT_ALLOWED"], 1000 - recorded);
    assert_eq!(audit.health().summed_up, 1000 - recorded as u64);
}

/// Every kind of record agrees with the schema, which allows nothing else.
#[tokio::test]
async fn records_agree_with_the_schema() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a");
    let audit = open(&path);
    write(&audit, "dev").await;
    let mut denied = audit.begin("call", &peer(), NOW);
    denied.deny(&Denial::new(Reason::PeerNotAllowed, ""));
    audit.write(&denied).await.expect("written");
    for holder in [workload("spiffe://example.org/agent"), machine("agent.example.org")] {
        let mut of_certificate = audit.begin("sign", &holder, NOW);
        of_certificate.asked("dev", Some("POST"));
        audit.write(&of_certificate).await.expect("written");
    }
    let failed = || Denial::new(Reason::CredentialsUnavailable, "");
    let (of, profile) = (denied.id().to_owned(), "dev".to_owned());
    audit.event(Event::Reload { accepted: true }, NOW);
    audit.event(Event::LoginEnd { of, profile: profile.clone(), outcome: Err(failed()) }, NOW);
    audit.event(
        Event::Load { profile: profile.clone(), agent: None, outcome: Ok(("AKID".to_owned(), 3)) },
        NOW,
    );
    audit
        .event(Event::Load { profile, agent: Some("bot".to_owned()), outcome: Err(failed()) }, NOW);
    for _ in 0..100 {
        audit.write_denial(&denied, true, Instant::now(), NOW).await;
    }
    audit.close(NOW).await;
    std::fs::rename(&path, directory.path().join("b")).expect("rotated");
    audit.reopen(None).await.expect("reopened");
    let mut records = lines(&directory.path().join("b"));
    records.extend(lines(&path));
    let schema: Value =
        serde_json::from_str(include_str!("../../deploy/audit.schema.json")).expect("a schema");
    let mut actions = std::collections::BTreeSet::new();
    for record in &records {
        assert_eq!(schema::violations(&schema, record), [""; 0], "{record}");
        actions.insert(record["action"].as_str().expect("a text").to_owned());
    }
    assert_eq!(actions.len(), 7, "{actions:?}");
    let named = |key: &str| records.iter().filter(|record| record.get(key).is_some()).count();
    assert_eq!((named("spiffe_id"), named("dns")), (1, 1));
    let wrong = serde_json::json!({"v": 2, "action": "other", "more": 1});
    assert_eq!(schema::violations(&schema, &wrong).len(), 3);
}

/// The subset of JSON Schema that the schema of records uses.
mod schema {
    use serde_json::Value;

    pub(super) fn violations(schema: &Value, value: &Value) -> Vec<String> {
        let mut found = Vec::new();
        check(schema, value, "", &mut found);
        found
    }

    fn check(schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
        let object = schema.as_object().expect("a schema");
        for (key, rule) in object {
            let fits = match key.as_str() {
                "$schema" | "$id" | "title" | "description" => true,
                "type" => match rule.as_str().expect("a type") {
                    "object" => value.is_object(),
                    "string" => value.is_string(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "array" => value.is_array(),
                    other => panic!("the type {other}"),
                },
                "const" => value == rule,
                "enum" => rule.as_array().expect("a list").contains(value),
                "minimum" => value.as_i64() >= rule.as_i64(),
                "maxLength" => value
                    .as_str()
                    .is_none_or(|it| it.chars().count() as u64 <= rule.as_u64().expect("a number")),
                "minItems" | "maxItems" => {
                    let (count, limit) = (value.as_array().map(Vec::len), rule.as_u64());
                    let (count, limit) =
                        (count.unwrap_or_default() as u64, limit.expect("a number"));
                    if key == "minItems" { count >= limit } else { count <= limit }
                }
                "items" => {
                    for value in value.as_array().expect("an array") {
                        check(rule, value, at, found);
                    }
                    true
                }
                "required" => {
                    let names = rule.as_array().expect("a list").iter();
                    names.clone().all(|name| value.get(name.as_str().expect("a name")).is_some())
                }
                "properties" => {
                    for (name, property) in rule.as_object().expect("properties") {
                        if let Some(value) = value.get(name) {
                            check(property, value, &format!("{at}/{name}"), found);
                        }
                    }
                    true
                }
                "additionalProperties" if rule == &Value::Bool(false) => {
                    let known = &schema["properties"];
                    value
                        .as_object()
                        .is_none_or(|it| it.keys().all(|name| known.get(name).is_some()))
                }
                "additionalProperties" => {
                    for value in value.as_object().expect("an object").values() {
                        check(rule, value, at, found);
                    }
                    true
                }
                other => panic!("the keyword {other}"),
            };
            if !fits {
                found.push(format!("{at}: {key}"));
            }
        }
    }
}
