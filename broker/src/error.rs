//! What can go wrong, by who has to act on it: [`Error`] is for the person who runs the broker,
//! [`Denial`] for the caller who asked for a signature.
//!
//! Invariant: a caller gets the reason, a constant sentence and AWS's error code. A denial's detail and AWS's message go
//! to the log, to `sigward-broker check`, and to callers of the broker's own user, who could read the AWS files anyway.
//! No key, token or signature is in either.

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

/// Why the broker can't start, or a command can't do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options on the command line don't make a configuration.
    #[error("{0}")]
    Usage(String),
    /// The configuration file can't be read.
    #[error("cannot read the configuration {path}")]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The configuration has errors: all of them.
    #[error("{0}")]
    Config(Faults),
    /// The socket can't be made or taken over.
    #[error("cannot listen on {socket}: {why}")]
    Listen {
        /// The socket.
        socket: String,
        /// What stands in the way, and what to do.
        why: String,
        /// The system's error, where there is one.
        #[source]
        source: Option<io::Error>,
    },
    /// The audit log can't be opened.
    #[error("cannot open the audit log {path}")]
    Audit {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process can't protect itself, or its runtime doesn't start.
    #[error("cannot {what}")]
    Process {
        /// What failed.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The running broker that `status` and `login` ask doesn't answer, or refuses.
    #[error("{0}")]
    Broker(String),
    /// The server stopped by itself.
    #[error("the server failed")]
    Serve(#[from] tonic::transport::Error),
}

/// One error of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1.
    pub line: usize,
    /// The key path: `endpoint[1].url`.
    pub key: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// All errors of one configuration, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// The file.
    pub file: PathBuf,
    /// At least one.
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

/// Why a caller gets no signature.
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

    /// A denial by AWS, which refused an operation.
    pub fn by_aws(reason: Reason, operation: &str, error: AwsError) -> Self {
        let detail = format!("{operation}: {error}").into();
        Self { reason, detail, aws: Some(Box::new(error)), retry_after: None, action: None }
    }

    /// The same, and when to ask again.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// The same, where AWS refused an action that a role's trust policy must allow.
    #[must_use]
    pub fn of_action(self, action: &'static str, role: &str) -> Self {
        let detail = format!("{}: the trust policy of {role} must allow {action}", self.detail);
        Self { detail: detail.into(), action: Some(action), ..self }
    }

    /// The action that a role's trust policy must allow beside `sts:AssumeRole`.
    #[must_use]
    pub fn action(&self) -> Option<&'static str> {
        self.action
    }

    /// When to ask again, where it is known.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The code that the caller gets.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// For the log and for the broker's own user. Never for other callers.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What AWS said, where it was AWS that refused.
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

/// An error and its causes in their own words. The AWS SDK's way to show them would add their `Debug`:
/// that prints whole answers of servers, with the credentials in them.
#[must_use]
pub fn in_words(error: &(dyn StdError + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    for text in causes(error).map(ToString::to_string) {
        // Some repeat the text of their cause.
        if !words.last().is_some_and(|last| last.ends_with(&text)) {
            words.push(text);
        }
    }
    words.join(": ")
}
