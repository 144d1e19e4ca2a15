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

/// The name under which callers request a profile.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProfileName(Arc<str>);

/// The whole configuration.
#[derive(Debug)]
pub struct Config {
    /// The addresses to listen on.
    pub listen: Listen,
    /// The AWS files to read.
    pub aws: AwsFiles,
    /// The allowed targets of signatures.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// The pace of each endpoint, by its name. It isn't a part of the endpoint, because another
    /// pace doesn't make it another target.
    pub paces: HashMap<String, Pace>,
    /// The profiles that callers may request, in order.
    pub profiles: Vec<Profile>,
    /// The rules. Nothing else is allowed.
    pub rules: Vec<Rule>,
    /// The audit log.
    pub audit: Audit,
    /// The address of the metrics; `None` if they aren't served.
    pub metrics: Option<SocketAddr>,
}

/// The Unix socket, and the address for TLS.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// The socket's path; `None` for the default.
    pub unix: Option<PathBuf>,
    /// The permissions of the socket.
    pub mode: Option<u32>,
    /// The group of the socket.
    pub group: Option<Group>,
    /// TLS for callers with certificates.
    pub tcp: Option<Tcp>,
}

/// The address for TLS, and its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// The address and port.
    pub address: SocketAddr,
    /// The files, all in PEM.
    pub tls: TlsFiles,
}

/// The TLS files, which are reread when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The broker's certificate, and intermediate certificates.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The authorities that may sign callers' certificates.
    pub client_ca: PathBuf,
}

/// A group id, as it was looked up when the configuration was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group(pub u32);

/// AWS files that replace those of the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AwsFiles {
    /// Replaces `~/.aws/config`.
    pub config: Option<PathBuf>,
    /// Replaces `~/.aws/credentials`.
    pub credentials: Option<PathBuf>,
    /// Additional variables that a `credential_process` gets.
    pub process_environment: Vec<String>,
    /// Whether to ask AWS for the identity of credentials, for `status`.
    pub identity: bool,
}

/// A profile that callers may request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The name for callers.
    pub name: ProfileName,
    /// The source of its credentials.
    pub from: CredentialsFrom,
    /// The description for people and models.
    pub description: String,
    /// The names of the endpoints that it may be used with, at least one.
    pub endpoints: Vec<String>,
    /// A narrower role to assume with the credentials.
    pub role: Option<Role>,
    /// The limits of its credentials, whatever its role allows.
    pub guard_rails: Option<GuardRails>,
    /// Whether its credentials are loaded on start, so that the first caller doesn't wait for them.
    pub preload: bool,
}

/// The source of a profile's credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialsFrom {
    /// A profile of the AWS files.
    AwsProfile(String),
    /// The SDK's default chain: the environment, its profile, the metadata services.
    DefaultChain,
}

/// A role to assume with a profile's credentials, so that callers get fewer permissions than the
/// profile has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// The role's ARN.
    pub arn: String,
    /// An inline session policy, in JSON.
    pub session_policy: Option<String>,
    /// The ARNs of managed session policies.
    pub session_policy_arns: Vec<String>,
    /// The lifetime of its credentials.
    pub duration: Option<Duration>,
    /// The external id that the role's owner requires.
    pub external_id: Option<String>,
    /// The role session name, instead of `sigward-` and the profile's name.
    pub session_name: Option<String>,
}

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// The name in the audit log and in `explain`; unique.
    pub name: String,
    /// The matching peers.
    pub peer: PeerPattern,
    /// The allowed profiles.
    pub profiles: Names,
    /// The allowed endpoints.
    pub endpoints: Names,
    /// The permitted JSON-RPC methods, in addition to those that open and maintain a session.
    pub methods: Option<Globs>,
    /// The permitted tools.
    pub tools: Option<Globs>,
    /// The permitted resources, by URI.
    pub resources: Option<Globs>,
    /// The permitted prompts.
    pub prompts: Option<Globs>,
    /// The conditions on arguments of tools.
    pub arguments: Vec<Argument>,
    /// The rate limit.
    pub rate: Option<Rate>,
    /// Whether the rule allows sign-ins.
    pub login: bool,
    /// The identity of its peers at AWS; `None` if all share the profile's own credentials.
    pub agent: Option<Arc<Agent>>,
}

/// A selection of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// All names.
    All,
    /// Only these names.
    Only(Vec<String>),
}

/// Names by glob. A deny has priority over every allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Globs {
    /// The permitted names. If it is absent: every tool, resource or prompt, but no method.
    pub allow: Option<Vec<String>>,
    /// The denied names.
    pub deny: Vec<String>,
}

/// A condition on an argument of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Argument {
    /// The tools that it applies to, as a glob.
    pub tool: String,
    /// A JSON pointer into `params.arguments`.
    pub path: String,
    /// The condition on the value there.
    pub must: Must,
}

/// A condition on a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Must {
    /// The value is one of these.
    BeIn(Vec<Scalar>),
    /// The value is a text that matches one of these globs.
    Match(Vec<String>),
    /// There is no value.
    BeAbsent,
}

/// A value to compare an argument with.
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
    /// Tokens per second, at least one.
    pub per_second: u32,
    /// The bucket's size, at least one.
    pub burst: u32,
}

/// The audit log, and what happens if a record can't be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The target of the records.
    pub target: AuditTarget,
    /// Whether signatures are returned even if they can't be recorded.
    pub sign_unrecorded: bool,
    /// When a record counts as written.
    pub sync: Sync,
    /// When a new file is started, in addition to SIGHUP.
    pub rotate: Option<Rotate>,
}

/// When a record counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// When it is on disk, together with concurrent records.
    Batch,
    /// When the kernel has it: a crash of the machine may lose it.
    None,
}

/// When a new file of the audit log is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotate {
    /// The size in bytes at which a new file is started.
    pub bytes: u64,
    /// The number of old files to keep.
    pub keep: u32,
}

impl TlsFiles {
    /// The paths of all files.
    #[must_use]
    pub fn paths(&self) -> [&Path; 3] {
        [&self.cert, &self.key, &self.client_ca]
    }
}

impl Audit {
    /// The default: standard error.
    pub(super) fn unconfigured() -> Self {
        Self {
            target: AuditTarget::Stderr,
            sign_unrecorded: false,
            sync: Sync::Batch,
            rotate: None,
        }
    }
}

/// The target of the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTarget {
    /// Standard error, between the log lines.
    Stderr,
    /// A file, to which records are appended.
    File(PathBuf),
    /// Nothing is recorded.
    None,
}

impl Names {
    /// Whether the name is selected.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|candidate| candidate == name),
        }
    }
}

impl Rule {
    /// Whether the rule has conditions on the body.
    pub(crate) fn reads_the_body(&self) -> bool {
        self.methods.is_some()
            || self.tools.is_some()
            || self.resources.is_some()
            || self.prompts.is_some()
            || !self.arguments.is_empty()
    }

    /// The rule that applies if there are no others: the user who runs the broker could read its
    /// files anyway. It matches no certificate.
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
    /// The name of the SDK's default chain if no profile is named.
    pub(super) fn default_chain() -> Self {
        Self("default".into())
    }

    /// Checks a name. The AWS files allow any text; characters that would break a line of a table
    /// or a log are refused.
    ///
    /// # Errors
    /// The error.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > 256 {
            return Err("must be 1 to 256 bytes long".to_owned());
        }
        if text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
            return Err("must not contain line breaks or other control characters".to_owned());
        }
        Ok(Self(text.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Allows lookups in maps by `&str`, without creating a name.
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
