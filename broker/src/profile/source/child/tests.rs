//! Tests with real child processes, including hostile ones.

use std::path::Path;
use std::time::Instant;

use super::*;
use crate::deadline;

const ANSWER: &str = r#"{"Version":1,"AccessKeyId":"A","SecretAccessKey":"s","SessionToken":"t","Expiration":"2099-01-01T00:00:00+00:00"}"#;

fn path() -> Environment {
    Environment(vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())])
}

/// A command that runs a script in a shell.
fn shell(script: &str) -> Vec<Secret> {
    ["sh", "-c", script].map(|word| Secret::new(word.to_owned())).into()
}

async fn detail(command: &str) -> String {
    let denial =
        run_until(&shell(command), &path(), Duration::from_secs(20)).await.expect_err(command);
    assert_eq!(denial.reason(), Reason::CredentialsUnavailable);
    denial.detail().to_owned()
}

/// Whether the process whose id is in the file has exited; zombies count as exited.
fn has_exited(pid_file: &Path) -> bool {
    let pid = std::fs::read_to_string(pid_file).expect("a pid");
    let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    status.map_or(true, |status| status.contains(") Z "))
}

async fn until_exited(pid_file: &Path) {
    deadline::until(|| has_exited(pid_file)).await;
}

#[tokio::test]
async fn an_answer_is_read() {
    let credentials = run(&shell(&format!("echo '{ANSWER}'")), &path()).await.expect("credentials");
    assert_eq!(credentials.access_key_id(), "A");
    assert_eq!(credentials.session_token(), Some("t"));
    let expiry = credentials.expiry().expect("an expiry");
    assert_eq!(crate::log::timestamp(expiry, "T"), "2099-01-01T00:00:00");
    let unexpiring = r#"{"Version":1,"AccessKeyId":"A","SecretAccessKey":"s"}"#;
    let credentials =
        run(&shell(&format!("echo '{unexpiring}'")), &path()).await.expect("credentials");
    assert_eq!((credentials.expiry(), credentials.session_token()), (None, None));
}

#[tokio::test]
async fn other_outputs_are_refused() {
    for answer in [
        "",
        "not json",
        r#"{"AccessKeyId":"A","SecretAccessKey":"s"}"#,
        r#"{"Version":2,"AccessKeyId":"A","SecretAccessKey":"canary"}"#,
        r#"{"Version":1,"AccessKeyId":"A"}"#,
        r#"{"Version":1,"AccessKeyId":"","SecretAccessKey":"canary"}"#,
        r#"{"Version":1,"AccessKeyId":"A","SecretAccessKey":""}"#,
        r#"{"Version":1,"AccessKeyId":"A","SecretAccessKey":"canary","Expiration":"soon"}"#,
        r#"{"Version":1,"AccessKeyId":"A","SecretAccessKey":"canary""#,
    ] {
        let detail = detail(&format!("echo '{answer}'")).await;
        assert!(!detail.contains("canary"), "{detail}");
    }
    assert!(detail(&format!("echo '{ANSWER}'; exit 3")).await.contains("failed (exit status: 3)"));
    assert!(detail("/no/such/program").await.contains("failed"));
    let denial =
        run(&[Secret::new("/no/such/program".to_owned())], &path()).await.expect_err("none");
    assert!(denial.detail().contains("can't be started"), "{denial}");
}

/// Like in botocore: text that a shell would expand or cut is passed on unchanged.
#[tokio::test]
async fn the_command_is_run_without_a_shell() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("program");
    let script = format!("#!/bin/sh\n[ \"$*\" = '$HOME ~ #1 a;b | >c' ] && echo '{ANSWER}'\n");
    std::fs::write(&program, script).expect("a program");
    let mut command =
        vec![Secret::new("sh".to_owned()), Secret::new(program.display().to_string())];
    let words = ["$HOME", "~", "#1", "a;b", "|", ">c"];
    command.extend(words.map(|word| Secret::new(word.to_owned())));
    assert!(run(&command, &path()).await.is_ok());
    command.pop();
    let denial = run(&command, &path()).await.expect_err("other arguments");
    assert!(denial.detail().contains("without a shell"), "{denial}");
}

#[tokio::test]
async fn standard_input_is_empty() {
    // `cat` would hang, or consume data meant for the broker.
    let command = format!("cat; echo '{ANSWER}'");
    assert!(run(&shell(&command), &path()).await.is_ok());
}

#[tokio::test]
async fn standard_error_is_discarded() {
    let detail = detail("echo canary >&2; exit 1").await;
    assert!(!detail.contains("canary"), "{detail}");
}

#[tokio::test]
async fn a_hanging_child_is_killed_with_its_children() {
    let directory = tempfile::tempdir().expect("a directory");
    let pid = directory.path().join("pid");
    let command = format!("sleep 600 & echo $! > {}; wait", pid.display());
    let denial = run_until(&shell(&command), &path(), Duration::from_secs(2)).await;
    assert!(denial.expect_err("late").detail().contains("too long"));
    until_exited(&pid).await;
}

#[tokio::test]
async fn a_grandchild_that_holds_standard_output_is_not_waited_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let pid = directory.path().join("pid");
    let command = format!("sleep 600 & echo $! > {}; echo '{ANSWER}'", pid.display());
    let started = Instant::now();
    assert_eq!(run(&shell(&command), &path()).await.expect("credentials").access_key_id(), "A");
    assert!(started.elapsed() < Duration::from_secs(10));
    until_exited(&pid).await;
}

#[tokio::test]
async fn a_cancelled_caller_leaves_no_child_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let pid = directory.path().join("pid");
    let command = format!("echo $$ > {}; exec sleep 600", pid.display());
    let running = tokio::spawn(async move { run(&shell(&command), &path()).await });
    deadline::until(|| std::fs::read_to_string(&pid).is_ok_and(|text| !text.is_empty())).await;
    running.abort();
    until_exited(&pid).await;
}

#[tokio::test]
async fn a_gigabyte_is_cut_off() {
    let directory = tempfile::tempdir().expect("a directory");
    let pid = directory.path().join("pid");
    let command = format!("echo $$ > {}; exec head -c 1000000000 /dev/zero", pid.display());
    let started = Instant::now();
    let detail = detail(&command).await;
    assert!(detail.contains("too much"), "{detail}");
    assert!(started.elapsed() < Duration::from_secs(5));
    until_exited(&pid).await;
}

#[tokio::test]
async fn the_environment_is_an_allowlist() {
    let all = [
        ("HOME", "/home/me"),
        ("PATH", "/usr/bin:/bin"),
        ("AWS_SECRET_ACCESS_KEY", "canary"),
        ("GITHUB_TOKEN", "canary"),
        ("VAULT_ADDR", "https://vault"),
        ("no_proxy", "vault"),
    ];
    let all: Vec<_> = all.map(|(name, value)| (name.into(), value.into())).into();
    let names = |added: &[String]| -> Vec<String> {
        let chosen = Environment::new(&all, added).0.into_iter();
        chosen.map(|(name, _)| name.into_string().expect("text")).collect()
    };
    assert_eq!(names(&[]), ["HOME", "PATH", "no_proxy"]);
    assert_eq!(names(&["VAULT_ADDR".to_owned()]), ["HOME", "PATH", "VAULT_ADDR", "no_proxy"]);
    let command =
        format!("test -z \"$GITHUB_TOKEN\" && test \"$HOME\" = /home/me && echo '{ANSWER}'");
    assert!(run(&shell(&command), &Environment::new(&all, &[])).await.is_ok());
    assert!(run(&shell(&command), &Environment(all.clone())).await.is_err());
    let shown = format!("{:?}", Environment(all));
    assert!(shown.contains("GITHUB_TOKEN") && !shown.contains("canary"), "{shown}");
}
