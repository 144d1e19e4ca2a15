//! Tests of the description of the steps.

use super::*;
use crate::config::CredentialsFrom;

fn facts() -> Facts {
    Facts {
        person: Person {
            name: "alice".to_owned(),
            uid: 1000,
            gid: 1000,
            home: "/home/alice".into(),
        },
        program: "/usr/local/bin/sigward-broker".into(),
        has_units: false,
        broker: Some(990),
    }
}

fn listed(name: &str, source: &'static str) -> Listed {
    Listed {
        name: name.to_owned(),
        source,
        fault: None,
        is_offline: source == "static keys",
        runs_program: source == "credential process",
        reads: Vec::new(),
    }
}

const URL: &str = "https://aws-mcp.us-east-1.api.aws/mcp";

fn plan(
    facts: &Facts,
    endpoints: &[&str],
    wanted: &[&str],
    known: &[Listed],
) -> Result<Plan, String> {
    let own = |texts: &[&str]| texts.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    setup(facts, &own(endpoints), &own(wanted), known)
}

fn written<'p>(plan: &'p Plan, path: &str) -> &'p str {
    let steps = plan.parts.iter().flat_map(|part| &part.steps);
    let mut texts = steps.filter_map(|step| match step {
        Step::Write { path: at, text, .. } if at == Path::new(path) => Some(text.as_str()),
        _ => None,
    });
    texts.next().unwrap_or_else(|| panic!("{path} isn't written: {}", plan.show()))
}

#[test]
fn the_configuration_allows_the_person_these_profiles_and_nothing_else() {
    let known = [listed("dev", "sso"), listed("My \"own\"", "static keys"), listed("other", "sso")];
    let plan = plan(&facts(), &[URL], &["My \"own\"", "dev"], &known).expect("a plan");
    let text = written(&plan, "/etc/sigward/1000.toml");
    let config = config::parse(text, Path::new("x"), 990).expect("valid");
    let from: Vec<_> = config.profiles.iter().map(|it| &it.from).collect();
    let of = |name: &str| CredentialsFrom::AwsProfile(name.to_owned());
    assert_eq!(from, [&of("My \"own\""), &of("dev")]);
    assert_eq!(config.rules.len(), 1, "{text}");
    assert_eq!(config.endpoints[0].url.to_string(), URL);
    assert!(!text.contains("other"), "{text}");
}

#[test]
fn a_unit_runs_this_program_where_no_package_ships_one() {
    let text =
        |facts: &Facts| plan(facts, &[URL], &[], &[listed("dev", "sso")]).expect("a plan").show();
    let unpackaged = text(&facts());
    assert!(
        unpackaged.contains("write /etc/systemd/system/sigward-broker@.service"),
        "{unpackaged}"
    );
    let known = [listed("dev", "sso")];
    let plan = plan(&facts(), &[URL], &[], &known).expect("a plan");
    let unit = written(&plan, "/etc/systemd/system/sigward-broker@.service");
    assert!(unit.contains("ExecStart=/usr/local/bin/sigward-broker serve"), "{unit}");
    let packaged = text(&Facts { has_units: true, ..facts() });
    assert!(!packaged.contains("sigward-broker@.service"), "{packaged}");
    assert!(packaged.contains("systemctl enable --now sigward-broker@1000.socket"), "{packaged}");
}

/// The service has network access only if a profile needs AWS.
#[test]
fn static_keys_need_no_network() {
    let offline = "/etc/systemd/system/sigward-broker@1000.service.d/offline.conf";
    let known = [listed("keys", "static keys"), listed("dev", "sso")];
    let alone = plan(&facts(), &[URL], &["keys"], &known).expect("a plan");
    assert!(written(&alone, offline).contains("PrivateNetwork=yes"));
    let both = plan(&facts(), &[URL], &[], &known).expect("a plan").show();
    assert!(both.contains(&format!("rm -f {offline}")), "{both}");
}

#[test]
fn limitations_are_reported() {
    let program = listed("tool", "credential process");
    let web = Listed {
        reads: vec!["/home/alice/token".into(), "/etc/token".into()],
        ..listed("web", "web identity")
    };
    let text = plan(&facts(), &[URL], &[], &[program, web]).expect("a plan").show();
    for part in [
        "credential_process of tool",
        "web needs /home/alice/token",
        "sigward-broker login PROFILE",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("web needs /etc/token"), "{text}");
}

#[test]
fn a_setup_that_cannot_work_is_refused() {
    let broken = Listed { fault: Some("/c:3: is wrong".to_owned()), ..listed("broken", "sso") };
    let known = [listed("dev", "sso"), broken, listed("default", "")];
    let refused = |endpoints: &[&str], wanted: &[&str]| {
        plan(&facts(), endpoints, wanted, &known).expect_err("refused")
    };
    let unknown = refused(&[URL], &["nobody"]);
    assert!(unknown.contains("no such profile") && unknown.ends_with("dev"), "{unknown}");
    assert!(refused(&[URL], &["broken"]).contains("/c:3: is wrong"));
    let host = refused(&["https://example.com/mcp"], &[]);
    assert!(host.contains("service"), "{host}");
    let none = plan(&facts(), &[URL], &[], &[]).expect_err("nothing to sign with");
    assert!(none.contains("aws configure"), "{none}");
}

#[test]
fn undo_keeps_what_cannot_be_restored() {
    let text = undo(&facts()).show();
    assert!(text.contains("move /var/lib/sigward-1000/.aws/* to /home/alice/.aws"), "{text}");
    assert!(
        !text.contains("rm -f /etc/sigward/1000.toml")
            && !text.contains("/var/log/sigward-1000/audit"),
        "{text}"
    );
}
