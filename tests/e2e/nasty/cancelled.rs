//! Case 6: a call that is cancelled while the broker is still signing it is never sent.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::deadline;
use sigward_tests::keys::Key;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;

use crate::agent::{Agent, SESSIONS, SIDES, STATELESS};
use crate::setup::{THREE, World, text};

/// A profile whose `credential_process` reports its start, and answers when the test permits it.
struct Slow {
    started: pipe::Receiver,
    go: pipe::Sender,
}

impl Slow {
    const PROFILE: &'static str = "slow";

    fn add_to(home: &mut AwsHome, directory: &Path) -> Self {
        let key = Key::user(Self::PROFILE);
        let [started, go] = ["started", "go"].map(|name| fifo(directory, name));
        let program = directory.join("credentials");
        let script = format!(
            "#!/bin/sh\necho >'{}'\nread -r _ <'{}'\necho '{}'\n",
            started.display(),
            go.display(),
            serde_json::json!({
                "Version": 1,
                "AccessKeyId": key.access_key_id,
                "SecretAccessKey": key.secret,
                "Expiration": "2099-01-01T00:00:00Z",
            })
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o700)).unwrap();
        home.config(&format!(
            "[profile {}]\nregion = us-west-1\ncredential_process = {}\n",
            Self::PROFILE,
            program.display()
        ));
        home.learn(Self::PROFILE, &key);
        let open = || {
            let mut options = pipe::OpenOptions::new();
            options.read_write(true);
            options
        };
        Self {
            started: open().open_receiver(started).unwrap(),
            go: open().open_sender(go).unwrap(),
        }
    }

    /// Waits until the broker asks for keys.
    async fn started(&mut self) {
        let starting = self.started.read_u8();
        let came = deadline::within(starting, || "the broker doesn't ask for keys".to_owned());
        assert_eq!(came.await.unwrap(), b'\n');
    }

    async fn permit(&mut self) {
        self.go.write_all(b"\n").await.unwrap();
    }
}

fn fifo(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path
}

#[tokio::test]
async fn a_call_cancelled_while_the_broker_waits_for_keys_is_not_sent() {
    for side in SIDES {
        for version in [SESSIONS, STATELESS] {
            let directory = tempfile::tempdir().unwrap();
            let mut home = AwsHome::new();
            let mut slow = Slow::add_to(&mut home, directory.path());
            let world = World::at_home(home, |builder| builder).await;
            let profiles = ["dev", Slow::PROFILE];
            let mut agent = Agent::start(&world, side, version, &profiles, &[]).await;
            // Initializes the session and lists the tools, so that the only open signature is that of the call.
            text(&agent.call_as("whoami", "dev").await);
            let id = agent.call_later("write_note", Slow::PROFILE).await;
            slow.started().await;
            agent.cancel(&id).await;
            // The proxy reads requests in order: after this one it knows of the cancellation.
            text(&agent.call_as("whoami", "dev").await);
            slow.permit().await;
            let called = agent.call_as("whoami", Slow::PROFILE).await;
            assert_eq!(text(&called), world.home.identity(Slow::PROFILE));
            let sent = |it: &sigward_tests::upstream::Received| it.calls("write_note");
            assert!(!world.upstream.requests().iter().any(sent), "{side:?} {version}");
            let notices = world.upstream.requests_of("notifications/cancelled");
            assert_eq!(notices.len(), 0, "{side:?} {version}: the server doesn't know the call");
            let id = format!("\"id\":{id},");
            assert!(!agent.unread().iter().any(|line| line.contains(&id)), "{side:?} {version}");
        }
    }
}

/// Waits until every thread of a process is stopped: one gets the signal, and stops the others.
async fn stopped(pid: u32) {
    let all = || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        })
    };
    let stopping = async {
        while !all() {
            tokio::task::yield_now().await;
        }
    };
    deadline::within(stopping, || "the broker isn't stopped".to_owned()).await;
}

/// The same for the default profile, whose session is open: the broker is stopped.
#[tokio::test]
async fn a_call_cancelled_while_the_broker_is_stopped_is_not_sent() {
    for version in [SESSIONS, STATELESS] {
        let world = World::new().await;
        let side = crate::agent::Side::Stdio;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        text(&agent.call_as("whoami", "dev").await);
        let broker = sigward_tests::processes::children(agent.process().pid())[0];
        sigward_tests::processes::signal(broker, rustix::process::Signal::STOP);
        stopped(broker).await;
        let id = agent.call_later("write_note", "dev").await;
        agent.cancel(&id).await;
        // Lines of a pipe are read in order: before this error, both lines were.
        agent.send("not JSON").await;
        agent.expect("the error", |it| it["error"]["code"] == -32700).await;
        sigward_tests::processes::signal(broker, rustix::process::Signal::CONT);
        text(&agent.call_as("whoami", "dev").await);
        let sent = |it: &sigward_tests::upstream::Received| it.calls("write_note");
        assert!(!world.upstream.requests().iter().any(sent), "{version}");
        assert_eq!(world.upstream.requests_of("notifications/cancelled").len(), 0);
    }
}
