//! `explain`: shows which rule decides a call, and why the others don't.
//!
//! It applies the broker's own policy to a message that was parsed by the same strict parser, so
//! its result is the broker's decision.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use clap::Args;
use sigward_proto::certificate::{Name, dns_name};
use sigward_proto::spiffe::SpiffeId;
use sigward_proto::v1::Header;

use super::table::{Table, print};
use crate::call::Content;
use crate::config::{Config, ProfileName};
use crate::error::{Denial, Error, Reason};
use crate::peer::{Peer, Standing, TlsPeer, UnixPeer};
use crate::policy::{Grant, Policy, Why};
use crate::request::Head;

/// Shows which rule of a configuration decides a call, and why the others don't.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Configuration file, in TOML
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    #[command(flatten)]
    caller: Caller,
    /// Primary group of the caller [default: the same number as the user]
    #[arg(long, value_name = "N", requires = "uid")]
    gid: Option<u32>,
    /// Executable of the caller
    #[arg(long, value_name = "PATH", requires = "uid")]
    exe: Option<PathBuf>,
    /// Profile that the caller requests
    #[arg(long, value_name = "NAME")]
    profile: String,
    /// Endpoint that the caller sends to [default: the profile's first]
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// JSON-RPC method [default: tools/call with --tool, and so on]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Tool that the caller calls
    #[arg(long, value_name = "NAME", conflicts_with_all = ["resource", "prompt"])]
    tool: Option<String>,
    /// Resource that the caller reads
    #[arg(long, value_name = "URI", conflicts_with = "prompt")]
    resource: Option<String>,
    /// Prompt that the caller gets
    #[arg(long, value_name = "NAME")]
    prompt: Option<String>,
    /// Arguments of the tool
    #[arg(long, value_name = "JSON")]
    arguments: Option<String>,
}

/// The caller to explain for.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Caller {
    /// User of the caller, on the Unix socket
    #[arg(long, value_name = "N")]
    uid: Option<u32>,
    /// SPIFFE id of the caller's certificate, over TLS
    #[arg(long, value_name = "ID", value_parser = SpiffeId::parse)]
    spiffe_id: Option<SpiffeId>,
    /// DNS name of the caller's certificate, over TLS
    #[arg(long, value_name = "NAME", value_parser = name)]
    dns: Option<String>,
}

fn name(text: &str) -> Result<String, &'static str> {
    dns_name(text).ok_or("must be a DNS name without wildcards")
}

/// The certificate of an assumed caller.
#[derive(Debug)]
struct Assumed;

impl Standing for Assumed {
    fn check(&self, _: SystemTime) -> Result<(), Denial> {
        Ok(())
    }
}

/// Prints the decision. Succeeds if the request would be signed.
pub(super) fn run(options: &Options, config: &Config) -> Result<ExitCode, Error> {
    let peer = options.peer();
    let endpoint = endpoint(options, config)?;
    let policy = Policy::new(config);
    let message = options.message()?;
    let content_type =
        Header { name: "content-type".to_owned(), value: b"application/json".as_slice().into() };
    let uri = endpoint_uri(config, &endpoint)?;
    let head =
        Head::check(options.profile.clone(), "POST", &uri, &[content_type], &config.endpoints);
    let head = head.map_err(|denial| Error::Usage(denial.to_string()))?;
    let matched = policy.match_rules(&peer, &head);
    let mut reader = head.body_reader(Some(policy.want()));
    reader.push(message.as_deref().unwrap_or_default().as_bytes());
    let request = head.with_body(reader).map_err(|denial| Error::Usage(denial.to_string()))?;
    let call = match request.content() {
        Content::Call(call) => Some(call),
        Content::Unread | Content::None | Content::Ambiguous(_) => None,
    };

    let mut table = Table::new(&["RULE", "SAYS"]);
    for (rule, why) in policy.explain(&peer, &options.profile, &endpoint, call) {
        table.row(vec![rule.to_owned(), describe(&why)]);
    }
    let needs_call = message.is_none() && matched.as_ref().is_ok_and(|it| it.want().is_some());
    let (text, permitted) = match &matched {
        _ if needs_call => (
            "It depends on the call: add --tool, --resource, --prompt or --method.".to_owned(),
            false,
        ),
        Err(denial) => (denied(None, denial), false),
        Ok(matched) => {
            let decision = matched.decide(&request);
            match (&decision.outcome, &decision.rule) {
                (Ok(grant), rule) => (permitted(grant, rule.as_deref()), true),
                (Err(denial), rule) => (denied(rule.as_deref(), denial), false),
            }
        }
    };
    print(&format!("{}\n{text}\n", table.render()));
    Ok(if permitted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Options {
    fn peer(&self) -> Peer {
        let certificate = |name| Peer::Tls(TlsPeer { name, standing: Arc::new(Assumed) });
        let Caller { uid, spiffe_id, dns } = &self.caller;
        match (spiffe_id, dns) {
            (Some(id), _) => certificate(Name::SpiffeId(id.clone())),
            (None, Some(name)) => certificate(Name::Dns([name.clone()].into())),
            (None, None) => {
                let uid = uid.unwrap_or_default();
                let (gid, exe) = (self.gid.unwrap_or(uid), self.exe.clone());
                Peer::Unix(UnixPeer { uid, gid, groups: Vec::new(), pid: None, exe })
            }
        }
    }

    /// The message of the call; `None` if the options describe no call.
    fn message(&self) -> Result<Option<String>, Error> {
        let arguments = self.arguments.as_deref().unwrap_or("{}");
        // The text is kept, so that duplicate keys are detected.
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(arguments) {
            return Err(Error::Usage(format!("--arguments isn't JSON: {error}")));
        }
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let (method, params) = match (&self.tool, &self.resource, &self.prompt) {
            (Some(tool), _, _) => {
                ("tools/call", format!(r#"{{"name":{},"arguments":{arguments}}}"#, text(tool)))
            }
            (_, Some(uri), _) => ("resources/read", format!(r#"{{"uri":{}}}"#, text(uri))),
            (_, _, Some(prompt)) => ("prompts/get", format!(r#"{{"name":{}}}"#, text(prompt))),
            (None, None, None) if self.method.is_none() => return Ok(None),
            (None, None, None) => ("", "{}".to_owned()),
        };
        let method = text(self.method.as_deref().unwrap_or(method));
        let notification = method.starts_with("\"notifications/");
        let id = if notification { "" } else { r#""id":1,"# };
        Ok(Some(format!(r#"{{"jsonrpc":"2.0",{id}"method":{method},"params":{params}}}"#)))
    }
}

fn endpoint(options: &Options, config: &Config) -> Result<String, Error> {
    if let Some(endpoint) = &options.endpoint {
        return Ok(endpoint.clone());
    }
    let named = ProfileName::parse(&options.profile).ok();
    let profile = config.profiles.iter().find(|profile| Some(&profile.name) == named.as_ref());
    let profile = profile.or(config.profiles.first());
    let endpoint = profile.and_then(|profile| profile.endpoints.first());
    endpoint.cloned().ok_or_else(|| Error::Usage("the configuration has no endpoint".to_owned()))
}

fn endpoint_uri(config: &Config, name: &str) -> Result<String, Error> {
    let endpoint = config.endpoints.iter().find(|endpoint| endpoint.name == name);
    let endpoint = endpoint.ok_or_else(|| {
        let names: Vec<&str> = config.endpoints.iter().map(|it| it.name.as_str()).collect();
        Error::Usage(format!("there is no endpoint {name:?}; there are {}", names.join(", ")))
    })?;
    Ok(endpoint.url.to_string())
}

fn permitted(grant: &Grant<'_>, rule: Option<&str>) -> String {
    let by = rule.map(|rule| format!(" by {rule:?}")).unwrap_or_default();
    let agent = grant.agent().map(|agent| {
        let marks = match (agent.is_tag(), agent.is_source_identity()) {
            (false, false) => "",
            (true, false) => ", with a session tag",
            (false, true) => ", with the source identity",
            (true, true) => ", with a session tag and the source identity",
        };
        let session = agent.session_name(grant.profile());
        format!(
            " To AWS the caller is the agent {:?}: role session {session}{marks}.",
            agent.name()
        )
    });
    format!("Permitted{by}.{}", agent.unwrap_or_default())
}

fn denied(rule: Option<&str>, denial: &Denial) -> String {
    let reason = match denial.reason() {
        // Callers get the same reason for two causes; the user of this command may know both.
        Reason::ProfileNotAllowed => "PROFILE_NOT_ALLOWED (no such profile, or no rule with it)",
        other => other.name(),
    };
    match rule {
        Some(rule) => format!("Denied by {rule:?}: {reason}: {}.", denial.detail()),
        None => format!("Denied: {reason}: {}.", denial.detail()),
    }
}

fn describe(why: &Why) -> String {
    match why {
        Why::Peer => "doesn't match the caller".to_owned(),
        Why::Profile => "doesn't list the profile".to_owned(),
        Why::Endpoint => "doesn't list the endpoint".to_owned(),
        Why::Call(verdict) => verdict.to_string(),
        Why::AnyCall => "matches the caller, the profile and the endpoint".to_owned(),
    }
}
