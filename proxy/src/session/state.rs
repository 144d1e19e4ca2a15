//! The state of a session: closed, opening, open, or closing for good.

use std::sync::Arc;

use futures_util::future::{BoxFuture, Shared};

use super::live::Live;
use super::subscriptions::Subscriptions;
use crate::error::Error;

/// `None`: the client's own handshake came to nothing.
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
    /// Its client has ended. Nothing opens any more, and what still opens is ended.
    Closing,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Counts the sessions that were opened one after the other.
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

    /// Whether requests can be sent over it, now or in a moment.
    pub(super) fn is_in_use(&self) -> bool {
        matches!(self.phase, Phase::Opening(_) | Phase::Open(_))
    }

    /// Begins an opening, unless the client has ended: its epoch.
    pub(super) fn begin(&mut self, opening: Opening) -> u64 {
        self.epoch += 1;
        if !matches!(self.phase, Phase::Closing) {
            self.phase = Phase::Opening(opening);
        }
        self.epoch
    }

    /// The end of the opening of that epoch. False if nobody wants it any more.
    pub(super) fn opened(&mut self, epoch: u64, phase: Phase) -> bool {
        let is_wanted = matches!(self.phase, Phase::Opening(_)) && self.epoch == epoch;
        if is_wanted {
            self.phase = phase;
        }
        is_wanted
    }

    /// The server no longer knows the session `lost`. False if that isn't the open one any more.
    pub(super) fn lose(&mut self, lost: &Live) -> bool {
        let is_open = matches!(&self.phase, Phase::Open(live) if live.epoch() == lost.epoch());
        if is_open {
            self.phase = Phase::Closed;
        }
        is_open
    }

    /// The client has ended: what there was to end.
    pub(super) fn close(&mut self) -> Phase {
        std::mem::replace(&mut self.phase, Phase::Closing)
    }
}
