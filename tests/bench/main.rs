//! What a call costs, and how that grows.
//!
//! `cargo run --release --bin speed` runs the proxy with its private broker against a server that costs next
//! to nothing, side by side with the same calls straight to that server, and with mcp-proxy-for-aws 1.7.0. It prints
//! the table. The load is bounded: it takes about two minutes on two cores.
//!
//! - `-- --only calls,start` measures some parts alone, in seconds;
//! - `-- --write` measures everything, draws how cost grows, and writes `tests/bench/speed.md`, `speed.svg` and the
//!   table in the README.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program for developers, which prints its measurements"
)]

mod direct;
mod listening;
mod measure;
mod messages;
mod parts;
mod proxy;
mod reference;
mod report;
mod scene;
mod server;
mod svg;

use std::fs;
use std::process::ExitCode;

use sigward_tests::{figures, processes};

use crate::parts::{Part, Parts};
use crate::reference::Compared;
use crate::scene::Scene;

/// What the command line asks for.
struct Options {
    parts: Parts,
    write: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == [server::ARGUMENT] {
        server::serve();
        return ExitCode::SUCCESS;
    }
    let options = match options(&arguments) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("speed: {why}");
            return ExitCode::from(2);
        }
    };
    eprintln!("building both programs …");
    let scene = Scene::new();
    eprintln!("measuring …");
    let figures = measure::figures(&scene, &options.parts);
    let compared = options.parts.has(Part::Reference).then(|| Compared::measure(&scene));
    let table = report::table(&figures, compared.as_ref());
    println!("{table}");
    if options.write {
        eprintln!("measuring how cost grows …");
        write(&table, &svg::draw(&measure::growth(&scene)));
    }
    ExitCode::SUCCESS
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => Ok(Options { parts: Parts::all(), write: false }),
        ["--write"] => Ok(Options { parts: Parts::all(), write: true }),
        ["--only", list] => Ok(Options { parts: Parts::named(list)?, write: false }),
        _ => Err("takes --write, or --only PART[,PART…], or nothing".to_owned()),
    }
}

/// Puts the table and the drawing where the README and its readers find them.
fn write(table: &str, drawing: &str) {
    let workspace = processes::workspace();
    let directory = workspace.join("tests/bench");
    fs::write(directory.join("speed.md"), table).unwrap();
    fs::write(directory.join("speed.svg"), drawing).unwrap();
    let path = workspace.join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let readme = figures::replaced(&readme, table).expect("the README has both markers");
    fs::write(path, readme).unwrap();
}
