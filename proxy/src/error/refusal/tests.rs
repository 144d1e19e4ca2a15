//! The sentences that a person gets: for every reason, from a private broker and from a shared one, for the broker's
//! own user (who gets AWS's message and the broker's own) and for another user.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::error::Error;

/// The brokers, each with the name of its column in the table.
const PRIVATE: BrokerAddress = BrokerAddress::Private;

fn shared() -> BrokerAddress {
    BrokerAddress::Unix("/run/sigward/broker.sock".into())
}

fn refusal(
    reason: Reason,
    profile: &str,
    broker: BrokerAddress,
    metadata: &[(&str, &str)],
) -> Refusal {
    let metadata: HashMap<String, String> =
        metadata.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let mut details = tonic_types::ErrorDetails::new();
    details.set_error_info(reason.name(), ERROR_DOMAIN, metadata);
    let status = Status::with_error_details(Code::FailedPrecondition, "constant text", details);
    Refusal::of(&status, ProfileName::parse(profile).unwrap(), broker)
}

fn reasons() -> Vec<Reason> {
    let reasons: Vec<Reason> = (0..1000).filter_map(|n| Reason::try_from(n).ok()).collect();
    assert!(reasons.len() >= 30, "{}", reasons.len());
    reasons
}

const DETAIL: (&str, &str) = ("detail", "/home/u/.aws/config:12: [profile dev]: role_arn is empty");
const CODE: (&str, &str) = ("aws_code", "SomeCode");
const MESSAGE: (&str, &str) = ("aws_message", "AWS's own words.");

/// The reasons, each with the expected parts of a private broker's sentence and of a shared one's.
fn table() -> Vec<(Reason, [[&'static str; 2]; 2])> {
    use Reason::*;
    // [cause, next step] of a private broker and of a shared one.
    let both = |what, next| [[what, next], [what, next]];
    vec![
        (PeerNotAllowed, both("no [[rule]] for this user", "add one")),
        (
            ProfileNotAllowed,
            [
                ["wasn't started with the profile \"dev\"", "restart the MCP server"],
                ["isn't one that the broker at unix:/run", "add it to a [[rule]], or choose"],
            ],
        ),
        (
            EndpointNotAllowed,
            [
                ["wasn't started for this endpoint", "restart the MCP server"],
                ["doesn't allow this endpoint", "add it to the [[endpoint]]s"],
            ],
        ),
        (MethodNotAllowed, both("the policy of", "this method with profile \"dev\"")),
        (ToolNotAllowed, both("the policy of", "this tool with profile \"dev\"")),
        (
            LoginNotAllowed,
            both(
                "doesn't allow signing in from here",
                "`sigward-broker login dev` as its own user",
            ),
        ),
        (InvalidMethod, both("INVALID_METHOD", "check the endpoint URL")),
        (InvalidUri, both("INVALID_URI", "check the endpoint URL")),
        (InvalidHeader, both("INVALID_HEADER", "check the endpoint URL and --header")),
        (ReservedHeader, both("a --header is one that the signature sets", "remove it")),
        (NonCanonicalQuery, both("NON_CANONICAL_QUERY", "check the endpoint URL")),
        (AmbiguousJson, both("can be read in two ways", "send it unambiguously")),
        (BodyRequired, both("needs the message itself", "update sigward-proxy")),
        (InvalidBodyHash, both("INVALID_BODY_HASH", "check the endpoint URL")),
        (InvalidMessage, both("INVALID_MESSAGE", "check the endpoint URL and --header")),
        (TooMuchInFlight, both("too many calls of this user", "repeat the call")),
        (
            LoginRequired,
            [
                ["profile \"dev\" needs a sign-in", "run `aws sso login --profile dev`"],
                ["profile \"dev\" needs a sign-in", "run `sigward-broker login dev`"],
            ],
        ),
        (MfaRequired, both("an MFA code, which can't be entered", "use an IAM Identity Center")),
        (
            ProfileMisconfigured,
            [
                ["with the AWS files as they are", "`aws configure list --profile dev`"],
                ["with the AWS files of the broker at unix:/run", "`sigward-broker check`"],
            ],
        ),
        (NoCredentials, both("\"dev\" has no credentials", "`aws configure sso --profile dev`")),
        (
            UnsupportedProfileSetting,
            [
                [
                    "a setting that the broker doesn't support",
                    "with --log-level INFO, standard error says why",
                ],
                ["a setting that the broker doesn't support", "the log of the broker at unix:"],
            ],
        ),
        (
            NotALoginProfile,
            [
                ["only the AWS CLI can do", "run `aws login --profile dev`, then"],
                ["only the AWS CLI can do", "run `aws login --profile dev` as the user of"],
            ],
        ),
        (LoginDenied, both("was declined", "repeat the call to try again")),
        (LoginExpired, both("the sign-in for profile", "for a new code")),
        (AccessDenied, both("AWS denied profile \"dev\" its role", "trust policy")),
        (ClockSkew, both("the clock of the broker's machine is wrong", "set the clock")),
        (KeysRejected, both("no longer accepts the keys", "renew them in the AWS files")),
        (RegionDisabled, both("STS isn't activated in the region", "enable the region")),
        (NoAccountAccess, both("no access to its account", "sso_account_id and sso_role_name")),
        (
            CredentialsUnavailable,
            [
                ["no credentials for profile \"dev\" right now", "repeat the call in a moment"],
                ["no credentials for profile \"dev\" right now", "the log of the broker at unix:"],
            ],
        ),
        (AuditUnavailable, both("can't write its audit log", "check the disk")),
        (BrokerEnding, both("is shutting down", "repeat the call")),
        (RateLimited, both("rate limit is reached", "wait a moment")),
        (PeerUnknown, both("can't tell which user", "signs nothing")),
        (Unspecified, both("refused the signature", "says why")),
    ]
}

#[test]
fn every_reason_is_a_sentence_with_a_next_step() {
    let table = table();
    let listed: HashSet<Reason> = table.iter().map(|(reason, _)| *reason).collect();
    assert_eq!(listed, reasons().into_iter().collect(), "the table has every reason");
    for (broker, column) in [(PRIVATE, 0), (shared(), 1)] {
        let mut seen = HashSet::new();
        for (reason, sentences) in &table {
            let text = refusal(*reason, "dev", broker.clone(), &[]).to_string();
            for part in sentences[column] {
                assert!(text.contains(part), "{reason:?}, {broker}: {part:?} isn't in {text:?}");
            }
            assert!(!text.ends_with('.') && !text.contains('\n'), "{text}");
            assert!(seen.insert(text.clone()), "{reason:?} has the same text as another: {text}");
        }
    }
}

/// The reasons whose cause the broker reports to its own user.
const WITH_A_CAUSE: [Reason; 12] = [
    Reason::LoginRequired,
    Reason::MfaRequired,
    Reason::ProfileMisconfigured,
    Reason::UnsupportedProfileSetting,
    Reason::AccessDenied,
    Reason::ClockSkew,
    Reason::KeysRejected,
    Reason::RegionDisabled,
    Reason::NoAccountAccess,
    Reason::NoCredentials,
    Reason::CredentialsUnavailable,
    Reason::NotALoginProfile,
];

#[test]
fn the_own_user_gets_the_messages_of_aws_and_the_broker() {
    for reason in WITH_A_CAUSE {
        for broker in [PRIVATE, shared()] {
            let sentence =
                |metadata: &[_]| refusal(reason, "dev", broker.clone(), metadata).to_string();
            let bare = sentence(&[]);
            assert!(!bare.contains("AWS: ") && !bare.contains("config:12"), "{bare}");
            // A user other than the broker's gets only the code.
            let other = sentence(&[CODE]);
            assert!(other.contains("(AWS: SomeCode)"), "{other}");
            let own = sentence(&[CODE, MESSAGE]);
            assert!(own.contains("(AWS: SomeCode: AWS's own words)"), "{own}");
            let all = sentence(&[CODE, MESSAGE, DETAIL]);
            assert!(
                all.contains(&format!(": {} (AWS: SomeCode: AWS's own words)", DETAIL.1)),
                "{all}"
            );
            let file = sentence(&[DETAIL]);
            assert!(file.contains(&format!(": {}", DETAIL.1)), "{file}");
            // A person who has read the cause doesn't need to find it, only to know what to do.
            assert!(!file.contains("says why") && file.contains("dev"), "{file}");
            assert!(file.contains(';'), "a next step: {file}");
        }
    }
}

/// A refused signature is reported to the broker. If it can't get fresh credentials, the caller gets the server's
/// message, unless the broker has a better one.
#[test]
fn an_expired_sign_in_and_a_wrong_clock_replace_the_servers_message() {
    for reason in reasons() {
        let error = Error::Refused(refusal(reason, "dev", PRIVATE, &[]));
        let expected = matches!(reason, Reason::LoginRequired | Reason::ClockSkew);
        assert_eq!(error.explains_a_refusal(), expected, "{reason:?}");
        assert_eq!(Error::Shared(error.into()).explains_a_refusal(), expected, "{reason:?}");
    }
}

#[test]
fn a_message_of_aws_is_not_shown_twice() {
    for sentence in [
        "the role: SomeCode: AWS's own words.",
        "STS said \"AWS's own words\"",
        "AWS's own words (SomeCode)",
    ] {
        let detail = ("detail", sentence);
        let refused = refusal(Reason::AccessDenied, "dev", PRIVATE, &[CODE, MESSAGE, detail]);
        let text = refused.to_string();
        assert_eq!(text.matches("own words").count(), 1, "{text}");
        assert_eq!(text.matches("SomeCode").count(), 1, "{text}");
    }
}

/// Only the broker knows whether a profile is in the files, so the sentence doesn't guess.
#[test]
fn a_sentence_does_not_guess_about_the_files() {
    for reason in reasons() {
        for broker in [PRIVATE, shared()] {
            for metadata in [&[][..], &[CODE], &[DETAIL]] {
                let text = refusal(reason, "dev", broker.clone(), metadata).to_string();
                assert!(!text.contains("isn't in the AWS config"), "{text}");
            }
        }
    }
}

#[test]
fn text_of_the_broker_is_shortened_and_shown_on_one_line() {
    let long = format!("a\nb\u{1b}[2J{}", "x".repeat(100_000));
    for key in ["aws_code", "aws_message", "detail"] {
        let text = refusal(Reason::AccessDenied, "dev", PRIVATE, &[(key, &long)]).to_string();
        assert!(text.contains("a b [2J") && text.contains('…'), "{text}");
        assert!(text.chars().count() < 1000 && !text.contains(char::is_control), "{text}");
    }
    let blank = refusal(Reason::AccessDenied, "dev", PRIVATE, &[("detail", "\n")]).to_string();
    assert_eq!(blank, refusal(Reason::AccessDenied, "dev", PRIVATE, &[]).to_string());
}

#[test]
fn commands_can_be_copied_into_a_shell() {
    let text = |reason, profile, broker| refusal(reason, profile, broker, &[]).to_string();
    let private = text(Reason::LoginRequired, "my profile", PRIVATE);
    assert!(private.contains("`aws sso login --profile 'my profile'`"), "{private}");
    assert!(private.contains("`aws login --profile 'my profile'`"), "{private}");
    assert!(private.starts_with("profile \"my profile\" "), "{private}");
    let found = text(Reason::LoginRequired, "it's", shared());
    assert!(found.contains(r"`sigward-broker login 'it'\''s'`"), "{found}");
    let elsewhere = BrokerAddress::Unix("/srv/b.sock".into());
    let named = text(Reason::LoginRequired, "Zürich", elsewhere);
    assert!(named.contains("`sigward-broker login --broker unix:/srv/b.sock Zürich`"), "{named}");
    let remote = BrokerAddress::Tls("https://broker.example.org:7443".into());
    let remote = text(Reason::LoginRequired, "dev", remote);
    let command = "`sigward-broker login --broker https://broker.example.org:7443 dev` with the \
                   --broker-cert, --broker-key and --broker-ca of this proxy";
    assert!(remote.contains(command), "{remote}");
    let files = text(Reason::ProfileMisconfigured, "$(reboot)", PRIVATE);
    assert!(files.contains("`aws configure list --profile '$(reboot)'`"), "{files}");
}

#[test]
fn an_unknown_reason_names_the_outdated_program() {
    let of = |status: &Status| {
        Refusal::of(status, ProfileName::parse("dev").unwrap(), shared()).to_string()
    };
    let mut details = tonic_types::ErrorDetails::new();
    details.set_error_info("OF_TOMORROW", ERROR_DOMAIN, HashMap::new());
    let newer = of(&Status::with_error_details(Code::PermissionDenied, "", details));
    assert!(newer.contains("update sigward-proxy"), "{newer}");
    let older = of(&Status::new(Code::Unimplemented, ""));
    assert!(older.contains("update sigward-broker"), "{older}");
    let failed = of(&Status::new(Code::DeadlineExceeded, "secret"));
    assert!(failed.contains("its log says why") && !failed.contains("secret"), "{failed}");
}
