mod aws_login;
mod ca_bundle;
mod files;
mod identity_center;
#[cfg(target_os = "linux")]
mod stack;

use std::path::Path;

use super::*;
use crate::deadline;
use crate::profile::fake::Fake;
use crate::profile::reading::{Change, Found, Inputs, Reading};

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000)
}

fn source(directory: &Path, name: &str, aws_profile: &str) -> Arc<Source> {
    source_at(directory, name, aws_profile, "")
}

/// A source with keys added to the profile in the broker's configuration.
fn source_at(directory: &Path, name: &str, aws_profile: &str, added: &str) -> Arc<Source> {
    let text = format!(
        "[aws]\nconfig_file = \"{0}/config\"\ncredentials_file = \"{0}/credentials\"\n\
         [[endpoint]]\nname = \"e\"\nurl = \"https://aws-mcp.us-east-1.api.aws/mcp\"\n\
         [[profile]]\nname = \"{name}\"\naws_profile = \"{aws_profile}\"\nendpoints = [\"e\"]\n{added}",
        directory.display()
    );
    let config = config::parse(&text, Path::new("test"), 0).expect("valid");
    let surroundings = Surroundings {
        home: Some(directory.to_owned()),
        variables: vec![("PATH".into(), "/usr/bin:/bin".into())],
    };
    let home = Arc::new(Home::new(&config.aws, &surroundings));
    let tokens = Arc::new(Tokens::new(Some(directory)));
    Arc::new(Source::new(&config.profiles[0], &config, &surroundings, home, tokens))
}

/// The result of reading the files.
async fn read(source: &Source) -> Reading {
    source.read(&*source.home.read().await, now()).await
}

/// The inputs of a load.
async fn inputs(source: &Source) -> Inputs {
    match read(source).await.found {
        Found::Inputs(inputs) => inputs,
        other => panic!("{other:?}"),
    }
}

/// A load and its inputs.
async fn load_with_inputs(source: &Arc<Source>) -> (Result<Credentials, Denial>, Inputs) {
    let (sender, read) = std::sync::mpsc::channel();
    let on_read = Box::new(move |reading: Reading| drop(sender.send(reading.found)));
    let loaded = deadline::within(source.load(None, Effort::Background, now(), on_read)).await;
    match read.recv().expect("it has read the files") {
        Found::Inputs(inputs) => (loaded, inputs),
        other => panic!("{other:?}"),
    }
}

/// The change of the inputs since a load.
async fn change(source: &Source, since: &Inputs) -> Option<Change> {
    inputs(source).await.change(Some(since))
}

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).expect(name);
}

#[tokio::test]
async fn each_load_reads_the_files_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    write(at, "config", "");
    let source = source(at, "dev", "dev");
    let reason = |denial: Denial| denial.reason();
    write(at, "credentials", "[other]\n");
    assert_eq!(
        source.load(None, Effort::Waited, now(), Box::new(drop)).await.map_err(reason),
        Err(Reason::ProfileMisconfigured)
    );
    for id in ["A", "B"] {
        write(
            at,
            "credentials",
            &format!("[dev]\naws_access_key_id = {id}\naws_secret_access_key = s\n"),
        );
        assert_eq!(
            source
                .load(None, Effort::Waited, now(), Box::new(drop))
                .await
                .expect("keys")
                .access_key_id(),
            id
        );
    }
    write(at, "credentials", "[dev]\naws_access_key_id = B\n");
    assert_eq!(
        source.load(None, Effort::Waited, now(), Box::new(drop)).await.map_err(reason),
        Err(Reason::ProfileMisconfigured)
    );
}

#[tokio::test]
async fn the_standard_error_of_a_credential_process_is_discarded() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    write(at, "credentials", "");
    write(at, "config", "[profile dev]\ncredential_process = sh -c 'echo canary >&2; exit 1'\n");
    let denial = source(at, "dev", "dev")
        .load(None, Effort::Waited, now(), Box::new(drop))
        .await
        .expect_err("it fails");
    assert_eq!(denial.reason(), Reason::CredentialsUnavailable);
    assert!(!denial.to_string().contains("canary"), "{denial}");
}

#[tokio::test]
async fn roles_on_top_of_a_credential_process() {
    let server = Fake::start(|asked| {
        let hop = asked.text.contains("role%2FX");
        assert!(asked.text.contains(if hop { "Credential=P/" } else { "Credential=H/" }));
        (200, assumed(if hop { "H" } else { "T" }))
    })
    .await;
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    write(at, "credentials", "");
    let answer = r#"{"Version":1,"AccessKeyId":"P","SecretAccessKey":"s"}"#;
    let process = format!("[profile process]\ncredential_process = echo '{answer}'\n");
    let hop = "[profile dev]\nrole_arn = arn:aws:iam::1:role/X\nsource_profile = process\n\
               duration_seconds = 1800\nsource_identity = me\nexternal_id = ext\nservices = fake\n";
    let fake = format!("[services fake]\nsts =\n  endpoint_url = {}\n", server.url);
    write(at, "config", &format!("{process}{hop}{fake}"));
    let top = "role_arn = \"arn:aws:iam::1:role/Top\"\nsession_policy = '{}'\n\
               session_policy_arns = [\"arn:aws:iam::aws:policy/ReadOnlyAccess\"]\nduration = \"15m\"\n";
    let source = source_at(at, "dev", "dev", top);
    let keys = source.load(None, Effort::Waited, now(), Box::new(drop)).await.expect("credentials");
    assert_eq!((keys.access_key_id(), keys.session_token()), ("T", Some("token")));
    assert_eq!(read(&source).await.about.source, "assume role");
    let asked = server.asked();
    for part in [
        "DurationSeconds=1800",
        "SourceIdentity=me",
        "ExternalId=ext",
        "RoleSessionName=sigward-dev",
    ] {
        assert!(asked[0].text.contains(part), "{part}: {}", asked[0].text);
    }
    for part in
        ["DurationSeconds=900", "Policy=%7B%7D", "ReadOnlyAccess", "RoleSessionName=sigward-dev"]
    {
        assert!(asked[1].text.contains(part), "{part}: {}", asked[1].text);
    }
}

/// An STS that returns any role, and a home with the profile `keys` and a web identity's token.
async fn keys_and_a_token() -> (Fake, tempfile::TempDir) {
    let server = Fake::start(|asked| {
        let web = asked.text.contains("Action=AssumeRoleWithWebIdentity");
        let action = if web { "AssumeRoleWithWebIdentity" } else { "AssumeRole" };
        (200, assumed("T").replace("AssumeRole", action))
    })
    .await;
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    write(at, "token", "web");
    write(at, "credentials", "[keys]\naws_access_key_id = A\naws_secret_access_key = s\n");
    (server, directory)
}

/// The last assumed role has the limits of the configuration, wherever it is named; without a role
/// nothing is signed.
#[tokio::test]
async fn guard_rails_are_session_policies_of_the_last_role() {
    let (server, directory) = keys_and_a_token().await;
    let at = directory.path();
    let role = |name: &str, source: &str| {
        let (url, arn) = (&server.url, format!("arn:aws:iam::1:role/{name}"));
        format!("[profile {name}]\nrole_arn = {arn}\n{source}\nendpoint_url = {url}\n")
    };
    let web = format!("web_identity_token_file = {}/token", at.display());
    let profiles = [
        format!("[profile keys]\nendpoint_url = {}\n", server.url),
        role("once", "source_profile = keys"),
        role("twice", "source_profile = once"),
        role("web", &web),
        role("onweb", "source_profile = web"),
    ];
    write(at, "config", &profiles.concat());
    let limits = "access = \"read-only\"\nonly_via_mcp = true\n";
    let top = format!("role_arn = \"arn:aws:iam::1:role/Top\"\n{limits}");
    // The calls, of which only the last one is narrowed.
    for (profile, added, calls) in [
        ("once", limits, 1),
        ("twice", limits, 2),
        ("web", limits, 1),
        ("onweb", limits, 2),
        ("keys", &top, 1),
        ("web", &top, 2),
    ] {
        let before = server.asked().len();
        let source = source_at(at, "dev", profile, added);
        source.load(None, Effort::Waited, now(), Box::new(drop)).await.expect("credentials");
        let narrowed: Vec<bool> = server.asked()[before..]
            .iter()
            .map(|asked| {
                let parts = ["ReadOnlyAccess", "ViaAWSMCPService"];
                parts.iter().all(|part| asked.text.contains(part))
            })
            .collect();
        let mut wanted = vec![false; calls - 1];
        wanted.push(true);
        assert_eq!(narrowed, wanted, "{profile} {added}");
        // The control: without limits, nothing is narrowed.
        let before = server.asked().len();
        let without = added.replace(limits, "");
        let source = source_at(at, "dev", profile, &without);
        source.load(None, Effort::Waited, now(), Box::new(drop)).await.expect("credentials");
        let asked = server.asked();
        assert!(asked[before..].iter().all(|asked| !asked.text.contains("Policy")), "{profile}");
    }
    let before = server.asked().len();
    let source = source_at(at, "dev", "keys", limits);
    let denial =
        source.load(None, Effort::Waited, now(), Box::new(drop)).await.expect_err("no role");
    assert_eq!(denial.reason(), Reason::UnsupportedProfileSetting);
    assert!(denial.detail().contains("add role_arn"), "{denial}");
    assert_eq!(server.asked().len(), before, "no call was made");
}

#[tokio::test]
async fn a_role_of_a_role_lives_an_hour_at_most() {
    let (server, directory) = keys_and_a_token().await;
    let at = directory.path();
    let role = |name: &str, source: &str| {
        format!(
            "[profile {name}]\nrole_arn = arn:aws:iam::1:role/{name}\n{source}\nendpoint_url = {}\n",
            server.url
        )
    };
    let long = "duration_seconds = 43200";
    let (keys, web) =
        ("source_profile = keys", format!("web_identity_token_file = {}/token", at.display()));
    let profiles = [
        format!("[profile keys]\nendpoint_url = {}\n", server.url),
        role("once", &format!("{keys}\n{long}")),
        role("twice", &format!("source_profile = once\n{long}")),
        role("web", &format!("{web}\n{long}")),
        role("onweb", &format!("source_profile = web\n{long}")),
        role("short", "source_profile = once\nduration_seconds = 3600"),
        "[profile sso]\nsso_start_url = https://x\nsso_region = us-east-1\nsso_account_id = 1\nsso_role_name = R\n"
            .to_owned(),
        role("onsso", &format!("source_profile = sso\n{long}")),
    ];
    write(at, "config", &profiles.concat());
    let top = "role_arn = \"arn:aws:iam::1:role/Top\"\nduration = \"2h\"\n";
    for (profile, added, refused) in [
        ("once", "", None),
        ("web", "", None),
        ("short", "", None),
        ("keys", top, None),
        ("twice", "", Some("role/twice")),
        ("onweb", "", Some("role/onweb")),
        ("onsso", "", Some("role/onsso")),
        ("once", top, Some("role/Top")),
    ] {
        let before = server.asked().len();
        let loaded = source_at(at, "dev", profile, added)
            .load(None, Effort::Waited, now(), Box::new(drop))
            .await;
        match (loaded, refused) {
            (Ok(_), None) => {}
            (Err(denial), Some(role)) => {
                assert_eq!(denial.reason(), Reason::ProfileMisconfigured);
                assert!(
                    denial.detail().contains(role) && denial.detail().contains("an hour"),
                    "{denial}"
                );
                assert_eq!(server.asked().len(), before, "no call was made");
            }
            (loaded, _) => panic!("{profile} {added}: {loaded:?}"),
        }
    }
}

fn assumed(id: &str) -> String {
    format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>{id}</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>token</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )
}

/// The errors of AWS's services, and what a person has to do about them.
#[tokio::test]
async fn refusals_of_sts_have_different_reasons() {
    let clock = "Signature expired: 20261125T101500Z is now earlier than 20261126T095500Z (20261126T101000Z - 15 min.)";
    for (status, code, message, reason) in [
        (403, "AccessDenied", "no", Reason::AccessDenied),
        (403, "ExpiredToken", "no", Reason::KeysRejected),
        (403, "InvalidClientTokenId", "no", Reason::KeysRejected),
        (403, "SignatureDoesNotMatch", "no", Reason::KeysRejected),
        (403, "SignatureDoesNotMatch", clock, Reason::ClockSkew),
        (403, "SignatureDoesNotMatch", "Signature not yet current: …", Reason::ClockSkew),
        (400, "RequestExpired", "no", Reason::ClockSkew),
        (403, "RegionDisabledException", "no", Reason::RegionDisabled),
        (400, "ValidationError", "no", Reason::ProfileMisconfigured),
        (400, "Throttling", "no", Reason::CredentialsUnavailable),
        (429, "AccessDenied", "no", Reason::CredentialsUnavailable),
        (500, "InternalFailure", "no", Reason::CredentialsUnavailable),
    ] {
        let answer = format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Code>{code}</Code>\
             <Message>{message}</Message></Error></ErrorResponse>"
        );
        let server = Fake::start(move |_| (status, answer.clone())).await;
        let directory = tempfile::tempdir().expect("a directory");
        let at = directory.path();
        write(at, "credentials", "[keys]\naws_access_key_id = A\naws_secret_access_key = s\n");
        write(
            at,
            "config",
            &format!(
                "[profile dev]\nrole_arn = arn:aws:iam::1:role/X\nsource_profile = keys\nendpoint_url = {}\n",
                server.url
            ),
        );
        let loaded =
            source(at, "dev", "dev").load(None, Effort::Background, now(), Box::new(drop)).await;
        let denial = loaded.expect_err(code);
        assert_eq!(denial.reason(), reason, "{code}: {message}");
        let aws = denial.aws().expect("AWS's words");
        assert_eq!((aws.code(), aws.message()), (code, message));
        assert_eq!(server.asked().len(), 1, "in the background the actor itself retries");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_answer_times_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (taken, calls) = std::sync::mpsc::channel();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 64]).await.expect("a call");
            silent.push(stream);
            taken.send(()).ok();
        }
    });
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    write(at, "credentials", "[keys]\naws_access_key_id = A\naws_secret_access_key = s\n");
    let role = "role_arn = arn:aws:iam::1:role/X\nsource_profile = keys\n";
    write(at, "config", &format!("[profile dev]\n{role}endpoint_url = {url}\n"));
    let source = source(at, "dev", "dev");
    // The runtime's time is paused until the call has arrived.
    let arrived = tokio::task::spawn_blocking(move || calls.recv());
    let started = tokio::time::Instant::now();
    let loading = source.load(None, Effort::Background, now(), Box::new(drop));
    let loaded = tokio::time::timeout(std::time::Duration::from_secs(60), loading).await;
    arrived.await.expect("a thread").expect("the call arrived");
    let denial = loaded.expect("in time").expect_err("no answer");
    assert_eq!(denial.reason(), Reason::CredentialsUnavailable);
    assert!(started.elapsed().as_secs() < 15, "{:?}: {denial}", started.elapsed());
}

#[tokio::test]
async fn only_profiles_of_identity_center_are_signed_in() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = "[profile keys]\naws_access_key_id = A\naws_secret_access_key = b\n\
                  [profile nosession]\nsso_session = x\n";
    write(directory.path(), "config", config);
    write(directory.path(), "credentials", "");
    for (name, reason) in [
        ("keys", Reason::NotALoginProfile),
        ("nobody", Reason::NotALoginProfile),
        ("nosession", Reason::ProfileMisconfigured),
    ] {
        let denial = source(directory.path(), "dev", name).session().await.expect_err(name);
        assert_eq!(denial.reason(), reason, "{name}");
    }
}

#[tokio::test]
async fn a_ca_bundle_is_read_or_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    write(at, "credentials", "[keys]\naws_access_key_id = A\naws_secret_access_key = s\n");
    let profile = format!(
        "[profile dev]\nrole_arn = arn:aws:iam::1:role/X\nsource_profile = keys\nca_bundle = {}/ca.pem\n",
        at.display()
    );
    write(at, "config", &profile);
    let block = |text: &str, end: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n{end}");
    let end = "-----END CERTIFICATE-----\n";
    for text in [
        None,
        Some("no certificate".to_owned()),
        Some(block("%%", "")),
        Some(block("Z2FyYmFnZQ==", end)),
    ] {
        if let Some(text) = text {
            write(at, "ca.pem", &text);
        }
        let denial = source(at, "dev", "dev")
            .load(None, Effort::Waited, now(), Box::new(drop))
            .await
            .expect_err("no file");
        assert_eq!(denial.reason(), Reason::ProfileMisconfigured);
        assert!(denial.detail().contains("ca_bundle"), "{denial}");
    }
}

#[tokio::test]
async fn a_session_name_is_stable_and_fits_sts() {
    let at = Path::new("/nowhere");
    assert_eq!(source(at, "prod-readonly", "x").session_name(), "sigward-prod-readonly");
    assert_eq!(source(at, "a/b:c", "x").session_name(), "sigward-a-b-c");
    assert_eq!(source(at, &"n".repeat(100), "x").session_name().len(), 64);
}
