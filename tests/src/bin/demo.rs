//! `cargo run --release --bin demo`: shows how Sigward works, without an AWS account. It fails unless everything that
//! it shows is true. With `-- --svg tests/demo` it draws the pictures of the README from what it has just shown.
#![allow(clippy::print_stderr, reason = "a program for a terminal")]

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    #[allow(clippy::disallowed_methods, reason = "the edge of the program: the user's wish")]
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = std::io::stdout().is_terminal() && !plain;
    let pictures = match pictures(std::env::args_os().skip(1).collect()) {
        Ok(pictures) => pictures,
        Err(error) => {
            eprintln!("demo: {error}");
            return ExitCode::from(2);
        }
    };
    match sigward_tests::demo::run(colours, pictures.as_deref()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The directory of `--svg DIRECTORY`.
fn pictures(arguments: Vec<OsString>) -> Result<Option<PathBuf>, String> {
    match arguments.as_slice() {
        [] => Ok(None),
        [option, directory] if option == "--svg" => Ok(Some(directory.into())),
        _ => Err("usage: demo [--svg DIRECTORY]".to_owned()),
    }
}
