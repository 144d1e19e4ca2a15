//! `sigward-broker` keeps AWS credentials and signs HTTP requests for callers that must not have them.
//!
//! The life of a signature:
//!
//! ```text
//!  caller ──▶ accept ──▶ identify ──▶ parse ──▶ authorize ──▶ resolve ──▶ sign ──▶ audit ──▶ reply
//!             intake     peer         request   policy        profile     sign     audit     service
//! ```
//!
//! It trusts its configuration, the AWS files of its own user, and what the kernel reports about
//! the peer. It doesn't trust anything that a caller sends. A caller chooses a profile and a
//! request; the host, service, region, time and encoding of a signature come from the broker's
//! configuration and clock.
//!
//! The modules are listed in the order of the data flow, and import only modules listed below them
//! (the blank lines keep the formatter from sorting them).

// Hidden: gives the fuzz targets (broker/fuzz) access to private parsers.
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

/// The version, the commit and the date, for `--version` and for proxies.
pub const VERSION: &str = env!("SIGWARD_VERSION");
