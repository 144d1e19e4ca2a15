//! # sigward-proxy
//!
//! Speaks MCP to an agent and to MCP servers on AWS. A broker signs every HTTP request. The proxy
//! reads no AWS file, resolves no profile and holds no secret.
//!
//! A message passes through these phases. They are modules in this order, and each imports only
//! modules listed below it:
//!
//! ```text
//! receive   downstream   a line of standard input, or a POST
//!           request      read once; nothing in it is ambiguous
//! route     client       retries, sign-ins, the state of one client
//!           route        finds the profile of the call, and checks that the tool may be called
//! sign      exchange     chooses the session, and sends again where that is safe
//!           upstream     final bytes and headers ─▶ signer ─▶ broker ─▶ signature
//! send      upstream     exactly the bytes that were signed
//! stream    exchange     message by message, or frame by frame unchanged; resumed, checked
//! reply     client       under the id token of the request
//! ```
//!
//! The proxy trusts the broker for signatures, and its own command line. It doesn't trust messages of the client or the
//! server: their size is bounded, and they are handled only as text.

mod run;

pub mod launch;

pub mod cli;

mod health;

pub mod downstream;

pub mod client;

mod old_client;

mod route;

mod tasks;

pub mod tools;

pub mod profile;

mod exchange;

pub mod session;

pub mod request;

mod metadata;

mod throttle;

pub mod protocol;

pub mod upstream;

pub mod signer;

pub mod sse;

mod attempt;

pub mod broker;

pub mod budget;

pub mod environment;

pub mod error;

pub mod wire;

pub mod log;

pub mod config;

mod sync;

mod wait;

pub use self::run::main;

/// The text that `--version` prints: version, commit and date.
pub const VERSION: &str = env!("SIGWARD_VERSION");
