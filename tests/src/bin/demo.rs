//! `cargo run --release --bin demo`: see Sigward work, without an AWS account. It fails unless all that it shows is
//! true.
#![allow(clippy::print_stderr, reason = "a program for a terminal")]

use std::io::IsTerminal as _;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    #[allow(clippy::disallowed_methods, reason = "the edge of the program: the user's wish")]
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = std::io::stdout().is_terminal() && !plain;
    match sigward_tests::demo::run(colours).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}
