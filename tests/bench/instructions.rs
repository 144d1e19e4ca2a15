//! How many instructions the hot path takes: what a clock on a busy machine can't tell.
//!
//! `cargo run --release --bin instructions` counts under valgrind's callgrind and compares with
//! `tests/bench/instructions.txt`: it fails where a count has grown by more than 5 %. `-- --write` writes the counts that are
//! now. A count is the difference between a run of many rounds and one of few, so that the start of the process isn't
//! in it.
//!
//! The work is all that happens to the text of a message between its socket and the next: no sockets, timers or
//! threads, and no hashes (which choose their code by the processor). That makes the counts the same on every machine
//! with the same compiler; with another one they are printed and not judged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program for developers, which prints its measurements"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::process::{Command, ExitCode};

use sigward_proxy::config::{Globs, ProfileArgument, ProfileName, Profiles, ToolPolicy};
use sigward_proxy::profile::Offer;
use sigward_proxy::request::{Incoming, Request};
use sigward_proxy::sse::{Event, Parser};
use sigward_proxy::tools::Catalog;
use sigward_proxy::wire::{self, Envelope};
use sigward_tests::processes;

/// A piece of work that is done over and over.
type Work = Box<dyn Fn()>;

/// How much a count may grow, in hundredths.
const TOLERANCE: u64 = 5;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, run, name, rounds] = arguments.as_slice()
        && run == "run"
    {
        let work = all().remove(name.as_str()).expect("a known name");
        (0..rounds.parse().unwrap()).for_each(|_| work());
        return ExitCode::SUCCESS;
    }
    let counted: BTreeMap<String, u64> =
        all().keys().map(|name| ((*name).to_owned(), count(name))).collect();
    let path = processes::workspace().join("tests/bench/instructions.txt");
    if arguments.iter().any(|argument| argument == "--write") {
        fs::write(&path, written(&counted)).unwrap();
    }
    judge(&fs::read_to_string(&path).unwrap_or_default(), &counted)
}

/// Compares with what is kept.
fn judge(kept: &str, counted: &BTreeMap<String, u64>) -> ExitCode {
    let same_compiler = kept.is_empty() || kept.lines().any(|line| line == made_with());
    let kept: BTreeMap<&str, u64> = kept
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, count)| (name.trim_end(), count.parse().unwrap()))
        .collect();
    let mut grown = false;
    for (name, now) in counted {
        let before = kept.get(name.as_str()).copied();
        let change = before.map_or_else(
            || "new".to_owned(),
            |before| format!("{:+.1} %", (*now as f64 / before as f64 - 1.0) * 100.0),
        );
        println!("{name:48} {now:>12} {change:>9}");
        grown |= before.is_none_or(|before| *now > before + before * TOLERANCE / 100);
    }
    match (grown, same_compiler) {
        (false, _) => ExitCode::SUCCESS,
        (true, false) => {
            println!(
                "not judged: these counts were kept with another compiler than {}",
                made_with()
            );
            ExitCode::SUCCESS
        }
        (true, true) => {
            println!(
                "A count is new, or has grown by more than {TOLERANCE} %. If it is worth it:\n  \
                 cargo run --release --bin instructions -- --write"
            );
            ExitCode::FAILURE
        }
    }
}

fn written(counted: &BTreeMap<String, u64>) -> String {
    let mut text = format!(
        "# Instructions, by `cargo run --release --bin instructions -- --write`.\n{}\n",
        made_with()
    );
    for (name, count) in counted {
        let _ = writeln!(text, "{name:48} {count:>12}");
    }
    text
}

/// The compiler and what it compiles for.
fn made_with() -> String {
    let rustc = Command::new("rustc").arg("--version").output().expect("rustc");
    let version = String::from_utf8_lossy(&rustc.stdout);
    format!("# {}, {}", version.trim(), std::env::consts::ARCH)
}

/// The instructions of one round.
fn count(name: &str) -> u64 {
    const FEW: u64 = 2;
    const MANY: u64 = 10;
    (run(name, MANY) - run(name, FEW)) / (MANY - FEW)
}

/// The instructions of a process.
fn run(name: &str, rounds: u64) -> u64 {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    // Little that depends on the machine may be in the memory of the process.
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.arg(std::env::current_exe().unwrap()).args(["run", name, &rounds.to_string()]);
    let output = command.output().expect("valgrind, a package of this name");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let collected = words.lines().find_map(|line| line.split("Collected :").nth(1));
    collected.expect("a count").trim().parse().unwrap()
}

/// All work, by name.
fn all() -> BTreeMap<&'static str, Work> {
    let usual = r#""text":"a call of the usual size","n":1"#;
    let long = format!(r#""text":"{}""#, "a \\\"long\\\" text\\n".repeat(50_000));
    let keys = format!(r#""keys":{{{}}}"#, many(40_000, |n| format!(r#""key-{n}":{n}.5"#)));
    let deep = format!(r#""deep":{}{}"#, "[".repeat(100), "]".repeat(100));
    let deep = format!(r#""all":[{}]"#, many(2000, |_| format!("{{{deep}}}")));
    let mut works: BTreeMap<&'static str, Work> = BTreeMap::new();
    works.insert("request: usual", request(call(usual)));
    works.insert(
        "request: usual, of a profile",
        request(call(&format!(r#"{usual},"aws_profile":"prod""#))),
    );
    works.insert("request: one long string", request(call(&long)));
    works.insert("request: many keys and numbers", request(call(&keys)));
    works.insert("request: deep", request(call(&deep)));
    works.insert("answer: usual", answer(response("a result of the usual size")));
    works.insert("answer: a megabyte", answer(response(&"a \\\"long\\\" text\\n".repeat(60_000))));
    works.insert("events: 100 of them", events());
    works.insert("tools/list: 100 tools", list());
    works
}

fn many(count: usize, one: impl Fn(usize) -> String) -> String {
    (0..count).map(one).collect::<Vec<_>>().join(",")
}

fn call(arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":"call-0000001","method":"tools/call","params":{{"name":"echo","arguments":{{{arguments}}},"_meta":{{"progressToken":7}}}}}}"#
    )
}

fn response(text: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":"call-0000001","result":{{"content":[{{"type":"text","text":"{text}"}}],"isError":false}}}}"#
    )
}

fn offer() -> Offer {
    let argument = ProfileArgument { name: "aws_profile".to_owned(), tools: Globs::default() };
    let names = ["dev", "prod"].map(|name| ProfileName::parse(name).unwrap());
    Offer::new(Profiles::new(names.to_vec()), argument)
}

fn read(text: &str) -> Request {
    match Incoming::read(text.to_owned().into()) {
        Ok(Incoming::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// *receive, route*: read, the profile found and cut out, the metadata put in.
fn request(text: String) -> Work {
    let offer = offer();
    let metadata = [("AWS_REGION".to_owned(), "\"eu-west-1\"".to_owned())];
    Box::new(move || {
        let request = read(black_box(&text));
        let choice = offer.of_tool_call(&request, "aws_profile").unwrap();
        black_box(request.finish(choice.cut, &metadata).unwrap());
    })
}

/// *stream, reply*: a body in JSON, up to the line for the client.
fn answer(text: String) -> Work {
    Box::new(move || {
        let text = black_box(&text).clone();
        assert!(wire::batch(&text).unwrap().is_none());
        let line = wire::one_line(text);
        assert!(Envelope::parse(&line).unwrap().result.is_some());
        black_box(line);
    })
}

/// *stream*: progress and a response as events, in pieces as the network brings them.
fn events() -> Work {
    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1}}"#;
    let event = |n: usize| format!("event: message\r\nid: {n}\r\ndata: {progress}\r\n\r\n");
    let stream: String = (0..100).map(event).collect();
    Box::new(move || {
        let mut parser = Parser::new(1 << 20, None);
        let mut seen = 0;
        for piece in black_box(&stream).as_bytes().chunks(1400) {
            parser.push(piece);
            while let Some(event) = parser.pop() {
                let Event::Message(text) = event else { panic!("{event:?}") };
                assert!(wire::batch(&text).unwrap().is_none());
                let line = wire::one_line(text);
                assert!(Envelope::parse(&line).is_ok());
                seen += 1;
            }
        }
        assert_eq!(seen, 100);
    })
}

/// *reply*: a list of tools as the client sees it.
fn list() -> Work {
    let tool = |n: usize| {
        format!(
            r#"{{"name":"tool-{n}","description":"Does {n}","inputSchema":{{"type":"object","properties":{{"text":{{"type":"string"}}}},"required":["text"]}}}}"#
        )
    };
    let tools = many(100, tool);
    let text = format!(r#"{{"jsonrpc":"2.0","id":2,"result":{{"tools":[{tools}]}}}}"#);
    let offer = offer();
    Box::new(move || {
        let catalog = Catalog::new(ToolPolicy::default());
        let changed = catalog.rewrite(black_box(&text), false, &offer, |_| None);
        assert!(changed.unwrap().contains("aws_profile"));
    })
}
