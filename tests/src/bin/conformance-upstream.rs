//! The server for the MCP conformance suite, to run the suite by hand.
//!
//! ```text
//! cargo run -p sigward-tests --bin conformance-upstream -- 8080
//! conformance server --url http://127.0.0.1:8080/mcp --requirements 2026-07-28
//! ```
//! It prints its URL and runs until it is stopped. It verifies no signatures.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a tool for developers: standard output is its only output"
)]

use std::io::Write as _;

use sigward_tests::conformance::Server;

#[tokio::main]
async fn main() {
    let port = std::env::args().nth(1).expect("conformance-upstream PORT");
    let server = Server::start(port.parse().expect("PORT is a number")).await;
    println!("{}", server.url());
    std::io::stdout().flush().expect("an open standard output");
    std::future::pending::<()>().await;
}
