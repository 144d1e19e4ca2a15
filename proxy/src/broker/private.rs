//! A broker of our own: a child process over an inherited socket pair.
//!
//! It allows exactly our endpoint and profiles, to us alone: nobody else can reach the socket pair.
//! It ends when its socket does, which is when this process ends, however it ends.
//!
//! However many calls wait for it, there is one start for all of them, and at most one a second.
//! What a broker says that can't start is kept for all who ask within that second: the person at the
//! client reads the broker's own sentence.

mod process;
mod words;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use self::process::{End, Process};
pub use self::process::{Start, StartError, Started};

/// What a second start needs.
#[derive(Debug, Clone)]
pub struct Restart {
    /// The AWS settings that the environment held and that are no secret.
    pub environment: BTreeMap<String, OsString>,
    /// The variables by which this process was handed over to itself.
    pub forget: Vec<String>,
    /// Whether keys came from the environment: this process no longer has them.
    pub keys_are_gone: bool,
}

/// The time from one start to the next.
const PACE: Duration = Duration::from_secs(1);

/// How long a broker whose connection broke may take to end.
const END: Duration = Duration::from_secs(1);

/// How long the last words of a broker may take to arrive after its end.
const WORDS: Duration = Duration::from_millis(200);

/// The process and our end of its socket.
#[derive(Debug)]
pub struct PrivateBroker {
    start: Start,
    restart: Restart,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// A connection that nobody uses yet.
    ready: Option<UnixStream>,
    /// The process of the last connection.
    process: Option<Arc<Process>>,
    /// Before then, nothing is started.
    next_start: Option<Instant>,
    failure: Option<Failure>,
}

/// Why there is no broker.
#[derive(Debug, Clone)]
struct Failure {
    text: String,
    /// When it may be tried again; never, if there is none.
    until: Option<Instant>,
}

impl PrivateBroker {
    /// One that is started now.
    #[must_use]
    pub fn new(start: Start, restart: Restart) -> Self {
        let broker = Self { start, restart, state: Mutex::default() };
        let _ = broker.begin(&mut broker.state());
        broker
    }

    /// One that this process started before it re-executed itself.
    #[must_use]
    pub fn inherited(start: Start, restart: Restart, started: Started) -> Self {
        let Started { socket, errors, pid } = started;
        let process = Some(Arc::new(Process::watch(errors, pid)));
        let state = State { ready: Some(socket), process, ..State::default() };
        Self { start, restart, state: Mutex::new(state) }
    }

    /// One that this process couldn't start before it re-executed itself.
    #[must_use]
    pub fn failed(start: Start, restart: Restart, why: &str) -> Self {
        let broker = Self { start, restart, state: Mutex::default() };
        broker.state().failure = Some(broker.start_failure(why));
        broker
    }

    /// A connection: the one that is ready, else that of a new process.
    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        // Of the last process, if that is still there: its last words, before there are others.
        let _ = self.failure().await;
        loop {
            let next_start = {
                let mut state = self.state();
                if let Some(socket) = state.ready.take() {
                    socket.set_nonblocking(true)?;
                    return Ok(socket);
                }
                if let Some(failure) = state.current_failure() {
                    return Err(io::Error::other(failure));
                }
                match state.next_start.filter(|next| *next > Instant::now()) {
                    Some(next) => next,
                    None => {
                        let begun = self.begin(&mut state);
                        if let (Err(_), Some(failure)) = (&begun, &state.failure) {
                            tracing::error!("the private broker {}", failure.on_one_line());
                        }
                        begun?;
                        continue;
                    }
                }
            };
            tokio::time::sleep_until(next_start).await;
        }
    }

    /// Starts a process.
    fn begin(&self, state: &mut State) -> io::Result<()> {
        state.next_start = Some(Instant::now() + PACE);
        let started = self.start.start(|command| {
            for name in &self.restart.forget {
                command.env_remove(name);
            }
            command.envs(&self.restart.environment);
        });
        match started {
            Ok(Started { socket, errors, pid }) => {
                tracing::info!(pid, "started a private broker");
                state.process = Some(Arc::new(Process::watch(errors, pid)));
                state.ready = Some(socket);
                state.failure = None;
                Ok(())
            }
            Err(error) => {
                state.failure = Some(self.start_failure(&error.to_string()));
                Err(io::Error::other(error))
            }
        }
    }

    /// Why there is no connection, where trying again at once would fail in the same way. Waits for
    /// the end of a process whose connection broke.
    pub(super) async fn failure(&self) -> Option<String> {
        let process = {
            let state = self.state();
            if state.ready.is_some() {
                return None;
            }
            state.process.clone()
        };
        if let Some(process) = process {
            let end = process.ended(END).await?;
            let words = process.last_words(WORDS).await;
            let mut state = self.state();
            // Whoever waited for the same end may have been here before.
            if state.process.as_ref().is_some_and(|known| Arc::ptr_eq(known, &process)) {
                state.process = None;
                state.failure = self.what_it_means(&process, end, &words);
                // Its own words are on standard error already.
                if let Some(failure) = state.failure.as_ref().filter(|_| words.is_empty()) {
                    tracing::error!("the private broker {}", failure.on_one_line());
                }
            }
        }
        self.known_failure()
    }

    /// Why there is no broker, if that is known.
    #[must_use]
    pub fn known_failure(&self) -> Option<String> {
        self.state().current_failure()
    }

    /// Notes that the broker has answered: it will be started again if it ends.
    pub(super) fn has_answered(&self) {
        let mut state = self.state();
        if let Some(process) = &state.process {
            process.has_answered();
        }
        state.failure = None;
    }

    /// Whether there is a process, as far as anybody has noticed.
    #[must_use]
    pub fn has_process(&self) -> bool {
        self.state().process.is_some()
    }

    /// Blocks until the broker, whose connection is gone, has ended and all that it has written is
    /// passed on, but no longer than `limit`.
    pub fn flush(&self, limit: Duration) {
        let process = {
            let mut state = self.state();
            state.ready = None;
            state.process.clone()
        };
        if let Some(process) = process {
            process.flush(limit);
        }
    }

    fn what_it_means(&self, process: &Process, end: End, words: &str) -> Option<Failure> {
        if !process.served() {
            let why = match words {
                "" => {
                    let program = self.start.program();
                    let program = program.map(|program| program.display().to_string());
                    format!(
                        "{end}, without a word; try it in a terminal: `{} --version`",
                        program.as_deref().unwrap_or("sigward-broker")
                    )
                }
                words if end == End::Code(1) || end == End::Code(2) => words.to_owned(),
                words => format!("{end}: {words}"),
            };
            return Some(self.start_failure(&why));
        }
        if self.restart.keys_are_gone {
            let last = if words.is_empty() { String::new() } else { format!(" ({words})") };
            let text = format!(
                "is gone: {end}{last}. Restart the MCP server in your client: the AWS keys of its \
                 environment were that broker's alone"
            );
            return Some(Failure { text, until: None });
        }
        None
    }

    fn start_failure(&self, why: &str) -> Failure {
        if self.restart.keys_are_gone {
            // A broker without those keys would sign with others.
            let text = format!(
                "can't start: {why}\nOnce that is repaired, restart the MCP server in your client: \
                 the AWS keys of its environment are passed on at its start alone"
            );
            return Failure { text, until: None };
        }
        Failure { text: format!("can't start: {why}"), until: Some(Instant::now() + PACE) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failure {
    fn on_one_line(&self) -> String {
        self.text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
    }
}

impl State {
    fn current_failure(&self) -> Option<String> {
        let failure = self.failure.as_ref()?;
        let holds = failure.until.is_none_or(|until| until > Instant::now());
        holds.then(|| failure.text.clone())
    }
}

#[cfg(test)]
mod tests;
