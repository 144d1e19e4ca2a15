//! The types of a configuration.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::agent::Agent;
use super::guard_rails::GuardRails;
use super::pace::Pace;
use crate::endpoint::Endpoint;
use crate::peer::{PeerPattern, UnixPattern};

/// The name under which callers ask for a profile.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProfileName(Arc<str>);

/// Everything that the broker is told.
#[derive(Debug)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// Which AWS files it reads.
    pub aws: AwsFiles,
    /// Where signatures may go.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// How fast, by the name of the endpoint. Not a part of the endpoint: another pace makes it no other place.
    pub paces: HashMap<String, Pace>,
    /// What callers may ask for, in this order.
    pub profiles: Vec<Profile>,
    /// Who may ask for what. Nothing is allowed beside these.
    pub rules: Vec<Rule>,
    /// Where decisions are recorded.
    pub audit: Audit,
    /// Where metrics are served; nowhere if not given.
    pub metrics: Option<SocketAddr>,
}

/// The Unix socket, and where TLS is served.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// The socket's path; the default one if none is given.
    pub unix: Option<PathBuf>,
    /// Its permissions.
    pub mode: Option<u32>,
    /// Its group.
    pub group: Option<Group>,
    /// TLS for callers with certificates.
    pub tcp: Option<Tcp>,
}

/// Where TLS is served, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// The address and port.
    pub address: SocketAddr,
    /// Its files, all in PEM.
    pub tls: TlsFiles,
}

/// The files of TLS: read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The broker's certificate, and those between it and its authority.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The authorities that may vouch for callers.
    pub client_ca: PathBuf,
}

/// A group, as it was looked up when the configuration was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group(pub u32);

/// AWS files in place of those of the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AwsFiles {
    /// In place of `~/.aws/config`.
    pub config: Option<PathBuf>,
    /// In place of `~/.aws/credentials`.
    pub credentials: Option<PathBuf>,
    /// What a `credential_process` gets of the environment, beside the usual.
    pub process_environment: Vec<String>,
    /// Whether to ask AWS whose credentials they are, for `status`.
    pub identity: bool,
}

/// A profile that callers may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// What callers call it.
    pub name: ProfileName,
    /// Where its credentials come from.
    pub from: CredentialsFrom,
    /// Shown to people and models.
    pub description: String,
    /// Where its signatures may go: names of endpoints, at least one.
    pub endpoints: Vec<String>,
    /// A narrower role on top.
    pub role: Option<Role>,
    /// What its credentials may do at most, whatever its role may.
    pub guard_rails: Option<GuardRails>,
    /// Whether its credentials are loaded at the start, so that the first caller doesn't wait for them.
    pub preload: bool,
}

/// Where a profile's credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialsFrom {
    /// A profile of the AWS files.
    AwsProfile(String),
    /// The SDK's default chain: the environment, its profile, the metadata services.
    DefaultChain,
}

/// A role to assume with a profile's credentials, so that callers get less than the profile may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Which.
    pub arn: String,
    /// An inline session policy, JSON.
    pub session_policy: Option<String>,
    /// Managed session policies.
    pub session_policy_arns: Vec<String>,
    /// How long its credentials live.
    pub duration: Option<Duration>,
    /// What the role's owner asks for.
    pub external_id: Option<String>,
    /// In place of `sigward-` and the profile's name.
    pub session_name: Option<String>,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// What the audit log and `explain` call it; unique.
    pub name: String,
    /// Whom it is about.
    pub peer: PeerPattern,
    /// Which profiles it allows.
    pub profiles: Names,
    /// Which endpoints it allows.
    pub endpoints: Names,
    /// Which JSON-RPC methods it permits, beside those that open and keep a session.
    pub methods: Option<Globs>,
    /// Which tools it permits to call.
    pub tools: Option<Globs>,
    /// Which resources it permits to read, by URI.
    pub resources: Option<Globs>,
    /// Which prompts it permits to get.
    pub prompts: Option<Globs>,
    /// What the arguments of tools must be.
    pub arguments: Vec<Argument>,
    /// How often.
    pub rate: Option<Rate>,
    /// Whether it allows to sign a person in.
    pub login: bool,
    /// Who its peers are to AWS; none where all share the profile's own credentials.
    pub agent: Option<Arc<Agent>>,
}

/// A choice of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// Every one there is.
    All,
    /// These.
    Only(Vec<String>),
}

/// Names by glob. A deny wins over every allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Globs {
    /// What is permitted. Where it is absent: every tool, resource or prompt, but no method.
    pub allow: Option<Vec<String>>,
    /// What isn't.
    pub deny: Vec<String>,
}

/// What an argument of a tool must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Argument {
    /// The tools that it is about, by glob.
    pub tool: String,
    /// A JSON pointer into `params.arguments`.
    pub path: String,
    /// What must stand there.
    pub must: Must,
}

/// A condition on a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Must {
    /// One of these.
    BeIn(Vec<Scalar>),
    /// A text that matches one of these globs.
    Match(Vec<String>),
    /// Nothing.
    BeAbsent,
}

/// A value that an argument is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scalar {
    /// A string.
    Text(String),
    /// A whole number.
    Number(i64),
    /// True or false.
    Bool(bool),
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second, at least one.
    pub per_second: u32,
    /// The bucket's size, at least one.
    pub burst: u32,
}

/// Where decisions are recorded, and what happens when that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Where.
    pub target: AuditTarget,
    /// Whether a signature goes out that couldn't be recorded.
    pub sign_unrecorded: bool,
    /// When a record counts as written.
    pub sync: Sync,
    /// When a new file is begun, beside SIGHUP.
    pub rotate: Option<Rotate>,
}

/// When a record counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// When it is on disk, with those that came at the same time.
    Batch,
    /// When the kernel has it: a crash of the machine may lose it.
    None,
}

/// When a new file of the audit log is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotate {
    /// At this size.
    pub bytes: u64,
    /// How many old ones are kept.
    pub keep: u32,
}

impl TlsFiles {
    /// All of them.
    #[must_use]
    pub fn paths(&self) -> [&Path; 3] {
        [&self.cert, &self.key, &self.client_ca]
    }
}

impl Audit {
    /// Where nobody said anything: on standard error.
    pub(super) fn unconfigured() -> Self {
        Self {
            target: AuditTarget::Stderr,
            sign_unrecorded: false,
            sync: Sync::Batch,
            rotate: None,
        }
    }
}

/// Where decisions are recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTarget {
    /// On standard error, between the log lines.
    Stderr,
    /// Appended to a file.
    File(PathBuf),
    /// Nowhere.
    None,
}

impl Names {
    /// Whether the name is among them.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|candidate| candidate == name),
        }
    }
}

impl Rule {
    /// Whether it says anything of what a body asks for.
    pub(crate) fn reads_the_body(&self) -> bool {
        self.methods.is_some()
            || self.tools.is_some()
            || self.resources.is_some()
            || self.prompts.is_some()
            || !self.arguments.is_empty()
    }

    /// What holds where nobody wrote a rule: whoever runs the broker could read its files anyway. No certificate is that
    /// user's.
    pub(super) fn broker_user(uid: u32) -> Self {
        Self {
            name: "the broker's own user".to_owned(),
            peer: PeerPattern::Unix(UnixPattern { uid: Some(uid), ..UnixPattern::default() }),
            profiles: Names::All,
            endpoints: Names::All,
            methods: None,
            tools: None,
            resources: None,
            prompts: None,
            arguments: Vec::new(),
            rate: None,
            login: true,
            agent: None,
        }
    }
}

impl ProfileName {
    /// What the SDK's default chain is called where nobody named a profile.
    pub(super) fn default_chain() -> Self {
        Self("default".into())
    }

    /// Checks a name. The AWS files allow any text; what can't stand in a line of a table or a log isn't taken.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > 256 {
            return Err("must be 1 to 256 bytes long".to_owned());
        }
        if text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
            return Err("must not hold line ends or other control characters".to_owned());
        }
        Ok(Self(text.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// So that a map of names is asked with any text, of which nothing is made.
impl Borrow<str> for ProfileName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
