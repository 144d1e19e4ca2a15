//! A private broker: a child process with an inherited socket pair.
//!
//! It allows exactly the proxy's endpoint and profiles, and only this process: no other can access
//! the socket pair. It ends when its socket is closed, and therefore always with this process.
//!
//! All calls that wait for the broker share one start, and there is at most one start a second. The error of a broker
//! that can't start is stored for all calls within that second, so that the user sees the broker's own message.

mod output;
mod process;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use self::process::{End, Process};
pub use self::process::{Start, StartError, Started};

/// What a later start needs.
#[derive(Debug, Clone)]
pub struct Restart {
    /// The AWS settings of the environment that aren't secret.
    pub environment: BTreeMap<String, OsString>,
    /// The variables that this process used to pass state to itself when it re-executed.
    pub forget: Vec<String>,
    /// Whether the environment had keys, which this process no longer has.
    pub keys_are_gone: bool,
}

/// The shortest time between two starts.
const START_INTERVAL: Duration = Duration::from_secs(1);

/// How long a broker whose connection broke may take to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the last output of a broker may take to arrive after its exit.
const OUTPUT_TIMEOUT: Duration = Duration::from_millis(200);

/// The process and this side of its socket.
#[derive(Debug)]
pub struct PrivateBroker {
    start: Start,
    restart: Restart,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// A connection that isn't used yet.
    ready: Option<UnixStream>,
    /// The process of the last connection.
    process: Option<Arc<Process>>,
    /// The earliest time of the next start.
    next_start: Option<Instant>,
    failure: Option<Failure>,
}

/// Why there is no broker.
#[derive(Debug, Clone)]
struct Failure {
    text: String,
    /// When the start may be retried; never if `None`.
    until: Option<Instant>,
}

impl PrivateBroker {
    /// Starts a private broker now.
    #[must_use]
    pub fn new(start: Start, restart: Restart) -> Self {
        let broker = Self { start, restart, state: Mutex::default() };
        let _ = broker.begin(&mut broker.state());
        broker
    }

    /// Takes over a broker that this process started before it re-executed itself.
    #[must_use]
    pub fn inherited(start: Start, restart: Restart, started: Started) -> Self {
        let Started { socket, errors, pid } = started;
        let process = Some(Arc::new(Process::watch(errors, pid)));
        let state = State { ready: Some(socket), process, ..State::default() };
        Self { start, restart, state: Mutex::new(state) }
    }

    /// Represents a broker that this process couldn't start before it re-executed itself.
    #[must_use]
    pub fn failed(start: Start, restart: Restart, why: &str) -> Self {
        let broker = Self { start, restart, state: Mutex::default() };
        broker.state().failure = Some(broker.start_failure(why));
        broker
    }

    /// A connection: the one that is ready, or that of a new process.
    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        // If the last process has ended, its output is reported before a new one starts.
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
        state.next_start = Some(Instant::now() + START_INTERVAL);
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

    /// Why there is no connection, if an immediate retry would fail the same way. Waits for the
    /// exit of a process whose connection broke.
    pub(super) async fn failure(&self) -> Option<String> {
        let process = {
            let state = self.state();
            if state.ready.is_some() {
                return None;
            }
            state.process.clone()
        };
        if let Some(process) = process {
            let end = process.ended(EXIT_TIMEOUT).await?;
            let message = process.last_message(OUTPUT_TIMEOUT).await;
            let mut state = self.state();
            // Another caller that waited for the same exit may have done this before.
            if state.process.as_ref().is_some_and(|known| Arc::ptr_eq(known, &process)) {
                state.process = None;
                state.failure = self.failure_of(&process, end, &message);
                // The broker's own output is on standard error already.
                if let Some(failure) = state.failure.as_ref().filter(|_| message.is_empty()) {
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

    /// Records that the broker has answered: it is restarted if it exits.
    pub(super) fn has_answered(&self) {
        let mut state = self.state();
        if let Some(process) = &state.process {
            process.has_answered();
        }
        state.failure = None;
    }

    /// Whether a process is running, as far as is known.
    #[must_use]
    pub fn has_process(&self) -> bool {
        self.state().process.is_some()
    }

    /// Blocks until the broker, whose connection is closed, has exited and all its output has been
    /// forwarded, but no longer than `limit`.
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

    fn failure_of(&self, process: &Process, end: End, message: &str) -> Option<Failure> {
        if !process.served() {
            let why = match message {
                "" => {
                    let program = self.start.program();
                    let program = program.map(|program| program.display().to_string());
                    format!(
                        "{end}, without a message; try it in a terminal: `{} --version`",
                        program.as_deref().unwrap_or("sigward-broker")
                    )
                }
                message if end == End::Code(1) || end == End::Code(2) => message.to_owned(),
                message => format!("{end}: {message}"),
            };
            return Some(self.start_failure(&why));
        }
        if self.restart.keys_are_gone {
            let last = if message.is_empty() { String::new() } else { format!(" ({message})") };
            let text = format!(
                "is gone: {end}{last}. Restart the MCP server in your client: only that broker had \
                 the AWS keys of its environment"
            );
            return Some(Failure { text, until: None });
        }
        None
    }

    fn start_failure(&self, why: &str) -> Failure {
        if self.restart.keys_are_gone {
            // A broker without those keys would sign with other credentials.
            let text = format!(
                "can't start: {why}\nOnce that is repaired, restart the MCP server in your client: \
                 the AWS keys of its environment are passed on only at its start"
            );
            return Failure { text, until: None };
        }
        Failure {
            text: format!("can't start: {why}"),
            until: Some(Instant::now() + START_INTERVAL),
        }
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
