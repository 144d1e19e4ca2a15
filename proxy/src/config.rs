//! The configuration of the proxy, as checked values. Made by [`crate::cli`]; nothing here reads the
//! environment or a file.

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

/// The profiles of this proxy in the order given, each once; the first is the default.
#[derive(Debug, Clone)]
pub struct Profiles {
    names: Vec<ProfileName>,
    is_default_chain: bool,
}

impl Profiles {
    /// `names` in their order; none at all means the default chain.
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

    /// The one for calls that name none.
    #[must_use]
    pub fn default(&self) -> &ProfileName {
        &self.names[0]
    }

    /// All, the default first.
    #[must_use]
    pub fn all(&self) -> &[ProfileName] {
        &self.names
    }

    /// The profile of that name, if it is one of these.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&ProfileName> {
        self.names.iter().find(|profile| profile.as_str() == name)
    }

    /// Whether there is anything to choose.
    #[must_use]
    pub fn is_choice(&self) -> bool {
        self.names.len() > 1
    }
}

/// Where to serve Streamable HTTP.
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

/// How to serve Streamable HTTP.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Where.
    pub address: ListenAddress,
    /// The permissions of a socket file.
    pub mode: u32,
    /// The file with the token that clients must show.
    pub token_file: Option<PathBuf>,
}

/// The waits of the reference proxy, under its names.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Until a request is on its way: the broker's signature. `--timeout`
    pub request: Duration,
    /// TCP and TLS. `--connect-timeout`
    pub connect: Duration,
    /// Between two pieces of a response. `--read-timeout`
    pub read: Duration,
    /// Until the connection takes the next piece of a request. `--write-timeout`
    pub write: Duration,
    /// A whole tool call. `--tool-timeout`
    pub tool: Duration,
}

/// Names that match any of some globs (`*`, `?`).
#[derive(Debug, Clone, Default)]
pub struct Globs(Vec<WildMatch>);

impl Globs {
    /// The names that match one of `patterns`.
    #[must_use]
    pub fn new(patterns: &[String]) -> Self {
        Self(patterns.iter().map(|pattern| WildMatch::new(pattern)).collect())
    }

    /// Whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `name` matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|glob| glob.matches(name))
    }
}

/// Which tools exist for this client.
#[derive(Debug, Clone, Default)]
pub struct ToolPolicy {
    /// Only these, if any is named.
    pub allow: Globs,
    /// Never these; wins over `allow`.
    pub deny: Globs,
    /// Only tools that say `readOnlyHint: true`.
    pub read_only: bool,
}

/// The per-call profile argument.
#[derive(Debug, Clone)]
pub struct ProfileArgument {
    /// Its name; `aws_profile` by default.
    pub name: String,
    /// The tools that offer it; none named means all.
    pub tools: Globs,
}

/// Everything that one run of the proxy needs to know.
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
    /// Put into `_meta` of every request, beside `AWS_REGION`.
    pub metadata: Vec<(String, String)>,
    /// Sent with every HTTP request and covered by its signature.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers that were asked for, and aren't sent: every request has its own.
    pub headers_without_effect: Vec<(HeaderName, HeaderValue)>,
    /// The region to name in `_meta`, whatever region a profile has: `AWS_DEFAULT_REGION`.
    pub default_region: Option<String>,
    /// The region to name in `_meta` where the profile has none: `AWS_REGION`.
    pub fallback_region: Option<String>,
    /// How often lists and read-only tools are tried again.
    pub retries: u32,
    /// The waits.
    pub timeouts: Timeouts,
    /// Send unsigned where the broker has no credentials.
    pub skip_auth: bool,
    /// Whether the client's person may be sent to sign in.
    pub sign_in: bool,
    /// Whether the client's name goes into `User-Agent`.
    pub telemetry: bool,
    /// Whether tool results say whose identity made the call.
    pub show_identity: bool,
    /// The argument that chooses a profile.
    pub argument: ProfileArgument,
    /// Which tools are there.
    pub tools: ToolPolicy,
    /// Serve HTTP there, and not standard input and output.
    pub listen: Option<Listen>,
    /// Whether a private broker asks AWS whose its keys are.
    pub asks_identity: bool,
}

impl Config {
    /// The profiles that were named; none where the default chain stands in.
    pub fn named_profiles(&self) -> impl Iterator<Item = &ProfileName> {
        self.profiles.all().iter().filter(|_| !self.profiles.is_default_chain)
    }
}

/// The longest wait that an option can ask for, `inf` among them: a year. Beyond what a clock can
/// count, adding it to the time panics.
pub const MAX_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The most headers that `--header` can add.
pub const MAX_ADDED_HEADERS: usize = 32;

/// The largest message taken from a client, in bytes.
pub const MAX_CLIENT_MESSAGE: usize = 64 << 20;

/// The largest message taken from upstream, in bytes: one JSON body or one event.
pub const MAX_UPSTREAM_MESSAGE: usize = 256 << 20;

/// What messages from upstream may take together on their way, in bytes, beside one of the largest.
pub const MESSAGES_IN_TRANSIT: usize = 128 << 20;

/// What requests of clients may take together until they are answered, in bytes.
pub const REQUESTS_IN_TRANSIT: usize = 128 << 20;
