//! The end of a stdio client: however it ends, and whatever the server does, within two seconds every session gets its
//! DELETE, and no process is left.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sigward_tests::deadline;
use sigward_tests::processes::{self, Process, StdioClient};
use sigward_tests::upstream::{Gate, Received, Reply};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout};

use super::{LIMIT, assert_all_ended, gone, sessions};
use crate::setup::{THREE, World, text};

/// A client whose pipes can be closed one by one.
struct Piped {
    proxy: Process,
    input: Option<ChildStdin>,
    output: Option<Lines<BufReader<ChildStdout>>>,
}

impl Piped {
    async fn start(world: &World) -> Self {
        let mut command = world.private_proxy(&THREE, &[]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut proxy = Process::start(command);
        let (input, output) = proxy.pipes();
        let output = BufReader::new(output).lines();
        let mut client = Self { proxy, input: Some(input), output: Some(output) };
        client
            .ask(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"p","version":"1"}}}"#)
            .await;
        client.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        client
    }

    async fn send(&mut self, line: &str) {
        let input = self.input.as_mut().expect("an open pipe");
        let line = format!("{line}\n");
        let writing = input.write_all(line.as_bytes());
        deadline::within(writing, || "the input isn't read".to_owned()).await.unwrap();
    }

    /// Sends a line, and waits for its answer.
    async fn ask(&mut self, line: &str) -> String {
        self.send(line).await;
        let output = self.output.as_mut().expect("an open pipe");
        let reading = output.next_line();
        deadline::within(reading, || "no answer".to_owned()).await.unwrap().unwrap()
    }

    async fn call(&mut self, profile: &str) {
        let answer = self
            .ask(&format!(
                r#"{{"jsonrpc":"2.0","id":"{profile}","method":"tools/call","params":{{"name":"whoami","arguments":{{"aws_profile":"{profile}"}}}}}}"#
            ))
            .await;
        text(&serde_json::from_str(&answer).unwrap());
    }
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    /// Standard input is closed.
    Input,
    /// A signal to the proxy.
    Signal(Signal),
    /// Standard output is closed, and the proxy has something to write.
    Output,
    /// Both pipes are closed at once, as by the kernel when a client is gone.
    Both,
}

const ENDINGS: [Ending; 6] = [
    Ending::Input,
    Ending::Signal(Signal::TERM),
    Ending::Signal(Signal::INT),
    Ending::Signal(Signal::HUP),
    Ending::Output,
    Ending::Both,
];

/// Ends the client, and waits for the end of the proxy and of its broker; returns how long that took.
async fn end(world: &World, mut client: Piped, ending: Ending) -> Duration {
    let broker = processes::children(client.proxy.pid())[0];
    let started = Instant::now();
    match ending {
        Ending::Input => client.input = None,
        Ending::Signal(signal) => client.proxy.signal(signal),
        Ending::Output => {
            client.output = None;
            let session = world.upstream.sessions_of(world.home.identity("dev")).remove(0);
            let note = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
            world.upstream.push(&session, note).await;
        }
        Ending::Both => (client.input, client.output) = (None, None),
    }
    let (status, errors) = client.proxy.ended().await;
    gone(broker).await;
    let took = started.elapsed();
    assert!(status.success(), "{ending:?}: {errors}");
    took
}

#[tokio::test]
async fn every_end_of_the_client_ends_sessions_and_processes() {
    for ending in ENDINGS {
        let world = World::new().await;
        let mut client = Piped::start(&world).await;
        for profile in THREE {
            client.call(profile).await;
        }
        // One call is in flight.
        client
            .send(r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"slow"}}"#)
            .await;
        world.upstream.expect("the slow call", |it| it.calls("slow")).await;
        let open = sessions(&world);
        assert_eq!(open.len(), 3);
        let took = end(&world, client, ending).await;
        assert!(took < LIMIT, "{ending:?} took {took:?}");
        assert_all_ended(&world, &open);
    }
}

/// A server that doesn't answer a DELETE doesn't delay the proxy; it has received all of them.
#[tokio::test]
async fn unanswered_deletes_do_not_delay_the_end() {
    for ending in [Ending::Input, Ending::Signal(Signal::TERM)] {
        let world = World::new().await;
        let mut client = Piped::start(&world).await;
        for profile in THREE {
            client.call(profile).await;
        }
        let open = sessions(&world);
        let never = Gate::default();
        world.upstream.hook(move |request| {
            (request.http_method == "DELETE").then(|| Reply::Usual.held(&never))
        });
        let took = end(&world, client, ending).await;
        assert!(took < LIMIT, "{ending:?} took {took:?}");
        assert_all_ended(&world, &open);
    }
}

/// A session that is being opened has no id yet; the others are ended as usual.
#[tokio::test]
async fn the_end_while_a_session_opens_ends_the_other_sessions() {
    for ending in [Ending::Input, Ending::Signal(Signal::TERM)] {
        let world = World::new().await;
        let mut client = Piped::start(&world).await;
        client.call("dev").await;
        client.call("prod").await;
        let open = sessions(&world);
        let never = Gate::default();
        world.upstream.next("initialize", Reply::Usual.held(&never));
        client
            .send(r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"whoami","arguments":{"aws_profile":"staging"}}}"#)
            .await;
        let opens = |it: &Received| {
            it.method() == "initialize" && it.identity() == world.home.identity("staging")
        };
        world.upstream.expect("the handshake", opens).await;
        let took = end(&world, client, ending).await;
        assert!(took < LIMIT, "{ending:?} took {took:?}");
        assert_all_ended(&world, &open);
    }
}

/// The client ends before its own handshake is answered.
#[tokio::test]
async fn the_end_during_the_handshake_abandons_it() {
    let world = World::new().await;
    let never = Gate::default();
    world.upstream.next("initialize", Reply::Usual.held(&never));
    let mut client = StdioClient::start(world.private_proxy(&THREE, &[]));
    client
        .send(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"p","version":"1"}}}"#)
        .await;
    let call = world.upstream.expect("the handshake", |it| it.method() == "initialize").await;
    let started = Instant::now();
    let (status, ..) = client.close().await;
    assert!(status.success());
    assert!(started.elapsed() < LIMIT, "took {:?}", started.elapsed());
    world.upstream.expect_abandoned(&call).await;
}

/// A stopped broker can't sign a DELETE, and doesn't delay the proxy either.
#[tokio::test]
async fn a_stopped_broker_does_not_delay_the_end() {
    let world = World::new().await;
    let mut client = world.client(&THREE, &[]).await;
    text(&client.call("whoami", r#"{"aws_profile":"prod"}"#).await);
    let broker = processes::children(client.process().pid())[0];
    processes::signal(broker, Signal::STOP);
    let started = Instant::now();
    let (status, ..) = client.close().await;
    assert!(status.success());
    assert!(started.elapsed() < LIMIT, "took {:?}", started.elapsed());
    processes::signal(broker, Signal::CONT);
    gone(broker).await;
}

/// A client that is killed: a process between the test and the proxy, whose pipes the kernel closes.
#[tokio::test]
async fn a_crash_of_the_client_ends_sessions_and_processes() {
    const CLIENT: &str = "
import subprocess, sys, threading
proxy = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def copy():
    for line in proxy.stdout:
        sys.stdout.buffer.write(line)
        sys.stdout.flush()
threading.Thread(target=copy, daemon=True).start()
for line in sys.stdin.buffer:
    proxy.stdin.write(line)
    proxy.stdin.flush()
";
    let world = World::new().await;
    let proxy = world.private_proxy(&THREE, &[]);
    let proxy = proxy.as_std();
    let mut command = processes::command("/usr/bin/env".as_ref());
    let set = proxy.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command.envs(set).args(["python3", "-c", CLIENT]).arg(proxy.get_program());
    command.args(proxy.get_args());
    let mut client = StdioClient::start(command);
    client.initialize().await;
    for profile in THREE {
        text(&client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await);
    }
    let open = sessions(&world);
    assert_eq!(open.len(), 3);
    let proxy = processes::children(client.process().pid())[0];
    let broker = processes::children(proxy)[0];
    let started = Instant::now();
    client.process().signal(Signal::KILL);
    gone(proxy).await;
    gone(broker).await;
    assert!(started.elapsed() < LIMIT, "took {:?}", started.elapsed());
    assert_all_ended(&world, &open);
}
