//! The state of a session: closed, opening, open, or closing.

use std::sync::Arc;

use futures_util::future::{BoxFuture, Shared};

use super::live::Live;
use super::subscriptions::Subscriptions;
use crate::error::Error;

/// A shared handshake. `None` means that the client's own handshake failed.
pub(super) type Opening = Shared<BoxFuture<'static, Result<Option<Arc<Live>>, Arc<Error>>>>;

#[derive(Debug, Default)]
pub(super) enum Phase {
    /// Not open yet, or lost: it can be opened.
    #[default]
    Closed,
    /// Its handshake is in flight.
    Opening(Opening),
    /// Requests can be sent over it.
    Open(Arc<Live>),
    /// Its client has closed. No session opens any more, and one that is opening is ended.
    Closing,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Counts the successive sessions.
    pub(super) epoch: u64,
    pub(super) subscriptions: Subscriptions,
}

impl State {
    /// The open session, if it is open.
    pub(super) fn current(&self) -> Option<Arc<Live>> {
        match &self.phase {
            Phase::Open(live) => Some(Arc::clone(live)),
            Phase::Closed | Phase::Opening(_) | Phase::Closing => None,
        }
    }

    /// Whether the session is open or opening.
    pub(super) fn is_in_use(&self) -> bool {
        matches!(self.phase, Phase::Opening(_) | Phase::Open(_))
    }

    /// Begins an opening, unless the client has closed. Returns its epoch.
    pub(super) fn begin(&mut self, opening: Opening) -> u64 {
        self.epoch += 1;
        if !matches!(self.phase, Phase::Closing) {
            self.phase = Phase::Opening(opening);
        }
        self.epoch
    }

    /// Ends the opening with this epoch. Returns false if the session is no longer wanted.
    pub(super) fn opened(&mut self, epoch: u64, phase: Phase) -> bool {
        let is_wanted = matches!(self.phase, Phase::Opening(_)) && self.epoch == epoch;
        if is_wanted {
            self.phase = phase;
        }
        is_wanted
    }

    /// Marks the session `lost` as lost. Returns false if that isn't the open session any more.
    pub(super) fn lose(&mut self, lost: &Live) -> bool {
        let is_open = matches!(&self.phase, Phase::Open(live) if live.epoch() == lost.epoch());
        if is_open {
            self.phase = Phase::Closed;
        }
        is_open
    }

    /// Marks the session as closing, and returns the phase before.
    pub(super) fn close(&mut self) -> Phase {
        std::mem::replace(&mut self.phase, Phase::Closing)
    }
}
