use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::broker::{Broker, Route};
use crate::config::ProfileName;
use crate::error::Error;

/// A directory with a `sigward-broker` that is a link to the shell, and the script that it runs, which counts its
/// starts. No file that a test has written is executed: a process that another thread forks at that time would hold the
/// file open, and the system would report it as busy.
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

/// A clock that stands still until a test advances it, however long the test's real processes take on a busy machine.
struct Clock {
    _held: std::sync::mpsc::Sender<()>,
}

impl Clock {
    fn stopped() -> Self {
        tokio::time::pause();
        // A paused clock advances to the next timer when the runtime is idle, which it isn't while blocking work is
        // running.
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
async fn concurrent_callers_share_the_error_of_one_start() {
    let _clock = Clock::stopped();
    let program = Program::new(OBJECTION);
    let broker = asked(PrivateBroker::new(program.start(), restart(false)));
    let asking = (0..200).map(|_| failure(&broker));
    for message in futures_util::future::join_all(asking).await {
        assert_eq!(message, "the private broker can't start: /home/u/.aws/config:3: no");
    }
    // Also those that call within the second.
    assert_eq!(failure(&broker).await, "the private broker can't start: /home/u/.aws/config:3: no");
    assert_eq!(program.starts(), 1);
}

#[tokio::test]
async fn each_kind_of_exit_is_reported() {
    for (script, message) in [
        ("exit 3", "can't start: it ended with exit status 3, without a message; TRY"),
        ("exit 0", "can't start: it ended with exit status 0, without a message; TRY"),
        ("echo oops >&2; exit 127", "can't start: it ended with exit status 127: oops"),
        (
            "kill -SEGV $$",
            "can't start: it was ended by signal 11 (SIGSEGV), without a message; TRY",
        ),
        (
            "printf 'sigward-broker: two faults:\\n  a: one\\n\\n  b: two\\n' >&2; exit 1",
            "can't start: two faults:\n  a: one\n  b: two",
        ),
        (
            "echo \"error: unexpected argument '--x'\" >&2; exit 2",
            "can't start: unexpected argument '--x'",
        ),
        // A child process keeps standard error open after its parent's exit.
        ("sleep 5 & echo 'sigward-broker: no' >&2; exit 1", "can't start: no"),
    ] {
        let program = Program::new(script);
        let broker = asked(PrivateBroker::new(program.start(), restart(false)));
        let attempt = format!("try it in a terminal: `{} --version`", program.path().display());
        let message = message.replace("TRY", &attempt);
        assert_eq!(failure(&broker).await, format!("the private broker {message}"), "{script}");
    }
}

#[tokio::test]
async fn a_missing_or_unusable_program_is_reported() {
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
    let message = failure(&asked(PrivateBroker::new(program.start(), restart(false)))).await;
    assert!(message.contains("can't run") && message.contains("chmod +x"), "{message}");
    set("#!/nonexistent\n", 0o755);
    let message = failure(&asked(PrivateBroker::new(program.start(), restart(false)))).await;
    assert!(message.contains(program.path().to_str().unwrap()), "{message}");
}

/// A failed start isn't final: once a person has repaired the cause, the next call after a second succeeds.
#[tokio::test]
async fn a_failed_start_is_retried_once_a_second() {
    let clock = Clock::stopped();
    let program = Program::new(OBJECTION);
    let private = Arc::new(PrivateBroker::new(program.start(), restart(false)));
    let broker = Broker::new(Route::Private(Arc::clone(&private)), Duration::from_secs(60));
    assert!(failure(&broker).await.contains("config:3"));
    program.replace("echo 'sigward-broker: something else' >&2; exit 1");
    assert!(private.known_failure().unwrap().contains("config:3"));
    clock.advance(START_INTERVAL).await;
    assert_eq!(private.known_failure(), None);
    assert!(failure(&broker).await.contains("something else"));
    assert_eq!(program.starts(), 2);
}

/// A broker without the keys of the environment would sign with other credentials.
#[tokio::test]
async fn a_broker_without_its_keys_is_never_restarted() {
    let clock = Clock::stopped();
    let program = Program::new(OBJECTION);
    let started = program.start().start(|_| {}).unwrap();
    let private = PrivateBroker::inherited(program.start(), restart(true), started);
    let broker = asked(private);
    for _ in 0..3 {
        let message = failure(&broker).await;
        assert!(message.contains("can't start: /home/u/.aws/config:3: no"), "{message}");
        assert!(
            message.contains("environment") && message.contains("restart the MCP server"),
            "{message}"
        );
        clock.advance(START_INTERVAL * 3).await;
    }
    assert_eq!(program.starts(), 1);

    let broker = asked(PrivateBroker::failed(program.start(), restart(true), "can't run it"));
    clock.advance(START_INTERVAL * 3).await;
    assert!(failure(&broker).await.contains("can't start: can't run it"));
    assert_eq!(program.starts(), 1);
}

/// For a broker that had answered, the failure reports how it ended, too.
#[tokio::test]
async fn the_exit_of_a_working_broker_is_reported_with_its_lost_keys() {
    let program = Program::new("read line; exit 9");
    let started = program.start().start(|_| {}).unwrap();
    let private = Arc::new(PrivateBroker::inherited(program.start(), restart(true), started));
    private.has_answered();
    let broker = Broker::new(Route::Private(private), Duration::from_secs(60));
    let message = failure(&broker).await;
    assert!(message.contains("is gone: it ended with exit status 9"), "{message}");
    assert!(
        message.contains("environment") && message.contains("Restart the MCP server"),
        "{message}"
    );
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
