//! The command line: every option of mcp-proxy-for-aws with its meaning, and our own.
//!
//! Made so that a user changes one word in an MCP client's config. What is wrong is said with the
//! option that is wrong.

mod listen;
mod profiles;

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use http::{HeaderName, HeaderValue};
use url::{Host, Url};

use crate::config::{
    Config, Globs, ListenAddress, ProfileArgument, Profiles, Timeouts, ToolPolicy,
};
use crate::environment::Environment;

/// Use MCP servers on AWS under several AWS identities, without ever holding a key.
///
/// A broker process keeps the credentials and signs. Without --broker this is the one that listens
/// on this machine, or else a private one, started and ended together with this program.
#[derive(Debug, Parser)]
#[command(name = "sigward-proxy", version, infer_long_args = true, max_term_width = 100)]
#[command(after_help = "Examples:
  sigward-proxy https://aws-mcp.us-east-1.api.aws/mcp
  sigward-proxy https://aws-mcp.us-east-1.api.aws/mcp --profile prod-readonly dev staging")]
struct Options {
    /// URL of the MCP endpoint; may also be the last word behind --profile
    endpoint: Option<String>,

    /// AWS profiles to offer, the first is the default [env: AWS_MCP_PROXY_PROFILES,
    /// AWS_DEFAULT_PROFILE, AWS_PROFILE]
    #[arg(long = "profile", value_name = "PROFILE", num_args = 1..)]
    profiles: Vec<String>,

    /// Service to sign for [default: from the endpoint]
    #[arg(long)]
    service: Option<String>,

    /// Region to sign for [default: from the endpoint, else AWS_REGION]
    #[arg(long)]
    region: Option<String>,

    /// Put into `_meta` of every request
    #[arg(long, value_name = "KEY=VALUE", num_args = 0.., value_parser = key_value)]
    metadata: Vec<(String, String)>,

    /// Send with every HTTP request, covered by its signature; repeatable
    #[arg(long = "header", value_name = "KEY=VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,

    /// Only tools that the server marks as read-only
    #[arg(long)]
    read_only: bool,

    /// Retries of lists and read-only tools, and of connections that fail, 0 to 10
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10))]
    retries: u32,

    /// How much to say on standard error
    #[arg(long, value_name = "LEVEL", default_value = "ERROR",
          value_parser = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])]
    log_level: String,

    /// Seconds until a request must be signed and on its way
    #[arg(long, value_name = "SECONDS", default_value = "180", allow_negative_numbers = true, value_parser = seconds)]
    timeout: Duration,

    /// Seconds for a connection to the endpoint
    #[arg(long, value_name = "SECONDS", default_value = "60", allow_negative_numbers = true, value_parser = seconds)]
    connect_timeout: Duration,

    /// Seconds between two pieces of an answer
    #[arg(long, value_name = "SECONDS", default_value = "120", allow_negative_numbers = true, value_parser = seconds)]
    read_timeout: Duration,

    /// Seconds until the endpoint takes the next piece of a request
    #[arg(long, value_name = "SECONDS", default_value = "180", allow_negative_numbers = true, value_parser = seconds)]
    write_timeout: Duration,

    /// Seconds for a whole tool call
    #[arg(long, value_name = "SECONDS", default_value = "300", allow_negative_numbers = true, value_parser = seconds)]
    tool_timeout: Duration,

    /// Send requests unsigned where there are no credentials, instead of failing
    #[arg(long)]
    skip_auth: bool,

    /// Keep the client's name and version out of User-Agent
    #[arg(long)]
    disable_telemetry: bool,

    /// The broker to ask: unix:PATH, or private for one of our own
    #[arg(long, value_name = "ADDRESS", env = "SIGWARD_BROKER", value_parser = broker)]
    broker: Option<BrokerChoice>,

    /// Serve Streamable HTTP at /mcp, not standard input and output: HOST:PORT, PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS", value_parser = listen::address)]
    listen: Option<ListenAddress>,

    /// File with the bearer token that HTTP clients must show
    #[arg(long, value_name = "FILE", requires = "listen")]
    listen_token_file: Option<PathBuf>,

    /// Permissions of the socket of --listen unix:PATH
    #[arg(long, value_name = "MODE", requires = "listen", default_value = "0600", value_parser = listen::mode)]
    listen_mode: u32,

    /// Never send the client's user to sign in; only say in the error how to
    #[arg(long)]
    no_sign_in: bool,

    /// Name of the argument that chooses a profile
    #[arg(long, value_name = "NAME", default_value = "aws_profile", value_parser = argument)]
    profile_argument: String,

    /// Tools that offer it [default: all]
    #[arg(long, value_name = "GLOB", num_args = 1..)]
    profile_tools: Vec<String>,

    /// Only these tools
    #[arg(long, value_name = "GLOB", num_args = 1..)]
    tools_allow: Vec<String>,

    /// Never these tools; wins over --tools-allow
    #[arg(long, value_name = "GLOB", num_args = 1..)]
    tools_deny: Vec<String>,
}

/// Which broker the user wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerChoice {
    /// The one that listens on a usual socket, else a private one.
    Any,
    /// The one behind this socket.
    Unix(PathBuf),
    /// One of our own.
    Private,
}

/// What the command line says.
#[derive(Debug)]
pub struct Invocation {
    /// What to do.
    pub config: Config,
    /// Whom to ask.
    pub broker: BrokerChoice,
    /// One of the five levels.
    pub log_level: String,
}

/// Headers that a signature or an HTTP stack sets itself, with those of the reference proxy.
const RESERVED_HEADERS: [&str; 20] = [
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "date",
    "expect",
    "host",
    "keep-alive",
    "mcp-session-id",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
];

/// Reads the command line. An error is ready to be printed, and so are `--help` and `--version`.
pub fn parse(
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
    environment: &Environment,
) -> Result<Invocation, clap::Error> {
    let mut options = Options::try_parse_from(arguments)?;
    // `--profile dev staging https://…`: the last word of the list is the endpoint.
    if options.endpoint.is_none() && options.profiles.last().is_some_and(|it| it.contains("://")) {
        options.endpoint = options.profiles.pop();
    }
    let Some(endpoint) = options.endpoint.take() else {
        return Err(fault(
            ErrorKind::MissingRequiredArgument,
            "the endpoint is missing: give the URL of an MCP server, such as \
             https://aws-mcp.us-east-1.api.aws/mcp",
        ));
    };
    let endpoint = check_endpoint(&endpoint).map_err(|why| {
        fault(ErrorKind::ValueValidation, &format!("ENDPOINT {endpoint:?} {why}"))
    })?;
    let wrong = |why: String| fault(ErrorKind::ValueValidation, &why);
    let profiles = profiles::chosen(options.profiles, environment).map_err(wrong)?;
    let region =
        |name| environment.text(name).map(|region| region.map(str::to_owned)).map_err(wrong);
    let config = Config {
        endpoint,
        service: options.service,
        region: options.region,
        profiles: Profiles::new(profiles),
        metadata: options.metadata,
        headers: options.headers,
        default_region: region("AWS_DEFAULT_REGION")?,
        fallback_region: region("AWS_REGION")?,
        retries: options.retries,
        timeouts: Timeouts {
            request: options.timeout,
            connect: options.connect_timeout,
            read: options.read_timeout,
            write: options.write_timeout,
            tool: options.tool_timeout,
        },
        skip_auth: options.skip_auth,
        sign_in: !options.no_sign_in,
        telemetry: !options.disable_telemetry,
        argument: ProfileArgument {
            name: options.profile_argument,
            tools: Globs::new(&options.profile_tools),
        },
        tools: ToolPolicy {
            allow: Globs::new(&options.tools_allow),
            deny: Globs::new(&options.tools_deny),
            read_only: options.read_only,
        },
        listen: listen::checked(options.listen, options.listen_token_file, options.listen_mode)
            .map_err(wrong)?,
    };
    let broker = options.broker.unwrap_or(BrokerChoice::Any);
    Ok(Invocation { config, broker, log_level: options.log_level })
}

fn fault(kind: ErrorKind, message: &str) -> clap::Error {
    Options::command().error(kind, message)
}

/// A signature on the wire in clear text could be used by whoever reads it.
fn check_endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| {
        format!("isn't a URL ({error}); it starts with https://, or http:// on this machine")
    })?;
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err("has no host".to_owned()),
    };
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => {
            return Err("uses http:// to another machine, where anybody on the way could use its \
                        signatures; use https://"
                .to_owned());
        }
        scheme => return Err(format!("uses {scheme}://, not https://")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or password; remove it".to_owned());
    }
    if url.fragment().is_some() {
        return Err("has a fragment (#…), which is never sent; remove it".to_owned());
    }
    Ok(url)
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err("must be KEY=VALUE".to_owned()),
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = key_value(text).map_err(|_| "must be KEY=VALUE")?;
    let lower = name.to_ascii_lowercase();
    if RESERVED_HEADERS.contains(&lower.as_str()) {
        return Err(format!("{name} is set by the proxy or by the signature itself"));
    }
    let name = HeaderName::try_from(lower).map_err(|_| format!("{name:?} isn't a header name"))?;
    let mut value = HeaderValue::try_from(value.trim())
        .map_err(|_| format!("the value of {name} has characters that a header can't hold"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "must be a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "must be 0 seconds or more".to_owned())
}

fn argument(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !text.is_empty() && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("may hold letters, digits, _, - and .".to_owned())
    }
}

fn broker(text: &str) -> Result<BrokerChoice, String> {
    if text == "private" {
        return Ok(BrokerChoice::Private);
    }
    match text.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => Ok(BrokerChoice::Unix(path.into())),
        Some(_) => {
            Err("must name an absolute path, as in unix:/run/sigward/broker.sock".to_owned())
        }
        None => Err("must be unix:PATH or private".to_owned()),
    }
}

#[cfg(test)]
mod tests;
