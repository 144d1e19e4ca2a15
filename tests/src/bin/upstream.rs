//! The verifying MCP server of the tests, to try a proxy by hand.
//!
//! ```text
//! cargo run -p sigward-tests --bin upstream -- --port 0 --home home
//! HOME=$PWD/home sigward-proxy URL --profile dev staging prod --service aws-mcp --region us-east-1
//! ```
//! It prints its URL on the first line and then the keys that it knows, as an AWS credentials file. `--home DIR` writes
//! `DIR/.aws/config` and `DIR/.aws/credentials` with the same keys, new ones at every start. `--sse` answers in event
//! streams; `--forgetful` keeps no record of the requests, for benchmarks. It runs until it is stopped.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a tool for developers: standard output is its only output"
)]

use std::io::Write as _;
use std::path::Path;

use sigward_tests::aws_home::AwsHome;
use sigward_tests::upstream::{Answers, REGION, SERVICE, Upstream};

#[tokio::main]
async fn main() {
    let (mut port, mut home, mut answers, mut forgetful) = (0, None, Answers::Json, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} wants a value"));
        match argument.as_str() {
            "--port" => port = value().parse().expect("--port wants a number"),
            "--home" => home = Some(value()),
            "--sse" => answers = Answers::Events,
            "--forgetful" => forgetful = true,
            _ => {
                panic!("unknown argument {argument}; there are --port, --home, --sse, --forgetful")
            }
        }
    }
    let home = home.map_or_else(AwsHome::new, |path| AwsHome::at(Path::new(&path)));
    let mut builder = Upstream::builder(home.keys()).port(port).answers(answers);
    if forgetful {
        builder = builder.forgetful();
    }
    let upstream = builder.start().await;

    println!("{}", upstream.url());
    println!("# service {SERVICE}, region {REGION}; home {}", home.path().display());
    println!(
        "{}",
        std::fs::read_to_string(home.credentials_file()).expect("the file just written")
    );
    std::io::stdout().flush().expect("an open standard output");
    std::future::pending::<()>().await;
}
