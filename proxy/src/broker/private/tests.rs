use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::broker::{Broker, Route};
use crate::config::ProfileName;
use crate::error::Error;

/// A directory with a `sigward-broker` that is the shell, and the script that it runs, which counts its
/// starts. Nothing that a test has written is executed: a process that another thread forks meanwhile
/// would hold the file open, and the system would say that it is busy.
struct Program {
    directory: tempfile::TempDir,
}

impl Program {
    fn new(script: &str) -> Self {
        let program = Self { directory: tempfile::tempdir().unwrap() };
        std::os::unix::fs::symlink("/bin/sh", program.path()).unwrap();
        program.replace(script);
        program
    }

    fn replace(&self, script: &str) {
        let starts = self.directory.path().join("starts");
        let text = format!("echo x >> '{}'\n{script}\n", starts.display());
        std::fs::write(self.script(), text).unwrap();
    }

    fn script(&self) -> std::path::PathBuf {
        self.directory.path().join("script")
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("sigward-broker")
    }

    fn starts(&self) -> usize {
        let starts = std::fs::read_to_string(self.directory.path().join("starts"));
        starts.unwrap_or_default().lines().count()
    }

    fn start(&self) -> Start {
        Start {
            executable: self.directory.path().join("sigward-proxy"),
            path: None,
            arguments: vec![self.script().into()],
        }
    }
}

fn restart(keys_are_gone: bool) -> Restart {
    Restart { environment: BTreeMap::new(), forget: vec![], keys_are_gone }
}

fn asked(private: PrivateBroker) -> Broker {
    Broker::new(Route::Private(Arc::new(private)), Duration::from_secs(60))
}

async fn failure(broker: &Broker) -> String {
    let profile = ProfileName::parse("dev").unwrap();
    let error = broker.profiles(&profile).await.unwrap_err();
    assert!(matches!(error, Error::PrivateBroker { .. }), "{error:?}");
    error.to_string()
}

/// A clock that stands still until a test moves it, however long the processes of the test take: they
/// are real, and the machine may be busy.
struct Clock {
    _held: std::sync::mpsc::Sender<()>,
}

impl Clock {
    fn stopped() -> Self {
        tokio::time::pause();
        // The paused clock jumps to the next timer when the runtime is idle, which it isn't while it
        // has work that blocks.
        let (held, until) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || until.recv().is_ok());
        Self { _held: held }
    }

    async fn advance(&self, time: Duration) {
        tokio::time::advance(time).await;
    }
}

const OBJECTION: &str = "echo 'sigward-broker: /home/u/.aws/config:3: no' >&2; exit 1";

#[tokio::test]
async fn all_who_wait_are_told_by_one_start() {
    let _clock = Clock::stopped();
    let program = Program::new(OBJECTION);
    let broker = asked(PrivateBroker::new(program.start(), restart(false)));
    let asking = (0..200).map(|_| failure(&broker));
    for told in futures_util::future::join_all(asking).await {
        assert_eq!(told, "the private broker can't start: /home/u/.aws/config:3: no");
    }
    // And those who ask within the second.
    assert_eq!(failure(&broker).await, "the private broker can't start: /home/u/.aws/config:3: no");
    assert_eq!(program.starts(), 1);
}

#[tokio::test]
async fn every_end_is_told_as_what_it_is() {
    for (script, told) in [
        ("exit 3", "can't start: it ended with exit status 3, without a word; TRY"),
        ("exit 0", "can't start: it ended with exit status 0, without a word; TRY"),
        ("echo oops >&2; exit 127", "can't start: it ended with exit status 127: oops"),
        ("kill -SEGV $$", "can't start: it was ended by signal 11 (SIGSEGV), without a word; TRY"),
        (
            "printf 'sigward-broker: two faults:\\n  a: one\\n\\n  b: two\\n' >&2; exit 1",
            "can't start: two faults:\n  a: one\n  b: two",
        ),
        (
            "echo \"error: unexpected argument '--x'\" >&2; exit 2",
            "can't start: unexpected argument '--x'",
        ),
        // A process that it left behind has standard error, and goes on.
        ("sleep 5 & echo 'sigward-broker: no' >&2; exit 1", "can't start: no"),
    ] {
        let program = Program::new(script);
        let broker = asked(PrivateBroker::new(program.start(), restart(false)));
        let attempt = format!("try it in a terminal: `{} --version`", program.path().display());
        let told = told.replace("TRY", &attempt);
        assert_eq!(failure(&broker).await, format!("the private broker {told}"), "{script}");
    }
}

#[tokio::test]
async fn a_program_that_is_missing_or_can_t_be_run() {
    let program = Program::new("exit 0");
    std::fs::remove_file(program.path()).unwrap();
    let private = PrivateBroker::new(program.start(), restart(false));
    assert!(private.known_failure().unwrap().contains("no sigward-broker beside"));
    assert!(failure(&asked(private)).await.contains("install both programs in one directory"));

    let set = |text: &str, mode| {
        std::fs::write(program.path(), text).unwrap();
        std::fs::set_permissions(program.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set("#!/bin/sh\n", 0o644);
    let told = failure(&asked(PrivateBroker::new(program.start(), restart(false)))).await;
    assert!(told.contains("can't run") && told.contains("chmod +x"), "{told}");
    set("#!/nonexistent\n", 0o755);
    let told = failure(&asked(PrivateBroker::new(program.start(), restart(false)))).await;
    assert!(told.contains(program.path().to_str().unwrap()), "{told}");
}

/// A start that failed is no state for ever: what a person has repaired works at the next call after
/// the second.
#[tokio::test]
async fn it_is_tried_again_once_a_second() {
    let clock = Clock::stopped();
    let program = Program::new(OBJECTION);
    let private = Arc::new(PrivateBroker::new(program.start(), restart(false)));
    let broker = Broker::new(Route::Private(Arc::clone(&private)), Duration::from_secs(60));
    assert!(failure(&broker).await.contains("config:3"));
    program.replace("echo 'sigward-broker: something else' >&2; exit 1");
    assert!(private.known_failure().unwrap().contains("config:3"));
    clock.advance(PACE).await;
    assert_eq!(private.known_failure(), None);
    assert!(failure(&broker).await.contains("something else"));
    assert_eq!(program.starts(), 2);
}

/// A broker without the keys of the environment would sign with others.
#[tokio::test]
async fn without_its_keys_it_is_never_started_again() {
    let clock = Clock::stopped();
    let program = Program::new(OBJECTION);
    let started = program.start().start(|_| {}).unwrap();
    let private = PrivateBroker::inherited(program.start(), restart(true), started);
    let broker = asked(private);
    for _ in 0..3 {
        let told = failure(&broker).await;
        assert!(told.contains("can't start: /home/u/.aws/config:3: no"), "{told}");
        assert!(told.contains("environment") && told.contains("restart the MCP server"), "{told}");
        clock.advance(PACE * 3).await;
    }
    assert_eq!(program.starts(), 1);

    let broker = asked(PrivateBroker::failed(program.start(), restart(true), "can't run it"));
    clock.advance(PACE * 3).await;
    assert!(failure(&broker).await.contains("can't start: can't run it"));
    assert_eq!(program.starts(), 1);
}

/// One that had answered says how it ended, too.
#[tokio::test]
async fn the_end_of_a_broker_that_worked_is_told_with_the_keys() {
    let program = Program::new("read line; exit 9");
    let started = program.start().start(|_| {}).unwrap();
    let private = Arc::new(PrivateBroker::inherited(program.start(), restart(true), started));
    private.has_answered();
    let broker = Broker::new(Route::Private(private), Duration::from_secs(60));
    let told = failure(&broker).await;
    assert!(told.contains("is gone: it ended with exit status 9"), "{told}");
    assert!(told.contains("environment") && told.contains("Restart the MCP server"), "{told}");
}

#[test]
fn a_relative_path_is_never_searched() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("nowhere/sigward-proxy");
    for path in [".", "", "bin"] {
        let path = Some(OsString::from(path));
        let start = Start { executable: nowhere.clone(), path, arguments: vec![] };
        assert!(matches!(start.start(|_| {}), Err(StartError::NotFound { .. })));
    }
}
