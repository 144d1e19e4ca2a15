//! The programs accept what the README and those of the two crates show.

use std::ffi::OsString;

use sigward_proxy::cli;
use sigward_proxy::environment::Environment;
use sigward_tests::{figures, processes};

const README: &str = include_str!("../../README.md");
const READMES: [&str; 3] =
    [README, include_str!("../../broker/README.md"), include_str!("../../proxy/README.md")];
const CI: &str = include_str!("../../.ci/run");

/// The fenced blocks of a language, in all READMEs.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let of = |text: &'static str| {
        let blocks = text.split(fence.as_str()).skip(1);
        blocks.map(|rest| rest.split("```").next().unwrap_or_default()).collect::<Vec<_>>()
    };
    READMES.into_iter().flat_map(of).collect()
}

#[test]
fn its_broker_configurations_are_valid() {
    let blocks = blocks("toml");
    assert!(!blocks.is_empty());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("broker.toml");
    for block in blocks {
        // The group is one that an administrator creates; here there is only our own.
        let gid = rustix::process::getgid().as_raw();
        let block = block.replace("group = \"mcp\"", &format!("group = \"{gid}\""));
        std::fs::write(&path, &block).expect("a writable directory");
        let config = sigward_broker::config::read(&path, 1000);
        assert!(config.is_ok(), "{}\n{block}", config.expect_err("the error"));
        // The deny twin: an unknown key is an error.
        std::fs::write(&path, format!("unknown = 1\n{block}")).expect("a writable directory");
        assert!(sigward_broker::config::read(&path, 1000).is_err());
    }
}

#[test]
fn its_client_configurations_are_commands_that_the_proxy_accepts() {
    let blocks = blocks("json");
    assert!(blocks.len() >= 2);
    for block in blocks {
        let config: serde_json::Value = serde_json::from_str(block).expect(block);
        let servers = config.get("mcpServers").or_else(|| config.get("servers"));
        for (name, server) in servers.and_then(|it| it.as_object()).expect(block) {
            if let Some(url) = server["url"].as_str() {
                let address = url.strip_prefix("http://").and_then(|it| it.strip_suffix("/mcp"));
                let listens = format!("--listen {}", address.expect(url));
                assert!(README.contains(&listens), "{name}: nothing listens at {url}");
                continue;
            }
            assert_eq!(server["command"], "sigward-proxy", "{name}");
            let arguments = server["args"].as_array().expect(block).iter();
            assert_accepted(arguments.map(|argument| argument.as_str().expect(block)));
        }
    }
    let lines = READMES.into_iter().flat_map(str::lines);
    let commands: Vec<&str> =
        lines.filter_map(|line| line.strip_prefix("sigward-proxy ")).collect();
    assert!(!commands.is_empty());
    let is_of =
        |word: &str| commands.iter().filter(|it| it.split(' ').next() == Some(word)).count();
    assert!(is_of("config") == 2 && is_of("check") == 1, "{commands:#?}");
    for command in commands {
        let command = command.split(" #").next().unwrap_or(command);
        assert_accepted(command.split_whitespace());
    }
}

fn assert_accepted<'a>(arguments: impl Iterator<Item = &'a str>) {
    let all: Vec<OsString> =
        ["sigward-proxy"].into_iter().chain(arguments).map(OsString::from).collect();
    let environment = Environment::of_process();
    let config = cli::config(all.clone()).map(|it| it.map(drop));
    let check = cli::check(all.clone(), &environment).map(|it| it.map(drop));
    let parsed = config.or(check).unwrap_or_else(|| cli::parse(all, &environment).map(drop));
    assert!(parsed.is_ok(), "{}", parsed.expect_err("the error"));
}

fn is_option(word: &str) -> bool {
    word.strip_prefix("--").is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
}

#[tokio::test]
async fn the_options_in_it_exist() {
    let help = async |program: &std::path::Path, arguments: &[&str]| {
        let mut command = tokio::process::Command::new(program);
        let output = command.args(arguments).arg("--help").output().await.expect("it starts");
        String::from_utf8(output.stdout).expect("text")
    };
    let binaries = processes::binaries();
    let mut known = help(&binaries.proxy, &[]).await;
    for subcommand in ["config", "check"] {
        known.push_str(&help(&binaries.proxy, &[subcommand]).await);
    }
    let subcommands =
        [&["serve"][..], &["check"], &["status"], &["explain"], &["audit", "verify"], &["setup"]];
    for subcommand in subcommands {
        known.push_str(&help(&binaries.broker, subcommand).await);
    }
    let is_end = |c: char| !(c.is_ascii_alphanumeric() || c == '-');
    let words = READMES.into_iter().flat_map(|text| text.split(is_end));
    let cargo = ["--release", "--bin", "--workspace", "--locked", "--path"];
    let others = ["--write", "--only", "--version", "--timestamp"];
    let is_others = |word: &&str| cargo.contains(word) || others.contains(word);
    let options: Vec<&str> = words.filter(|word| is_option(word) && !is_others(word)).collect();
    assert!(options.len() > 5);
    for option in options {
        assert!(known.contains(option), "{option} is in a README, but in no --help");
    }
}

#[test]
fn its_two_commands_are_those_of_ci() {
    let commands = blocks("sh");
    for command in ["cargo run --release --bin demo", "cargo test --workspace"] {
        assert!(commands.iter().any(|block| block.trim() == command), "{command}");
        assert!(CI.lines().any(|line| line == command), "{command}");
    }
}

/// `cargo run --release --bin speed -- --write` writes both.
#[test]
fn its_figures_are_those_of_the_last_benchmark() {
    let table = include_str!("../bench/speed.md");
    assert_eq!(figures::shown(README), Some(table));
    let other = figures::replaced(README, "another table\n").expect("both markers");
    assert_eq!(figures::shown(&other), Some("another table\n"));
    assert_eq!(figures::replaced(&other, table).as_deref(), Some(README));
    assert_eq!(figures::shown("no markers"), None);
    assert_eq!(figures::replaced("no markers", table), None);
}
