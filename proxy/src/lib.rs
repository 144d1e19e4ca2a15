//! # sigward-proxy
//!
//! Speaks MCP to an agent and to MCP servers on AWS, and has every HTTP request signed by a broker.
//! It reads no AWS file, resolves no profile and holds no secret.
//!
//! A message passes these phases, which are modules from top to bottom, each importing only what
//! stands below it:
//!
//! ```text
//! receive   downstream   a line of standard input, or a POST
//!           request      read once; nothing in it is ambiguous
//! route     client       retries, sign-ins, the state of one client
//!           route        which profile does the call name, may the tool be called
//! sign      exchange     over which session, and again where that is safe
//!           upstream     final bytes and headers ─▶ signer ─▶ broker ─▶ signature
//! send      upstream     exactly what was signed
//! stream    exchange     message by message, or frame by frame as they came; resumed, judged
//! reply     client       under the id token that the request came with
//! ```
//!
//! It trusts the broker for signatures, and its own command line. It doesn't trust the messages of the
//! client and of the server: they are bounded, and handled as text only.

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

/// What `--version` says: the version, the commit and the date.
pub const VERSION: &str = env!("SIGWARD_VERSION");
