//! What the broker is told: a file, or the flags of `serve`.
//!
//! Invariant: a [`Config`] is consistent. Every name that it mentions exists, every value was
//! checked, and nothing that was written is ignored: what this version can't do is a fault. Parsing
//! touches neither the network nor the AWS files.

mod file;
mod flags;
mod model;
mod reader;
mod role;

pub use self::file::{parse, read};
pub use self::flags::Flags;
pub use self::model::{
    Audit, AuditTarget, AwsFiles, Config, CredentialsFrom, Group, Listen, Names, Profile,
    ProfileName, Rate, Role, Rule, Tools,
};

#[cfg(test)]
mod tests;
