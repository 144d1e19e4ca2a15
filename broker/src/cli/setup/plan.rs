//! The plan: steps and their description, computed from facts without changing anything.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::step::{Owner, Step};
use crate::config::{self, ProfileName};
use crate::profile::Listed;

/// The systemd units, as in the packages.
const SERVICE: &str = include_str!("../../../deploy/systemd/sigward-broker@.service");
const SOCKET: &str = include_str!("../../../deploy/systemd/sigward-broker@.socket");
const OFFLINE: &str = include_str!("../../../deploy/systemd/offline.conf");
/// The program that the packaged service starts.
const PACKAGED_PROGRAM: &str = "/usr/bin/sigward-broker";
const UNITS: &str = "/etc/systemd/system";

/// A user of this machine.
#[derive(Debug, Clone)]
pub(super) struct Person {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: PathBuf,
}

/// The facts that the steps depend on.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) person: Person,
    /// The path of this program, without links.
    pub(super) program: PathBuf,
    /// Whether a package has installed the units.
    pub(super) has_units: bool,
    /// The uid of the person's broker, if the user exists.
    pub(super) broker: Option<u32>,
}

/// The parts, each with one purpose.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) parts: Vec<Part>,
}

/// Steps that belong together.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) what: String,
    pub(super) steps: Vec<Step>,
    /// Notes for the operator.
    pub(super) notes: Vec<String>,
}

impl Facts {
    pub(super) fn of(person: Person) -> Self {
        let program = std::env::current_exe().and_then(|path| path.canonicalize());
        let has_units = Path::new("/usr/lib/systemd/system/sigward-broker@.service").exists();
        let user = format!("sigward-{}", person.uid);
        let broker = super::step::account(&user).ok().flatten().map(|account| account.uid);
        Self { person, program: program.unwrap_or_default(), has_units, broker }
    }

    /// The name of the broker's own user.
    pub(super) fn user(&self) -> String {
        format!("sigward-{}", self.person.uid)
    }

    /// The broker's home directory.
    pub(super) fn state(&self) -> PathBuf {
        PathBuf::from(format!("/var/lib/{}", self.user()))
    }

    pub(super) fn config(&self) -> PathBuf {
        PathBuf::from(format!("/etc/sigward/{}.toml", self.person.uid))
    }

    /// The uid of the broker; an invalid one while its user doesn't exist.
    pub(super) fn broker_uid(&self) -> u32 {
        self.broker.unwrap_or(u32::MAX)
    }

    fn unit(&self, kind: &str) -> String {
        format!("sigward-broker@{}.{kind}", self.person.uid)
    }

    fn drop_in(&self) -> PathBuf {
        Path::new(UNITS).join(format!("{}.d/offline.conf", self.unit("service")))
    }
}

/// The steps from files in the user's home to a broker that alone can read them.
///
/// # Errors
/// The request can't be configured; says what to do.
pub(super) fn setup(
    facts: &Facts,
    endpoints: &[String],
    wanted: &[String],
    known: &[Listed],
) -> Result<Plan, String> {
    let person = &facts.person;
    let profiles = choose(wanted, known)?;
    let config = configuration(facts, endpoints, &profiles)?;
    let user = facts.user();
    let sysusers = PathBuf::from(format!("/etc/sysusers.d/{user}.conf"));
    let state = facts.state();
    let a_user = Part {
        what: format!("A user {user} for the broker of {}: it owns the keys.", person.name),
        steps: vec![
            Step::Write {
                path: sysusers.clone(),
                text: format!(
                    "u {user} - \"Sigward broker of {}\" {}\n",
                    person.name,
                    state.display()
                ),
                keep: false,
            },
            Step::run("systemd-sysusers", &[&sysusers.display().to_string()]),
        ],
        notes: Vec::new(),
    };
    let files = Part {
        what: format!("Move the AWS files out of the home of {}.", person.name),
        steps: vec![
            Step::Directory { path: state.clone(), mode: 0o700, owner: Owner::User(user.clone()) },
            Step::Move {
                from: person.home.clone(),
                of: Owner::Ids(person.uid, person.gid),
                to: state,
                owner: Owner::User(user.clone()),
            },
        ],
        notes: notes(person, &profiles),
    };
    let rules = Part {
        what: format!(
            "Allow {} to have requests signed with: {}.",
            person.name,
            describe(&profiles)
        ),
        steps: vec![
            Step::Directory { path: "/etc/sigward".into(), mode: 0o755, owner: Owner::Ids(0, 0) },
            Step::Write { path: facts.config(), text: config, keep: true },
        ],
        notes: Vec::new(),
    };
    Ok(Plan { parts: vec![a_user, files, rules, service(facts, &profiles)] })
}

/// Installs the units and starts the service.
fn service(facts: &Facts, profiles: &[&Listed]) -> Part {
    let mut steps = Vec::new();
    if !facts.has_units {
        let program = facts.program.display().to_string();
        let unit = |kind: &str| Path::new(UNITS).join(format!("sigward-broker@.{kind}"));
        let text = SERVICE.replace(PACKAGED_PROGRAM, &program);
        steps.push(Step::Write { path: unit("service"), text, keep: false });
        steps.push(Step::Write { path: unit("socket"), text: SOCKET.to_owned(), keep: false });
    }
    let drop_in = facts.drop_in();
    if profiles.iter().all(|profile| profile.is_offline) {
        let directory = drop_in.parent().unwrap_or(Path::new("/")).to_owned();
        steps.push(Step::Directory { path: directory, mode: 0o755, owner: Owner::Ids(0, 0) });
        steps.push(Step::Write { path: drop_in, text: OFFLINE.to_owned(), keep: false });
    } else {
        steps.push(Step::Remove(drop_in));
    }
    let (service, socket) = (facts.unit("service"), facts.unit("socket"));
    steps.push(Step::run("systemctl", &["daemon-reload"]));
    steps.push(Step::run("systemctl", &["enable", "--now", &socket]));
    steps.push(Step::run("systemctl", &["try-restart", &service]));
    let what = format!(
        "The broker runs from the first call on, behind /run/sigward/{}/broker.sock, which is {}'s.",
        facts.person.uid, facts.person.name
    );
    Part { what, steps, notes: Vec::new() }
}

/// The steps to undo the setup. The configuration, the audit log and the user that owns it are kept.
pub(super) fn undo(facts: &Facts) -> Plan {
    let person = &facts.person;
    let (service, socket) = (facts.unit("service"), facts.unit("socket"));
    let ends = Part {
        what: "Stop the broker.".to_owned(),
        steps: vec![
            Step::run("systemctl", &["disable", "--now", &socket]),
            Step::run("systemctl", &["stop", &service]),
            Step::Remove(facts.drop_in()),
            Step::run("systemctl", &["daemon-reload"]),
        ],
        notes: Vec::new(),
    };
    let files = Part {
        what: format!("Move the AWS files back to the home of {}.", person.name),
        steps: vec![Step::Move {
            from: facts.state(),
            of: Owner::User(facts.user()),
            to: person.home.clone(),
            owner: Owner::Ids(person.uid, person.gid),
        }],
        notes: vec![format!(
            "The configuration {} and the audit log /var/log/{} stay, and so does the user {}.",
            facts.config().display(),
            facts.user(),
            facts.user()
        )],
    };
    Plan { parts: vec![ends, files] }
}

/// The requested profiles, or all that can sign.
fn choose<'l>(wanted: &[String], known: &'l [Listed]) -> Result<Vec<&'l Listed>, String> {
    let usable = |profile: &&Listed| {
        profile.fault.is_none()
            && !profile.source.is_empty()
            && ProfileName::parse(&profile.name).is_ok()
    };
    let names =
        || known.iter().filter(usable).map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ");
    let chosen: Vec<&Listed> = if wanted.is_empty() {
        known.iter().filter(usable).collect()
    } else {
        let find = |name: &String| {
            let found = known.iter().find(|profile| profile.name == *name);
            let found = found.ok_or_else(|| {
                format!(
                    "--profile {name}: the AWS files have no such profile; those that can sign: {}",
                    names()
                )
            })?;
            match &found.fault {
                Some(fault) => Err(format!("--profile {name}: {fault}")),
                None => Ok(found),
            }
        };
        wanted.iter().map(find).collect::<Result<_, _>>()?
    };
    if chosen.is_empty() {
        return Err("no profile of the AWS files can sign: create one first, with aws configure or aws configure sso".to_owned());
    }
    Ok(chosen)
}

/// The differences for the person afterwards.
fn notes(person: &Person, profiles: &[&Listed]) -> Vec<String> {
    let mut notes = vec![format!(
        "The AWS CLI of {} has no keys from then on, as intended. `aws sso login` would bring a token back into the home; sign in \
         with: sigward-broker login PROFILE",
        person.name
    )];
    for profile in profiles {
        if profile.runs_program {
            notes.push(format!(
                "The credential_process of {} will run as {}: its program and its files must exist and be readable for that user.",
                profile.name,
                format_args!("sigward-{}", person.uid)
            ));
        }
        for path in profile.reads.iter().filter(|path| path.starts_with(&person.home)) {
            notes.push(format!(
                "{} needs {}, which the broker can't read: put it below /etc/sigward, and change the profile.",
                profile.name,
                path.display()
            ));
        }
    }
    notes
}

fn describe(profiles: &[&Listed]) -> String {
    let names: Vec<_> = profiles.iter().map(|it| format!("{} ({})", it.name, it.source)).collect();
    names.join(", ")
}

/// The text of the broker's configuration, which has been parsed.
fn configuration(
    facts: &Facts,
    endpoints: &[String],
    profiles: &[&Listed],
) -> Result<String, String> {
    let person = &facts.person;
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let list =
        |names: &[String]| names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let numbered = (1..).zip(endpoints).map(|(number, _)| format!("endpoint-{number}"));
    let names: Vec<String> = match endpoints {
        [_] => vec!["endpoint".to_owned()],
        _ => numbered.collect(),
    };
    let mut text = format!(
        "# The broker of {} (uid {}), by `sigward-broker setup`. Changes take effect within a second.\n\
         # The AWS files are in {}/.aws.\n",
        person.name,
        person.uid,
        facts.state().display()
    );
    for (name, url) in names.iter().zip(endpoints) {
        write!(text, "\n[[endpoint]]\nname = {}\nurl = {}\n", quoted(name), quoted(url)).ok();
    }
    for profile in profiles {
        write!(
            text,
            "\n[[profile]]\nname = {}\nendpoints = [{}]\n",
            quoted(&profile.name),
            list(&names)
        )
        .ok();
    }
    let offered: Vec<String> = profiles.iter().map(|profile| profile.name.clone()).collect();
    write!(
        text,
        "\n[[rule]]\nname = {}\npeer = {{ uid = {} }}\nprofiles = [{}]\nlogin = true\n\
         # tools = {{ allow = [\"*\"], deny = [] }}\n\
         \n[audit]\nfile = \"/var/log/{}/audit.jsonl\"\n",
        quoted(&person.name),
        person.uid,
        list(&offered),
        facts.user()
    )
    .ok();
    let broker = facts.broker_uid();
    config::parse(&text, &facts.config(), broker).map_err(|faults| faults.to_string())?;
    Ok(text)
}

impl Plan {
    /// The plan as text for a person, with the contents of the written files.
    pub(super) fn show(&self) -> String {
        let mut text = String::new();
        for (number, part) in self.parts.iter().enumerate() {
            writeln!(text, "{}. {}", number + 1, part.what).ok();
            for step in &part.steps {
                writeln!(text, "   {step}").ok();
                for line in step.content().lines() {
                    writeln!(text, "      | {line}").ok();
                }
            }
            for note in &part.notes {
                writeln!(text, "   Note: {note}").ok();
            }
        }
        text
    }
}

#[cfg(test)]
mod tests;
