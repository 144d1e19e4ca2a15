//! The configuration file: TOML to [`Config`], all faults at once.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use super::model::{
    Audit, AuditTarget, AwsFiles, Config, CredentialsFrom, Group, Listen, Names, Profile,
    ProfileName, Rate, Rule, Tools,
};
use super::reader::{Reader, Table, Value, did_you_mean};
use super::role::role;
use crate::endpoint::{Endpoint, EndpointUrl, Region, Scope, Service, scope_of_host};
use crate::error::{Error, Faults};
use crate::peer::PeerPattern;

const NO_TLS: &str =
    "this version serves Unix sockets only: leave it out, and share the socket through a volume";

/// Reads a configuration file. `uid` is the broker's own user, who may use everything where no rule
/// is written.
///
/// # Errors
/// The file can't be read, or has faults.
pub fn read(path: &Path, uid: u32) -> Result<Config, Error> {
    let text = text(path).map_err(|source| Error::ReadConfig { path: path.to_owned(), source })?;
    parse(&text, path, uid).map_err(Error::Config)
}

/// The attack: whoever may write the file gives themselves a rule, which is in force within a second.
fn text(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    if file.metadata()?.mode() & 0o002 != 0 {
        return Err(io::Error::other("every user may change it: chmod o-w it"));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Parses a configuration; `path` is for the faults.
///
/// # Errors
/// All of its faults.
pub fn parse(text: &str, path: &Path, uid: u32) -> Result<Config, Faults> {
    let reader = Reader::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        reader.fault(at, "", error.message());
    }
    // What the parser guessed behind a syntax error would only give faults that aren't there.
    reader.finish(path)?;

    let root = reader.root(&document);
    let listen = root.table("listen").map(listen).unwrap_or_default();
    let aws = root.table("aws").map(aws_files).unwrap_or_default();
    let endpoints = endpoints(&root);
    let profiles = profiles(&root, &endpoints);
    let mut rules = rules(&root, &endpoints, &profiles);
    if !root.has("rule") {
        rules.push(Rule::own_user(uid));
    }
    let audit = audit(root.table("audit"));
    let metrics = root.table("metrics").and_then(metrics);
    root.done();
    reader.finish(path)?;
    let (endpoints, profiles) = (endpoints.list, profiles.list);
    Ok(Config { listen, aws, endpoints, profiles, rules, audit, metrics })
}

fn listen(table: Table<'_>) -> Listen {
    let unix = table.text("unix").and_then(absolute);
    let mode = table.text("mode").and_then(|text| text.parse(mode)).map(|mode| mode.value);
    let group = table.text("group").and_then(|text| text.parse(group)).map(|group| group.value);
    table.unsupported("tcp", NO_TLS);
    table.unsupported("tls", NO_TLS);
    table.done();
    Listen { unix, mode, group }
}

fn metrics(table: Table<'_>) -> Option<SocketAddr> {
    let address = |text: &str| {
        text.parse()
            .map_err(|_| "must be an address and a port, as in \"127.0.0.1:9464\"".to_owned())
    };
    let listen = table.text("listen");
    if listen.is_none() && !table.has("listen") {
        table.missing("listen", "say where metrics are served: \"127.0.0.1:9464\"");
    }
    table.done();
    listen.and_then(|text| text.parse(address)).map(|address| address.value)
}

fn absolute(text: Value<'_, &str>) -> Option<PathBuf> {
    let absolute = |text: &str| {
        let path = PathBuf::from(text);
        if path.is_absolute() { Ok(path) } else { Err("must be an absolute path".to_owned()) }
    };
    text.parse(absolute).map(|path| path.value)
}

/// A socket's permissions in octal. What is open to all is refused: on a machine with other users
/// anyone could fill the connection table, and the peer's uid would be the only lock left.
fn mode(text: &str) -> Result<u32, String> {
    let number = u32::from_str_radix(text, 8).ok().filter(|_| (3..=4).contains(&text.len()));
    match number {
        Some(mode) if mode & !0o777 == 0 && mode & 0o600 == 0o600 && mode & 0o007 == 0 => Ok(mode),
        Some(mode) if mode & 0o007 != 0 => {
            Err("opens the socket to every user: write \"0660\" and name a group".to_owned())
        }
        _ => Err("must be permissions in octal, like \"0600\" or \"0660\"".to_owned()),
    }
}

/// A group by number or by its name in /etc/group.
fn group(text: &str) -> Result<Group, String> {
    if let Ok(gid) = text.parse() {
        return Ok(Group(gid));
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let gid = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == text).then(|| fields.nth(1)?.parse().ok())?
    });
    gid.map(Group).ok_or_else(|| {
        "is not a group of /etc/group: make it (groupadd), or write its number".to_owned()
    })
}

fn aws_files(table: Table<'_>) -> AwsFiles {
    let config = table.text("config_file").and_then(absolute);
    let credentials = table.text("credentials_file").and_then(absolute);
    let process_environment = table.texts("process_environment").unwrap_or_default();
    let process_environment =
        process_environment.iter().map(|name| name.value.to_owned()).collect();
    let identity = table.flag("identity").is_some_and(|identity| identity.value);
    table.done();
    AwsFiles { config, credentials, process_environment, identity }
}

/// A list of declared things, and every name that was declared: also those whose declaration has
/// faults, so that a reference to them isn't a fault of its own.
struct Declared<'a, T> {
    list: Vec<T>,
    names: Vec<&'a str>,
}

impl<'a, T> Declared<'a, T> {
    /// Takes note of a table's name, which must be new.
    fn name(&mut self, table: &Table<'a>) -> Option<&'a str> {
        let name = required(table, "name", "is missing: say what rules and callers call it")?;
        if self.names.contains(&name.value) {
            name.fault(format!("\"{}\" is there twice: names are unique", name.value));
            return None;
        }
        self.names.push(name.value);
        name.parse(|text| ProfileName::parse(text).map(|_| text)).map(|name| name.value)
    }

    /// Checks references to what was declared.
    fn references(&self, texts: Vec<Value<'a, &'a str>>, what: &str) -> Vec<String> {
        let mut found = Vec::new();
        for text in texts {
            if !self.names.contains(&text.value) {
                let hint = did_you_mean(text.value, self.names.iter().copied());
                text.fault(format!("there is no {what} \"{}\"{hint}", text.value));
            } else if found.iter().any(|name| name == text.value) {
                text.fault(format!("\"{}\" is there twice", text.value));
            } else {
                found.push(text.value.to_owned());
            }
        }
        found
    }
}

fn required<'a>(table: &Table<'a>, key: &'static str, why: &str) -> Option<Value<'a, &'a str>> {
    if !table.has(key) {
        table.missing(key, why);
    }
    table.text(key)
}

fn endpoints<'a>(root: &Table<'a>) -> Declared<'a, Arc<Endpoint>> {
    let mut endpoints = Declared { list: Vec::<Arc<Endpoint>>::new(), names: Vec::new() };
    let tables = root.tables("endpoint");
    if !root.has("endpoint") {
        root.missing("endpoint", "there is none: add one with [[endpoint]], name and url");
    }
    for table in tables {
        let name = endpoints.name(&table);
        let url = required(&table, "url", "is missing: write the endpoint's https:// URL")
            .and_then(|url| url.parse(EndpointUrl::parse));
        let twin = |url: &EndpointUrl| endpoints.list.iter().find(|twin| twin.url == *url);
        if let Some(url) = &url
            && let Some(twin) = twin(&url.value)
        {
            url.fault(format!("is the URL of endpoint \"{}\" already", twin.name));
        }
        let known = url.as_ref().and_then(|url| scope_of_host(url.value.host()));
        if url.is_some() && known.is_none() {
            for key in ["service", "region"] {
                if !table.has(key) {
                    table.missing(key, "is missing: it doesn't follow from the host of this URL");
                }
            }
        }
        let service = table.text("service").and_then(|text| text.parse(Service::parse));
        let region = table.text("region").and_then(|text| text.parse(Region::parse));
        table.done();
        let service = service.map(|s| s.value).or(known.as_ref().map(|k| k.service.clone()));
        let region = region.map(|r| r.value).or(known.map(|k| k.region));
        if let (Some(name), Some(url), Some(service), Some(region)) = (name, url, service, region) {
            let scope = Scope { service, region };
            let endpoint = Endpoint { name: name.to_owned(), url: url.value, scope };
            endpoints.list.push(Arc::new(endpoint));
        }
    }
    endpoints
}

fn profiles<'a>(
    root: &Table<'a>,
    endpoints: &Declared<'a, Arc<Endpoint>>,
) -> Declared<'a, Profile> {
    let mut profiles = Declared { list: Vec::new(), names: Vec::new() };
    let tables = root.tables("profile");
    if !root.has("profile") {
        root.missing("profile", "there is none: add one with [[profile]], name and endpoints");
    }
    for table in tables {
        let name = profiles.name(&table);
        let aws_profile = table.text("aws_profile").map(|text| text.value);
        let description = table.text("description").map_or("", |text| text.value).to_owned();
        let allowed = match table.texts("endpoints") {
            Some(texts) if texts.is_empty() => {
                table.missing("endpoints", "is empty: name where its signatures may go");
                Vec::new()
            }
            Some(texts) => endpoints.references(texts, "endpoint"),
            None => {
                if !table.has("endpoints") {
                    table.missing("endpoints", "is missing: name where its signatures may go");
                }
                Vec::new()
            }
        };
        let role = role(&table);
        let preload = table.flag("preload").is_some_and(|preload| preload.value);
        table.done();
        if let Some(Ok(name)) = name.map(ProfileName::parse) {
            let from = aws_profile.unwrap_or(name.as_str()).to_owned();
            let from = CredentialsFrom::AwsProfile(from);
            let endpoints = allowed;
            profiles.list.push(Profile { name, from, description, endpoints, role, preload });
        }
    }
    profiles
}

fn rules<'a>(
    root: &Table<'a>,
    endpoints: &Declared<'a, Arc<Endpoint>>,
    profiles: &Declared<'a, Profile>,
) -> Vec<Rule> {
    let tables = root.tables("rule").into_iter();
    let rules = tables.map(|table| {
        let peer = match table.table("peer") {
            Some(peer) => peer_pattern(peer),
            None => {
                if !table.has("peer") {
                    table.missing("peer", "is missing: say whom the rule is about, { uid = 1000 }");
                }
                PeerPattern::default()
            }
        };
        if !table.has("profiles") {
            table.missing("profiles", "is missing: name what the rule allows, or [\"*\"]");
        }
        let profiles = names(&table, "profiles", |texts| profiles.references(texts, "profile"));
        let endpoints = names(&table, "endpoints", |texts| endpoints.references(texts, "endpoint"));
        let tools = table.table("tools").map(tools);
        let rate = table.table("rate").map(rate);
        let login = table.flag("login").is_some_and(|login| login.value);
        table.done();
        Rule { peer, profiles, endpoints, tools, rate, login }
    });
    rules.collect()
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

fn peer_pattern(table: Table<'_>) -> PeerPattern {
    let uid = table.number("uid", 0..u32::MAX).map(|uid| uid.value);
    let gid = table.number("gid", 0..u32::MAX).map(|gid| gid.value);
    let exe = table.text("exe").and_then(absolute);
    table
        .unsupported("spiffe_id", "comes with TLS only, and this version serves Unix sockets only");
    if !["uid", "gid", "exe", "spiffe_id"].iter().any(|key| table.has(key)) {
        table.missing("uid", "is missing: a peer is told by uid, gid or exe");
    }
    table.done();
    PeerPattern { uid, gid, exe }
}

fn tools(table: Table<'_>) -> Tools {
    let globs =
        |texts: Vec<Value<'_, &str>>| texts.iter().map(|text| text.value.to_owned()).collect();
    let allow = table.texts("allow").map(globs);
    let deny: Option<Vec<String>> = table.texts("deny").map(globs);
    if !table.has("allow") && !table.has("deny") {
        table.missing("allow", "is missing: give allow, deny or both");
    }
    table.done();
    Tools { allow, deny: deny.unwrap_or_default() }
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

fn audit(table: Option<Table<'_>>) -> Audit {
    let Some(table) = table else {
        return Audit { target: AuditTarget::Stderr, sign_unrecorded: false };
    };
    let target =
        table.text("file").and_then(absolute).map_or(AuditTarget::Stderr, AuditTarget::File);
    let on_failure = table.text("on_failure").and_then(|text| {
        text.parse(|text| match text {
            "deny" => Ok(false),
            "allow" => Ok(true),
            _ => Err("must be \"deny\" or \"allow\"".to_owned()),
        })
    });
    table.done();
    Audit { target, sign_unrecorded: on_failure.is_some_and(|on_failure| on_failure.value) }
}
