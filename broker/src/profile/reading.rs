//! What one reading of the AWS files and of the token's cache says about a profile.
//!
//! Invariant: it holds no key. The inputs of credentials are compared by their hash.

use std::path::PathBuf;

use super::traceable::Traceable;
use crate::error::Denial;

/// One reading, for one profile.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    /// Which reading of the files it is: a later one has a higher number, and two of the same number are of the same
    /// text.
    pub(super) version: u64,
    pub(super) about: About,
    pub(super) found: Found,
}

/// What the files say about a profile, for those who list it.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) region: Option<String>,
    pub(super) source: &'static str,
    /// Why it can't sign, as far as that can be told without asking anyone.
    pub(super) hindrance: Option<Denial>,
    /// The account and the role of its credentials, as far as the files name them; else empty.
    pub(super) account: String,
    pub(super) role: String,
    /// Whether AWS can tell agents apart that use it; none where nobody can tell.
    pub(super) traceable: Option<Traceable>,
}

/// What a load would begin with.
#[derive(Debug, Clone)]
pub(super) enum Found {
    Inputs(Inputs),
    /// Nobody can tell: the file may be half written.
    Unreadable(Denial),
    /// The profile isn't there.
    Gone,
}

/// All that decides about the credentials of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inputs {
    /// The hash of all that the AWS files say about it.
    pub(super) files: [u8; 32],
    /// The same, with the sign-in. Our own renewals of its token are the same sign-in.
    pub(super) all: [u8; 32],
    /// The same, with the token as it is now.
    pub(super) exact: [u8; 32],
    /// The cache file of the token, or of the login session.
    pub(super) token: Option<PathBuf>,
}

/// Which inputs of the credentials have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// What the files say: they may be someone else's.
    Files,
    /// The sign-in behind them.
    Token,
}

/// What a reading of the files makes of a profile.
#[derive(Debug)]
pub(super) enum Taken {
    /// Nothing is to be done.
    Same,
    /// It is loaded again.
    Reloads,
    /// Its keys are dropped.
    Dropped,
    /// Nobody can tell what the files say, and it stays as it was.
    Kept(Denial),
}

impl Inputs {
    /// What differs from what a load had read that failed, if anything: that may come of a token which has been renewed
    /// since.
    pub(super) fn change_since_failure(&self, before: Option<&Self>) -> Option<Change> {
        let renewed = before.is_some_and(|before| before.exact != self.exact);
        self.change(before).or(renewed.then_some(Change::Token))
    }

    /// What differs from what was read before, if anything.
    pub(super) fn change(&self, before: Option<&Self>) -> Option<Change> {
        match before {
            Some(before) if before.files != self.files => Some(Change::Files),
            Some(before) if before.all != self.all => Some(Change::Token),
            Some(_) => None,
            None => Some(Change::Files),
        }
    }
}
