//! The configuration of the proxy, as checked values. It is built by [`crate::cli`]; this module reads no environment
//! and no file.

mod broker;
mod name;
mod network;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use url::Url;
use wildmatch::WildMatch;

pub use self::broker::BrokerAddress;
pub use self::name::ProfileName;
pub(crate) use self::name::{is_control, shell_word};
pub use self::network::{Authorities, Network};

/// The profiles of this proxy in the given order, without duplicates; the first is the default.
#[derive(Debug, Clone)]
pub struct Profiles {
    names: Vec<ProfileName>,
    is_default_chain: bool,
}

impl Profiles {
    /// The profiles `names` in their order; an empty list means the default chain.
    #[must_use]
    pub fn new(names: Vec<ProfileName>) -> Self {
        let mut profiles: Vec<ProfileName> = Vec::with_capacity(names.len().max(1));
        for name in names {
            if !profiles.contains(&name) {
                profiles.push(name);
            }
        }
        let is_default_chain = profiles.is_empty();
        if is_default_chain {
            profiles.push(ProfileName::default_chain());
        }
        Self { names: profiles, is_default_chain }
    }

    /// The profile for calls that name none.
    #[must_use]
    pub fn default(&self) -> &ProfileName {
        &self.names[0]
    }

    /// All profiles, the default first.
    #[must_use]
    pub fn all(&self) -> &[ProfileName] {
        &self.names
    }

    /// The profile with this name, if it is one of these.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&ProfileName> {
        self.names.iter().find(|profile| profile.as_str() == name)
    }

    /// Whether there is more than one profile.
    #[must_use]
    pub fn is_choice(&self) -> bool {
        self.names.len() > 1
    }
}

/// The address on which Streamable HTTP is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How Streamable HTTP is served.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The address.
    pub address: ListenAddress,
    /// The permissions of a socket file, as a Unix mode.
    pub mode: u32,
    /// The file with the token that clients must send.
    pub token_file: Option<PathBuf>,
}

/// The time limits, with the names of the reference proxy's options.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// The limit for the broker's signature: `--timeout`.
    pub request: Duration,
    /// The limit for TCP and TLS: `--connect-timeout`.
    pub connect: Duration,
    /// The limit between two parts of a response: `--read-timeout`.
    pub read: Duration,
    /// The limit until the connection accepts the next part of a request: `--write-timeout`.
    pub write: Duration,
    /// The limit for a whole tool call: `--tool-timeout`.
    pub tool: Duration,
}

/// A set of globs (`*`, `?`) for names.
#[derive(Debug, Clone, Default)]
pub struct Globs(Vec<WildMatch>);

impl Globs {
    /// The set of these patterns.
    #[must_use]
    pub fn new(patterns: &[String]) -> Self {
        Self(patterns.iter().map(|pattern| WildMatch::new(pattern)).collect())
    }

    /// Whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `name` matches any pattern.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|glob| glob.matches(name))
    }
}

/// The rules for which tools this client may use.
#[derive(Debug, Clone, Default)]
pub struct ToolPolicy {
    /// If not empty, only these tools are allowed.
    pub allow: Globs,
    /// These tools are denied, even if they are in `allow`.
    pub deny: Globs,
    /// Whether only tools with `readOnlyHint: true` are allowed.
    pub read_only: bool,
}

/// The per-call profile argument.
#[derive(Debug, Clone)]
pub struct ProfileArgument {
    /// Its name; `aws_profile` by default.
    pub name: String,
    /// The tools that offer it; if empty, all do.
    pub tools: Globs,
}

/// The configuration of one run of the proxy.
#[derive(Debug, Clone)]
pub struct Config {
    /// The MCP endpoint.
    pub endpoint: Url,
    /// How the endpoint is reached.
    pub network: Network,
    /// `--service`, for a private broker.
    pub service: Option<String>,
    /// `--region`, for a private broker.
    pub region: Option<String>,
    /// The profiles to offer.
    pub profiles: Profiles,
    /// Metadata for `_meta` of every request, in addition to `AWS_REGION`.
    pub metadata: Vec<(String, String)>,
    /// Headers that are sent with every HTTP request and covered by its signature.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Requested headers that aren't sent, because every request has its own.
    pub headers_without_effect: Vec<(HeaderName, HeaderValue)>,
    /// The region for `_meta`, whatever region a profile has: `AWS_DEFAULT_REGION`.
    pub default_region: Option<String>,
    /// The region for `_meta` if the profile has none: `AWS_REGION`.
    pub fallback_region: Option<String>,
    /// How often lists and read-only tools are retried.
    pub retries: u32,
    /// The time limits.
    pub timeouts: Timeouts,
    /// Whether requests are sent unsigned if the broker has no credentials.
    pub skip_auth: bool,
    /// Whether the client's user may be asked to sign in.
    pub sign_in: bool,
    /// Whether `User-Agent` contains the client's name.
    pub telemetry: bool,
    /// Whether tool results contain the identity that made the call.
    pub show_identity: bool,
    /// The argument that chooses a profile.
    pub argument: ProfileArgument,
    /// The rules for tools.
    pub tools: ToolPolicy,
    /// Where to serve HTTP in place of standard input and output.
    pub listen: Option<Listen>,
    /// Whether a private broker looks up the identity of its keys at AWS.
    pub asks_identity: bool,
}

impl Config {
    /// The profiles that were named; empty for the default chain.
    pub fn named_profiles(&self) -> impl Iterator<Item = &ProfileName> {
        self.profiles.all().iter().filter(|_| !self.profiles.is_default_chain)
    }
}

/// The longest time limit of an option, also for `inf`: a year. Adding a time that the clock can't
/// represent would panic.
pub const MAX_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The most headers that `--header` can add.
pub const MAX_ADDED_HEADERS: usize = 32;

/// The largest message of a client, in bytes.
pub const MAX_CLIENT_MESSAGE: usize = 64 << 20;

/// The largest message of upstream, in bytes: one JSON body or one event.
pub const MAX_UPSTREAM_MESSAGE: usize = 256 << 20;

/// The memory for all messages of upstream in transit, in bytes, in addition to one of the largest
/// size.
pub const MESSAGES_IN_TRANSIT: usize = 128 << 20;

/// The memory for all requests of clients that aren't answered yet, in bytes.
pub const REQUESTS_IN_TRANSIT: usize = 128 << 20;
