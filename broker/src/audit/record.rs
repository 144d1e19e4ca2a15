//! The records as JSON. `broker/deploy/audit.schema.json` describes them, and a test checks that
//! they agree.

use std::collections::BTreeMap;
use std::io;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};
use sigward_proto::certificate::Name;

use super::flood::Sum;
use crate::call::Content;
use crate::error::Denial;
use crate::log;
use crate::peer::{Peer, PeerId};
use crate::policy::{Grant, LoginGrant};
use crate::request::Head;
use crate::secret::Credentials;

/// Longer texts of callers are cut, in characters, with a mark.
pub(super) const MAX_CHARS: usize = 512;

/// The version of the format.
const VERSION: u32 = 2;

/// The record of a decision, with what was known then, or of an event.
#[derive(Debug, Default, Serialize)]
pub struct Record {
    v: u32,
    id: String,
    time: String,
    /// `sign`, `login`, or `call` if it was refused unread; for events `login_end`, `reload`,
    /// `load`, `denials`, `open`.
    action: &'static str,
    #[serde(flatten)]
    fields: Fields,
    /// The peer that the record is about.
    #[serde(skip)]
    peer: Option<PeerId>,
}

#[derive(Debug, Default, Serialize)]
#[serde(default)]
struct Fields {
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe: Option<String>,
    /// The name in a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_id: Option<String>,
    /// The user and groups by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dns: Vec<String>,
    /// The `traceparent` of the request to be signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    /// The peer's identity at AWS, if the rule names an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// The call in the body, if a rule looked at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    /// The record that this one refers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasons: Option<BTreeMap<&'static str, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

/// An event to record.
#[derive(Debug)]
pub enum Event {
    /// A configuration took effect, or was rejected.
    Reload {
        /// Whether it took effect.
        accepted: bool,
    },
    /// A sign-in has ended.
    LoginEnd {
        /// The id of the record of its start.
        of: String,
        /// The profile.
        profile: String,
        /// The reason why there is no token.
        outcome: Result<(), Denial>,
    },
    /// The credentials of a profile were loaded, or couldn't be.
    Load {
        /// The profile.
        profile: String,
        /// The agent, if the credentials belong to one.
        agent: Option<String>,
        /// The access key id and the generation, or the reason of the failure.
        outcome: Result<(String, u64), Denial>,
    },
    /// Denials of one peer that have no records.
    Denials {
        /// The peer; `None` if there were too many peers.
        peer: Option<PeerId>,
        /// The numbers and reasons.
        sum: Sum,
    },
}

impl Record {
    pub(super) fn new(id: String, action: &'static str, peer: &Peer, now: SystemTime) -> Self {
        let id_of_peer = peer.id();
        let mut fields = Fields { decision: Some("deny"), ..Fields::of(Some(&id_of_peer)) };
        if let Peer::Unix(peer) = peer {
            fields.gid = Some(peer.gid);
            fields.pid = peer.pid;
            fields.exe = peer.exe.as_ref().map(|exe| short(&exe.to_string_lossy()));
        }
        let time = log::timestamp_millis(now);
        Self { v: VERSION, id, time, action, fields, peer: Some(id_of_peer) }
    }

    /// The record of opening a file.
    pub(super) fn opened(now: SystemTime) -> Self {
        let time = log::timestamp_millis(now);
        Self { v: VERSION, time, action: "open", ..Self::default() }
    }

    /// The id of the decision, which is also in the answer.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn peer(&self) -> Option<PeerId> {
        self.peer.clone()
    }

    pub(super) fn reason(&self) -> &'static str {
        self.fields.reason.unwrap_or("UNSPECIFIED")
    }

    /// The `traceparent` of the request to be signed.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.fields.traceparent.as_deref()
    }

    /// The requested profile.
    #[must_use]
    pub fn profile(&self) -> Option<&str> {
        self.fields.profile.as_deref()
    }

    /// The endpoint of the request to be signed.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.fields.endpoint.as_deref()
    }

    /// Sets the requested profile and method, before they are checked.
    pub fn asked(&mut self, profile: &str, http_method: Option<&str>) {
        self.fields.profile = Some(short(profile));
        self.fields.http_method = http_method.map(short);
    }

    /// Sets the checked head.
    pub fn head(&mut self, head: &Head) {
        self.fields.endpoint = Some(head.endpoint().name.clone());
        self.fields.path = Some(short(head.path_and_query()));
        let trace = head.headers().iter().find(|(name, _)| name == "traceparent");
        self.fields.traceparent = trace.map(|(_, value)| short(value));
    }

    /// Sets the hash and call of the body.
    pub fn body(&mut self, sha256: &[u8; 32], content: &Content) {
        self.fields.body_sha256 = Some(hex::encode(sha256));
        if let Content::Call(call) = content {
            self.fields.method = Some(call.method().to_owned());
            self.fields.target = call.target_name().map(short);
        }
    }

    /// Sets the deciding rule.
    pub fn rule(&mut self, rule: Option<&str>) {
        self.fields.rule = rule.map(str::to_owned);
    }

    /// Sets a denial.
    pub fn deny(&mut self, denial: &Denial) {
        self.fields.decision = Some("deny");
        self.fields.reason = Some(denial.reason().name());
    }

    /// Sets the grant of a sign-in.
    pub fn allow_login(&mut self, grant: &LoginGrant) {
        self.fields.profile = Some(grant.profile().to_string());
        self.fields.rule = Some(grant.rule().to_owned());
        self.fields.decision = Some("allow");
    }

    /// Sets the grant of a signature for the credential scope `scope`.
    pub fn allow(&mut self, grant: &Grant<'_>, credentials: &Credentials, scope: &str) {
        self.fields.profile = Some(grant.profile().to_string());
        self.fields.agent = grant.agent().map(|agent| agent.name().to_owned());
        self.fields.decision = Some("allow");
        self.fields.access_key_id = Some(credentials.access_key_id().to_owned());
        self.fields.scope = Some(scope.to_owned());
        self.fields.generation = Some(credentials.generation());
    }
}

impl Event {
    pub(super) fn record(self, id: String, now: SystemTime) -> Record {
        let failure = |denial: &Denial| ("failed", Some(denial.reason().name()));
        let (action, fields) = match self {
            Self::Reload { accepted } => {
                let outcome = Some(if accepted { "accepted" } else { "rejected" });
                ("reload", Fields { outcome, ..Fields::default() })
            }
            Self::LoginEnd { of, profile, outcome } => {
                let (outcome, reason) = outcome.as_ref().map_or_else(failure, |()| ("done", None));
                let (of, profile, outcome) = (Some(of), Some(profile), Some(outcome));
                ("login_end", Fields { of, profile, outcome, reason, ..Fields::default() })
            }
            Self::Load { profile, agent, outcome } => {
                let (word, reason) = outcome.as_ref().map_or_else(failure, |_| ("done", None));
                let (access_key_id, generation) = outcome.ok().unzip();
                let (profile, outcome) = (Some(profile), Some(word));
                let fields = Fields {
                    profile,
                    agent,
                    outcome,
                    reason,
                    access_key_id,
                    generation,
                    ..Fields::default()
                };
                ("load", fields)
            }
            Self::Denials { peer, sum } => {
                let fields = Fields {
                    decision: Some("deny"),
                    count: Some(sum.count),
                    reasons: Some(sum.reasons),
                    since: Some(log::timestamp_millis(sum.since)),
                    ..Fields::of(peer.as_ref())
                };
                ("denials", fields)
            }
        };
        Record { v: VERSION, id, time: log::timestamp_millis(now), action, fields, peer: None }
    }
}

impl Fields {
    /// The fields that name a peer.
    fn of(peer: Option<&PeerId>) -> Self {
        match peer {
            None => Self::default(),
            Some(PeerId::Uid(uid)) => Self { uid: Some(*uid), ..Self::default() },
            Some(PeerId::Name(Name::SpiffeId(id))) => {
                Self { spiffe_id: Some(id.to_string()), ..Self::default() }
            }
            Some(PeerId::Name(Name::Dns(names))) => Self { dns: names.to_vec(), ..Self::default() },
        }
    }
}

/// The record as one line of printable ASCII.
pub(super) fn json(record: &Record) -> Option<String> {
    let mut line = Vec::with_capacity(512);
    record.serialize(&mut Serializer::with_formatter(&mut line, Ascii)).ok()?;
    String::from_utf8(line).ok()
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Escapes everything but printable ASCII. The attack: a C1 control or a bidirectional mark in a
/// tool's name could rewrite the line on the terminal of someone who reads the log.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let printable = |c: char| (' '..='~').contains(&c);
        let mut rest = fragment;
        while let Some(at) = rest.find(|c| !printable(c)) {
            let (plain, after) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut characters = after.chars();
            let mut units = [0; 2];
            if let Some(character) = characters.next() {
                for unit in character.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        serde_json::ser::CompactFormatter.write_char_escape(writer, escape)
    }
}
