//! `sigward-proxy config`: prints, writes or removes this proxy's entry in an MCP client's file, or rewrites the
//! entries of mcp-proxy-for-aws.
//!
//! A file is written only if it can be read back with everything else unchanged, and only with a backup. This module
//! opens no AWS file: a broker provides the names of profiles.

mod attributes;
mod change;
mod client;
mod entry;
mod file;
mod jsonc;
mod reference;
mod text;
mod toml;

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgGroup, CommandFactory, Parser};

use self::change::{Converted, Outcome};
pub use self::client::Places;
use self::client::{Client, Format, Scope};
pub use self::entry::{Asked, Given, Offered, Serving};
use self::entry::{Entry, program};
use self::file::ClientFile;
use self::text::Node;
use crate::environment::Environment;

/// Print the entry for an MCP client, or write it into the client's file.
///
/// All options of sigward-proxy may follow, and are written into the entry. A missing endpoint or missing profiles are
/// requested from the running broker, or from a private one, which reads the names in the AWS files.
#[derive(Debug, Parser)]
#[command(name = "sigward-proxy config", version = crate::VERSION, max_term_width = 100)]
#[command(
    override_usage = "sigward-proxy config --client <CLIENT> [--write] [ENDPOINT] [OPTIONS OF \
                            sigward-proxy]\n       \
                            sigward-proxy config --client <CLIENT> --remove\n       \
                            sigward-proxy config --from-mcp-proxy-for-aws [--write]"
)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["client", "from_mcp_proxy_for_aws"]))]
struct Options {
    /// MCP client that the entry is for
    #[arg(long, value_enum)]
    client: Option<Client>,

    /// Name of the entry
    #[arg(long, default_value = "aws", value_parser = name)]
    name: String,

    /// Which of the client's files to use
    #[arg(long, value_enum, default_value = "user")]
    scope: Scope,

    /// File to use instead of the client's own
    #[arg(long, requires = "client")]
    file: Option<PathBuf>,

    /// Write the file, and keep a backup beside it
    #[arg(long, conflicts_with = "remove")]
    write: bool,

    /// Remove the entry from the file; everything else stays unchanged
    #[arg(long, requires = "client", conflicts_with = "from_mcp_proxy_for_aws")]
    remove: bool,

    /// Rewrite the entries of mcp-proxy-for-aws in the files of all known clients, of this user and of this directory;
    /// without --write, show what would change
    #[arg(long)]
    from_mcp_proxy_for_aws: bool,
}

/// A parsed command line of `config`.
#[derive(Debug)]
pub struct Task {
    options: Options,
    /// The other words: the options of serving.
    words: Vec<String>,
}

/// The result of a task.
#[derive(Debug, Default)]
pub struct Report {
    /// The text for standard output.
    pub output: String,
    /// Notes for standard error, one line each.
    pub notes: Vec<String>,
    /// Whether everything could be done.
    pub is_done: bool,
}

/// The command, for man pages and completions.
pub(super) fn command() -> clap::Command {
    Options::command().name("config")
}

/// Parses a command line; `None` if it is for something else. An endpoint has a scheme, and can't be mistaken for
/// `config`.
pub(super) fn task(
    arguments: impl IntoIterator<Item = OsString>,
) -> Option<Result<Task, clap::Error>> {
    let mut arguments = arguments.into_iter().skip(1);
    arguments.next().filter(|word| word == "config")?;
    let (own, rest) = split(arguments);
    let name = OsString::from("sigward-proxy config");
    let parsed = Options::try_parse_from(std::iter::once(name).chain(own));
    Some(parsed.and_then(|options| {
        let words: Result<Vec<String>, OsString> =
            rest.into_iter().map(OsString::into_string).collect();
        let words = words.map_err(|word| {
            let why = format!(
                "{} isn't UTF-8, and can't be written into a client's file",
                word.display()
            );
            Options::command().error(ErrorKind::InvalidUtf8, why)
        })?;
        let takes_words = !options.remove && !options.from_mcp_proxy_for_aws;
        if let Some(word) = words.first().filter(|_| !takes_words) {
            let why = format!("{word:?} has no meaning with --remove or --from-mcp-proxy-for-aws");
            return Err(Options::command().error(ErrorKind::UnknownArgument, why));
        }
        Ok(Task { options, words })
    }))
}

/// Splits the words into those of `config` itself and those of serving.
fn split(arguments: impl Iterator<Item = OsString>) -> (Vec<OsString>, Vec<OsString>) {
    const WITH_VALUE: [&str; 4] = ["--client", "--name", "--scope", "--file"];
    const ALONE: [&str; 7] =
        ["--write", "--remove", "--from-mcp-proxy-for-aws", "--help", "-h", "--version", "-V"];
    let (mut own, mut rest) = (Vec::new(), Vec::new());
    let mut arguments = arguments.peekable();
    while let Some(word) = arguments.next() {
        let text = word.to_str().unwrap_or_default();
        let name = text.split_once('=').map_or(text, |(name, _)| name);
        if text == "--" {
            rest.push(word);
            rest.extend(arguments);
            break;
        } else if ALONE.contains(&text) || (name != text && WITH_VALUE.contains(&name)) {
            own.push(word);
        } else if WITH_VALUE.contains(&text) {
            own.push(word);
            own.extend(arguments.next());
        } else {
            rest.push(word);
        }
    }
    (own, rest)
}

/// Accepts any name that a person can read and type.
fn name(text: &str) -> Result<String, String> {
    match text {
        "" => Err("is empty".to_owned()),
        text if text.chars().any(crate::config::is_control) => {
            Err("holds a control character".to_owned())
        }
        text => Ok(text.to_owned()),
    }
}

impl Task {
    /// Carries out the task.
    ///
    /// # Errors
    /// Describes what is wrong and what to do; nothing was written.
    pub fn run(
        self,
        environment: &Environment,
        places: &Places,
        executable: &Path,
        asked: &Asked<'_>,
    ) -> Result<Report, String> {
        let path = environment.os("PATH").map(OsStr::to_owned);
        let started = program(executable, path.as_ref(), self.options.scope);
        if self.options.from_mcp_proxy_for_aws {
            return Ok(self.convert(places, executable, path.as_ref(), asked));
        }
        let client = self.options.client.ok_or("--client is missing")?;
        if self.options.remove {
            return self.remove(client, places);
        }
        let (entry, notes) =
            Entry::new(self.words, started, self.options.scope, environment, asked)?;
        let members = entry.members(client);
        let target = [client.container(), self.options.name.as_str()];
        let file = self.options.file.map_or_else(|| client.file(self.options.scope, places), Ok);
        let mut report = Report { notes, is_done: true, ..Report::default() };
        if !self.options.write {
            report.output = client.format().set("", &target, &Node::Map(members))?;
            let place = file.map_or_else(|why| why, |file| file.display().to_string());
            report.notes.push(format!("{}: {place} (--write writes it)", client.name()));
            return Ok(report);
        }
        let path = file?;
        let file = ClientFile::read(&path)?;
        let before = file.text().unwrap_or_default();
        let after = change::written(client.format(), before, target, &members)
            .map_err(|why| format!("{}: {why}; nothing was written", path.display()))?;
        let is_private = self.options.scope == Scope::User;
        report.output = apply(&file, &path, Outcome::of(before, after), is_private)?;
        Ok(report)
    }

    fn remove(self, client: Client, places: &Places) -> Result<Report, String> {
        let path = self.options.file.map_or_else(|| client.file(self.options.scope, places), Ok)?;
        let file = ClientFile::read(&path)?;
        let target = [client.container(), self.options.name.as_str()];
        let outcome = match file.text() {
            None => Outcome::Same,
            Some(text) => change::removed(client.format(), text, target, &file.backups())
                .map_err(|why| format!("{}: {why}; nothing was written", path.display()))?,
        };
        let output = apply(&file, &path, outcome, self.options.scope == Scope::User)?;
        Ok(Report { output, notes: Vec::new(), is_done: true })
    }

    /// Converts each file separately: an error in one affects no other.
    fn convert(
        self,
        places: &Places,
        executable: &Path,
        path: Option<&OsString>,
        asked: &Asked<'_>,
    ) -> Report {
        let mut report = Report { is_done: true, ..Report::default() };
        let (mut rewritten, mut kept) = (0, 0);
        for (client, scope, file) in self.files(places) {
            let started = program(executable, path, scope);
            match self.convert_one(client, scope, &file, &started, asked) {
                Ok(Some((text, all))) => {
                    report.output.push_str(&text);
                    kept += all.iter().filter(|it| it.outcome.is_err()).count();
                    rewritten += all.iter().filter(|it| it.outcome.is_ok()).count();
                }
                Ok(None) => {}
                Err(why) => {
                    report.notes.push(why);
                    report.is_done = false;
                }
            }
        }
        let entries =
            |count| if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") };
        let summary = match (rewritten, kept) {
            (0, 0) => "no entry of mcp-proxy-for-aws was found".to_owned(),
            (0, kept) => format!("{} of mcp-proxy-for-aws stayed unchanged", entries(kept)),
            (rewritten, _) if self.options.write => {
                format!("{} rewritten; restart the clients", entries(rewritten))
            }
            (rewritten, _) => {
                format!("{} would be rewritten: repeat this with --write", entries(rewritten))
            }
        };
        let _ = writeln!(report.output, "{summary}");
        report
    }

    /// The files to search, each once.
    fn files(&self, places: &Places) -> Vec<(Client, Scope, PathBuf)> {
        if let (Some(client), Some(file)) = (self.options.client, &self.options.file) {
            return vec![(client, self.options.scope, file.clone())];
        }
        let places_of = |client: Client, scope| {
            let old = client.old_file(scope, places);
            client.file(scope, places).ok().into_iter().chain(old)
        };
        let mut files: Vec<(Client, Scope, PathBuf)> = Vec::new();
        let wanted =
            Client::all().iter().filter(|it| self.options.client.is_none_or(|one| one == **it));
        for &client in wanted {
            for scope in [Scope::User, Scope::Project] {
                for path in places_of(client, scope) {
                    // In the home directory, both scopes may have the same file.
                    let same = |known: &PathBuf| match (known.canonicalize(), path.canonicalize()) {
                        (Ok(known), Ok(path)) => known == path,
                        _ => false,
                    };
                    if !files.iter().any(|(_, _, known)| same(known)) {
                        files.push((client, scope, path));
                    }
                }
            }
        }
        files
    }

    fn convert_one(
        &self,
        client: Client,
        scope: Scope,
        path: &Path,
        program: &[String],
        asked: &Asked<'_>,
    ) -> Result<Option<(String, Vec<Converted>)>, String> {
        let file = ClientFile::read(path)?;
        let Some(before) = file.text() else { return Ok(None) };
        let format = if self.options.file.is_some() { Format::of(path) } else { client.format() };
        let (after, all) = change::converted(client, format, before, program, asked)
            .map_err(|why| format!("{}: {why}; nothing was written", path.display()))?;
        if all.is_empty() {
            return Ok(None);
        }
        let mut text = format!("{}: {}\n", client.name(), path.display());
        for Converted { name, before, outcome, notes } in &all {
            let _ = match outcome {
                Ok(now) => writeln!(text, "  {name}: {before} -> {now}"),
                Err(why) => writeln!(text, "  {name}: not rewritten: {}", one_line(why)),
            };
            for note in notes {
                let _ = writeln!(text, "    {note}");
            }
        }
        if self.options.write && after != before {
            let written = apply(&file, path, Outcome::Text(after), scope == Scope::User)?;
            let _ = write!(text, "  {written}");
        }
        Ok(Some((text, all)))
    }
}

/// The first line of a command line error, as a part of a sentence.
fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

impl Outcome {
    fn of(before: &str, after: String) -> Self {
        if before == after { Self::Same } else { Self::Text(after) }
    }
}

/// Applies the outcome to a file, and returns a report.
fn apply(
    file: &ClientFile,
    path: &Path,
    outcome: Outcome,
    private: bool,
) -> Result<String, String> {
    let path = path.display();
    Ok(match outcome {
        Outcome::Same => format!("{path} needs no change\n"),
        Outcome::Gone => {
            file.delete()?;
            format!("{path} held nothing else, and was deleted\n")
        }
        Outcome::Text(text) => match file.replace(&text, private)? {
            Some(backup) => format!("{path} was written; before: {}\n", backup.display()),
            None => format!("{path} was made\n"),
        },
    })
}

#[cfg(test)]
mod tests;
