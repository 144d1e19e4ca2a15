//! Whether a proxy and a broker of different versions understand each other, and if not, which of the two to update.
//!
//! Both are numbers of the protocol, not of the programs: releases that only add to `sigward.broker.v1` keep it, and work
//! with each other.

use crate::v1::Version;

/// The protocol of this version.
pub const PROTOCOL: u32 = 1;

/// The oldest protocol of the other side that this version understands.
pub const OLDEST_PROTOCOL: u32 = 1;

/// The program that has to be updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outdated {
    /// It is too old for this side.
    Broker,
    /// This side is too old for the broker.
    Proxy,
}

/// What a broker of this version tells its callers.
#[must_use]
pub fn of_broker(program: &str) -> Version {
    Version { program: program.to_owned(), protocol: PROTOCOL, oldest_protocol: OLDEST_PROTOCOL }
}

/// Whether a proxy of this version understands a broker that said this. A broker that said nothing is older than the
/// question, and speaks the first protocol.
///
/// # Errors
/// The program to update.
pub fn check(broker: Option<&Version>) -> Result<(), Outdated> {
    compare(PROTOCOL, OLDEST_PROTOCOL, broker)
}

fn compare(ours: u32, oldest: u32, broker: Option<&Version>) -> Result<(), Outdated> {
    let number = |of: fn(&Version) -> u32| broker.map_or(1, of).max(1);
    let (theirs, their_oldest) = (number(|it| it.protocol), number(|it| it.oldest_protocol));
    // Whoever is behind is the one to update, should both be out of reach of each other.
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
    fn versions_that_overlap_fit_and_of_others_the_older_is_to_be_updated() {
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
            // It wants more of its callers than it speaks itself: nonsense, and no reason to sign.
            (2, 1, Some(version(1, 3)), Err(Outdated::Broker)),
        ] {
            assert_eq!(compare(ours, oldest, broker.as_ref()), expected, "{ours} {broker:?}");
        }
    }

    #[test]
    fn a_proxy_and_a_broker_of_this_version_fit() {
        assert_eq!(check(Some(&of_broker("0.1.0"))), Ok(()));
    }
}
