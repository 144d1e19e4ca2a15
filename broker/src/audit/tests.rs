use std::os::unix::fs::PermissionsExt;

use super::*;

fn audit(path: &std::path::Path, sign_unrecorded: bool) -> Result<Audit, Error> {
    let config = config::Audit { target: AuditTarget::File(path.to_owned()), sign_unrecorded };
    Audit::open(&config, SystemTime::UNIX_EPOCH)
}

fn peer() -> Peer {
    Peer { uid: 1000, gid: 100, pid: Some(7), exe: None }
}

#[test]
fn no_text_of_a_caller_breaks_the_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.jsonl");
    let audit = audit(&path, false).expect("a log");
    let nasty = "a\n{\"decision\":\"allow\"}\r\u{1b}[2J\u{9b}\u{202e}\u{2028}\0\"\\é\u{1f600}";
    for _ in 0..2 {
        let mut record = audit.begin(&peer(), nasty, nasty, SystemTime::UNIX_EPOCH);
        record.deny(&Denial::new(Reason::ProfileNotAllowed, nasty));
        audit.write(&record).expect("written");
    }
    let text = std::fs::read_to_string(&path).expect("a log");
    assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{text}");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["profile"], nasty);
    assert_eq!(lines[0]["decision"], "deny");
    assert_eq!(lines[0]["reason"], "PROFILE_NOT_ALLOWED");
    assert_eq!(lines[0]["time"], "1970-01-01T00:00:00Z");
    assert_ne!(lines[0]["id"], lines[1]["id"]);
    let mode = std::fs::metadata(&path).expect("a log").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_long_text_is_cut() {
    let directory = tempfile::tempdir().expect("a directory");
    let audit = audit(&directory.path().join("a"), false).expect("a log");
    let record = audit.begin(&peer(), &"x".repeat(100_000), "POST", SystemTime::UNIX_EPOCH);
    assert_eq!(record.profile.len(), MAX_CHARS);
}

#[test]
fn what_cannot_be_recorded_is_denied_unless_told_otherwise() {
    let full = std::path::Path::new("/dev/full");
    if !full.exists() {
        return; // only Linux has it
    }
    let strict = audit(full, false).expect("a log");
    let record = strict.begin(&peer(), "dev", "POST", SystemTime::UNIX_EPOCH);
    let denial = strict.write(&record).expect_err("a full disk");
    assert_eq!(denial.reason(), Reason::AuditUnavailable);
    let lax = audit(full, true).expect("a log");
    assert!(lax.write(&record).is_ok());
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error_at_the_start() {
    let error =
        audit(std::path::Path::new("/no/such/directory/a"), false).expect_err("no directory");
    assert!(error.to_string().contains("/no/such/directory/a"));
}
