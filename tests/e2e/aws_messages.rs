//! AWS's error messages reach the person who can act on them, without any key, token or signature that AWS quotes from
//! the request.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};
use sigward_tests::aws::Aws;
use sigward_tests::aws_home::AwsHome;
use sigward_tests::console::Console;
use sigward_tests::deadline;
use sigward_tests::keys::KeyTable;
use sigward_tests::known_aws::{Accepts, Answers, KnownAws, StsError};
use sigward_tests::processes::{Process, StdioClient};
use sigward_tests::quoting_aws::{QuotingAws, STYLES, SignIn, Style};
use sigward_tests::upstream::Reply;
use tokio::process::Command;

use crate::broker::{OTHER_UID, for_another_group, other_user};
use crate::http::Listening;
use crate::setup::{World, assert_names, failure, own_uid};

/// One for each service that issues credentials.
const PROFILES: [&str; 6] = ["role", "web", "portal", "renewal", "login", "task"];
const CONTAINER_TOKEN: &str = "SgwCanaryToken/container";
const OPENS_URLS: &str = r#"{"elicitation":{"url":{}}}"#;

/// A home with [`PROFILES`].
fn home() -> AwsHome {
    let home = AwsHome::new();
    home.role("role", "staging", "arn:aws:iam::123456789012:role/Reader");
    let token = home.path().join("web-token");
    // With a line end, as in most files.
    fs::write(&token, "SgwCanaryToken/web\n").unwrap();
    home.config(&format!(
        "[profile web]\nregion = us-east-2\nrole_arn = arn:aws:iam::123456789012:role/Web\nweb_identity_token_file = {}\n",
        token.display()
    ));
    Aws::sign_in(&home, "portal", "Developer");
    home.config(
        "[profile renewal]\nregion = us-east-2\nsso_session = other\nsso_account_id = 123456789012\nsso_role_name = R\n[sso-session other]\nsso_start_url = https://other.example/start\nsso_region = eu-west-1\n",
    );
    let ended = json!({
        "startUrl": "https://other.example/start", "region": "eu-west-1",
        "accessToken": "SgwCanaryToken/ended", "expiresAt": "2020-01-01T00:00:00Z",
        "clientId": "client", "clientSecret": "SgwCanarySecret/client",
        "registrationExpiresAt": "2099-01-01T00:00:00Z", "refreshToken": "SgwCanaryToken/refresh",
    });
    let cache = home.path().join(".aws/sso/cache");
    fs::write(cache.join(hex::encode(Sha1::digest("other")) + ".json"), ended.to_string()).unwrap();
    home.config(
        "[profile task]\nregion = us-east-2\nrole_arn = arn:aws:iam::123456789012:role/Task\ncredential_source = EcsContainer\n",
    );
    home
}

fn variables(aws: &QuotingAws) -> Vec<(String, String)> {
    let services = ["STS", "SSO", "SSO_OIDC", "SIGNIN"];
    let mut variables: Vec<_> =
        services.map(|service| (format!("AWS_ENDPOINT_URL_{service}"), aws.url())).into();
    for (name, value) in [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/container", aws.url())),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN.to_owned()),
    ] {
        variables.push((name.to_owned(), value));
    }
    variables
}

/// A broker that permits everything to the current user, with an audit log.
fn configuration(world: &World, audit: &Path) -> String {
    let mut more: String = PROFILES
        .map(|name| format!("[[profile]]\nname = \"{name}\"\nendpoints = [\"upstream\"]\n"))
        .concat();
    more += &format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"*\"]\nendpoints = [\"upstream\"]\nlogin = true\n[audit]\nfile = {audit:?}\n",
        own_uid()
    );
    world.configuration(&more).replace("[aws]\n", "[aws]\nidentity = true\n")
}

/// Texts that users can read, each with its place.
type Texts = Vec<(&'static str, String)>;

/// Fails if a text holds one of the secrets or a part of one.
fn assert_none_of(secrets: &BTreeSet<String>, texts: &Texts, style: Style) {
    for (place, text) in texts {
        for secret in secrets {
            // The audit log names the access key of a signature, and a server may name the one that it refused. A key
            // id isn't secret.
            let by_id = ["the audit log", "a reply of the server", "the proxy's standard error"];
            if by_id.contains(place) && secret.starts_with("AKIA") {
                continue;
            }
            let secret = secret.as_bytes();
            let length = secret.len().min(16);
            for part in secret.windows(length).step_by(4) {
                let part = std::str::from_utf8(part).unwrap();
                assert!(!text.contains(part), "{style:?}: {part:?} is in {place}:\n{text}");
            }
        }
        for odd in ['\u{1b}', '\u{202e}', '\u{7}'] {
            assert!(!text.contains(odd), "{style:?}: {odd:?} is in {place}:\n{text}");
        }
    }
}

async fn output(mut command: Command) -> (String, String) {
    command.kill_on_drop(true);
    let ended =
        deadline::within(command.output(), || "the command doesn't end".to_owned()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&ended.stdout), text(&ended.stderr))
}

/// All texts that users can read while all of AWS refuses in this style.
async fn refused(style: Style) -> (BTreeSet<String>, Texts) {
    let world = World::at_home(home(), |builder| builder).await;
    let aws = QuotingAws::start(world.home.keys(), style, SignIn::NoCode).await;
    let console = Console::start(KeyTable::default()).await;
    console.sign_in(&world.home, "login");
    let audit = world.directory.path().join("audit.jsonl");
    let config = world.write("broker.toml", &configuration(&world, &audit));
    let config = config.to_str().unwrap();
    let mut command = world.broker_command(&["serve", "--config", config, "--log-level", "DEBUG"]);
    command.envs(variables(&aws));
    let mut broker = Process::start(command);
    broker.logged("listening").await;
    let socket = format!("unix:{}", world.socket().display());
    let options = ["--broker", &socket, "--log-level", "DEBUG", "--profile", "dev"];
    let options = [&options[..], &PROFILES[..]].concat();

    let mut texts = Texts::new();
    let mut client = StdioClient::start(world.proxy(&options));
    client.initialize().await;
    for profile in PROFILES {
        let call = json!({"aws_profile": profile}).to_string();
        let refused = client.call("whoami", &call).await;
        assert_names(failure(&refused), &[profile]);
        texts.push(("a reply", refused.to_string()));
    }
    // The called server also quotes the request.
    world.upstream.hook(move |received| {
        let quoted = format!(
            "The signature doesn't match {}\n{:?}",
            received.header("authorization").unwrap_or_default(),
            received.headers
        );
        let body = json!({"message": quoted, "Message": quoted}).to_string();
        received.calls("whoami").then(|| Reply::Http(403, Vec::new(), body))
    });
    let refused = client.call("whoami", r#"{"aws_profile":"dev"}"#).await;
    texts.push(("a reply of the server", refused.to_string()));
    let mut secrets = BTreeSet::new();
    for request in world.upstream.requests_of("tools/call") {
        let authorization = request.header("authorization").unwrap_or_default();
        secrets.extend(authorization.rsplit("Signature=").next().map(str::to_owned));
    }
    assert!(!secrets.is_empty(), "nothing was signed");
    let (_, unread, errors) = client.close().await;
    texts.push(("the proxy's other lines", unread.join("\n")));
    texts.push(("the proxy's standard error", errors));

    let arguments = [&["--listen", "127.0.0.1:0"], &options[..]].concat();
    let listening = Listening::started(Process::start(world.proxy(&arguments))).await;
    let session = listening.session("2025-11-25").await;
    for profile in PROFILES {
        let call = json!({
            "jsonrpc": "2.0", "id": profile, "method": "tools/call",
            "params": {"name": "whoami", "arguments": {"aws_profile": profile}},
        });
        let answer = listening.post(&crate::http::lines(&session), &call.to_string()).await;
        let body = answer.text().await;
        assert_names(&body, &[profile]);
        texts.push(("a reply over HTTP", body));
    }
    texts.push(("the listening proxy's standard error", listening.proxy.errors()));

    let status = world.broker_command(&["status", "--broker", &socket, "--json"]);
    let (shown, errors) = output(status).await;
    assert_names(&shown, &PROFILES);
    texts.extend([("status", shown), ("the standard error of status", errors)]);
    let mut check = world.broker_command(&["check", "--config", config]);
    check.envs(variables(&aws));
    let (shown, errors) = output(check).await;
    assert_names(&shown, &PROFILES);
    texts.extend([("check", shown), ("the standard error of check", errors)]);

    drop(listening);
    broker.signal(Signal::TERM);
    texts.push(("the broker's standard error", broker.ended().await.1));
    texts.push(("the audit log", fs::read_to_string(audit).unwrap()));
    secrets.extend(aws.quoted());
    (secrets, texts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aws_error_messages_leak_no_secret() {
    for (style, (secrets, texts)) in STYLES.into_iter().zip(join_all(STYLES.map(refused)).await) {
        // Secret keys, signatures, session tokens, bearer tokens, refresh tokens and so on were quoted.
        assert!(secrets.len() >= 12, "{style:?}: only {secrets:?} were quoted");
        for known in ["web", "portal-bearer", "refresh", "login-refresh-0", "container"] {
            let known = format!("SgwCanaryToken/{known}");
            assert!(secrets.contains(&known), "{style:?}: {known} wasn't quoted");
        }
        assert_none_of(&secrets, &texts, style);
        // Messages that are passed on are a single line, of limited length.
        let replies = texts.iter().filter(|(place, _)| *place == "a reply");
        for (_, reply) in replies {
            let reply: Value = serde_json::from_str(reply).unwrap();
            assert!(!failure(&reply).contains('\r'), "{reply}");
            assert!(failure(&reply).len() < 3_000, "{reply}");
        }
    }
}

/// A device sign-in that the token endpoint refuses: AWS can quote a client secret and a device code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_sign_in_leaks_no_secret() {
    let signing_in = STYLES.into_iter().flat_map(|style| {
        [SignIn::NoCode, SignIn::NoToken].map(|sign_in| async move {
            let home = home();
            fs::remove_dir_all(home.path().join(".aws/sso")).unwrap();
            let world = World::at_home(home, |builder| builder).await;
            let aws = QuotingAws::start(world.home.keys(), style, sign_in).await;
            let mut command = world.private_proxy(&["dev", "portal"], &["--log-level", "DEBUG"]);
            command.envs(variables(&aws));
            let mut client = StdioClient::start(command);
            client.initialize_as("2025-11-25", OPENS_URLS).await;
            let arguments = r#"{"name":"whoami","arguments":{"aws_profile":"portal"}}"#;
            let id = client.start_request("tools/call", arguments).await;
            if sign_in == SignIn::NoToken {
                let is_question = |it: &Value| it["method"] == "elicitation/create";
                let asked = client.expect("the question", is_question).await;
                let yes =
                    json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept"}});
                client.send(&yes.to_string()).await;
            }
            let refused = client.response(&id).await;
            assert_names(failure(&refused), &["portal"]);
            let mut texts = vec![("a reply", refused.to_string())];
            let (_, unread, errors) = client.close().await;
            texts.push(("other lines", unread.join("\n")));
            texts.push(("standard error", errors));
            let secrets = aws.quoted();
            assert!(secrets.contains("SgwCanarySecret/oidc-client"), "{secrets:?}");
            assert_none_of(&secrets, &texts, style);
        })
    });
    join_all(signing_in).await;
}

/// The message names accounts and roles: it is for the user who can read the AWS files anyway. The code says what to do
/// next, to every caller that may use the profile.
#[tokio::test]
async fn only_the_brokers_user_gets_the_message_of_aws() {
    const MESSAGE: &str = "User: arn:aws:iam::123456789012:user/x is not authorized to perform: sts:AssumeRole\non \
                           resource: arn:aws:iam::123456789012:role/Reader";
    let denied =
        StsError { status: 403, code: "AccessDenied".to_owned(), message: MESSAGE.to_owned() };
    let answers = Answers { sts: [("AssumeRole".to_owned(), denied)].into(), ..Answers::default() };
    let world = World::at_home(home(), |builder| builder).await;
    let aws = KnownAws::start(world.home.keys(), answers, Accepts::ItsKeys).await;
    let rule = |uid: u32| {
        format!(
            "[[rule]]\npeer = {{ uid = {uid} }}\nprofiles = [\"dev\", \"role\"]\nendpoints = [\"upstream\"]\n"
        )
    };
    let more = "[[profile]]\nname = \"role\"\nendpoints = [\"upstream\"]\n".to_owned()
        + &rule(own_uid())
        + &rule(OTHER_UID);
    let config = world.write("broker.toml", &for_another_group(world.configuration(&more)));
    let mut command = world.broker_command(&["serve", "--config", config.to_str().unwrap()]);
    command.env("AWS_ENDPOINT_URL_STS", aws.url());
    let broker = Process::start(command);
    broker.logged("listening").await;

    let mut own = world.client_of(&world.socket(), &["dev", "role"]).await;
    let refused = own.call("whoami", r#"{"aws_profile":"role"}"#).await;
    let message = failure(&refused);
    assert_names(message, &["role", "AccessDenied", &MESSAGE.replace('\n', " ")]);
    if own_uid() != 0 {
        return;
    }
    let mut other = other_user(&world, &["dev", "role"]);
    other.initialize().await;
    let refused = other.call("whoami", r#"{"aws_profile":"role"}"#).await;
    let message = failure(&refused);
    assert_names(message, &["role", "AccessDenied"]);
    for detail in ["not authorized", "123456789012", "Reader"] {
        assert!(!refused.to_string().contains(detail), "{refused}");
    }
}
