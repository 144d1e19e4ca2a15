//! Case 10: clients that read slowly or not at all, and servers and clients that send more than fits into memory. The
//! memory of both processes stays below the sum of the budgets in `sigward_proxy::config`.

use std::process::Stdio;
use std::time::{Duration, Instant};

use sigward_proxy::config::{
    MAX_CLIENT_MESSAGE, MAX_UPSTREAM_MESSAGE, MESSAGES_IN_TRANSIT, REQUESTS_IN_TRANSIT,
};
use sigward_tests::processes::{Process, StdioClient};
use sigward_tests::upstream::{Gate, REGION, Received, Reply, SERVICE, Step};
use sigward_tests::{deadline, processes};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout};

use crate::agent::{Agent, SESSIONS, SIDES, Side};
use crate::http::{Listening, lines};
use crate::setup::{THREE, World, assert_names, failure, text, tool_error};

const MIB: usize = 1 << 20;
/// A large result within the limits.
const LARGE: usize = 100 * MIB;
/// Calls at the same time.
const CALLS: usize = 50;

/// A large response to every call of `echo`, as JSON and as events in turns. `taken` opens once one of them has left
/// the server.
fn large(request: &Received, taken: &Gate) -> Option<Reply> {
    let number = request.param("/arguments/n").as_u64()?;
    let steps = |before: &str, after: &str| {
        let head = r#"{"jsonrpc":"2.0","id":$ID,"result":{"content":[{"type":"text","text":""#;
        vec![
            Step::Raw(format!("{before}{head}")),
            Step::Filler(LARGE),
            Step::Raw(format!("\"}}]}}}}{after}")),
            Step::Open(taken.clone()),
        ]
    };
    Some(match number % 2 {
        0 => Reply::Pieces(steps("", "")),
        _ => Reply::Stream(steps("data: ", "\n\n")),
    })
}

/// A figure of `/proc/PID/status`, in bytes.
fn status(pid: u32, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let kilobytes = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    kilobytes.parse::<usize>().unwrap() << 10
}

/// The peak memory of a process, in bytes.
pub(crate) fn peak(pid: u32) -> usize {
    status(pid, "VmHWM")
}

/// Answers every call of `echo` with [`large`]; the gate opens once a whole result has left the server.
fn answer_with_large_results(world: &World) -> Gate {
    let taken = Gate::default();
    let gate = taken.clone();
    world.upstream.hook(move |request| large(request, &gate));
    taken
}

/// Waits until the proxy has read a whole result, which no client reads.
pub(crate) async fn one_was_taken(taken: &Gate) {
    deadline::within(taken.opened(), || "no result was read".to_owned()).await;
}

/// A client that reads its output only when the test asks for a line.
struct SlowReader {
    proxy: Process,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl SlowReader {
    async fn start(world: &World) -> Self {
        let mut command = world.private_proxy(&THREE, &[]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut proxy = Process::start(command);
        let (input, output) = proxy.pipes();
        let output = BufReader::new(output);
        let mut client = Self { proxy, input: Some(input), output };
        client
            .send(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"d","version":"1"}}}"#)
            .await;
        client.line().await;
        client.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        client
    }

    fn pid(&self) -> u32 {
        self.proxy.pid()
    }

    async fn send(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        // A deadline for each piece: how long 40 MiB take depends on the machine.
        for piece in line.as_bytes().chunks(MIB).chain([&b"\n"[..]]) {
            let writing = input.write_all(piece);
            deadline::within(writing, || "the proxy doesn't read".to_owned()).await.unwrap();
        }
    }

    /// Calls `echo`, for `number`, with one profile or the other.
    async fn call(&mut self, number: usize) {
        let profile = THREE[number / 2 % 2];
        self.send(&format!(
            r#"{{"jsonrpc":"2.0","id":{},"method":"tools/call","params":{{"name":"echo","arguments":{{"aws_profile":"{profile}","n":{number}}}}}}}"#,
            number + 1
        ))
        .await;
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let reading = self.output.read_line(&mut line);
        deadline::within(reading, || "no line".to_owned()).await.unwrap();
        line
    }

    /// Closes the input, and returns how long the process then takes to exit.
    async fn end(&mut self) -> Duration {
        self.input = None;
        let started = Instant::now();
        let (status, errors) = self.proxy.ended().await;
        assert!(status.success(), "{errors}");
        started.elapsed()
    }
}

async fn all_calls_arrived(world: &World) {
    for number in 0..CALLS {
        let came = |it: &Received| it.calls("echo") && it.param("/arguments/n") == number;
        world.upstream.expect("a call", came).await;
    }
}

/// The memory that every process needs without messages, and the buffers of `connections`.
const fn base(connections: usize) -> usize {
    32 * MIB + connections * MIB
}

/// The most memory of the proxy for [`CALLS`] results of [`LARGE`]: the budget, one message beyond it, and buffers.
const RESULTS: usize = MESSAGES_IN_TRANSIT + LARGE + base(CALLS);

fn assert_bounded(pid: u32, bound: usize) {
    let peak = peak(pid);
    assert!(peak <= bound, "{} MiB of {} MiB", peak / MIB, bound / MIB);
}

/// The client reads one result of many, late.
#[tokio::test]
async fn memory_is_bounded_for_a_client_that_hardly_reads() {
    let world = World::new().await;
    let taken = answer_with_large_results(&world);
    let mut client = SlowReader::start(&world).await;
    let broker = processes::children(client.pid())[0];
    for number in 0..CALLS {
        client.call(number).await;
    }
    all_calls_arrived(&world).await;
    one_was_taken(&taken).await;
    // Meanwhile, the proxy reads as much of the others as it ever will.
    assert!(client.line().await.len() > LARGE);
    assert_bounded(client.pid(), RESULTS);
    assert_bounded(broker, base(1));
    let took = client.end().await;
    assert!(took < Duration::from_secs(2), "took {took:?}");
}

#[tokio::test]
async fn a_client_that_reads_late_gets_every_result() {
    const LATE: usize = 6;
    let world = World::new().await;
    let taken = answer_with_large_results(&world);
    let mut client = SlowReader::start(&world).await;
    for number in 0..LATE {
        client.call(number).await;
    }
    one_was_taken(&taken).await;
    let mut answered = [false; LATE];
    for _ in 0..LATE {
        let line = client.line().await;
        assert!(line.len() > LARGE && line.ends_with("\"}]}}\n"), "a result was cut");
        let id = line[..100].split("\"id\":").nth(1).unwrap().split(',').next().unwrap();
        let number = id.parse::<usize>().unwrap() - 1;
        assert!(!std::mem::replace(&mut answered[number], true), "a result came twice");
    }
    assert_bounded(client.pid(), RESULTS);
    client.end().await;
}

/// Over HTTP: results of the default profile are forwarded in pieces, those of others are kept until their client reads
/// them.
#[tokio::test]
async fn memory_is_bounded_for_http_clients_that_read_nothing() {
    let world = World::new().await;
    let taken = answer_with_large_results(&world);
    let mut proxy = Listening::start(&world, &THREE, &[]).await;
    let pid = proxy.proxy.pid();
    let broker = processes::children(pid)[0];
    let session = proxy.session(SESSIONS).await;
    let mut answers = Vec::new();
    for number in 0..CALLS {
        let profile = THREE[number / 2 % 2];
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"tools/call","params":{{"name":"echo","arguments":{{"aws_profile":"{profile}","n":{number}}}}}}}"#
        );
        let (address, session) = (proxy.address.clone(), session.clone());
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("accept", "application/json, text/event-stream".to_owned()),
        ];
        let headers = [&headers[..], &session].concat();
        answers.push(tokio::spawn(async move {
            crate::http::request(&address, "POST", "/mcp", &lines(&headers), call.into()).await
        }));
    }
    all_calls_arrived(&world).await;
    one_was_taken(&taken).await;
    // Another client is served. Meanwhile, the proxy reads as much of the results as it ever will.
    let polite = proxy.session(SESSIONS).await;
    let whoami = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whoami","arguments":{"aws_profile":"staging"}}}"#;
    text(&proxy.post(&lines(&polite), whoami).await.message().await);
    assert_bounded(pid, RESULTS + base(CALLS));
    assert_bounded(broker, base(1));
    proxy.proxy.signal(rustix::process::Signal::TERM);
    let started = Instant::now();
    proxy.proxy.ended().await;
    assert!(started.elapsed() < Duration::from_secs(2), "took {:?}", started.elapsed());
}

/// Requests beyond the memory budget are refused, and accepted ones arrive.
#[tokio::test]
async fn requests_beyond_the_memory_budget_are_refused() {
    const REQUEST: usize = 40 * MIB;
    const SENT: usize = 6;
    let world = World::new().await;
    let held = Gate::default();
    let gate = held.clone();
    world
        .upstream
        .hook(move |request| request.calls("write_note").then(|| Reply::Usual.held(&gate)));
    let mut client = SlowReader::start(&world).await;
    let broker = processes::children(client.pid())[0];
    let note = "x".repeat(REQUEST);
    for id in 1..=SENT {
        client
            .send(&format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"write_note","arguments":{{"note":"{note}"}}}}}}"#
            ))
            .await;
    }
    let taken = REQUESTS_IN_TRANSIT / REQUEST;
    for _ in 0..SENT - taken {
        let refused = client.line().await;
        assert!(refused.contains("-32600") && refused.contains("too many large"), "{refused}");
    }
    for id in 1..=taken {
        let id = id.to_string();
        let came =
            |it: &Received| it.calls("write_note") && it.message.as_ref().unwrap().id_text() == id;
        world.upstream.expect("an accepted request", came).await;
    }
    // Each is kept as received, as sent upstream, and as sent to the broker; and one line is being read.
    assert_bounded(client.pid(), 3 * REQUESTS_IN_TRANSIT + MAX_CLIENT_MESSAGE + base(SENT));
    assert_bounded(broker, 2 * REQUESTS_IN_TRANSIT + base(1));
    held.open();
    for _ in 0..taken {
        assert!(client.line().await.len() > REQUEST);
    }
    client.end().await;
}

/// A response that is too long is the error of its call, and an event that is too long is dropped alone.
#[tokio::test]
async fn a_response_that_is_too_long_is_the_error_of_its_call() {
    const TOO_LONG: usize = MAX_UPSTREAM_MESSAGE + MIB;
    let begun = r#"{"jsonrpc":"2.0","id":$ID,"result":{"x":""#;
    let world = World::new().await;
    let mut agent = Agent::start(&world, Side::Stdio, SESSIONS, &THREE, &[]).await;
    let json = [Step::Raw(begun.to_owned()), Step::Filler(TOO_LONG), Step::Raw("\"}}".to_owned())];
    let event = [
        Step::Raw(format!("data: {begun}")),
        Step::Filler(TOO_LONG),
        Step::Raw("\"}}\n\n".to_owned()),
    ];
    for (profile, reply) in [
        ("dev", Reply::Pieces(json.to_vec())),
        ("prod", Reply::Pieces(json.to_vec())),
        ("dev", Reply::Stream(event.to_vec())),
        ("prod", Reply::Stream(event.to_vec())),
    ] {
        world.upstream.next("tools/call", reply);
        let failed = agent.call_as("write_note", profile).await;
        assert_names(tool_error(&failed), &["larger than 256 MiB"]);
    }
    let before = [&event[..], &[Step::UsualResponse]].concat();
    world.upstream.next("tools/call", Reply::Stream(before));
    text(&agent.call_as("write_note", "prod").await);
    assert_bounded(agent.process().pid(), MAX_UPSTREAM_MESSAGE + base(4));
}

/// The client writes invalid lines, reads no errors, and leaves: the proxy must notice that.
#[tokio::test]
async fn the_proxy_exits_when_a_client_that_only_writes_has_left() {
    let world = World::new().await;
    let mut client = SlowReader::start(&world).await;
    // More than fits into the pipe and the queue before it.
    for _ in 0..1000 {
        client.send("not JSON, and not short either: so that its refusals fill the pipe").await;
    }
    let took = client.end().await;
    assert!(took < Duration::from_secs(2), "took {took:?}");
}

/// A server that never answers, or answers byte by byte, fails only the calls that wait for it.
#[tokio::test]
async fn a_slow_server_fails_only_the_calls_that_wait_for_it() {
    let world = World::new().await;
    let arguments = ["--read-timeout", "1", "--tool-timeout", "2.5"];
    for side in SIDES {
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &arguments).await;
        for profile in ["dev", "prod"] {
            let never = Gate::default();
            let silent = Reply::Usual.held(&never);
            world.upstream.next("tools/call", silent);
            let failed = agent.call_as("write_note", profile).await;
            assert_names(failure(&failed), &["--read-timeout"]);

            let byte = || Step::Raw(" ".to_owned());
            let pauses = (0..20).flat_map(|_| [byte(), Step::Pause(Duration::from_millis(200))]);
            world.upstream.next("tools/call", Reply::Pieces(pauses.collect()));
            let failed = agent.call_as("write_note", profile).await;
            assert_names(failure(&failed), &["--tool-timeout"]);
            text(&agent.call_as("whoami", profile).await);
        }
    }
}

/// A server that reads nothing: only the kernel's buffers fill.
#[tokio::test]
async fn a_server_that_reads_nothing_causes_a_write_timeout() {
    let world = World::new().await;
    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("http://{}/mcp", trap.local_addr().unwrap());
    let mut command = processes::command(&processes::binaries().proxy);
    command.envs(world.home.environment()).env("XDG_RUNTIME_DIR", world.directory.path());
    command.args([&place, "--service", SERVICE, "--region", REGION, "--broker", "private"]);
    command.args(["--profile", "dev", "--write-timeout", "0.5", "--connect-timeout", "0.5"]);
    let mut client = StdioClient::start(command);
    let note = "x".repeat(32 * MIB);
    let failed = client.request("tools/list", &format!(r#"{{"note":"{note}"}}"#)).await;
    assert_names(failure(&failed), &["--write-timeout"]);
}
