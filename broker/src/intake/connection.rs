//! One caller's connection, with the peer that was identified on accept, if any.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use super::counts::Place;
use super::guarded::{Guard, Guarded};
use crate::pace::Paces;
use crate::peer::{Caller, ConnectionId, Peer};

/// How long a new connection may be silent: HTTP/2 begins with 24 bytes from the client.
const OPENING: Duration = Duration::from_secs(10);
const PREFACE: usize = 24;
/// The time and bytes that a stranger's connection gets: enough to refuse one call of any size.
const STRANGER_LIFE: Duration = Duration::from_secs(2);
const STRANGER_BYTES: usize = 384 << 10;

/// One caller's connection.
pub(crate) type Connection<S> = Guarded<S, Admitted>;

/// The caller of a connection, and the limits of reading from it.
pub(crate) struct Admitted {
    caller: Caller,
    /// When the connection is closed, unless enough bytes were read by then.
    deadline: Option<Pin<Box<Sleep>>>,
    stranger: bool,
    read: usize,
    /// Closes the connection in any case: its peer is no longer authenticated.
    ended: Option<BoxFuture<'static, ()>>,
    _place: Place,
    _departure: Departure,
    /// Dropped with the connection, which tells the private broker that its proxy is gone.
    _open: Option<mpsc::Sender<()>>,
}

impl Admitted {
    pub(super) fn new(
        peer: Option<Arc<Peer>>,
        known: bool,
        place: Place,
        paces: &Arc<Paces>,
        open: Option<mpsc::Sender<()>>,
    ) -> Self {
        let connection = ConnectionId::next();
        let departure = Departure::of(connection, paces);
        let life = if known { OPENING } else { STRANGER_LIFE };
        Self {
            caller: Caller { peer, connection },
            deadline: Some(Box::pin(tokio::time::sleep(life))),
            stranger: !known,
            read: 0,
            ended: None,
            _place: place,
            _departure: departure,
            _open: open,
        }
    }

    /// Closes the connection when `ended` completes.
    pub(super) fn until(self, ended: BoxFuture<'static, ()>) -> Self {
        Self { ended: Some(ended), ..self }
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let late = self.deadline.as_mut().is_some_and(|it| it.as_mut().poll(context).is_ready());
        late || (self.stranger && self.read > STRANGER_BYTES)
    }
}

/// Releases the exchanges in flight of a closed connection: a caller that has died can't report
/// their end.
struct Departure {
    paces: Arc<Paces>,
    connection: ConnectionId,
}

impl Departure {
    fn of(connection: ConnectionId, paces: &Arc<Paces>) -> Self {
        paces.opened(connection);
        Self { paces: Arc::clone(paces), connection }
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        self.paces.closed(self.connection);
    }
}

impl Guard for Admitted {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let over = self.deadline.is_some() && self.is_over(context);
        let is_ended = |ended: &mut BoxFuture<'_, ()>| ended.as_mut().poll(context).is_ready();
        if over || self.ended.as_mut().is_some_and(is_ended) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    fn has_read(&mut self, count: usize) {
        if self.deadline.is_some() {
            self.read += count;
            if self.read >= PREFACE && !self.stranger {
                self.deadline = None;
            }
        }
    }
}

impl std::fmt::Debug for Admitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admitted").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.guard.caller.clone()
    }
}
