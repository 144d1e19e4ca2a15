use std::path::Path;

use aws_runtime::env_config::file::EnvConfigFileKind::{Config as ConfigFile, Credentials};

use super::chain::Kind;
use super::*;

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
async fn settings_that_the_sdk_ignores_are_refused() {
    for (name, reason) in [
        ("mfa", Reason::MfaRequired),
        ("onmfa", Reason::MfaRequired),
        ("long", Reason::UnsupportedProfileSetting),
        ("who", Reason::UnsupportedProfileSetting),
        ("bundle", Reason::UnsupportedProfileSetting),
        ("login", Reason::UnsupportedProfileSetting),
        ("nobody", Reason::ProfileMisconfigured),
    ] {
        let denial = chain(PROFILES, name).await.check(name, true).expect_err(name);
        assert_eq!(denial.reason(), reason, "{name}");
    }
    for name in ["keys", "hops", "web", "sso", "process", "box"] {
        assert!(chain(PROFILES, name).await.check(name, true).is_ok(), "{name}");
    }
    assert!(chain(PROFILES, "nobody").await.check("nobody", false).is_ok());
}

#[tokio::test]
async fn nameless_roles_get_the_profiles_own_session_name() {
    let added = chain(PROFILES, "hops").await.session_names("sigward-x");
    assert_eq!(added, "[profile hops]\nrole_session_name = sigward-x\n");
    let added = chain(PROFILES, "default").await.session_names("sigward-x");
    assert_eq!(added, "[default]\nrole_session_name = sigward-x\n");
    assert_eq!(chain(PROFILES, "middle").await.session_names("sigward-x"), "");

    // Read on top, it adds to the profile and takes nothing away.
    let files = EnvConfigFiles::builder()
        .with_contents(ConfigFile, PROFILES)
        .with_contents(Credentials, "[keys]\naws_session_token = t\n")
        .with_contents(ConfigFile, chain(PROFILES, "default").await.session_names("sigward-x"))
        .build();
    let (fs, env) = (Fs::real(), Env::from_slice(&[]));
    let sections = aws_config::profile::load(&fs, &env, &files, None).await.expect("files");
    let profile = sections.get_profile("default").expect("a profile");
    assert_eq!(profile.get("role_session_name"), Some("sigward-x"));
    assert_eq!(profile.get("source_profile"), Some("keys"));
}

fn source(directory: &Path, name: &str, aws_profile: &str) -> Source {
    let text = format!(
        "[aws]\nconfig_file = \"{0}/config\"\ncredentials_file = \"{0}/credentials\"\n\
         [[endpoint]]\nname = \"e\"\nurl = \"https://aws-mcp.us-east-1.api.aws/mcp\"\n\
         [[profile]]\nname = \"{name}\"\naws_profile = \"{aws_profile}\"\nendpoints = [\"e\"]\n",
        directory.display()
    );
    let config = config::parse(&text, Path::new("test"), 0).expect("valid");
    Source::new(&config.profiles[0], &config, &Surroundings::default())
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
    assert_eq!(source.load().await.map_err(reason), Err(Reason::ProfileMisconfigured));
    for id in ["A", "B"] {
        write(
            at,
            "credentials",
            &format!("[dev]\naws_access_key_id = {id}\naws_secret_access_key = s\n"),
        );
        assert_eq!(source.load().await.expect("keys").access_key_id(), id);
    }
    write(at, "credentials", "[dev]\naws_access_key_id = B\n");
    assert_eq!(source.load().await.map_err(reason), Err(Reason::ProfileMisconfigured));
}

#[tokio::test]
async fn what_a_credential_process_writes_to_standard_error_stays_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    write(at, "credentials", "");
    write(at, "config", "[profile dev]\ncredential_process = sh -c 'echo canary >&2; exit 1'\n");
    let denial = source(at, "dev", "dev").load().await.expect_err("it fails");
    assert_eq!(denial.reason(), Reason::CredentialsUnavailable);
    assert!(!denial.to_string().contains("canary"), "{denial}");
}

#[tokio::test]
async fn a_session_name_is_stable_and_fits_sts() {
    let at = Path::new("/nowhere");
    assert_eq!(source(at, "prod-readonly", "x").session_name(), "sigward-prod-readonly");
    assert_eq!(source(at, "a/b:c", "x").session_name(), "sigward-a-b-c");
    assert_eq!(source(at, &"n".repeat(100), "x").session_name().len(), 64);
}
