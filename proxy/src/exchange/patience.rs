//! Limits how long a throttled request is repeated, and reports the wait to its client.
//!
//! A server that throttles hasn't acted on the request, so the request is signed and sent again, after the time that
//! the server asked for and within the time limit of the call. If the limit is reached, the client gets the server's
//! own answer, and no attempt is in flight.

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

/// How often the client gets a progress notification while its call waits.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Subtracted from the deadline of the call, so that the client gets the server's own answer and not a timeout.
const MARGIN: Duration = Duration::from_millis(50);

/// The limits for repeating one request.
#[derive(Debug)]
pub(crate) struct Patience {
    until: Option<Instant>,
    backoff: Backoff,
    progress: Option<Progress>,
}

/// The result of sending.
pub(super) enum Outcome<T, A> {
    /// The server accepted the request.
    Taken(T),
    /// The time is up; contains the server's own answer.
    GaveUp(A),
}

/// The request that is sent.
#[derive(Clone, Copy)]
pub(super) struct Sending<'a> {
    /// Its session.
    pub(super) session: &'a Session,
    /// Set once the server may have received the request.
    pub(super) sent: &'a Sent,
}

/// Sends progress to a client whose call waits, if the client asked for progress.
#[derive(Debug)]
struct Progress {
    token: String,
    out: tokio::sync::mpsc::Sender<Message>,
    host: String,
    since: Instant,
    count: u32,
}

impl Patience {
    /// The limits for `call`: until `deadline`, or for `limit` if there is no deadline. Progress goes to `out`.
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

    /// Whether the client asked for progress.
    pub(crate) fn wants_progress(call: &Request) -> bool {
        token_of(call).is_some()
    }

    /// Repeats `attempt` until the server accepts the request. `held` is set if the request was
    /// throttled before.
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
        if let Some(Throttled { proof, retry_after, answer: refusal }) = held {
            if !self.wait(sending, retry_after).await {
                return Ok(Outcome::GaveUp(refusal));
            }
            (next, answer) = (Attempt::Again(proof), Some(refusal));
        }
        loop {
            let work = pin!(attempt(next));
            let tried = match self.watched(sending, answer.is_some(), work).await {
                Some(tried) => tried?,
                None => match answer {
                    Some(refusal) => return Ok(Outcome::GaveUp(refusal)),
                    None => return Err(Error::NoAnswer),
                },
            };
            let Throttled { proof, retry_after, answer: refusal } = match tried {
                Tried::Taken(taken) => return Ok(Outcome::Taken(taken)),
                Tried::Throttled(throttled) => throttled,
            };
            // No attempt is in flight that could be cancelled.
            sending.sent.unset();
            if !self.wait(sending, retry_after).await {
                return Ok(Outcome::GaveUp(refusal));
            }
            (next, answer) = (Attempt::Again(proof), Some(refusal));
        }
    }

    /// Waits as long as the server asks for. Returns false at once if that exceeds the time limit of the call.
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
            tokio::time::sleep(left.min(PROGRESS_INTERVAL)).await;
            self.report(sending);
        }
        true
    }

    /// The result of `work`. While it waits for its signature, the client gets progress. For a repeated request, `None`
    /// means that the time is up and nothing was sent.
    async fn watched<T>(
        &mut self,
        sending: Sending<'_>,
        is_repeated: bool,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        let wants_progress = self.progress.is_some() && sending.session.link().is_paced();
        if !is_repeated && !wants_progress {
            return Some(work.await);
        }
        let mut is_late = false;
        let until = self.until.filter(|_| is_repeated);
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
                () = tokio::time::sleep(PROGRESS_INTERVAL) => {
                    if !sending.sent.is_set() {
                        self.report(sending);
                    }
                }
            }
        }
    }

    fn report(&mut self, sending: Sending<'_>) {
        if let Some(progress) = &mut self.progress {
            progress.host = sending.session.link().host().to_owned();
            progress.report();
        }
    }
}

/// The client's progress token, as JSON text.
fn token_of(call: &Request) -> Option<&str> {
    let meta = call
        .meta()
        .filter(|meta| memchr::memmem::find(meta.as_bytes(), b"progressToken").is_some())?;
    let token = Object::parse(meta).ok()?.find("progressToken")?;
    // MCP has strings and integers.
    let is_one = token.starts_with('"') || token.parse::<i64>().is_ok();
    is_one.then_some(token)
}

impl Progress {
    fn of(call: &Request, out: &tokio::sync::mpsc::Sender<Message>) -> Option<Self> {
        let token = token_of(call)?.to_owned();
        let (out, host, since) = (out.clone(), String::new(), Instant::now());
        Some(Self { token, out, host, since, count: 0 })
    }

    /// Sends a progress notification. Progress must grow, and the server's own values come later, so these values begin
    /// at -1 and approach 0.
    fn report(&mut self) {
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
        // If the client doesn't read, it misses this one; the next one repeats it.
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
    fn progress_is_sent_only_to_clients_that_ask_for_it() {
        for (meta, token) in [
            (r#"{"progressToken":7}"#, Some("7")),
            (r#"{"progressToken":"a\u0062"}"#, Some(r#""a\u0062""#)),
            (r#"{"progressToken":null}"#, None),
            (r#"{"progressToken":{}}"#, None),
            (r#"{"other":"progressToken"}"#, None),
            ("{}", None),
        ] {
            assert_eq!(token_of(&call(meta)), token, "{meta}");
            assert_eq!(Patience::wants_progress(&call(meta)), token.is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn progress_values_grow_and_stay_below_those_of_the_server() {
        let (out, mut messages) = tokio::sync::mpsc::channel(4);
        let mut progress = Progress::of(&call(r#"{"progressToken":7}"#), &out).unwrap();
        let mut last = f64::NEG_INFINITY;
        for _ in 0..10 {
            progress.report();
            let notification: serde_json::Value =
                serde_json::from_str(&messages.recv().await.unwrap().text).unwrap();
            assert_eq!(notification["params"]["progressToken"], 7);
            let value = notification["params"]["progress"].as_f64().unwrap();
            assert!(last < value && value < 0.0, "{notification}");
            last = value;
        }
        // A client that doesn't read blocks nothing.
        (0..10).for_each(|_| progress.report());
        assert_eq!(messages.len(), 4);
    }
}
