//! The explanations of failed profiles: for every reason, by the source of the credentials.

use std::path::Path;

use super::*;
use crate::config::{self, Flags};
use crate::error::AwsError;

const DETAIL: &str = "/home/u/.aws/config:12: role_arn is empty";

const URL: &str = "https://aws-mcp.us-east-1.api.aws/mcp";

/// The profile `p` of the broker, with the credentials of an AWS profile, or of the default chain.
fn profile(aws_profile: Option<&str>) -> Profile {
    let config = match aws_profile {
        Some(name) => {
            let text = format!(
                "[[endpoint]]\nname = \"e\"\nurl = \"{URL}\"\n[[profile]]\nname = \"p\"\naws_profile = {name:?}\n\
                 endpoints = [\"e\"]\n"
            );
            config::parse(&text, Path::new("test"), 0).expect("valid")
        }
        None => {
            let flags = Flags { endpoints: vec![URL.to_owned()], ..Flags::default() };
            flags.into_config(0).expect("valid")
        }
    };
    config.profiles.into_iter().next().expect("a profile")
}

fn reasons() -> Vec<Reason> {
    Reason::ALL.to_vec()
}

/// The next step for each reason that loading credentials fails with.
fn table() -> Vec<(Reason, &'static str, &'static str)> {
    use Reason::*;
    vec![
        (LoginRequired, "login session", "sign in: aws login --profile 'My Corp'"),
        (
            LoginRequired,
            "sso",
            "sign in: sigward-broker login p, where a broker runs, else aws sso login --profile 'My Corp'",
        ),
        (MfaRequired, "assume role", "use a profile without mfa_serial"),
        (UnsupportedProfileSetting, "static keys", "take the setting out of the profile"),
        (AccessDenied, "assume role", "check the trust policy of the role"),
        (ClockSkew, "static keys", "set the clock of this machine"),
        (
            KeysRejected,
            "static keys",
            "put new ones into the profile (aws configure --profile 'My Corp')",
        ),
        (RegionDisabled, "assume role", "aws configure set region REGION --profile 'My Corp'"),
        (NoAccountAccess, "sso", "check sso_account_id and sso_role_name"),
        (ProfileMisconfigured, "static keys", "aws configure list --profile 'My Corp'"),
        (ProfileMisconfigured, "credential process", "aws configure list --profile 'My Corp'"),
        (
            CredentialsUnavailable,
            "credential process",
            "run its credential_process yourself, or: aws sts get-caller-identity --profile 'My Corp'",
        ),
        (CredentialsUnavailable, "sso", "check the network and the source of the credentials"),
    ]
}

#[test]
fn each_reason_has_its_next_step() {
    let profile = profile(Some("My Corp"));
    for (reason, source, next) in table() {
        let text = explain(&profile, None, source, &Denial::new(reason, DETAIL));
        let lines: Vec<_> = text.lines().collect();
        let head = format!("p: {}", reason.name());
        assert_eq!(lines[..3], ["", head.as_str(), &format!("    {DETAIL}")], "{text}");
        assert!(lines[3].starts_with("    next: ") && lines[3].contains(next), "{text}");
        assert_eq!(lines.len(), 4, "{text}");
    }
}

/// In the default chain there is no profile to name or to repair.
#[test]
fn the_default_chain_has_next_steps_of_its_own() {
    let profile = profile(None);
    for reason in [Reason::ProfileMisconfigured, Reason::CredentialsUnavailable] {
        let text = explain(&profile, None, "default chain", &Denial::new(reason, DETAIL));
        assert!(text.contains("next: name a profile (--profile NAME), or put"), "{text}");
        assert!(!text.contains("aws configure"), "{text}");
    }
    let text = explain(&profile, None, "sso", &Denial::new(Reason::LoginRequired, DETAIL));
    assert!(text.contains("aws sso login --profile default"), "{text}");
}

/// Any reason is reported with its detail and a next step, in four lines without a control character.
#[test]
fn every_reason_is_explained() {
    let sources = ["static keys", "sso", "login session", "credential process", ""];
    for aws_profile in [Some("dev"), None] {
        let profile = profile(aws_profile);
        for (reason, source) in reasons().into_iter().flat_map(|it| sources.map(|of| (it, of))) {
            let words = AwsError::new(Some("SomeCode"), Some("AWS's\nown \u{1b}[31mwords"), &[]);
            let text =
                explain(&profile, None, source, &Denial::by_aws(reason, "sts:AssumeRole", words));
            assert!(text.contains("sts:AssumeRole: SomeCode: AWS's own [31mwords\n"), "{text}");
            let next = text.lines().last().and_then(|line| line.strip_prefix("    next: "));
            assert!(next.is_some_and(|next| next.len() > 20), "{text}");
            assert_eq!(text.lines().count(), 4, "{text}");
        }
    }
}

#[test]
fn names_are_quoted_for_the_shell_and_details_are_escaped_for_the_terminal() {
    let profile = profile(Some("$(id)"));
    let denial = Denial::new(Reason::KeysRejected, "a \u{1b}[2K detail");
    let text = explain(&profile, None, "static keys", &denial);
    assert!(text.contains("aws configure --profile '$(id)'"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_scope_that_contradicts_the_host_is_warned_of() {
    let warnings = |url: &str, more: &str| {
        let text = format!(
            "[[endpoint]]\nname = \"e\"\nurl = {url:?}\n{more}[[profile]]\nname = \"p\"\nendpoints = [\"e\"]\n"
        );
        let config = config::parse(&text, Path::new("test"), 0).expect("valid");
        contradictions(&config.endpoints[0]).concat()
    };
    assert_eq!(warnings(URL, ""), "");
    assert_eq!(warnings(URL, "region = \"us-east-1\"\nservice = \"aws-mcp\"\n"), "");
    assert_eq!(warnings("https://h.example/mcp", "region = \"x-1\"\nservice = \"y\"\n"), "");
    assert_eq!(
        warnings(URL, "region = \"eu-west-1\"\n"),
        "Warning: the endpoint e has region \"eu-west-1\", but its host means \"us-east-1\": AWS will probably refuse \
         the signatures. Leave region out.\n"
    );
    let both = warnings(
        "https://x.lambda-web.global.on.aws/mcp",
        "region = \"eu-west-1\"\nservice = \"x\"\n",
    );
    assert!(both.contains("means \"*\"") && both.contains("means \"lambda\""), "{both}");
}
