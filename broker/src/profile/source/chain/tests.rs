use std::path::Path;

use super::*;

fn chain(config: &str, name: &str) -> Chain {
    with_keys(config, "", name)
}

fn with_keys(config: &str, credentials: &str, name: &str) -> Chain {
    let files = AwsFiles::read((Path::new("config"), config), (Path::new("keys"), credentials));
    Chain::of(&files.expect("files"), name)
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
[profile mfaless]
aws_access_key_id = A
aws_secret_access_key = b
mfa_serial = arn:aws:iam::1:mfa/m
[profile alone]
credential_source = Environment
[profile nowhere]
aws_access_key_id = A
aws_secret_access_key = b
services = x
[profile halfprocess]
credential_process = sh -c 'x
[profile twotokens]
aws_access_key_id = A
aws_secret_access_key = b
aws_session_token = t
aws_security_token = u
[profile emptyrole]
role_arn =
source_profile = keys
[profile emptyfile]
role_arn = arn:aws:iam::1:role/X
web_identity_token_file =
aws_access_key_id = A
aws_secret_access_key = b
[profile lines]
role_arn = arn:aws:iam::1:role/X
  external_id = e
source_profile = keys
[profile block]
role_arn =
  arn = arn:aws:iam::1:role/X
source_profile = keys
[profile mars2]
region = eu west
aws_access_key_id = A
aws_secret_access_key = b
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
[profile webext]
role_arn = arn:aws:iam::1:role/X
web_identity_token_file = /token
external_id = e
[profile webkeys]
role_arn = arn:aws:iam::1:role/X
web_identity_token_file = /token
source_profile = keys
[profile webbox]
role_arn = arn:aws:iam::1:role/X
web_identity_token_file = /token
credential_source = EcsContainer
[profile weblong]
role_arn = arn:aws:iam::1:role/X
web_identity_token_file = /token
duration_seconds = 7200
role_session_name = pod
[profile tags]
role_arn = arn:aws:iam::1:role/X
source_profile = keys
session_tags = team=red
[profile ontags]
role_arn = arn:aws:iam::1:role/X
source_profile = tags
[profile policy]
role_arn = arn:aws:iam::1:role/X
source_profile = keys
session_policy = {}
[profile idle]
sso_session = s
sso_account_id = 1
sso_role_name = R
duration_seconds = 3600
[profile idle2]
aws_access_key_id = A
aws_secret_access_key = b
external_id = e
[profile processkeys]
credential_process = /bin/true
aws_access_key_id = A
aws_secret_access_key = b
[profile loginkeys]
login_session = arn:aws:iam::1:user/U
aws_access_key_id = A
aws_secret_access_key = b
[profile loginurl]
login_session = arn:aws:iam::1:user/U
endpoint_url = https://signin.example
[profile loginservice]
login_session = arn:aws:iam::1:user/U
services = signin
[services signin]
signin =
  endpoint_url = https://signin.example
[profile nokey]
aws_access_key_id =
aws_secret_access_key = b
[profile fips]
aws_access_key_id = A
aws_secret_access_key = b
use_fips_endpoint = yes
[profile somewhere]
aws_access_key_id = A
aws_secret_access_key = b
endpoint_url = vpce-1.sts.us-east-1.vpce.amazonaws.com
[profile elsewhere]
aws_access_key_id = A
aws_secret_access_key = b
services = wrong
[services wrong]
sts =
  endpoint_url = sts.example
[profile oidc]
aws_access_key_id = A
aws_secret_access_key = b
services = oidc
[services oidc]
sso-oidc =
  endpoint_url = https://oidc.example
[profile global]
role_arn = arn:aws:iam::1:role/X
source_profile = keys
sts_regional_endpoints = legacy
[profile regional]
role_arn = arn:aws:iam::1:role/X
source_profile = keys
sts_regional_endpoints = regional
use_fips_endpoint = True
endpoint_url = http://localhost:4566
services = fine
[services fine]
sts =
  endpoint_url = https://sts.example
[profile legacy]
sso_start_url = https://y/start
sso_region = us-east-1
sso_account_id = 1
sso_role_name = R
";

#[test]
fn where_the_credentials_come_from() {
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
        ("mfa", None, "assume role"),
        ("mfaless", Some(Kind::StaticKeys), "static keys"),
        ("loop", None, "assume role"),
        ("nobody", None, ""),
    ] {
        let chain = chain(PROFILES, name);
        assert_eq!((chain.kind, chain.source()), (kind, source), "{name}");
    }
    assert_eq!(chain(PROFILES, "hops").region.as_deref(), Some("us-west-2"));
    assert_eq!(chain(PROFILES, "middle").region, None);
}

#[test]
fn unsupported_profiles_are_refused_with_the_reason() {
    for (name, reason, word) in [
        ("mfa", Reason::MfaRequired, "mfa_serial"),
        ("onmfa", Reason::MfaRequired, "in the profile mfa"),
        ("nobody", Reason::ProfileMisconfigured, "no profile nobody"),
        ("empty", Reason::NoCredentials, "holds no credentials"),
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
        ("webext", Reason::UnsupportedProfileSetting, "external_id"),
        (
            "webkeys",
            Reason::ProfileMisconfigured,
            "web_identity_token_file and source_profile both",
        ),
        (
            "webbox",
            Reason::ProfileMisconfigured,
            "web_identity_token_file and credential_source both",
        ),
        ("tags", Reason::UnsupportedProfileSetting, "session_tags"),
        ("ontags", Reason::UnsupportedProfileSetting, "session_tags"),
        ("policy", Reason::UnsupportedProfileSetting, "session_policy"),
        ("idle", Reason::UnsupportedProfileSetting, "duration_seconds"),
        ("idle2", Reason::UnsupportedProfileSetting, "external_id"),
        (
            "processkeys",
            Reason::ProfileMisconfigured,
            "credential_process and aws_access_key_id both",
        ),
        ("loginkeys", Reason::ProfileMisconfigured, "login_session and aws_access_key_id both"),
        ("loginurl", Reason::UnsupportedProfileSetting, "endpoint_url"),
        ("loginservice", Reason::UnsupportedProfileSetting, "services is refused"),
        ("nokey", Reason::ProfileMisconfigured, "aws_access_key_id is empty"),
        ("alone", Reason::ProfileMisconfigured, "credential_source"),
        ("nowhere", Reason::ProfileMisconfigured, "no services section x"),
        ("halfprocess", Reason::ProfileMisconfigured, "quotation mark"),
        ("twotokens", Reason::ProfileMisconfigured, "aws_security_token"),
        ("emptyrole", Reason::ProfileMisconfigured, "role_arn is empty"),
        ("emptyfile", Reason::ProfileMisconfigured, "web_identity_token_file is empty"),
        ("lines", Reason::ProfileMisconfigured, "indented line"),
        ("block", Reason::ProfileMisconfigured, "block of settings"),
        ("mars2", Reason::ProfileMisconfigured, "region"),
        ("fips", Reason::ProfileMisconfigured, "use_fips_endpoint must be"),
        ("somewhere", Reason::ProfileMisconfigured, "endpoint_url"),
        ("elsewhere", Reason::ProfileMisconfigured, "endpoint_url"),
        ("oidc", Reason::UnsupportedProfileSetting, "sso-oidc"),
        ("global", Reason::UnsupportedProfileSetting, "sts_regional_endpoints"),
    ] {
        let denial = chain(PROFILES, name).resolve(name, true).expect_err(name);
        assert_eq!(denial.reason(), reason, "{name}");
        assert!(denial.detail().contains(word), "{name}: {denial}");
    }
    for name in [
        "keys", "hops", "web", "weblong", "sso", "legacy", "process", "box", "login", "long",
        "who", "regional",
    ] {
        assert!(chain(PROFILES, name).resolve(name, true).is_ok(), "{name}");
    }
    // The default chain continues without a profile.
    for name in ["nobody", "empty"] {
        assert!(chain(PROFILES, name).resolve(name, false).expect(name).is_none());
    }
}

#[test]
fn hops_are_assumed_in_order_with_all_their_settings() {
    let (base, hops) = chain(PROFILES, "hops").resolve("", true).expect("ok").expect("some");
    assert!(matches!(base, Base::StaticKeys(_)));
    let names: Vec<_> =
        hops.iter().map(|hop| (hop.role_arn.as_str(), hop.session_name.as_deref())).collect();
    assert_eq!(names, [("arn:aws:iam::1:role/Y", Some("mine")), ("arn:aws:iam::1:role/X", None)]);
    let (_, hops) = chain(PROFILES, "long").resolve("", true).expect("ok").expect("some");
    assert_eq!(hops[0].duration, Some(7200));
    let (_, hops) = chain(PROFILES, "who").resolve("", true).expect("ok").expect("some");
    assert_eq!(hops[0].source_identity.as_deref(), Some("me"));
    let bundle = chain(PROFILES, "bundle");
    assert_eq!(bundle.ca_bundle.as_deref(), Some(Path::new("/ca.pem")));
}

#[test]
fn a_fingerprint_changes_with_relevant_settings() {
    let of = |config: &str| chain(config, "hops").fingerprint(&[]);
    let before = of(PROFILES);
    assert_eq!(of(&format!("{PROFILES}\n[profile another]\nregion = x\n")), before);
    assert_eq!(of(&PROFILES.replace("[profile sso]", "[profile sso]\noutput = json")), before);
    // In the first credentials, two profiles away.
    let changed = PROFILES.replacen("aws_secret_access_key = b", "aws_secret_access_key = c", 1);
    assert_ne!(of(&changed), before);
    assert_ne!(of(&PROFILES.replace("role/Y", "role/Z")), before);
}

/// Every relevant change is detected, in any section.
#[test]
fn a_fingerprint_contains_all_relevant_settings() {
    for (name, from, to) in [
        ("web", "web_identity_token_file = /token", "web_identity_token_file = /other"),
        ("weblong", "role_session_name = pod", "role_session_name = pod2"),
        ("regional", "use_fips_endpoint = True", "use_fips_endpoint = false"),
        ("regional", "http://localhost:4566", "http://localhost:4567"),
        ("regional", "endpoint_url = https://sts.example", "endpoint_url = https://other"),
        ("sso", "sso_start_url = https://x/start", "sso_start_url = https://z/start"),
        ("process", "credential_process = /bin/true", "credential_process = /bin/false"),
        ("box", "credential_source = EcsContainer", "credential_source = Environment"),
        ("login", "login_session = arn:aws:iam::1:user/U", "login_session = arn:aws:iam::1:user/V"),
        ("bundle", "ca_bundle = /ca.pem", "ca_bundle = /other.pem"),
    ] {
        let before = chain(PROFILES, name).fingerprint(&[]);
        let changed = PROFILES.replace(from, to);
        assert_ne!(changed, PROFILES, "{from}");
        assert_ne!(chain(&changed, name).fingerprint(&[]), before, "{name}: {to}");
    }
}

#[test]
fn sessions_of_identity_center() {
    let session = |chain: Chain| chain.session().cloned().expect("a session");
    let named = session(chain(PROFILES, "sso"));
    assert_eq!((named.key(), named.region.as_str()), ("s", "us-east-1"));
    assert_eq!(named.scopes, ["sso:account:access"]);
    let legacy = session(chain(PROFILES, "legacy"));
    assert_eq!(legacy.key(), "https://y/start");
    assert!(legacy.scopes.is_empty());
    assert!(chain(PROFILES, "keys").session().is_none());
}
