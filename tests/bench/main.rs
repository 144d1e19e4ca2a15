//! What a call costs, and how that grows.
//!
//! `cargo run --release --bin speed` runs the proxy with its private broker against a server that costs next
//! to nothing, side by side with the same calls straight to that server, and with mcp-proxy-for-aws 1.7.0. It prints
//! the table, and writes it to `tests/bench/speed.md` with a drawing beside it, which the README shows. The load is
//! bounded: it takes about two minutes on two cores. `-- --print` writes nothing; `-- --alone` leaves the comparison out, which
//! needs Python and a package registry.
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
mod proxy;
mod reference;
mod report;
mod scene;
mod server;
mod svg;

use std::fs;

use sigward_tests::processes;

use crate::reference::Compared;
use crate::scene::Scene;

fn main() {
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    if has(server::ARGUMENT) {
        return server::serve();
    }
    eprintln!("building both programs …");
    let scene = Scene::new();
    eprintln!("measuring …");
    let figures = measure::figures(&scene);
    let compared = (!has("--alone")).then(|| Compared::measure(&scene));
    let table = report::table(&figures, compared.as_ref());
    println!("{table}");
    if has("--print") {
        return;
    }
    eprintln!("measuring how cost grows …");
    let drawing = svg::draw(&measure::growth(&scene));
    let directory = processes::workspace().join("tests/bench");
    fs::write(directory.join("speed.md"), table).unwrap();
    fs::write(directory.join("speed.svg"), drawing).unwrap();
}
