//! How long a throttled request is sent again, and what its client sees of that.
//!
//! The server says that it didn't act, so the request is sent again, newly signed, after the time that the server asked
//! for, and within the time of the call. Where that isn't enough, the client gets the server's own answer: nothing of the
//! request is at work then.

use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::time::Instant;

use super::deadline::Deadline;
use super::first::{Attempt, Throttled, Tried};
use crate::budget::Message;
use crate::error::Error;
use crate::request::Request;
use crate::session::Session;
use crate::upstream::Sent;
use crate::wait::Backoff;
use crate::wire::{self, Object};

/// How often the client is told that its call waits.
const TICK: Duration = Duration::from_secs(1);
/// Before the end of the call, so that its client gets the server's own answer and not that of a timer.
const MARGIN: Duration = Duration::from_millis(50);

/// The patience with one request.
#[derive(Debug)]
pub(crate) struct Patience {
    until: Option<Instant>,
    backoff: Backoff,
    progress: Option<Progress>,
}

/// What came of sending.
pub(super) enum Outcome<T, A> {
    /// The server took the request.
    Taken(T),
    /// The time is up; the server's own answer.
    GaveUp(A),
}

/// What is being sent.
#[derive(Clone, Copy)]
pub(super) struct Sending<'a> {
    /// Over which session of which profile.
    pub(super) session: &'a Session,
    /// Set once the server may know of it.
    pub(super) sent: &'a Sent,
}

/// Tells a client that its call waits, where it asked for progress.
#[derive(Debug)]
struct Progress {
    token: String,
    out: tokio::sync::mpsc::Sender<Message>,
    host: String,
    since: Instant,
    count: u32,
}

impl Patience {
    /// That with `call`, whose messages go to `out`: up to `deadline`, or for `limit` where that has no end.
    pub(crate) fn new(
        call: &Request,
        out: &tokio::sync::mpsc::Sender<Message>,
        deadline: Deadline,
        limit: Duration,
    ) -> Self {
        let until = deadline.at().or_else(|| Instant::now().checked_add(limit));
        let until = until.map(|at| at.checked_sub(MARGIN).unwrap_or(at));
        Self { until, backoff: Backoff::default(), progress: Progress::of(call, out) }
    }

    /// Whether the client wants to see that its call waits.
    pub(crate) fn shows(call: &Request) -> bool {
        token_of(call).is_some()
    }

    /// Sends by `attempt` until the server takes the request; `held`: it was throttled before.
    pub(super) async fn until_taken<T, A, F>(
        &mut self,
        sending: Sending<'_>,
        held: Option<Throttled<A>>,
        first: Attempt,
        attempt: impl Fn(Attempt) -> F,
    ) -> Result<Outcome<T, A>, Error>
    where
        F: Future<Output = Result<Tried<T, A>, Error>>,
    {
        let (mut next, mut answer) = (first, None);
        if let Some(Throttled { proof, retry_after, answer: own }) = held {
            if !self.wait(sending, retry_after).await {
                return Ok(Outcome::GaveUp(own));
            }
            (next, answer) = (Attempt::Again(proof), Some(own));
        }
        loop {
            let work = pin!(attempt(next));
            let tried = match self.watched(sending, answer.is_some(), work).await {
                Some(tried) => tried?,
                None => match answer {
                    Some(own) => return Ok(Outcome::GaveUp(own)),
                    None => return Err(Error::NoAnswer),
                },
            };
            let Throttled { proof, retry_after, answer: own } = match tried {
                Tried::Taken(taken) => return Ok(Outcome::Taken(taken)),
                Tried::Throttled(throttled) => throttled,
            };
            // There is nothing that could be cancelled.
            sending.sent.unset();
            if !self.wait(sending, retry_after).await {
                return Ok(Outcome::GaveUp(own));
            }
            (next, answer) = (Attempt::Again(proof), Some(own));
        }
    }

    /// Waits as long as the server asks for. False, at once, if that is longer than the call may take.
    async fn wait(&mut self, sending: Sending<'_>, asked: Option<Duration>) -> bool {
        let now = Instant::now();
        let at = now.checked_add(self.backoff.next(asked));
        let Some(at) = at.filter(|at| self.until.is_none_or(|until| *at < until)) else {
            tracing::info!(profile = %sending.session.profile, "throttled, and out of time");
            return false;
        };
        tracing::info!(profile = %sending.session.profile, "throttled, sending it again in {:?}", at - now);
        while let left = at.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            tokio::time::sleep(left.min(TICK)).await;
            self.say(sending);
        }
        true
    }

    /// What comes of `work`; while it waits for its signature, the client is told so. None, of one that is sent again: the
    /// time is up, and nothing was sent.
    async fn watched<T>(
        &mut self,
        sending: Sending<'_>,
        is_again: bool,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        let shows = self.progress.is_some() && sending.session.link().is_paced();
        if !is_again && !shows {
            return Some(work.await);
        }
        let mut is_late = false;
        let until = self.until.filter(|_| is_again);
        loop {
            let late = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = late, if !is_late => {
                    if !sending.sent.is_set() {
                        return None;
                    }
                    is_late = true;
                }
                () = tokio::time::sleep(TICK) => {
                    if !sending.sent.is_set() {
                        self.say(sending);
                    }
                }
            }
        }
    }

    fn say(&mut self, sending: Sending<'_>) {
        if let Some(progress) = &mut self.progress {
            progress.host = sending.session.link().host().to_owned();
            progress.say();
        }
    }
}

/// The token under which a client wants to see progress, as JSON text.
fn token_of(call: &Request) -> Option<&str> {
    let meta = call
        .meta()
        .filter(|meta| memchr::memmem::find(meta.as_bytes(), b"progressToken").is_some())?;
    let token = Object::parse(meta).ok()?.find("progressToken")?;
    // MCP has texts and whole numbers.
    let is_one = token.starts_with('"') || token.parse::<i64>().is_ok();
    is_one.then_some(token)
}

impl Progress {
    fn of(call: &Request, out: &tokio::sync::mpsc::Sender<Message>) -> Option<Self> {
        let token = token_of(call)?.to_owned();
        let (out, host, since) = (out.clone(), String::new(), Instant::now());
        Some(Self { token, out, host, since, count: 0 })
    }

    /// A value must grow, and those of the server itself come later: it begins below 0, and never gets there.
    fn say(&mut self) {
        self.count = self.count.saturating_add(1);
        let value = -1.0 / f64::from(self.count);
        let seconds = self.since.elapsed().as_secs();
        let text = format!("Waiting for the quota of {} ({seconds} s)", self.host);
        let params = format!(
            r#"{{"progressToken":{},"progress":{value},"message":{}}}"#,
            self.token,
            wire::quote(&text)
        );
        let notification = wire::notification("notifications/progress", Some(&params));
        // A client that doesn't read misses it: the next one says the same.
        let _ = self.out.try_send(notification.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Incoming;

    fn call(meta: &str) -> Request {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","_meta":{meta}}}}}"#
        );
        match Incoming::read(text.into()).unwrap() {
            Incoming::Request(call) => call,
            Incoming::Other(..) => panic!("a request"),
        }
    }

    #[test]
    fn progress_is_shown_to_whoever_asks_for_it() {
        for (meta, token) in [
            (r#"{"progressToken":7}"#, Some("7")),
            (r#"{"progressToken":"a\u0062"}"#, Some(r#""a\u0062""#)),
            (r#"{"progressToken":null}"#, None),
            (r#"{"progressToken":{}}"#, None),
            (r#"{"other":"progressToken"}"#, None),
            ("{}", None),
        ] {
            assert_eq!(token_of(&call(meta)), token, "{meta}");
            assert_eq!(Patience::shows(&call(meta)), token.is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn its_values_grow_and_leave_room_for_those_of_the_server() {
        let (out, mut messages) = tokio::sync::mpsc::channel(4);
        let mut progress = Progress::of(&call(r#"{"progressToken":7}"#), &out).unwrap();
        let mut last = f64::NEG_INFINITY;
        for _ in 0..10 {
            progress.say();
            let said: serde_json::Value =
                serde_json::from_str(&messages.recv().await.unwrap().text).unwrap();
            assert_eq!(said["params"]["progressToken"], 7);
            let value = said["params"]["progress"].as_f64().unwrap();
            assert!(last < value && value < 0.0, "{said}");
            last = value;
        }
        // One that doesn't read holds nothing up.
        (0..10).for_each(|_| progress.say());
        assert_eq!(messages.len(), 4);
    }
}
