//! The result of reading the AWS files and the token's cache for a profile.
//!
//! Invariant: it contains no key. The inputs of credentials are compared by their hash.

use std::path::PathBuf;

use super::traceable::Traceable;
use crate::error::Denial;

/// The result of one reading, for one profile.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    /// The number of the reading: later ones have higher numbers, and two with the same number have
    /// the same text.
    pub(super) version: u64,
    pub(super) about: About,
    pub(super) found: Found,
}

/// The data of the files about a profile, for lists.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) region: Option<String>,
    pub(super) source: &'static str,
    /// The reason why it can't sign, as far as it is known without calling AWS.
    pub(super) hindrance: Option<Denial>,
    /// The account and the role of its credentials, if the files name them; else empty.
    pub(super) account: String,
    pub(super) role: String,
    /// Whether AWS can tell apart the agents that use it; `None` if that is unknown.
    pub(super) traceable: Option<Traceable>,
}

/// The start of a load.
#[derive(Debug, Clone)]
pub(super) enum Found {
    Inputs(Inputs),
    /// The file can't be parsed: it may be half written.
    Unreadable(Denial),
    /// The profile doesn't exist.
    Gone,
}

/// Everything that determines the credentials of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inputs {
    /// The hash of all settings in the AWS files.
    pub(super) files: [u8; 32],
    /// The same, with the sign-in. The broker's own renewals of its token belong to the same sign-in.
    pub(super) all: [u8; 32],
    /// The same, with the current token.
    pub(super) exact: [u8; 32],
    /// The cache file of the token, or of the login session.
    pub(super) token: Option<PathBuf>,
}

/// The kind of changed inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The settings of the files: the credentials may be another identity's.
    Files,
    /// The sign-in behind them.
    Token,
}

/// The effect of a reading on a profile.
#[derive(Debug)]
pub(super) enum Taken {
    /// Nothing changes.
    Same,
    /// The profile is reloaded.
    Reloads,
    /// Its keys are dropped.
    Dropped,
    /// The files can't be parsed, and the profile is unchanged.
    Kept(Denial),
}

impl Inputs {
    /// The change since the inputs of a failed load, if any: the failure may be due to a token that
    /// has been renewed since.
    pub(super) fn change_since_failure(&self, before: Option<&Self>) -> Option<Change> {
        let renewed = before.is_some_and(|before| before.exact != self.exact);
        self.change(before).or(renewed.then_some(Change::Token))
    }

    /// The change since earlier inputs, if any.
    pub(super) fn change(&self, before: Option<&Self>) -> Option<Change> {
        match before {
            Some(before) if before.files != self.files => Some(Change::Files),
            Some(before) if before.all != self.all => Some(Change::Token),
            Some(_) => None,
            None => Some(Change::Files),
        }
    }
}
