//! Whether a proxy and a broker of different versions are compatible, and if not, which one to update.
//!
//! The numbers are versions of the protocol, not of the programs: releases that only extend `sigward.broker.v1` keep
//! the number, and are compatible.

use crate::v1::Version;

/// The protocol version of this release.
pub const PROTOCOL: u32 = 1;

/// The oldest protocol version of the other side that this release supports.
pub const OLDEST_PROTOCOL: u32 = 1;

/// The program that must be updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outdated {
    /// The broker is too old for this proxy.
    Broker,
    /// This proxy is too old for the broker.
    Proxy,
}

/// The version that a broker of this release reports.
#[must_use]
pub fn of_broker(program: &str) -> Version {
    Version { program: program.to_owned(), protocol: PROTOCOL, oldest_protocol: OLDEST_PROTOCOL }
}

/// Whether a proxy of this release is compatible with a broker that reported this version. A broker that reported none
/// is older than this check, and uses protocol version 1.
///
/// # Errors
/// The program to update.
pub fn check(broker: Option<&Version>) -> Result<(), Outdated> {
    compare(PROTOCOL, OLDEST_PROTOCOL, broker)
}

fn compare(ours: u32, oldest: u32, broker: Option<&Version>) -> Result<(), Outdated> {
    let number = |of: fn(&Version) -> u32| broker.map_or(1, of).max(1);
    let (theirs, their_oldest) = (number(|it| it.protocol), number(|it| it.oldest_protocol));
    // If each is too old for the other, the one with the older protocol is updated.
    if ours < their_oldest && ours <= theirs {
        return Err(Outdated::Proxy);
    }
    if theirs < oldest || ours < their_oldest {
        return Err(Outdated::Broker);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(protocol: u32, oldest_protocol: u32) -> Version {
        Version { program: String::new(), protocol, oldest_protocol }
    }

    #[test]
    fn overlapping_versions_are_compatible_and_otherwise_the_older_is_named() {
        for (ours, oldest, broker, expected) in [
            (1, 1, None, Ok(())),
            (1, 1, Some(version(0, 0)), Ok(())),
            (1, 1, Some(version(1, 1)), Ok(())),
            (2, 1, None, Ok(())),
            (1, 1, Some(version(3, 1)), Ok(())),
            (3, 2, Some(version(2, 1)), Ok(())),
            (2, 2, None, Err(Outdated::Broker)),
            (3, 3, Some(version(2, 1)), Err(Outdated::Broker)),
            (1, 1, Some(version(3, 2)), Err(Outdated::Proxy)),
            (2, 2, Some(version(4, 3)), Err(Outdated::Proxy)),
            // It requires more of its callers than it supports itself, which is invalid and no reason to sign.
            (2, 1, Some(version(1, 3)), Err(Outdated::Broker)),
        ] {
            assert_eq!(compare(ours, oldest, broker.as_ref()), expected, "{ours} {broker:?}");
        }
    }

    #[test]
    fn a_proxy_and_a_broker_of_this_version_are_compatible() {
        assert_eq!(check(Some(&of_broker("0.1.0"))), Ok(()));
    }
}
