//! `sigward-broker` keeps AWS credentials and signs HTTP requests for callers who may not hold them.
//!
//! The life of a signature:
//!
//! ```text
//!  caller ──▶ accept ──▶ identify ──▶ parse ──▶ authorize ──▶ resolve ──▶ sign ──▶ audit ──▶ reply
//!             intake     peer         request   policy        profile     sign     audit     service
//! ```
//!
//! What it trusts: its configuration, its own user's AWS files, and what the kernel reports about the peer.
//! What it doesn't: anything that a caller sends. A caller chooses a profile and a request; the host,
//! service, region, time and encoding of a signature come from the broker's configuration and clock.
//!
//! The modules stand in the order in which data flows, and import only what stands below them (the
//! blank lines keep the formatter from sorting them).

// Hidden: through it the fuzz targets (broker/fuzz) reach parsers that are private.
#[doc(hidden)]
pub mod fuzz;

pub mod cli;

pub mod server;

mod confine;

mod intake;

mod service;

pub mod metrics;

pub mod audit;

pub mod sign;

pub mod pace;

pub mod profile;

pub mod policy;

pub mod request;

pub mod call;

pub mod config;

pub mod peer;

pub mod endpoint;

pub mod secret;

mod trusted;

pub mod process;

pub mod error;

pub mod log;

pub mod clock;

pub mod memory;

#[cfg(test)]
mod deadline;

/// What `--version` says, and what proxies are told: the version, the commit and the date.
pub const VERSION: &str = env!("SIGWARD_VERSION");
