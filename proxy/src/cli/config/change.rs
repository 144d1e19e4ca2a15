//! Changes to a client's file: writes or removes an entry, or rewrites entries of mcp-proxy-for-aws
//! ("the reference").

use super::client::{Client, Format};
use super::entry::{Asked, Form, Owner, owner};
use super::reference::{Started, started};
use super::text::Node;

/// Every command line that starts the reference contains one of these.
const MARKS: [&str; 2] = ["mcp-proxy-for-aws", "mcp_proxy_for_aws"];

/// Prefixes of variables that only the reference, or its launcher, reads.
const FOREIGN: [&str; 4] = ["FASTMCP_", "UV_", "PIP_", "PYTHON"];

/// The outcome for a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// No change.
    Same,
    /// A new text.
    Text(String),
    /// The file is deleted, because only this program's entry was in it.
    Gone,
}

/// `text` with the entry. An existing entry keeps members that this program doesn't set; an entry of another server is
/// refused.
pub(super) fn written(
    format: Format,
    text: &str,
    path: [&str; 2],
    members: &[(String, Node)],
) -> Result<String, String> {
    let name = path[1];
    let Some(known) = format.find(text, &path)? else {
        return format.set(text, &path, &Node::Map(members.to_vec()));
    };
    match owner(&known) {
        Owner::Ours if Form::of(&known).is_current() => {}
        Owner::Ours => {
            return Err(format!(
                "the entry {name:?} has an object for its command, as in older versions of Zed; remove it with \
                 --remove, and then write it"
            ));
        }
        Owner::Reference => {
            return Err(format!(
                "the entry {name:?} is one of mcp-proxy-for-aws; rewrite it with `sigward-proxy config \
                 --from-mcp-proxy-for-aws --write`, or choose another --name"
            ));
        }
        Owner::Other => {
            return Err(format!(
                "the entry {name:?} is another server's; choose another --name, or delete it first"
            ));
        }
    }
    let mut text = text.to_owned();
    for (member, value) in members {
        match value {
            Node::Map(inner) => {
                for (variable, value) in inner {
                    let deep = [path[0], name, member, variable];
                    // A missing map is written as a whole.
                    text = match format.find(&text, &deep[..3])? {
                        Some(_) => format.set(&text, &deep, value)?,
                        None => {
                            let one = Node::Map(vec![(variable.clone(), value.clone())]);
                            format.set(&text, &deep[..3], &one)?
                        }
                    };
                }
            }
            value => text = format.set(&text, &[path[0], name, member], value)?,
        }
    }
    Ok(text)
}

/// `text` without the entry. If the file hasn't changed since the entry was written, it gets the text of the backup
/// from before, one of `backups`. In any other file the entry is removed, and every other byte stays.
pub(super) fn removed(
    format: Format,
    text: &str,
    path: [&str; 2],
    backups: &[String],
) -> Result<Outcome, String> {
    let Some(known) = format.find(text, &path)? else { return Ok(Outcome::Same) };
    if owner(&known) != Owner::Ours {
        return Err(format!(
            "the entry {:?} isn't one of sigward-proxy, and isn't removed; delete it by hand, or choose another --name",
            path[1]
        ));
    }
    let is_before = |before: &str| {
        let has_entry = format.find(before, &path).map_or(true, |it| it.is_some());
        !has_entry && format.set(before, &path, &known).is_ok_and(|again| again == text)
    };
    if let Some(before) = backups.iter().find(|before| is_before(before)) {
        return Ok(Outcome::Text(before.clone()));
    }
    if is_before("") {
        return Ok(Outcome::Gone);
    }
    Ok(format.remove(text, &path)?.map_or(Outcome::Same, Outcome::Text))
}

/// An entry of the reference, and its conversion.
#[derive(Debug)]
pub(super) struct Converted {
    /// The name for messages.
    pub(super) name: String,
    /// The old command.
    pub(super) before: String,
    /// The new command, or the reason why the entry stays unchanged.
    pub(super) outcome: Result<String, String>,
    /// What isn't carried over, or has no effect any more.
    pub(super) notes: Vec<String>,
}

/// `text` with every entry of the reference rewritten to start `program`.
pub(super) fn converted(
    client: Client,
    format: Format,
    text: &str,
    program: &[String],
    asked: &Asked<'_>,
) -> Result<(String, Vec<Converted>), String> {
    let mut text = text.to_owned();
    let mut all = Vec::new();
    if !MARKS.iter().any(|mark| text.contains(mark)) {
        return Ok((text, all));
    }
    for container in containers(client, format, &text)? {
        let container: Vec<&str> = container.iter().map(String::as_str).collect();
        // In a file with other settings, a setting with this name may have another type.
        let is_map = |path: &[&str]| -> Result<bool, String> {
            Ok(matches!(format.find(&text, path)?, Some(Node::Map(_))))
        };
        let above = container.split_last().map_or(&[][..], |(_, above)| above);
        let is_there = (above.is_empty() || is_map(above)?) && is_map(&container)?;
        if container != [client.container()] && !is_there {
            continue;
        }
        let mut names = format.names(&text, &container)?;
        names.sort();
        names.dedup();
        for name in &names {
            let path = [container.as_slice(), &[name]].concat();
            let Some(entry) = format.find(&text, &path)? else { continue };
            let Some((edited, converted)) =
                entry_converted(format, &text, &path, &entry, program, asked)
            else {
                continue;
            };
            text = edited;
            all.push(converted);
        }
    }
    Ok((text, all))
}

/// The maps in a client's file that contain servers.
fn containers(client: Client, format: Format, text: &str) -> Result<Vec<Vec<String>>, String> {
    let mut all = client.containers();
    if client == Client::ClaudeCode {
        // Servers that `claude mcp add` adds for one project.
        for project in format.names(text, &["projects"]).unwrap_or_default() {
            all.push(vec!["projects".to_owned(), project, client.container().to_owned()]);
        }
    }
    Ok(all)
}

fn entry_converted(
    format: Format,
    text: &str,
    path: &[&str],
    entry: &Node,
    program: &[String],
    asked: &Asked<'_>,
) -> Option<(String, Converted)> {
    let name = match path {
        ["projects", project, _, name] => format!("{name} (of {project})"),
        path => path.last().copied().unwrap_or_default().to_owned(),
    };
    let unchanged = |before: String, why: String| {
        let converted =
            Converted { name: name.clone(), before, outcome: Err(why), notes: Vec::new() };
        Some((text.to_owned(), converted))
    };
    let Form { within, program: key, record } = Form::of(entry);
    let path = [path, within].concat();
    let path = path.as_slice();
    let Some(command) = record.member(key).and_then(Node::text) else {
        let command = entry.member("command");
        let is_reference = command.is_some_and(|it| MARKS.iter().any(|mark| it.mentions(mark)));
        let why = "its command isn't a string; write it as `command` and `args` first";
        return is_reference.then(|| unchanged(String::new(), why.to_owned())).flatten();
    };
    let words = match record.member("args") {
        None => Vec::new(),
        Some(args) => match args.texts() {
            Some(words) => words,
            None if MARKS.iter().any(|mark| record.mentions(mark)) => {
                return unchanged(
                    command.to_owned(),
                    "its args aren't a list of strings".to_owned(),
                );
            }
            None => return None,
        },
    };
    let (skipped, mut notes) = match started(command, &words) {
        Started::Other => return None,
        Started::Unknown(why) => return unchanged(line(command, &words), why),
        Started::Reference { skipped, dropped } => (skipped, dropped),
    };
    let before = line(command, &words[..skipped]);
    let own = &words[skipped..];
    if let Err(why) = (asked.serving)(own) {
        if !own.iter().any(|word| word.contains("${")) {
            return unchanged(before, format!("sigward-proxy doesn't take its options: {why}"));
        }
        notes.push("its options have placeholders, and weren't checked".to_owned());
    }
    for (variable, _) in record.member("env").map(Node::members).unwrap_or_default() {
        if FOREIGN.iter().any(|prefix| variable.starts_with(prefix)) {
            notes.push(format!(
                "{variable} in its env has no meaning for sigward-proxy; it is kept"
            ));
        }
    }
    let edited = (|| {
        let (command, leading) = program.split_first().ok_or("there is no program")?;
        let member = |name| [path, &[name]].concat();
        let text = format.set(text, &member(key), &Node::Text(command.clone()))?;
        match (skipped, leading) {
            (0, []) => Ok(text),
            _ if record.member("args").is_none() => {
                let words = leading.iter().cloned().map(Node::Text).collect();
                format.set(&text, &member("args"), &Node::List(words))
            }
            (skipped, leading) => format.replace_first(&text, &member("args"), skipped, leading),
        }
    })();
    match edited {
        Ok(edited) => {
            Some((edited, Converted { name, before, outcome: Ok(program.join(" ")), notes }))
        }
        Err(why) => unchanged(before, why),
    }
}

fn line(command: &str, words: &[String]) -> String {
    std::iter::once(command).chain(words.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
