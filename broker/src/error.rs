//! Errors, by who has to act on them: [`Error`] is for the person who runs the broker, [`Denial`]
//! for the caller that asked for a signature.
//!
//! Invariant: a caller gets the reason, a constant sentence and AWS's error code. A denial's detail
//! and AWS's message go to the log, to `sigward-broker check`, and to callers of the broker's own
//! user, who could read the AWS files anyway. Neither contains a key, token or signature.

mod aws;
mod reason;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::iter;
use std::path::PathBuf;
use std::time::Duration;

pub use self::aws::{AwsError, shown};
pub use self::reason::Reason;

/// The reason why the broker can't start, or a command fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options on the command line don't form a configuration.
    #[error("{0}")]
    Usage(String),
    /// The configuration file can't be read.
    #[error("cannot read the configuration {path}")]
    ReadConfig {
        /// The path of the file.
        path: PathBuf,
        /// The error of reading it.
        #[source]
        source: io::Error,
    },
    /// The configuration has errors; contains all of them.
    #[error("{0}")]
    Config(Faults),
    /// The socket can't be created or inherited.
    #[error("cannot listen on {socket}: {why}")]
    Listen {
        /// The path of the socket, or a description.
        socket: String,
        /// The cause, and what to do.
        why: String,
        /// The system's error, if there is one.
        #[source]
        source: Option<io::Error>,
    },
    /// The audit log can't be opened.
    #[error("cannot open the audit log {path}")]
    Audit {
        /// The path of the file.
        path: PathBuf,
        /// The error of opening it.
        #[source]
        source: io::Error,
    },
    /// The process can't protect itself, or its runtime can't start.
    #[error("cannot {what}")]
    Process {
        /// The operation that failed.
        what: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The running broker doesn't answer `status` or `login`, or refuses.
    #[error("{0}")]
    Broker(String),
    /// The server stopped unexpectedly.
    #[error("the server failed")]
    Serve(#[from] tonic::transport::Error),
}

/// An error in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line number, from 1.
    pub line: usize,
    /// The key path, like `endpoint[1].url`.
    pub key: String,
    /// The error, and what to do about it.
    pub message: String,
}

/// All errors of a configuration, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// The path of the file.
    pub file: PathBuf,
    /// The errors, at least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        let count = self.faults.len();
        write!(f, "{file} has {count} {}:", if count == 1 { "error" } else { "errors" })?;
        for Fault { line, key, message } in &self.faults {
            write!(f, "\n  {file}:{line}: ")?;
            if !key.is_empty() {
                write!(f, "{key}: ")?;
            }
            write!(f, "{message}")?;
        }
        Ok(())
    }
}

/// The reason why a caller gets no signature.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {detail}", reason.name())]
pub struct Denial {
    reason: Reason,
    detail: Cow<'static, str>,
    aws: Option<Box<AwsError>>,
    retry_after: Option<Duration>,
    action: Option<&'static str>,
}

impl Denial {
    /// A denial; `detail` is for the log and the broker's own user.
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into(), aws: None, retry_after: None, action: None }
    }

    /// A denial because AWS refused an operation.
    pub fn by_aws(reason: Reason, operation: &str, error: AwsError) -> Self {
        let detail = format!("{operation}: {error}").into();
        Self { reason, detail, aws: Some(Box::new(error)), retry_after: None, action: None }
    }

    /// Adds the time after which the caller may try again.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// Adds the action that AWS refused, which a role's trust policy must allow.
    #[must_use]
    pub fn of_action(self, action: &'static str, role: &str) -> Self {
        let detail = format!("{}: the trust policy of {role} must allow {action}", self.detail);
        Self { detail: detail.into(), action: Some(action), ..self }
    }

    /// The action that a role's trust policy must allow in addition to `sts:AssumeRole`.
    #[must_use]
    pub fn action(&self) -> Option<&'static str> {
        self.action
    }

    /// The time after which the caller may try again, if it is known.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The reason code for the caller.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The detail, for the log and for the broker's own user. It must not be sent to other callers.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The error of AWS, if AWS refused the operation.
    #[must_use]
    pub fn aws(&self) -> Option<&AwsError> {
        self.aws.as_deref()
    }
}

/// An error and its causes, the outermost first.
pub fn causes<'e>(
    error: &'e (dyn StdError + 'static),
) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    let cause = |error: &&'e (dyn StdError + 'static)| -> Option<&'e (dyn StdError + 'static)> {
        (*error).source()
    };
    iter::successors(Some(error), cause)
}

/// An error and its causes as text. The AWS SDK's own formatting would add `Debug` output, which
/// contains whole server responses, with the credentials in them.
#[must_use]
pub fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    for text in causes(error).map(ToString::to_string) {
        // Some errors repeat the text of their cause.
        if !words.last().is_some_and(|last| last.ends_with(&text)) {
            words.push(text);
        }
    }
    words.join(": ")
}
