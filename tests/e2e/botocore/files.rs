//! Pairs of AWS files, as people and tools write them, and with unusual and faulty contents.
//!
//! Each is generated from a seed. Likely contents are frequent: most lines are plain, so that most pairs are usable.

use std::collections::BTreeMap;

use super::spelling::Spelling;
use super::twin::IN_CONTAINER;
use crate::dice::Dice;

/// Files, an environment, and the profiles to ask for.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) seed: u64,
    /// `{dir}` stands for the directory above the home, `{aws}` for the URL of the test AWS.
    pub(super) config: Vec<u8>,
    pub(super) credentials: Option<Vec<u8>>,
    /// Variables other than `HOME`.
    pub(super) environment: BTreeMap<&'static str, String>,
    /// Whether files or environment may name the endpoints. If not, botocore asks the real AWS, and we ask the test
    /// AWS.
    pub(super) names_endpoints: bool,
    /// `None` is the default chain.
    pub(super) profiles: Vec<Option<String>>,
}

const NAMES: [&str; 9] =
    ["p", "q", "base", "default", "My Corp", "prod-é", "team/dev", "p x", "a]b"];
/// Names of `sso-session` sections, and a start URL: there is a token for each.
pub(super) const SESSIONS: [&str; 4] =
    ["corp", "My Corp Ltd", "soç", "https://my.awsapps.com/start"];
const REGIONS: [&str; 5] =
    ["eu-west-1", "us-west-2", "ap-south-1", "us-gov-west-1", "eu-central-1"];
const ROLES: [&str; 3] = [
    "arn:aws:iam::123456789012:role/Reader",
    "arn:aws:iam::123456789012:role/Writer",
    "arn:aws:iam::210987654321:role/path/Admin",
];
const KEYS: [(&str, &str); 3] =
    [("AKIDKEYS", "keyssecret"), ("AKIDOTHER", "othersecret"), ("AKIDTOK", "toksecret")];

type Settings = Vec<(String, String)>;

/// What names the endpoints of the services that issue credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoints {
    /// Nothing.
    Unnamed,
    /// A variable for all services, and for some a variable of their own.
    Variables,
    /// The profile. Without endpoints in it, requests go to the real AWS, which no test reaches.
    Profile,
}

impl Endpoints {
    fn chosen(dice: &mut Dice) -> Self {
        match dice.roll(100) {
            0..=5 => Self::Profile,
            6..=13 => Self::Variables,
            _ => Self::Unnamed,
        }
    }
}

/// Generates the pair of a seed.
pub(super) fn pair(seed: u64) -> Pair {
    let mut dice = Dice::new(seed);
    let names = names(&mut dice);
    let endpoints = Endpoints::chosen(&mut dice);
    let mut config = Vec::new();
    let mut credentials = Vec::new();
    for name in &names {
        let (mut ours, theirs) = profile(&mut dice, name, &names);
        if endpoints == Endpoints::Profile && dice.chance(95) {
            let (setting, value) =
                if dice.chance(50) { ("endpoint_url", "{aws}/file") } else { ("services", "loc") };
            let at = dice.roll(ours.len() + 1);
            ours.retain(|(known, _)| known != setting);
            ours.insert(at.min(ours.len()), (setting.to_owned(), value.to_owned()));
        }
        if !ours.is_empty() || dice.chance(30) {
            config.push((("profile", name.as_str()), ours));
        }
        if !theirs.is_empty() {
            credentials.push((("", name.as_str()), theirs));
        }
    }
    for session in SESSIONS.iter().take(3) {
        if dice.chance(75) {
            let mut settings = Settings::new();
            add(&mut settings, "sso_start_url", SESSIONS[3]);
            add(&mut settings, "sso_region", dice.one_of(&REGIONS));
            if dice.chance(50) {
                add(&mut settings, "sso_registration_scopes", "sso:account:access");
            }
            // Settings shared by all profiles of the session.
            if dice.chance(10) {
                add(
                    &mut settings,
                    "sso_account_id",
                    dice.one_of(&["123456789012", "210987654321"]),
                );
            }
            if dice.chance(10) {
                add(&mut settings, "sso_role_name", dice.one_of(&["Reader", "Variables"]));
            }
            config.push((("sso-session", session), settings));
        }
    }
    if dice.chance(15) || endpoints == Endpoints::Profile {
        config.push((("services", "loc"), services(&mut dice, endpoints)));
    }
    if dice.chance(4) {
        let to = if dice.chance(70) { &mut config } else { &mut credentials };
        to.push((("", "DEFAULT"), default_section(&mut dice, &names)));
    }
    if dice.chance(5) {
        config.push((("", "plugins"), vec![("region".to_owned(), "us-west-1".to_owned())]));
    }
    // Changes the order of sections, and repeats some.
    for sections in [&mut config, &mut credentials] {
        if sections.len() > 1 && dice.chance(50) {
            let (from, to) = (dice.roll(sections.len()), dice.roll(sections.len()));
            sections.swap(from, to);
        }
        if dice.chance(4) && !sections.is_empty() {
            let mut again = sections[dice.roll(sections.len())].clone();
            if dice.chance(70) {
                again.1 = profile(&mut dice, again.0.1, &names).0;
            }
            sections.push(again);
        }
    }
    let odd = [0, 1, 3, 8][dice.roll(4)];
    let mut spelling = Spelling::new(odd);
    let config_text = spelling.file(&mut dice, &config);
    let credentials_text = spelling.file(&mut dice, &credentials);
    let there = !credentials.is_empty() || dice.chance(20);
    Pair {
        seed,
        config: config_text,
        credentials: there.then_some(credentials_text),
        environment: environment(&mut dice, &names, endpoints),
        names_endpoints: endpoints != Endpoints::Unnamed,
        profiles: asked(&mut dice, names),
    }
}

fn names(dice: &mut Dice) -> Vec<String> {
    let count = 1 + dice.roll(4);
    let mut names = Vec::new();
    while names.len() < count {
        let name = if dice.chance(70) { dice.one_of(&NAMES[..4]) } else { dice.one_of(&NAMES) };
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// At most two profiles: a further pair finds more than a third question about this one.
fn asked(dice: &mut Dice, mut names: Vec<String>) -> Vec<Option<String>> {
    while names.len() > 2 {
        names.remove(dice.roll(names.len()));
    }
    let mut asked: Vec<_> = names.into_iter().map(Some).collect();
    if dice.chance(15) {
        asked.push(None);
    }
    if dice.chance(3) {
        asked.push(Some("nowhere".to_owned()));
    }
    asked
}

/// The settings of a profile in the config file and in the credentials file.
fn profile(dice: &mut Dice, name: &str, names: &[String]) -> (Settings, Settings) {
    let (mut ours, mut theirs) = (Settings::new(), Settings::new());
    if dice.chance(70) {
        add(&mut ours, "region", dice.one_of(&REGIONS));
    }
    match dice.roll(11) {
        0..=3 => {
            let file = if dice.chance(60) { &mut theirs } else { &mut ours };
            keys(dice, file);
        }
        4 | 5 => role(dice, &mut ours, &mut theirs, name, names),
        6 => {
            add(&mut ours, "credential_process", &process(dice));
        }
        7 | 8 => sso(dice, &mut ours),
        9 => {
            add(&mut ours, "role_arn", dice.one_of(&ROLES));
            add(&mut ours, "web_identity_token_file", "{dir}/token");
            if dice.chance(30) {
                add(&mut ours, "role_session_name", "pod-7");
            }
        }
        _ => {}
    }
    for settings in [&mut ours, &mut theirs] {
        if dice.chance(12) {
            leftover(dice, settings, names);
        }
    }
    // Nested settings come last: a line after an indented one may belong to it.
    if dice.chance(10) {
        add(&mut ours, "s3", "\n  addressing_style = path\n  max_concurrent_requests = 20");
    }
    if dice.chance(8) {
        let at = dice.roll(ours.len() + 1);
        ours.insert(at, ("output".to_owned(), "json".to_owned()));
    }
    (ours, theirs)
}

fn keys(dice: &mut Dice, settings: &mut Settings) {
    let (id, secret) = KEYS[dice.roll(KEYS.len())];
    add(settings, "aws_access_key_id", id);
    add(settings, "aws_secret_access_key", secret);
    let tokens = ["aws_session_token", "aws_security_token"];
    match dice.roll(8) {
        0 | 1 => add(settings, tokens[0], "toktok"),
        2 => add(settings, tokens[dice.roll(2)], ""),
        3 => {
            add(settings, tokens[dice.roll(2)], dice.one_of(&["toktok", ""]));
            let other = if dice.chance(50) { "toktok" } else { "tokother" };
            let used = settings.last().map(|(name, _)| name.clone()).unwrap_or_default();
            add(settings, if used == tokens[0] { tokens[1] } else { tokens[0] }, other);
        }
        4 => add(settings, tokens[1], "toktok"),
        _ => {}
    }
    if dice.chance(3) {
        // Only one half of the pair of keys.
        let at = dice.roll(2);
        settings.remove(at);
    }
}

fn role(dice: &mut Dice, ours: &mut Settings, theirs: &mut Settings, name: &str, names: &[String]) {
    let settings = if dice.chance(90) { &mut *ours } else { &mut *theirs };
    add(settings, "role_arn", dice.one_of(&ROLES));
    if dice.chance(15) {
        let sources = [
            "Environment",
            "Environment",
            "EcsContainer",
            "EcsContainer",
            "Ec2InstanceMetadata",
            "environment",
        ];
        add(settings, "credential_source", dice.one_of(&sources));
        if dice.chance(95) {
            return;
        }
    }
    // Mostly another profile: a profile that is its own source needs keys in addition to the role.
    let others: Vec<_> = names.iter().filter(|other| *other != name).collect();
    let itself = others.is_empty() || dice.chance(25);
    let source = if itself { name } else { others[dice.roll(others.len())] };
    let source = if dice.chance(4) { "nowhere" } else { source };
    add(settings, "source_profile", source);
    for (setting, value, chance) in [
        ("external_id", "customer-7", 10),
        ("role_session_name", "agent@7", 20),
        ("duration_seconds", "1800", 8),
        ("mfa_serial", "arn:aws:iam::123456789012:mfa/user", 3),
    ] {
        if dice.chance(chance) {
            add(settings, setting, value);
        }
    }
    // Keys in the same profile, used by the role or left over.
    if dice.chance(if source == name { 80 } else { 25 }) {
        let file = if dice.chance(70) { theirs } else { ours };
        keys(dice, file);
    }
}

fn sso(dice: &mut Dice, settings: &mut Settings) {
    let legacy = dice.chance(30);
    if legacy || dice.chance(15) {
        add(settings, "sso_start_url", SESSIONS[3]);
        add(settings, "sso_region", dice.one_of(&REGIONS));
    }
    if !legacy {
        add(settings, "sso_session", dice.one_of(&SESSIONS[..3]));
    }
    let own = if legacy { 97 } else { 93 };
    if dice.chance(own) {
        add(settings, "sso_account_id", "123456789012");
    }
    if dice.chance(own) {
        add(settings, "sso_role_name", dice.one_of(&["Reader", "AWSPowerUserAccess"]));
    }
}

/// A program that returns its arguments.
fn process(dice: &mut Dice) -> String {
    let arguments = dice.one_of(&[
        "",
        " --json",
        " --team \"team #1\" --json",
        " --team 'a b'  c",
        " a\\ b",
        " a#b ;c",
        " # c",
        " ; c",
        " $HOME",
        " `id`",
        " *",
        " \"$HOME\"",
        " a|b",
        " ~",
        " a&b",
        " é",
        " \"\"",
        " '",
        " %d",
        " {a,b}",
    ]);
    format!("{{dir}}/process{arguments}")
}

/// Settings that don't belong to the profile's credential source.
fn leftover(dice: &mut Dice, settings: &mut Settings, names: &[String]) {
    match dice.roll(12) {
        0 => keys(dice, settings),
        1 => add(settings, "credential_process", &process(dice)),
        2 => sso(dice, settings),
        3 => add(settings, "source_profile", &names[dice.roll(names.len())]),
        4 => add(settings, "mfa_serial", "arn:aws:iam::123456789012:mfa/user"),
        5 => add(settings, "region", dice.one_of(&REGIONS)),
        6 => add(settings, "services", "loc"),
        7 => add(settings, "role_arn", dice.one_of(&ROLES)),
        8 => add(settings, "sso_session", dice.one_of(&SESSIONS[..3])),
        9 => add(settings, "endpoint_url", "{aws}/file"),
        10 => add(settings, "credential_source", "Environment"),
        _ => add(settings, "cli_pager", ""),
    }
}

/// A `services` section with the endpoints of credential services, or of others.
fn services(dice: &mut Dice, endpoints: Endpoints) -> Settings {
    let mut settings = Settings::new();
    for service in ["sts", "sso", "sso_oidc"] {
        if endpoints == Endpoints::Profile || dice.chance(30) {
            add(&mut settings, service, "\n  endpoint_url = {aws}/loc");
        }
    }
    if settings.is_empty() || dice.chance(50) {
        add(
            &mut settings,
            "dynamodb",
            "\n  endpoint_url = http://localhost:4566\n  region = us-east-2",
        );
    }
    settings
}

/// The settings of `[DEFAULT]`, for all sections of its file.
fn default_section(dice: &mut Dice, names: &[String]) -> Settings {
    let mut settings = Settings::new();
    add(&mut settings, "region", dice.one_of(&REGIONS));
    match dice.roll(7) {
        0 => keys(dice, &mut settings),
        1 => add(&mut settings, "source_profile", &names[dice.roll(names.len())]),
        2 => add(&mut settings, "sso_session", dice.one_of(&SESSIONS[..3])),
        3 => add(&mut settings, "sso_role_name", "Variables"),
        4 => add(&mut settings, "role_arn", dice.one_of(&ROLES)),
        _ => add(&mut settings, "output", "json"),
    }
    settings
}

fn environment(
    dice: &mut Dice,
    names: &[String],
    endpoints: Endpoints,
) -> BTreeMap<&'static str, String> {
    let mut environment = BTreeMap::new();
    for (variable, place) in [
        ("AWS_ENDPOINT_URL_STS", "{aws}/sts"),
        ("AWS_ENDPOINT_URL_SSO", "{aws}/sso"),
        ("AWS_ENDPOINT_URL_SSO_OIDC", "{aws}"),
    ] {
        let own = match endpoints {
            Endpoints::Variables => dice.chance(40).then_some(place),
            Endpoints::Unnamed | Endpoints::Profile => None,
        };
        environment.extend(own.map(|own| (variable, own.to_owned())));
    }
    if endpoints == Endpoints::Variables {
        environment.insert("AWS_ENDPOINT_URL", "{aws}/all".to_owned());
    }
    if dice.chance(15) {
        environment.extend(IN_CONTAINER.map(|(name, value)| (name, value.to_owned())));
    }
    for (variable, value, chance) in [
        ("AWS_PROFILE", names[dice.roll(names.len())].clone(), 12),
        ("AWS_DEFAULT_PROFILE", names[dice.roll(names.len())].clone(), 6),
        ("AWS_DEFAULT_REGION", "sa-east-1".to_owned(), 12),
        ("AWS_CONFIG_FILE", "{dir}/home/.aws/config".to_owned(), 5),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials".to_owned(), 5),
    ] {
        if dice.chance(chance) {
            environment.insert(variable, value);
        }
    }
    if dice.chance(6) {
        for (variable, value) in [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "{dir}/token"),
            ("AWS_ROLE_ARN", ROLES[0]),
            ("AWS_ROLE_SESSION_NAME", "pod-8"),
        ] {
            if dice.chance(85) {
                environment.insert(variable, value.to_owned());
            }
        }
    }
    environment
}

fn add(settings: &mut Settings, name: &str, value: &str) {
    // Repeated names are the task of `spelling`.
    if !settings.iter().any(|(known, _)| known == name) {
        settings.push((name.to_owned(), value.to_owned()));
    }
}
