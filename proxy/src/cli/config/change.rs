//! What becomes of a client's file: an entry written, taken out, or rewritten from the reference.

use super::client::{Client, Format};
use super::entry::{Asked, Form, Owner, owner};
use super::reference::{Started, started};
use super::text::Node;

/// Words that every text has that starts the reference.
const MARKS: [&str; 2] = ["mcp-proxy-for-aws", "mcp_proxy_for_aws"];

/// Variables that only the reference, or what starts it, reads.
const FOREIGN: [&str; 4] = ["FASTMCP_", "UV_", "PIP_", "PYTHON"];

/// What becomes of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing.
    Same,
    /// Another text.
    Text(String),
    /// It holds nothing that this program hasn't made.
    Gone,
}

/// `text` with the entry. One that is there keeps what this program doesn't set; one of another server
/// is left alone.
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
                "the entry {name:?} has an object for its command, as older versions of Zed did; take it out by \
                 --remove, and then write it"
            ));
        }
        Owner::Reference => {
            return Err(format!(
                "the entry {name:?} is one of mcp-proxy-for-aws; rewrite it by `sigward-proxy config \
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
                    // A map that is missing is written whole.
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

/// `text` without the entry. A file that is still as it was written becomes again what it was, which is
/// one of `backups`; in any other the entry goes, and every other byte stays.
pub(super) fn removed(
    format: Format,
    text: &str,
    path: [&str; 2],
    backups: &[String],
) -> Result<Outcome, String> {
    let Some(known) = format.find(text, &path)? else { return Ok(Outcome::Same) };
    if owner(&known) != Owner::Ours {
        return Err(format!(
            "the entry {:?} isn't one of sigward-proxy, and stays; delete it by hand, or choose another --name",
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

/// An entry of the reference, and what becomes of it.
#[derive(Debug)]
pub(super) struct Converted {
    /// As a person knows it.
    pub(super) name: String,
    /// How it was started.
    pub(super) before: String,
    /// How it is started now; else why it stays.
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
        // A setting of that name may be anything in a file that isn't of servers alone.
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

/// Where a client's file holds servers.
fn containers(client: Client, format: Format, text: &str) -> Result<Vec<Vec<String>>, String> {
    let mut all = client.containers();
    if client == Client::ClaudeCode {
        // Those that `claude mcp add` adds for one project.
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
    let stays = |before: String, why: String| {
        let converted =
            Converted { name: name.clone(), before, outcome: Err(why), notes: Vec::new() };
        Some((text.to_owned(), converted))
    };
    let Form { within, program: key, record } = Form::of(entry);
    let path = [path, within].concat();
    let path = path.as_slice();
    let Some(command) = record.member(key).and_then(Node::text) else {
        let command = entry.member("command");
        let is_meant = command.is_some_and(|it| MARKS.iter().any(|mark| it.mentions(mark)));
        let why = "its command isn't a text; write it as `command` and `args` first";
        return is_meant.then(|| stays(String::new(), why.to_owned())).flatten();
    };
    let words = match record.member("args") {
        None => Vec::new(),
        Some(args) => match args.texts() {
            Some(words) => words,
            None if MARKS.iter().any(|mark| record.mentions(mark)) => {
                return stays(command.to_owned(), "its args aren't a list of texts".to_owned());
            }
            None => return None,
        },
    };
    let (skipped, mut notes) = match started(command, &words) {
        Started::Other => return None,
        Started::Unknown(why) => return stays(line(command, &words), why),
        Started::Reference { skipped, dropped } => (skipped, dropped),
    };
    let before = line(command, &words[..skipped]);
    let own = &words[skipped..];
    if let Err(why) = (asked.serving)(own) {
        if !own.iter().any(|word| word.contains("${")) {
            return stays(before, format!("sigward-proxy doesn't take its options: {why}"));
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
        Err(why) => stays(before, why),
    }
}

fn line(command: &str, words: &[String]) -> String {
    std::iter::once(command).chain(words.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
