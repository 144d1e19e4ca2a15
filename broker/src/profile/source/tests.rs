use std::path::Path;

use aws_runtime::env_config::file::EnvConfigFileKind::Config as ConfigFile;

use super::chain::Kind;
use super::*;
use crate::profile::fake::Fake;
use crate::profile::token::{Renewal, Token, parse};
use crate::secret::Secret;

async fn chain(config: &str, name: &str) -> Chain {
    let files = EnvConfigFiles::builder().with_contents(ConfigFile, config).build();
    let sections = aws_config::profile::load(
        &Fs::real(),
        &Env::from_slice(&[]),
        &files,
        Some(name.to_owned().into()),
    )
    .await
    .expect("a file");
    Chain::of(&sections, name)
}

const PROFILES: &str = "
[default]
role_arn = arn:aws:iam::1:role/D
source_profile = keys
[profile keys]
region = eu-west-1
aws_access_key_id = A
aws_secret_access_key = b
[profile hops]
region = us-west-2
role_arn = arn:aws:iam::1:role/X
source_profile = middle
[profile middle]
role_arn = arn:aws:iam::1:role/Y
role_session_name = mine
source_profile = keys
[profile self]
role_arn = arn:aws:iam::1:role/X
source_profile = self
aws_access_key_id = A
aws_secret_access_key = b
[profile loop]
role_arn = arn:aws:iam::1:role/X
source_profile = loop2
[profile loop2]
role_arn = arn:aws:iam::1:role/X
source_profile = loop
[profile web]
role_arn = arn:aws:iam::1:role/X
web_identity_token_file = /token
[profile sso]
sso_session = s
sso_account_id = 1
sso_role_name = R
output = text
[sso-session s]
sso_region = us-east-1
sso_start_url = https://x/start
[profile process]
credential_process = /bin/true
[profile box]
role_arn = arn:aws:iam::1:role/X
credential_source = EcsContainer
[profile login]
login_session = arn:aws:iam::1:user/U
[profile mfa]
role_arn = arn:aws:iam::1:role/X
source_profile = keys
mfa_serial = arn:aws:iam::1:mfa/m
[profile onmfa]
role_arn = arn:aws:iam::1:role/X
source_profile = mfa
[profile long]
role_arn = arn:aws:iam::1:role/X
source_profile = keys
duration_seconds = 7200
[profile who]
role_arn = arn:aws:iam::1:role/X
source_profile = keys
source_identity = me
[profile bundle]
aws_access_key_id = A
aws_secret_access_key = b
ca_bundle = /ca.pem
[profile empty]
region = us-east-1
[profile longer]
role_arn = arn:aws:iam::1:role/X
source_profile = keys
duration_seconds = forever
[profile lonely]
role_arn = arn:aws:iam::1:role/X
[profile both]
role_arn = arn:aws:iam::1:role/X
source_profile = keys
credential_source = Environment
[profile gone]
role_arn = arn:aws:iam::1:role/X
source_profile = nobody
[profile hollow]
role_arn = arn:aws:iam::1:role/X
source_profile = empty
[profile mars]
role_arn = arn:aws:iam::1:role/X
credential_source = Mars
[profile token]
web_identity_token_file = /token
[profile webwho]
role_arn = arn:aws:iam::1:role/X
web_identity_token_file = /token
source_identity = me
[profile nosession]
sso_session = x
[profile norole]
sso_session = s
sso_account_id = 1
[profile twourls]
sso_session = s
sso_start_url = https://other/start
[profile half]
aws_access_key_id = A
[profile legacy]
sso_start_url = https://y/start
sso_region = us-east-1
sso_account_id = 1
sso_role_name = R
";

#[tokio::test]
async fn where_the_credentials_come_from() {
    for (name, kind, source) in [
        ("keys", Some(Kind::StaticKeys), "static keys"),
        ("hops", Some(Kind::StaticKeys), "assume role"),
        ("self", Some(Kind::StaticKeys), "assume role"),
        ("web", Some(Kind::WebIdentity), "web identity"),
        ("sso", Some(Kind::Sso), "sso"),
        ("process", Some(Kind::CredentialProcess), "credential process"),
        ("box", Some(Kind::Named), "assume role"),
        ("login", Some(Kind::LoginSession), "login session"),
        ("empty", None, ""),
        ("loop", None, "assume role"),
        ("nobody", None, ""),
    ] {
        let chain = chain(PROFILES, name).await;
        assert_eq!((chain.kind, chain.source()), (kind, source), "{name}");
    }
    assert_eq!(chain(PROFILES, "hops").await.region.as_deref(), Some("us-west-2"));
    assert_eq!(chain(PROFILES, "middle").await.region, None);
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_its_reason() {
    for (name, reason, word) in [
        ("mfa", Reason::MfaRequired, "mfa_serial"),
        ("onmfa", Reason::MfaRequired, "profile mfa"),
        ("nobody", Reason::ProfileMisconfigured, "no profile nobody"),
        ("empty", Reason::ProfileMisconfigured, "holds no credentials"),
        ("loop", Reason::ProfileMisconfigured, "leads back"),
        ("longer", Reason::ProfileMisconfigured, "duration_seconds"),
        ("lonely", Reason::ProfileMisconfigured, "no source_profile"),
        ("both", Reason::ProfileMisconfigured, "keep one"),
        ("gone", Reason::ProfileMisconfigured, "there is no source_profile nobody"),
        ("hollow", Reason::ProfileMisconfigured, "holds no credentials"),
        ("mars", Reason::ProfileMisconfigured, "credential_source must be"),
        ("token", Reason::ProfileMisconfigured, "no role_arn"),
        ("webwho", Reason::UnsupportedProfileSetting, "source_identity"),
        ("nosession", Reason::ProfileMisconfigured, "no sso-session x"),
        ("norole", Reason::ProfileMisconfigured, "no sso_role_name"),
        ("twourls", Reason::ProfileMisconfigured, "sso_start_url"),
        ("half", Reason::ProfileMisconfigured, "no aws_secret_access_key"),
    ] {
        let denial = chain(PROFILES, name).await.resolve(name, true).expect_err(name);
        assert_eq!(denial.reason(), reason, "{name}");
        assert!(denial.detail().contains(word), "{name}: {denial}");
    }
    for name in ["keys", "hops", "web", "sso", "legacy", "process", "box", "login", "long", "who"] {
        assert!(chain(PROFILES, name).await.resolve(name, true).is_ok(), "{name}");
    }
    // The default chain goes on without a profile.
    for name in ["nobody", "empty"] {
        assert!(chain(PROFILES, name).await.resolve(name, false).expect(name).is_none());
    }
}

#[tokio::test]
async fn hops_are_assumed_from_the_base_up_with_all_that_they_say() {
    let (base, hops) = chain(PROFILES, "hops").await.resolve("", true).expect("ok").expect("some");
    assert!(matches!(base, Base::StaticKeys(_)));
    let names: Vec<_> =
        hops.iter().map(|hop| (hop.role_arn.as_str(), hop.session_name.as_deref())).collect();
    assert_eq!(names, [("arn:aws:iam::1:role/Y", Some("mine")), ("arn:aws:iam::1:role/X", None)]);
    let (_, hops) = chain(PROFILES, "long").await.resolve("", true).expect("ok").expect("some");
    assert_eq!(hops[0].duration, Some(7200));
    let (_, hops) = chain(PROFILES, "who").await.resolve("", true).expect("ok").expect("some");
    assert_eq!(hops[0].source_identity.as_deref(), Some("me"));
    let bundle = chain(PROFILES, "bundle").await;
    assert_eq!(bundle.ca_bundle.as_deref(), Some(Path::new("/ca.pem")));
}

#[tokio::test]
async fn a_fingerprint_tells_changes_that_matter() {
    let of = async |config: &str| chain(config, "hops").await.fingerprint();
    let before = of(PROFILES).await;
    assert_eq!(of(&format!("{PROFILES}\n[profile another]\nregion = x\n")).await, before);
    assert_eq!(
        of(&PROFILES.replace("[profile sso]", "[profile sso]\noutput = json")).await,
        before
    );
    // In the base, two profiles away.
    let changed = PROFILES.replacen("aws_secret_access_key = b", "aws_secret_access_key = c", 1);
    assert_ne!(of(&changed).await, before);
    assert_ne!(of(&PROFILES.replace("role/Y", "role/Z")).await, before);
}

#[tokio::test]
async fn sessions_of_identity_center() {
    let session = |chain: Chain| chain.session().cloned().expect("a session");
    let named = session(chain(PROFILES, "sso").await);
    assert_eq!((named.key(), named.region.as_str()), ("s", "us-east-1"));
    assert_eq!(named.scopes, ["sso:account:access"]);
    let legacy = session(chain(PROFILES, "legacy").await);
    assert_eq!(legacy.key(), "https://y/start");
    assert!(legacy.scopes.is_empty());
    assert!(chain(PROFILES, "keys").await.session().is_none());
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000)
}

fn source(directory: &Path, name: &str, aws_profile: &str) -> Arc<Source> {
    source_at(directory, name, aws_profile, "")
}

/// With keys added to the profile in the broker's configuration.
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
        ..Surroundings::default()
    };
    let tokens = Arc::new(Tokens::new(Some(directory)));
    Arc::new(Source::new(
        &config.profiles[0],
        &config,
        &surroundings,
        tokens,
        watch::Sender::new(()),
    ))
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
        source.load(Effort::Waited, now()).await.map_err(reason),
        Err(Reason::ProfileMisconfigured)
    );
    for id in ["A", "B"] {
        write(
            at,
            "credentials",
            &format!("[dev]\naws_access_key_id = {id}\naws_secret_access_key = s\n"),
        );
        assert_eq!(source.load(Effort::Waited, now()).await.expect("keys").access_key_id(), id);
    }
    write(at, "credentials", "[dev]\naws_access_key_id = B\n");
    assert_eq!(
        source.load(Effort::Waited, now()).await.map_err(reason),
        Err(Reason::ProfileMisconfigured)
    );
}

#[tokio::test]
async fn what_a_credential_process_writes_to_standard_error_stays_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    write(at, "credentials", "");
    write(at, "config", "[profile dev]\ncredential_process = sh -c 'echo canary >&2; exit 1'\n");
    let denial = source(at, "dev", "dev").load(Effort::Waited, now()).await.expect_err("it fails");
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
    let keys = source.load(Effort::Waited, now()).await.expect("credentials");
    assert_eq!((keys.access_key_id(), keys.session_token()), ("T", Some("token")));
    assert_eq!(source.describe().await.source, "assume role");
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

fn assumed(id: &str) -> String {
    format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>{id}</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>token</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )
}

#[tokio::test]
async fn a_refusal_of_sts_is_for_good_and_trouble_is_not() {
    for (status, code, reason) in [
        (403, "AccessDenied", Reason::ProfileMisconfigured),
        (400, "Throttling", Reason::CredentialsUnavailable),
        (500, "InternalFailure", Reason::CredentialsUnavailable),
    ] {
        let answer = format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Code>{code}</Code>\
             <Message>no</Message></Error></ErrorResponse>"
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
        let loaded = source(at, "dev", "dev").load(Effort::Background, now()).await;
        assert_eq!(loaded.expect_err(code).reason(), reason, "{code}");
        assert_eq!(server.asked().len(), 1, "in the background the machine itself tries again");
    }
}

/// A home that is signed in until `expiry` (seconds), with a portal and an OIDC server behind it.
async fn identity_center(expiry: u64, portal: u16, renewal: u16) -> (tempfile::TempDir, Fake) {
    let server = Fake::start(move |asked| match asked.path.as_str() {
        "/federation/credentials" if portal == 200 => {
            let token = if asked.text.contains("canary-new") { "NEW" } else { "OLD" };
            (200, format!(
                r#"{{"roleCredentials":{{"accessKeyId":"{token}","secretAccessKey":"s","sessionToken":"t","expiration":4102444800000}}}}"#
            ))
        }
        "/federation/credentials" => (portal, r#"{"__type":"UnauthorizedException"}"#.to_owned()),
        "/token" if renewal == 200 => {
            (200, r#"{"accessToken":"canary-new","expiresIn":3600,"refreshToken":"r2"}"#.to_owned())
        }
        _ => (renewal, r#"{"__type":"InvalidGrantException","error":"invalid_grant"}"#.to_owned()),
    })
    .await;
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    write(at, "credentials", "");
    write(
        at,
        "config",
        &format!(
            "[profile dev]\nsso_session = team\nsso_account_id = 1\nsso_role_name = R\nendpoint_url = {}\n\
             [sso-session team]\nsso_region = us-east-1\nsso_start_url = https://x/start\n",
            server.url
        ),
    );
    let tokens = Tokens::new(Some(at));
    let renewal = Renewal {
        refresh: Secret::new("canary-refresh".to_owned()),
        client_id: "c".to_owned(),
        client_secret: Secret::new("s".to_owned()),
        registration_expiry: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(4_000_000_000),
    };
    let expiry = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(expiry);
    let token =
        Token { access: Secret::new("canary-old".to_owned()), expiry, renewal: Some(renewal) };
    let session = source(at, "dev", "dev").session().await.expect("a session");
    assert!(!tokens.store(&session, token));
    (directory, server)
}

const NOW: u64 = 1_800_000_000;

#[tokio::test]
async fn identity_center_with_a_living_token() {
    let (home, server) = identity_center(NOW + 3600, 200, 200).await;
    let keys = source(home.path(), "dev", "dev").load(Effort::Waited, now()).await.expect("keys");
    assert_eq!(keys.access_key_id(), "OLD");
    assert!(server.asked_of("/token").is_empty());
}

#[tokio::test]
async fn a_token_near_its_end_is_renewed_and_shared() {
    for end in [NOW + 200, NOW - 200] {
        let (home, server) = identity_center(end, 200, 200).await;
        let source = source(home.path(), "dev", "dev");
        let keys = source.load(Effort::Waited, now()).await.expect("keys");
        assert_eq!(keys.access_key_id(), "NEW");
        assert_eq!(server.asked_of("/token")[0].body["refreshToken"], "canary-refresh");
        let session = source.session().await.expect("a session");
        let token = Tokens::new(Some(home.path())).find(&session).expect("a token");
        assert_eq!(token.renewal.expect("a renewal").refresh.expose(), "r2");
        source.load(Effort::Waited, now()).await.expect("keys");
        assert_eq!(server.asked_of("/token").len(), 1);
    }
}

#[tokio::test]
async fn a_renewal_that_cannot_be_written_is_kept_and_used() {
    let (home, server) = identity_center(NOW - 200, 200, 200).await;
    let source = source(home.path(), "dev", "dev");
    // What is in the way of the temporary file and of the rename alike: the file is a directory's.
    let cache = source.tokens.path(&source.session().await.expect("a session")).expect("a path");
    let token = std::fs::read(&cache).expect("a token");
    let directory = cache.parent().expect("a directory");
    let elsewhere = home.path().join("elsewhere");
    std::fs::write(&elsewhere, token).expect("a copy");
    std::fs::remove_dir_all(directory).expect("there");
    std::os::unix::fs::symlink("/proc/self/fdinfo", directory).expect("a link");
    source.tokens.store(
        &source.session().await.expect("a session"),
        parse(&std::fs::read(&elsewhere).expect("a copy")).expect("a token"),
    );
    for _ in 0..2 {
        let keys = source.load(Effort::Waited, now()).await.expect("keys");
        assert_eq!(keys.access_key_id(), "NEW");
    }
    assert_eq!(server.asked_of("/token").len(), 1, "the refresh token is used once");
}

#[tokio::test]
async fn a_renewal_that_fails_uses_the_token_up() {
    let (home, _server) = identity_center(NOW + 200, 200, 500).await;
    let keys = source(home.path(), "dev", "dev").load(Effort::Waited, now()).await.expect("keys");
    assert_eq!(keys.access_key_id(), "OLD");
}

#[tokio::test]
async fn a_dead_token_needs_a_sign_in_and_an_outage_does_not() {
    for (end, portal, renewal, reason) in [
        (NOW + 3600, 401, 200, Reason::LoginRequired),
        (NOW + 3600, 403, 200, Reason::ProfileMisconfigured),
        (NOW + 3600, 500, 200, Reason::CredentialsUnavailable),
        (NOW - 200, 200, 400, Reason::LoginRequired),
        (NOW - 200, 200, 500, Reason::CredentialsUnavailable),
    ] {
        let (home, _server) = identity_center(end, portal, renewal).await;
        let loaded = source(home.path(), "dev", "dev")
            .load(Effort::Background, now())
            .await
            .expect_err("dead");
        assert_eq!(loaded.reason(), reason, "{end} {portal} {renewal}: {loaded}");
        assert!(!loaded.to_string().contains("canary"), "{loaded}");
    }
}

#[tokio::test]
async fn without_a_token_a_sign_in_is_needed() {
    let (home, server) = identity_center(NOW + 3600, 200, 200).await;
    std::fs::remove_dir_all(home.path().join(".aws")).expect("a cache");
    let source = source(home.path(), "dev", "dev");
    let denial = source.load(Effort::Waited, now()).await.expect_err("nobody has signed in");
    assert_eq!(denial.reason(), Reason::LoginRequired);
    assert!(server.asked().is_empty());
    assert!(source.session().await.is_ok());
}

#[tokio::test]
async fn a_sign_in_of_another_program_is_seen() {
    let (home, _server) = identity_center(NOW + 3600, 401, 200).await;
    let source = source(home.path(), "dev", "dev");
    let denial = source.load(Effort::Waited, now()).await.expect_err("revoked");
    assert_eq!(denial.reason(), Reason::LoginRequired);
    assert!(matches!(source.look().await, Seen::Same));
    let session = source.session().await.expect("a session");
    let path = Tokens::new(Some(home.path())).path(&session).expect("a path");
    assert!(source.watched().contains(&path));
    let json = r#"{"accessToken":"canary-new","expiresAt":"2099-01-01T00:00:00Z"}"#;
    std::fs::write(path, json).expect("signed in");
    assert!(matches!(source.look().await, Seen::Other));
}

#[tokio::test]
async fn only_profiles_of_identity_center_are_signed_in() {
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), "config", PROFILES);
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
    for text in [None, Some("no certificate")] {
        if let Some(text) = text {
            write(at, "ca.pem", text);
        }
        let denial =
            source(at, "dev", "dev").load(Effort::Waited, now()).await.expect_err("no file");
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
