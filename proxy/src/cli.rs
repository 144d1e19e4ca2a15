//! The command line: every option of mcp-proxy-for-aws with the same meaning, and further options.
//!
//! A user of that proxy needs to change only the program's name in an MCP client's config. An error names the wrong
//! option.

mod broker;
pub mod check;
pub mod config;
mod endpoint;
mod health;
mod listen;
mod network;
mod profiles;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser};
use http::{HeaderName, HeaderValue};

pub use self::broker::BrokerChoice;
pub use self::health::health;
use self::values::{argument, header, key_value, last_of_each, seconds};
use crate::config::{
    Config, Globs, ListenAddress, MAX_ADDED_HEADERS, ProfileArgument, Profiles, Timeouts,
    ToolPolicy,
};
use crate::environment::Environment;

/// Use MCP servers on AWS under several AWS identities, without ever holding a key.
///
/// A broker process keeps the credentials and signs. Without --broker, that is the one that listens
/// on this machine, or else a private one, which starts and ends with this program.
#[derive(Debug, Parser)]
#[command(name = "sigward-proxy", version = crate::VERSION, max_term_width = 100)]
// As argparse reads the options of mcp-proxy-for-aws: the last of several values counts, and an option may be
// abbreviated if that is unambiguous. Where an additional option of this proxy matches as well, an alias selects the
// option of mcp-proxy-for-aws.
#[command(args_override_self = true, infer_long_args = true)]
#[command(after_help = "Examples:
  sigward-proxy https://aws-mcp.us-east-1.api.aws/mcp
  sigward-proxy https://aws-mcp.us-east-1.api.aws/mcp --profile prod-readonly dev staging
  sigward-proxy check https://aws-mcp.us-east-1.api.aws/mcp --profile dev    shows why it doesn't connect
  sigward-proxy config --client claude-code --write https://aws-mcp.us-east-1.api.aws/mcp
  sigward-proxy health 127.0.0.1:8080    is the proxy that listens there healthy?

`sigward-proxy check --help` and `sigward-proxy config --help` show their options.")]
struct Options {
    /// URL of the MCP endpoint; may also be the last word after the names of --profile
    endpoint: Option<String>,

    /// AWS profiles to offer; the first is the default [env: AWS_MCP_PROXY_PROFILES,
    /// AWS_DEFAULT_PROFILE, AWS_PROFILE]
    #[arg(long = "profile", value_name = "PROFILE", num_args = 1.., action = ArgAction::Set)]
    #[arg(aliases = ["p", "pr", "pro", "prof", "profi", "profil"])]
    profiles: Vec<String>,

    /// Service to sign for [default: from the endpoint]
    #[arg(long)]
    service: Option<String>,

    /// Region to sign for [default: from the endpoint, else AWS_REGION]
    #[arg(long)]
    region: Option<String>,

    /// Add KEY=VALUE to `_meta` of every request; repeatable
    #[arg(long, value_name = "KEY=VALUE", num_args = 0.., value_parser = key_value)]
    metadata: Vec<(String, String)>,

    /// Add a header to every HTTP request, and sign it; repeatable
    #[arg(long = "header", value_name = "KEY=VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,

    /// Expose only tools that the server marks as read-only
    #[arg(long)]
    read_only: bool,

    /// Number of retries of lists, read-only tools and failed connections, 0 to 10
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10))]
    retries: u32,

    /// Least severe level of the messages on standard error
    #[arg(long, value_name = "LEVEL", default_value = "ERROR", alias = "l",
          value_parser = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])]
    log_level: String,

    /// Seconds that the broker may take to sign a request
    #[arg(long, value_name = "SECONDS", default_value = "180", allow_negative_numbers = true, value_parser = seconds)]
    timeout: Duration,

    /// Seconds that connecting to the endpoint may take
    #[arg(long, alias = "c", value_name = "SECONDS", default_value = "60", allow_negative_numbers = true, value_parser = seconds)]
    connect_timeout: Duration,

    /// Seconds between two parts of an answer
    #[arg(long, value_name = "SECONDS", default_value = "120", allow_negative_numbers = true, value_parser = seconds)]
    read_timeout: Duration,

    /// Seconds until the endpoint accepts the next part of a request
    #[arg(long, value_name = "SECONDS", default_value = "180", allow_negative_numbers = true, value_parser = seconds)]
    write_timeout: Duration,

    /// Seconds that a tool call may take
    #[arg(long, aliases = ["to", "too", "tool"], value_name = "SECONDS", default_value = "300", allow_negative_numbers = true, value_parser = seconds)]
    tool_timeout: Duration,

    /// Send requests unsigned if there are no credentials at all, instead of failing
    #[arg(long)]
    skip_auth: bool,

    /// Omit the client's name and version from User-Agent
    #[arg(long)]
    disable_telemetry: bool,

    #[command(flatten)]
    broker: broker::Options,

    /// PEM file of the certificate authorities for the endpoint, in place of those of this machine
    /// [env: AWS_CA_BUNDLE]
    #[arg(long, value_name = "FILE")]
    ca_bundle: Option<PathBuf>,

    /// Serve Streamable HTTP at /mcp instead of standard input and output: HOST:PORT, PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS", value_parser = listen::address)]
    listen: Option<ListenAddress>,

    /// File with the bearer token that HTTP clients must send
    #[arg(long, value_name = "FILE", requires = "listen")]
    listen_token_file: Option<PathBuf>,

    /// Permissions of the socket of --listen unix:PATH
    #[arg(long, value_name = "MODE", requires = "listen", default_value = "0600", value_parser = listen::mode)]
    listen_mode: u32,

    /// Never send the client's user to a sign-in page; the error tells how to sign in
    #[arg(long)]
    no_sign_in: bool,

    /// Add the identity that made the call to each tool result: `sigward/identity` in `_meta`
    #[arg(long)]
    show_identity: bool,

    /// Name of the argument that chooses a profile
    #[arg(long, value_name = "NAME", default_value = "aws_profile", value_parser = argument)]
    profile_argument: String,

    /// Tools that get the profile argument; repeatable [default: all]
    #[arg(long, value_name = "GLOB", num_args = 1..)]
    profile_tools: Vec<String>,

    /// Expose only tools that match; repeatable
    #[arg(long, value_name = "GLOB", num_args = 1..)]
    tools_allow: Vec<String>,

    /// Hide and refuse tools that match, also those of --tools-allow; repeatable
    #[arg(long, value_name = "GLOB", num_args = 1..)]
    tools_deny: Vec<String>,
}

/// Connect to an MCP server once, step by step, and report which step fails and what to do.
///
/// Exit code: 0 if every step passed for every profile, 1 if one failed, 2 if the command line is wrong.
#[derive(Debug, Parser)]
#[command(name = "sigward-proxy check", version = crate::VERSION, max_term_width = 100)]
#[command(args_override_self = true, infer_long_args = true)]
struct Check {
    #[command(flatten)]
    options: Options,

    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// The parsed command line.
#[derive(Debug)]
pub struct Invocation {
    /// The configuration.
    pub config: Config,
    /// The broker to use.
    pub broker: BrokerChoice,
    /// The log level, one of five.
    pub log_level: String,
}

/// All options, and the commands that are parsed before them, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    let check = Check::command().name("check");
    Options::command().subcommands([check, config::command(), health::command()])
}

/// Parses the command line. The error is ready to be printed; `--help` and `--version` are errors,
/// too.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<Invocation, clap::Error> {
    serving(Options::try_parse_from(arguments)?.completed(), environment)
}

/// Parses `sigward-proxy check …`, which takes the options of serving. The flag tells whether JSON is wanted. `None` if
/// the command line is for something else; an endpoint has a scheme, and can't be mistaken for `check`.
pub fn check(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Option<Result<(Invocation, bool), clap::Error>> {
    let mut arguments = arguments.into_iter().skip(1);
    arguments.next().filter(|word| word == "check")?;
    let name = OsString::from("sigward-proxy check");
    let parsed = Check::try_parse_from(std::iter::once(name).chain(arguments));
    Some(parsed.and_then(|Check { mut options, json }| {
        // A check doesn't listen, and doesn't ask a user to sign in.
        (options.listen, options.listen_token_file, options.no_sign_in) = (None, None, true);
        let mut invocation = serving(options.completed(), environment)?;
        invocation.config.asks_identity = true;
        Ok((invocation, json))
    }))
}

/// Parses `sigward-proxy config …`; `None` if the command line is for something else.
pub fn config(
    arguments: impl IntoIterator<Item = OsString>,
) -> Option<Result<config::Task, clap::Error>> {
    config::task(arguments)
}

/// What the words of an entry name.
///
/// # Errors
/// The words aren't valid options.
pub fn given(words: &[String]) -> Result<config::Given, clap::Error> {
    let all = std::iter::once("sigward-proxy").chain(words.iter().map(String::as_str));
    let mut matches = Options::command().try_get_matches_from(all)?;
    let is_of_environment = matches.value_source("broker") == Some(ValueSource::EnvVariable);
    let options = Options::from_arg_matches_mut(&mut matches)?.completed();
    Ok(config::Given {
        has_endpoint: options.endpoint.is_some(),
        has_profiles: !options.profiles.is_empty(),
        broker: options
            .broker
            .choice()
            .map_err(|why| usage_error(ErrorKind::ValueValidation, &why))?,
        is_broker_of_environment: is_of_environment,
    })
}

impl Options {
    /// For `--profile dev staging https://…`: the last word of the list is the endpoint.
    fn completed(mut self) -> Self {
        let is_last = self.profiles.last().is_some_and(|it| it.contains("://"));
        if self.endpoint.is_none() && is_last {
            self.endpoint = self.profiles.pop();
        }
        self
    }
}

fn serving(mut options: Options, environment: &Environment) -> Result<Invocation, clap::Error> {
    let Some(endpoint) = options.endpoint.take() else {
        return Err(usage_error(
            ErrorKind::MissingRequiredArgument,
            "the endpoint is missing: give the URL of an MCP server, such as \
             https://aws-mcp.us-east-1.api.aws/mcp",
        ));
    };
    let endpoint = endpoint::checked(&endpoint).map_err(|why| {
        usage_error(ErrorKind::ValueValidation, &format!("ENDPOINT {endpoint:?} {why}"))
    })?;
    let wrong = |why: String| usage_error(ErrorKind::ValueValidation, &why);
    let profiles = profiles::chosen(options.profiles, environment).map_err(wrong)?;
    let region =
        |name| environment.text(name).map(|region| region.map(str::to_owned)).map_err(wrong);
    let headers = last_of_each(options.headers);
    if headers.len() > MAX_ADDED_HEADERS {
        return Err(wrong(format!("--header: there are more than {MAX_ADDED_HEADERS}")));
    }
    let (without_effect, headers) =
        headers.into_iter().partition(|(name, _)| values::WITHOUT_EFFECT.contains(&name.as_str()));
    let network = network::network(options.ca_bundle, &endpoint, environment).map_err(wrong)?;
    let config = Config {
        endpoint,
        network,
        service: options.service,
        region: options.region,
        profiles: Profiles::new(profiles),
        metadata: last_of_each(options.metadata),
        headers,
        headers_without_effect: without_effect,
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
        show_identity: options.show_identity,
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
        asks_identity: false,
    };
    let broker = options.broker.choice().map_err(wrong)?;
    Ok(Invocation { config, broker, log_level: options.log_level })
}

fn usage_error(kind: ErrorKind, message: &str) -> clap::Error {
    Options::command().error(kind, message)
}

#[cfg(test)]
mod tests;
