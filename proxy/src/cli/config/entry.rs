//! The entry of this proxy in a client's file: program, arguments and variables.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use sigward_proto::v1;

use super::client::{Client, Scope};
use super::reference::{Started, started};
use super::text::Node;
use crate::cli::broker::BrokerChoice;
use crate::config::ProfileName;
use crate::environment::{Environment, Keys};

/// This program's name.
const PROGRAM: &str = "sigward-proxy";

/// What the options of serving specify, as far as an entry needs it.
#[derive(Debug)]
pub struct Given {
    /// Whether the endpoint is specified.
    pub has_endpoint: bool,
    /// Whether profiles are specified.
    pub has_profiles: bool,
    /// The broker.
    pub broker: BrokerChoice,
    /// Whether the environment specifies the broker.
    pub is_broker_of_environment: bool,
}

/// What serving with these words would use.
#[derive(Debug)]
pub struct Serving {
    /// The endpoint.
    pub endpoint: url::Url,
    /// The profiles that options and environment specify.
    pub profiles: Vec<ProfileName>,
}

/// The available profiles.
#[derive(Debug)]
pub enum Offered {
    /// The profiles that a running broker allows this user.
    Running {
        /// The address of the broker.
        broker: String,
        /// The profiles as the broker lists them.
        profiles: Vec<v1::Profile>,
    },
    /// The names of the profiles in the AWS files, as listed by a private broker.
    Files(Vec<String>),
}

/// How the options of serving are parsed, and how profiles are looked up.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Returns what the words specify.
    pub given: &'a dyn Fn(&[String]) -> Result<Given, String>,
    /// Returns what serving would use, or what is wrong with the words.
    pub serving: &'a dyn Fn(&[String]) -> Result<Serving, String>,
    /// Returns the profiles that a broker offers.
    pub offered: &'a dyn Fn(&BrokerChoice) -> Result<Offered, String>,
}

/// The entry of this proxy.
#[derive(Debug)]
pub(super) struct Entry {
    /// The program, and its arguments before the options of serving.
    program: Vec<String>,
    words: Vec<String>,
    env: Vec<(String, String)>,
}

impl Entry {
    /// The entry for serving with `words`, completed from this shell's environment and the broker. The notes are for
    /// the user.
    pub(super) fn new(
        mut words: Vec<String>,
        program: Vec<String>,
        scope: Scope,
        environment: &Environment,
        asked: &Asked<'_>,
    ) -> Result<(Self, Vec<String>), String> {
        let mut notes = Vec::new();
        let given = (asked.given)(&words)?;
        let mut offered = None;
        if !given.has_endpoint {
            let found = (asked.offered)(&given.broker)?;
            words.insert(0, only_endpoint(&found)?);
            offered = Some(found);
        }
        let serving = (asked.serving)(&words)?;
        let mut options = Vec::new();
        if !given.has_profiles {
            let names = match serving.profiles.as_slice() {
                [] => {
                    let found = match offered {
                        Some(found) => found,
                        None => (asked.offered)(&given.broker)?,
                    };
                    names(found, &serving)?
                }
                named => named.to_vec(),
            };
            options.extend(profile_options(&names)?);
        }
        let mut env = settings(environment, &mut notes);
        let broker = environment.text("SIGWARD_BROKER")?;
        let broker = broker.filter(|_| given.is_broker_of_environment);
        // A project's file is shared: it must not contain paths of this machine.
        if scope == Scope::Project {
            let names = env.drain(..).map(|(name, _)| name);
            let names: Vec<String> =
                names.chain(broker.map(|_| "SIGWARD_BROKER".to_owned())).collect();
            if !names.is_empty() {
                let names = names.join(", ");
                notes.push(format!(
                    "a project's file doesn't get these variables of this shell's environment: {names}"
                ));
            }
        } else if let Some(broker) = broker {
            options.extend(["--broker".to_owned(), broker.to_owned()]);
        }
        // Words after `--` aren't options.
        let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
        words.splice(end..end, options);
        (asked.serving)(&words)?;
        if environment.keys() != Keys::None {
            notes.push(
                "the AWS keys of this shell's environment aren't written anywhere: give the client a \
                 profile that has credentials"
                    .to_owned(),
            );
        }
        Ok((Self { program, words, env }, notes))
    }

    /// The members of the entry for a client.
    pub(super) fn members(&self, client: Client) -> Vec<(String, Node)> {
        let text = |text: &String| Node::Text(text.clone());
        let words = self.program.iter().skip(1).chain(&self.words).map(text).collect();
        let mut members = Vec::new();
        if client == Client::Vscode {
            members.push(("type".to_owned(), Node::Text("stdio".to_owned())));
        }
        let command = self.program.first().map_or_else(|| PROGRAM.to_owned(), Clone::clone);
        members.push(("command".to_owned(), Node::Text(command)));
        members.push(("args".to_owned(), Node::List(words)));
        if !self.env.is_empty() {
            let env = self.env.iter().map(|(name, value)| (name.clone(), text(value)));
            members.push(("env".to_owned(), Node::Map(env.collect())));
        }
        members
    }
}

/// Which program an entry belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This proxy.
    Ours,
    /// mcp-proxy-for-aws.
    Reference,
    /// Another server.
    Other,
}

/// The form in which an entry specifies its command.
pub(super) struct Form<'a> {
    /// The path from the entry to the record.
    pub(super) within: &'static [&'static str],
    /// The record's member that contains the program.
    pub(super) program: &'static str,
    /// The object with the program, `args` and `env`.
    pub(super) record: &'a Node,
}

impl<'a> Form<'a> {
    /// Until 2025, Zed had an object for a command: `"command": {"path": …, "args": […], "env": {…}}`.
    pub(super) fn of(entry: &'a Node) -> Self {
        match entry.member("command") {
            Some(record @ Node::Map(_)) if record.member("path").is_some() => {
                Self { within: &["command"], program: "path", record }
            }
            _ => Self { within: &[], program: "command", record: entry },
        }
    }

    /// Whether the entry has the current form.
    pub(super) fn is_current(&self) -> bool {
        self.within.is_empty()
    }
}

/// Which program `entry` belongs to.
pub(super) fn owner(entry: &Node) -> Owner {
    let form = Form::of(entry);
    let command = form.record.member(form.program).and_then(Node::text).unwrap_or_default();
    let words = form.record.member("args").and_then(Node::texts).unwrap_or_default();
    let program = command.rsplit(['/', '\\']).next().unwrap_or(command);
    let package = words.iter().find(|word| !word.starts_with('-'));
    let is_package = package.is_some_and(|word| word.split(['@', '=']).next() == Some(PROGRAM));
    if program == PROGRAM || ["uvx", "npx"].contains(&program) && is_package {
        return Owner::Ours;
    }
    match started(command, &words) {
        Started::Other => Owner::Other,
        Started::Reference { .. } | Started::Unknown(_) => Owner::Reference,
    }
}

/// How a client starts this program: by name if it is in a standard directory, otherwise by path. A program in a
/// package runner's cache may disappear, so it is started with that runner.
pub(super) fn program(executable: &Path, path: Option<&OsString>, scope: Scope) -> Vec<String> {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let has = |name: &str| executable.components().any(|it| it == Component::Normal(name.as_ref()));
    if has("archive-v0") {
        return words(&["uvx", PROGRAM]);
    }
    if has("_npx") {
        return words(&["npx", "-y", PROGRAM]);
    }
    // A shared file must not contain a path of this machine.
    if scope == Scope::Project {
        return words(&[PROGRAM]);
    }
    let directories = path.iter().flat_map(std::env::split_paths);
    let found = directories.map(|directory| directory.join(PROGRAM)).find(|it| it.is_file());
    let is_everywhere = |path: &PathBuf| {
        let directory = path.parent().unwrap_or(path);
        ["/usr/bin", "/bin", "/usr/local/bin", "/opt/homebrew/bin"]
            .iter()
            .any(|it| directory == Path::new(it))
    };
    let is_this = |path: &PathBuf| path.canonicalize().ok() == executable.canonicalize().ok();
    match found.filter(is_everywhere).filter(is_this) {
        Some(_) => words(&[PROGRAM]),
        None => match executable.to_str() {
            Some(path) => words(&[path]),
            None => words(&[PROGRAM]),
        },
    }
}

/// The only endpoint that a running broker has.
fn only_endpoint(offered: &Offered) -> Result<String, String> {
    const MISSING: &str = "the endpoint is missing: give the URL of an MCP server, such as \
                           https://aws-mcp.us-east-1.api.aws/mcp";
    let Offered::Running { broker, profiles } = offered else { return Err(MISSING.to_owned()) };
    let mut urls: Vec<&str> =
        profiles.iter().flat_map(|it| &it.endpoints).map(|it| it.url.as_str()).collect();
    urls.sort_unstable();
    urls.dedup();
    match urls.as_slice() {
        [] => Err(MISSING.to_owned()),
        [only] => Ok((*only).to_owned()),
        several => {
            Err(format!("the endpoint is missing; {broker} knows {}", several.join(" and ")))
        }
    }
}

/// The names of the profiles for this endpoint, the default first.
fn names(offered: Offered, serving: &Serving) -> Result<Vec<ProfileName>, String> {
    let mut all = match offered {
        Offered::Files(names) => names,
        Offered::Running { broker, profiles } => {
            let is_for = |profile: &v1::Profile| {
                profile.endpoints.iter().any(|it| is_within(&serving.endpoint, &it.url))
            };
            let names: Vec<String> =
                profiles.iter().filter(|it| is_for(it)).map(|it| it.name.clone()).collect();
            if names.is_empty() {
                return Err(format!(
                    "{broker} allows this user to sign nothing for {}; `sigward-broker status` lists what it \
                     does, and --broker private asks for one of your own",
                    serving.endpoint
                ));
            }
            names
        }
    };
    if let Some(place) = all.iter().position(|name| name == "default") {
        let default = all.remove(place);
        all.insert(0, default);
    }
    let parsed = all.iter().map(|name| {
        ProfileName::parse(name)
            .map_err(|why| format!("the profile {name:?} can't be offered: its name {why}"))
    });
    parsed.collect()
}

/// Whether a broker's endpoint is the served one.
fn is_within(served: &url::Url, endpoint: &str) -> bool {
    url::Url::parse(endpoint).is_ok_and(|endpoint| {
        endpoint.origin() == served.origin()
            && endpoint.path().trim_end_matches('/') == served.path().trim_end_matches('/')
    })
}

fn profile_options(names: &[ProfileName]) -> Result<Vec<String>, String> {
    let dashed = names.iter().find(|name| name.as_str().starts_with('-'));
    match (names, dashed) {
        ([], _) => Ok(Vec::new()),
        ([only], Some(_)) => Ok(vec![format!("--profile={only}")]),
        (_, Some(name)) => Err(format!(
            "the profile {:?} begins with a dash, and can't be in a list; name the profiles by --profile",
            name.as_str()
        )),
        (names, None) => {
            let names = names.iter().map(ToString::to_string);
            Ok(std::iter::once("--profile".to_owned()).chain(names).collect())
        }
    }
}

/// The settings of this shell that the client's process wouldn't have.
fn settings(environment: &Environment, notes: &mut Vec<String>) -> Vec<(String, String)> {
    // The profiles are written as options.
    let options = ["AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_MCP_PROXY_PROFILES"];
    let mut settings = Vec::new();
    for (name, value) in environment.settings() {
        match value.to_str() {
            _ if options.contains(&name.as_str()) => {}
            Some("") => {}
            Some(value) => settings.push((name, value.to_owned())),
            None => notes.push(format!("{name} isn't UTF-8, and isn't written")),
        }
    }
    let others =
        ["SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"];
    for name in others {
        let Some(value) = environment.os(name).filter(|value| !value.is_empty()) else { continue };
        match value.to_str() {
            // The attack: a password in a file that is shared, or in a backup of it.
            Some(value) if value.contains('@') => {
                notes.push(format!("{name} may hold a password, and isn't written"));
            }
            Some(value) => settings.push((name.to_owned(), value.to_owned())),
            None => notes.push(format!("{name} isn't UTF-8, and isn't written")),
        }
    }
    settings
}

#[cfg(test)]
mod tests;
