//! One record for each decision, written before its answer goes out.
//!
//! Invariant: a record is one line of printable ASCII, whatever a caller put into the texts in it. A
//! signature that can't be recorded isn't given out, unless the configuration says otherwise.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use sigward_proto::v1::Reason;

use crate::config::{self, AuditTarget};
use crate::error::{Denial, Error};
use crate::log;
use crate::peer::Peer;
use crate::policy::{Grant, LoginGrant};
use crate::request::{CheckedRequest, Tool};
use crate::secret::Credentials;
use crate::sign::Signature;

/// More of a caller's text than this isn't recorded.
const MAX_CHARS: usize = 512;

/// Where the records go.
#[derive(Debug)]
pub struct Audit {
    target: Target,
    sign_unrecorded: bool,
    /// Tells this process's records from those of others in the same file.
    prefix: String,
    count: AtomicU64,
}

#[derive(Debug)]
enum Target {
    Stderr,
    File(Mutex<File>),
    None,
}

/// One decision, as far as it got.
#[derive(Debug, Serialize)]
pub struct Record {
    /// Names this decision, in the answer too.
    pub id: String,
    time: String,
    uid: u32,
    gid: u32,
    pid: Option<i32>,
    /// `sign`, `login`, or `call` where nothing was read of it.
    action: &'static str,
    profile: String,
    endpoint: Option<String>,
    /// Of the request to be signed; empty for a sign-in.
    method: String,
    path: Option<String>,
    tool: Option<String>,
    body_sha256: Option<String>,
    decision: &'static str,
    reason: Option<&'static str>,
    access_key_id: Option<String>,
    scope: Option<String>,
    generation: Option<u64>,
}

impl Audit {
    /// Opens the log; `now` makes the records' ids unique.
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn open(config: &config::Audit, now: SystemTime) -> Result<Self, Error> {
        let target = match &config.target {
            AuditTarget::None => Target::None,
            AuditTarget::Stderr => Target::Stderr,
            AuditTarget::File(path) => {
                let file = File::options().append(true).create(true).mode(0o600).open(path);
                let file = file.map_err(|source| Error::Audit { path: path.clone(), source })?;
                Target::File(Mutex::new(file))
            }
        };
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let prefix = format!("{:x}-{:x}", since.as_micros(), std::process::id());
        let sign_unrecorded = config.sign_unrecorded;
        Ok(Self { target, sign_unrecorded, prefix, count: AtomicU64::new(0) })
    }

    /// Begins the record of a request: a denial for no reason, until more is known.
    #[must_use]
    pub fn begin(&self, peer: &Peer, profile: &str, method: &str, now: SystemTime) -> Record {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        Record {
            id: format!("{}-{number:x}", self.prefix),
            time: log::timestamp(now, "T") + "Z",
            uid: peer.uid,
            gid: peer.gid,
            pid: peer.pid,
            action: "sign",
            profile: short(profile),
            endpoint: None,
            method: short(method),
            path: None,
            tool: None,
            body_sha256: None,
            decision: "deny",
            reason: None,
            access_key_id: None,
            scope: None,
            generation: None,
        }
    }

    /// Begins the record of a sign-in, in the same way.
    #[must_use]
    pub fn begin_login(&self, peer: &Peer, profile: &str, now: SystemTime) -> Record {
        Record { action: "login", ..self.begin(peer, profile, "", now) }
    }

    /// Begins the record of a call that isn't read, in the same way.
    #[must_use]
    pub fn begin_call(&self, peer: &Peer, now: SystemTime) -> Record {
        Record { action: "call", ..self.begin(peer, "", "", now) }
    }

    /// Writes the record of a decision. Gives back why the decision can't stand without it.
    ///
    /// # Errors
    /// AUDIT_UNAVAILABLE.
    pub fn write(&self, record: &Record) -> Result<(), Denial> {
        let Err(error) = self.try_write(record) else { return Ok(()) };
        tracing::error!(%error, id = record.id, "the audit log can't be written");
        if self.sign_unrecorded {
            return Ok(());
        }
        Err(Denial::new(Reason::AuditUnavailable, error.to_string()))
    }

    fn try_write(&self, record: &Record) -> io::Result<()> {
        let line = || serde_json::to_string(record).map(|json| ascii(&json) + "\n");
        // One write call a line: lines of several processes don't mix.
        match &self.target {
            Target::None => Ok(()),
            Target::Stderr => io::stderr().lock().write_all(line()?.as_bytes()),
            Target::File(file) => {
                let line = line()?;
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.write_all(line.as_bytes())?;
                file.flush()
            }
        }
    }
}

impl Record {
    /// What the request asks for.
    pub fn request(&mut self, request: &CheckedRequest) {
        self.endpoint = Some(request.endpoint().name.clone());
        self.path = Some(short(request.path_and_query()));
        self.body_sha256 = Some(hex::encode(request.body_sha256()));
        self.tool = match request.tool() {
            Tool::Named(name) => Some(short(name)),
            Tool::None | Tool::Unread | Tool::Ambiguous(_) => None,
        };
    }

    /// It was denied.
    pub fn deny(&mut self, denial: &Denial) {
        self.reason = Some(denial.reason().name());
    }

    /// The peer may sign a person in.
    pub fn allow_login(&mut self, grant: &LoginGrant) {
        self.profile = grant.profile().to_string();
        self.decision = "allow";
    }

    /// It was signed.
    pub fn allow(&mut self, grant: &Grant<'_>, credentials: &Credentials, signature: &Signature) {
        self.profile = grant.profile().to_string();
        self.decision = "allow";
        self.access_key_id = Some(credentials.access_key_id().to_owned());
        self.scope = Some(signature.scope.clone());
        self.generation = Some(credentials.generation());
    }
}

fn short(text: &str) -> String {
    text.chars().take(MAX_CHARS).collect()
}

/// JSON with everything beyond printable ASCII escaped: a C1 control or a bidirectional mark in a tool's
/// name could rewrite the line on the terminal of whoever reads the log.
fn ascii(json: &str) -> String {
    let mut line = String::with_capacity(json.len());
    for c in json.chars() {
        if (' '..='~').contains(&c) {
            line.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    line
}

#[cfg(test)]
mod tests;
