//! The rules: which callers they match, and which MCP calls they permit.

use std::path::PathBuf;
use std::sync::Arc;

use sigward_proto::call::Want;
use sigward_proto::certificate::dns_name;
use sigward_proto::spiffe::SpiffePattern;
use toml::de::DeValue;

use super::agent::{Agents, agent};
use super::model::{Argument, Globs, Must, Names, Rate, Rule, Scalar};
use super::reader::{Table, Value, absolute, references};
use crate::peer::{self, PeerPattern, UnixPattern};

/// The most conditions of a rule; each costs a little of every call.
const MAX_ARGUMENTS: usize = 64;

/// The rules of a configuration, `[[rule]]`.
pub(super) fn rules<'a>(
    root: &Table<'a>,
    endpoints: &[&'a str],
    profiles: &[&'a str],
    serves_tls: bool,
) -> Vec<Rule> {
    let mut names_so_far: Vec<String> = Vec::new();
    let mut agents = Agents::default();
    let tables = root.tables("rule").into_iter().enumerate();
    let rules = tables.map(|(index, table)| {
        let name = rule_name(&table, index, &mut names_so_far);
        let peer = match table.table("peer") {
            Some(peer) => peer_pattern(peer, serves_tls),
            None => {
                if !table.has("peer") {
                    table.missing(
                        "peer",
                        "is missing: say which callers the rule matches, such as { uid = 1000 }",
                    );
                }
                PeerPattern::Unix(UnixPattern::default())
            }
        };
        if !table.has("profiles") {
            table.missing("profiles", "is missing: name what the rule allows, or [\"*\"]");
        }
        let allowed = names(&table, "profiles", |texts| references(texts, profiles, "profile"));
        let endpoints =
            names(&table, "endpoints", |texts| references(texts, endpoints, "endpoint"));
        let globs_of = |key| table.table(key).map(globs);
        let (tools, resources, prompts) =
            (globs_of("tools"), globs_of("resources"), globs_of("prompts"));
        let methods = globs_of("methods");
        let others = ["tools", "resources", "prompts"].iter().any(|key| table.has(key));
        if methods.as_ref().is_some_and(|methods| methods.allow.is_none()) && !others {
            // The attack: if new methods were allowed by default, the next version of MCP would
            // open a hole.
            table.missing("methods", "permits nothing: name what it allows, or allow = [\"*\"]");
        }
        let arguments = arguments(&table);
        if !arguments.is_empty() && tools.is_none() && methods.is_none() {
            table.missing("arguments", "permits no call: add tools = { allow = [\"…\"] }");
        }
        let rate = table.table("rate").map(rate);
        let login = table.flag("login").is_some_and(|login| login.value);
        let agent = agent(&table);
        if let Some(agent) = &agent {
            let mine = profiles.iter().copied().filter(|profile| allowed.contains(profile));
            agents.add(agent, &name, mine).unwrap_or_else(|why| table.fault("agent", &why));
        }
        table.done();
        Rule {
            name,
            peer,
            profiles: allowed,
            endpoints,
            methods,
            tools,
            resources,
            prompts,
            arguments,
            rate,
            login,
            agent: agent.map(Arc::new),
        }
    });
    rules.collect()
}

/// The name, by default `rule 1` and so on: the audit log refers to it.
fn rule_name(table: &Table<'_>, index: usize, known: &mut Vec<String>) -> String {
    let given = table.text("name");
    let name =
        given.as_ref().map_or_else(|| format!("rule {}", index + 1), |name| name.value.to_owned());
    if let Some(given) = given {
        if known.contains(&name) {
            given.fault(format!("\"{name}\" is declared twice: names must be unique"));
        } else if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
            given.fault("must be 1 to 128 bytes long, without control characters");
        }
    } else if known.contains(&name) {
        table.missing("name", "is missing, and another rule has taken the default");
    }
    known.push(name.clone());
    name
}

fn names<'a>(
    table: &Table<'a>,
    key: &'static str,
    references: impl FnOnce(Vec<Value<'a, &'a str>>) -> Vec<String>,
) -> Names {
    match table.texts(key) {
        None => Names::All,
        Some(texts) if matches!(texts.as_slice(), [text] if text.value == "*") => Names::All,
        Some(texts) if texts.is_empty() => {
            table.missing(key, "is empty: the rule would never allow anything");
            Names::Only(Vec::new())
        }
        Some(texts) => Names::Only(references(texts)),
    }
}

fn peer_pattern(table: Table<'_>, serves_tls: bool) -> PeerPattern {
    let unix = unix_pattern(&table);
    let by_certificate = certificate_pattern(&table, serves_tls);
    let is_unix = ["uid", "gid", "exe"].iter().any(|key| table.has(key));
    let kinds = [is_unix, table.has("spiffe_id"), table.has("dns")];
    match kinds.into_iter().filter(|it| *it).count() {
        0 => table.missing(
            "uid",
            "is missing: a peer is identified by uid or gid, by spiffe_id or by dns",
        ),
        1 => {}
        _ => {
            let key = if table.has("spiffe_id") { "spiffe_id" } else { "dns" };
            let other = "matches other peers than the keys beside it, and no peer is both: write a rule for each";
            table.fault(key, other);
        }
    }
    table.done();
    by_certificate.unwrap_or(PeerPattern::Unix(unix))
}

/// The pattern for peers on the Unix socket.
fn unix_pattern(table: &Table<'_>) -> UnixPattern {
    let uid = table.number("uid", 0..u32::MAX);
    let gid = table.number("gid", 0..u32::MAX);
    // The attack: in a user namespace every unmapped user has this number.
    let unmapped = "is the number that the kernel gives to unmapped users: it identifies no one";
    if let Some(uid) = uid.as_ref().filter(|uid| peer::is_unmapped_uid(uid.value)) {
        uid.fault(unmapped);
    }
    if let Some(gid) = gid.as_ref().filter(|gid| peer::is_unmapped_gid(gid.value)) {
        gid.fault(unmapped);
    }
    let (uid, gid) = (uid.map(|uid| uid.value), gid.map(|gid| gid.value));
    let exe: Option<PathBuf> = table.text("exe").and_then(absolute);
    if exe.is_some() && !table.has("uid") && !table.has("gid") {
        // The executable of a process doesn't identify the user who runs it.
        table
            .missing("uid", "is missing: exe narrows a uid or a gid, and is no identity by itself");
    }
    UnixPattern { uid, gid, exe }
}

/// The pattern for peers over TLS.
fn certificate_pattern(table: &Table<'_>, serves_tls: bool) -> Option<PeerPattern> {
    let spiffe_id = table.text("spiffe_id").and_then(|text| {
        text.parse(|text| SpiffePattern::parse(text).map_err(|why| why.to_string()))
    });
    let dns = table.text("dns").and_then(|text| {
        text.parse(|text| {
            dns_name(text).ok_or_else(|| "must be one whole DNS name, without wildcards".to_owned())
        })
    });
    for key in ["spiffe_id", "dns"] {
        if table.has(key) && !serves_tls {
            table.fault(
                key,
                "comes with TLS only, and no TLS is served: add tcp and tls to [listen]",
            );
        }
    }
    let spiffe_id = spiffe_id.map(|id| PeerPattern::SpiffeId(id.value));
    spiffe_id.or(dns.map(|name| PeerPattern::Dns(name.value)))
}

fn globs(table: Table<'_>) -> Globs {
    let globs =
        |texts: Vec<Value<'_, &str>>| texts.iter().map(|text| text.value.to_owned()).collect();
    let allow = table.texts("allow").map(globs);
    let deny: Option<Vec<String>> = table.texts("deny").map(globs);
    if !table.has("allow") && !table.has("deny") {
        table.missing("allow", "is missing: give allow, deny or both");
    }
    table.done();
    Globs { allow, deny: deny.unwrap_or_default() }
}

fn arguments(table: &Table<'_>) -> Vec<Argument> {
    if !table.has("arguments") {
        return Vec::new();
    }
    let tables = table.tables("arguments");
    if tables.len() > MAX_ARGUMENTS {
        table.missing("arguments", "has more than 64 conditions");
    }
    tables.into_iter().filter_map(argument).collect()
}

fn argument(table: Table<'_>) -> Option<Argument> {
    if !table.has("path") {
        table.missing("path", "is missing: a JSON pointer into the arguments, \"/region\"");
    }
    let tool = table.text("tool").map_or("*", |tool| tool.value).to_owned();
    let path = table.text("path").and_then(|text| {
        let pointer = |path: &str| match Want::default().look_at(path) {
            Ok(_) => Ok(path.to_owned()),
            Err(_) => Err(POINTER.to_owned()),
        };
        text.parse(pointer)
    });
    let conditions = ["equals", "in", "matches", "absent"];
    if conditions.iter().filter(|key| table.has(key)).count() != 1 {
        table.missing("path", "needs one condition: equals, in, matches or absent = true");
    }
    let must = if let Some(value) = table.value("equals") {
        value.parse(scalar).map(|value| Must::BeIn(vec![value.value]))
    } else if table.has("in") {
        let values = table.values("in").unwrap_or_default();
        let values = values.into_iter().filter_map(|value| Some(value.parse(scalar)?.value));
        Some(Must::BeIn(values.collect()))
    } else if let Some(absent) = table.has("absent").then(|| table.flag("absent")) {
        if absent.as_ref().is_some_and(|absent| !absent.value) {
            table.missing("absent", "must be true, or left out");
        }
        absent.map(|_| Must::BeAbsent)
    } else {
        globs_of_text(&table).map(Must::Match)
    };
    table.done();
    Some(Argument { tool, path: path?.value, must: must? })
}

const POINTER: &str =
    "must be a JSON pointer into the arguments, like \"/region\" (~1 for a slash)";

/// Reads one glob, or a list of them.
fn globs_of_text(table: &Table<'_>) -> Option<Vec<String>> {
    let is_list = table.value("matches").is_some_and(|value| value.value.as_array().is_some());
    if is_list {
        let texts = table.texts("matches")?;
        return Some(texts.iter().map(|text| text.value.to_owned()).collect());
    }
    table.text("matches").map(|text| vec![text.value.to_owned()])
}

fn scalar(value: &DeValue<'_>) -> Result<Scalar, String> {
    if let Some(text) = value.as_str() {
        return Ok(Scalar::Text(text.to_owned()));
    }
    if let Some(flag) = value.as_bool() {
        return Ok(Scalar::Bool(flag));
    }
    let number = value.as_integer();
    let number =
        number.and_then(|number| i64::from_str_radix(number.as_str(), number.radix()).ok());
    number
        .map(Scalar::Number)
        .ok_or_else(|| "must be a text in quotes, a whole number, true or false".to_owned())
}

fn rate(table: Table<'_>) -> Rate {
    const RANGE: std::ops::Range<u32> = 1..1_000_001;
    let per_second = table.number("per_second", RANGE).map(|number| number.value);
    if per_second.is_none() && !table.has("per_second") {
        table.missing("per_second", "is missing: say how many signatures a second");
    }
    let burst = table.number("burst", RANGE).map(|number| number.value);
    table.done();
    let per_second = per_second.unwrap_or(1);
    Rate { per_second, burst: burst.unwrap_or(per_second) }
}
