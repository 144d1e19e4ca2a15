//! The configuration file: parses TOML to a [`Config`], and reports all errors at once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;
use toml::de::DeTable;

use super::guard_rails::guard_rails;
use super::listen::listen;
use super::model::{
    Audit, AuditTarget, AwsFiles, Config, CredentialsFrom, Profile, ProfileName, Rotate, Rule, Sync,
};
use super::pace::{Pace, pace};
use super::reader::{Reader, Table, Value, absolute, references};
use super::role::role;
use super::rule::rules;
use crate::endpoint::{
    Endpoint, EndpointUrl, Paths, RegionSet, Regions, Scope, Service, scope_of_host,
};
use crate::error::{Error, Faults};
use crate::peer;
use crate::trusted::Trusted;

pub(super) const NO_USER: &str = "without a rule only the broker's own user is allowed, and this one is the user \
     that the kernel can't name: run the broker as a user of its own, or write a [[rule]]";

/// Reads a configuration file. `uid` is the broker's own user, who may use everything if there is
/// no rule.
///
/// # Errors
/// The file can't be read, or has errors.
pub fn read(path: &Path, uid: u32) -> Result<Config, Error> {
    parse(&read_text(path)?, path, uid).map_err(Error::Config)
}

/// The text of a configuration file.
///
/// The attack: a user who can write the file adds a rule, which takes effect within a second.
///
/// # Errors
/// The file can't be read, or others can change it.
pub fn read_text(path: &Path) -> Result<String, Error> {
    trusted_text(path).map_err(|source| Error::ReadConfig { path: path.to_owned(), source })
}

fn trusted_text(path: &Path) -> io::Result<String> {
    // Links are followed, because other users can't change them: config maps of Kubernetes are links.
    let mut file = Trusted::existing(path)?.open(File::options().read(true), OFlags::empty())?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Parses a configuration; `path` is for the errors.
///
/// # Errors
/// All of its errors.
pub fn parse(text: &str, path: &Path, uid: u32) -> Result<Config, Faults> {
    let reader = Reader::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        reader.fault(at, "", error.message());
    }
    // Behind a syntax error, the parser's guesses would cause wrong errors.
    reader.finish(path)?;

    let root = reader.root(&document);
    let table = root.table("listen");
    let serves_tls = table.as_ref().is_some_and(|table| table.has("tcp"));
    let listen = table.map(listen).unwrap_or_default();
    let aws = root.table("aws").map(aws_files).unwrap_or_default();
    let (endpoints, paces) = endpoints(&root);
    let profiles = profiles(&root, &endpoints);
    let mut rules = rules(&root, &endpoints.names, &profiles.names, serves_tls);
    if !root.has("rule") {
        if peer::is_unmapped_uid(uid) {
            root.missing("rule", NO_USER);
        }
        rules.push(Rule::broker_user(uid));
    }
    let audit = audit(root.table("audit"));
    let metrics = root.table("metrics").and_then(metrics);
    root.done();
    reader.finish(path)?;
    let (endpoints, profiles) = (endpoints.list, profiles.list);
    Ok(Config { listen, aws, endpoints, paces, profiles, rules, audit, metrics })
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

/// A list of declared items, and all declared names: a reference to an item whose declaration has
/// errors isn't reported as another error.
struct Declared<'a, T> {
    list: Vec<T>,
    names: Vec<&'a str>,
}

impl<'a, T> Declared<'a, T> {
    /// Records a table's name, which must be unique.
    fn name(&mut self, table: &Table<'a>) -> Option<&'a str> {
        let name = required(table, "name", "is missing: say what rules and callers call it")?;
        if self.names.contains(&name.value) {
            name.fault(format!("\"{}\" is declared twice: names must be unique", name.value));
            return None;
        }
        self.names.push(name.value);
        name.parse(|text| ProfileName::parse(text).map(|_| text)).map(|name| name.value)
    }
}

fn required<'a>(table: &Table<'a>, key: &'static str, why: &str) -> Option<Value<'a, &'a str>> {
    if !table.has(key) {
        table.missing(key, why);
    }
    table.text(key)
}

fn endpoints<'a>(root: &Table<'a>) -> (Declared<'a, Arc<Endpoint>>, HashMap<String, Pace>) {
    let mut paces = HashMap::new();
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
        let regions = regions(&table);
        let paths = table.text("match").and_then(|text| text.parse(paths));
        let paths = paths.map(|paths| paths.value).unwrap_or_default();
        let pace = table.table("pace").and_then(pace);
        table.done();
        let service = service.map(|s| s.value).or(known.as_ref().map(|k| k.service.clone()));
        let regions = regions.or(known.map(|k| k.regions));
        if let (Some(name), Some(url), Some(service), Some(regions)) = (name, url, service, regions)
        {
            let scope = Scope { service, regions };
            let endpoint = Endpoint { name: name.to_owned(), url: url.value, paths, scope };
            paces.extend(pace.map(|pace| (endpoint.name.clone(), pace)));
            endpoints.list.push(Arc::new(endpoint));
        }
    }
    (endpoints, paces)
}

/// Parses `region`: one name for SigV4, or `"*"` or a list for SigV4a.
fn regions(table: &Table<'_>) -> Option<Regions> {
    if !table.is_list("region") {
        let regions = table.text("region").and_then(|text| text.parse(Regions::parse));
        return regions.map(|regions| regions.value);
    }
    let names = table.texts("region")?;
    let set = RegionSet::of(names.iter().map(|name| name.value));
    set.map(Regions::Set).map_err(|why| table.fault("region", &why)).ok()
}

fn paths(text: &str) -> Result<Paths, String> {
    match text {
        "exact" => Ok(Paths::Exact),
        "prefix" => Ok(Paths::Prefix),
        _ => Err("must be \"exact\" or \"prefix\"".to_owned()),
    }
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
            Some(texts) => references(texts, &endpoints.names, "endpoint"),
            None => {
                if !table.has("endpoints") {
                    table.missing("endpoints", "is missing: name where its signatures may go");
                }
                Vec::new()
            }
        };
        let role = role(&table);
        let mine = endpoints.list.iter().filter(|endpoint| allowed.contains(&endpoint.name));
        let guard_rails = guard_rails(&table, mine.map(AsRef::as_ref));
        let preload = table.flag("preload").is_some_and(|preload| preload.value);
        table.done();
        if let Some(Ok(name)) = name.map(ProfileName::parse) {
            let from = aws_profile.unwrap_or(name.as_str()).to_owned();
            let from = CredentialsFrom::AwsProfile(from);
            let endpoints = allowed;
            let profile =
                Profile { name, from, description, endpoints, role, guard_rails, preload };
            profiles.list.push(profile);
        }
    }
    profiles
}

fn audit(table: Option<Table<'_>>) -> Audit {
    let mut audit = Audit::unconfigured();
    let Some(table) = table else { return audit };
    if let Some(path) = table.text("file").and_then(absolute) {
        audit.target = AuditTarget::File(path);
    }
    let on_failure = table.text("on_failure").and_then(|text| {
        text.parse(|text| match text {
            "deny" => Ok(false),
            "allow" => Ok(true),
            _ => Err("must be \"deny\" or \"allow\"".to_owned()),
        })
    });
    let sync = table.text("sync").and_then(|text| {
        text.parse(|text| match text {
            "batch" => Ok(Sync::Batch),
            "none" => Ok(Sync::None),
            _ => Err("must be \"batch\" or \"none\"".to_owned()),
        })
    });
    audit.rotate = table.table("rotate").map(rotate);
    if audit.rotate.is_some() && !table.has("file") {
        table.missing("rotate", "needs file: standard error can't be rotated");
    }
    table.done();
    audit.sign_unrecorded = on_failure.is_some_and(|on_failure| on_failure.value);
    audit.sync = sync.map_or(Sync::Batch, |sync| sync.value);
    audit
}

fn rotate(table: Table<'_>) -> Rotate {
    let mib = table.number("mib", 1..1_000_001).map(|number| u64::from(number.value));
    if mib.is_none() && !table.has("mib") {
        table.missing("mib", "is missing: set the size in MiB at which a new file is started");
    }
    let keep = table.number("keep", 1..1001).map_or(10, |number| number.value);
    table.done();
    Rotate { bytes: mib.unwrap_or(1) << 20, keep }
}
