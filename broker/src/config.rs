//! The configuration: a file, or the flags of `serve`.
//!
//! Invariant: a [`Config`] is consistent. Every name that it refers to exists, every value was
//! checked, and no setting is ignored: a setting that this version doesn't support is an error.
//! Parsing accesses neither the network nor the AWS files.

mod agent;
mod file;
mod flags;
mod guard_rails;
mod listen;
mod model;
mod pace;
mod reader;
mod role;
mod rule;

pub use self::agent::{AGENT_TAG, Agent, session_characters};
pub use self::file::{parse, read, read_text};
pub use self::flags::Flags;
pub use self::guard_rails::{GuardRails, SessionPolicies, partition};
pub use self::model::{
    Argument, Audit, AuditTarget, AwsFiles, Config, CredentialsFrom, Globs, Group, Listen, Must,
    Names, Profile, ProfileName, Rate, Role, Rotate, Rule, Scalar, Sync, Tcp, TlsFiles,
};
pub use self::pace::{Pace, PaceRate};

#[cfg(test)]
mod tests;
