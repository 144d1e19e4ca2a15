//! Each kind of profile, from the source of its keys to the identity that the server verifies.

use std::path::Path;

use rustix::process::Signal;
use serde_json::json;
use sigward_proto::v1::SignRequest;
use sigward_tests::aws::Aws;
use sigward_tests::aws_home::AwsHome;
use sigward_tests::deadline;
use sigward_tests::keys::Key;
use sigward_tests::processes::{StdioClient, assert_no_canary};
use sigward_tests::upstream::Received;

use crate::setup::{World, assert_names, connect, failure, text};

/// A session with a proxy that offers `dev` and `profile`, in a world with an STS and a portal.
async fn client(world: &World, aws: &Aws, profile: &str) -> StdioClient {
    let mut command = world.private_proxy(&["dev", profile], &[]);
    command.envs(aws.environment());
    let mut client = StdioClient::start(command);
    client.initialize().await;
    client
}

async fn whoami(client: &mut StdioClient, profile: &str) -> serde_json::Value {
    client.call("whoami", &json!({"aws_profile": profile}).to_string()).await
}

#[tokio::test]
async fn a_role_is_assumed_from_its_source_profile() {
    let home = AwsHome::new();
    home.role("reader", "dev", "arn:aws:iam::123456789012:role/Reader");
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let mut client = client(&world, &aws, "reader").await;

    let called = whoami(&mut client, "reader").await;
    assert_names(text(&called), &[":assumed-role/Reader/sigward-tests"]);
    assert_eq!(called["result"]["structuredContent"]["region"], "us-east-2");
    let called = whoami(&mut client, "dev").await;
    assert_eq!(text(&called), world.home.identity("dev"), "the source itself is another identity");
    let mut assumed = aws.issued();
    assumed.retain(|issued| issued.action == "AssumeRole");
    assert_eq!(assumed.len(), 1, "{assumed:?}");
    assert_eq!(assumed[0].caller, world.home.identity("dev"));
    assert_eq!(assumed[0].role, "arn:aws:iam::123456789012:role/Reader");
}

#[tokio::test]
async fn a_role_is_assumed_over_two_hops() {
    let home = AwsHome::new();
    home.role("first", "staging", "arn:aws:iam::123456789012:role/First");
    home.role("second", "first", "arn:aws:iam::210987654321:role/Second");
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let mut client = client(&world, &aws, "second").await;
    let called = whoami(&mut client, "second").await;
    assert_names(text(&called), &[":assumed-role/Second/"]);
    let callers: Vec<_> = aws.issued().into_iter().map(|issued| issued.caller).collect();
    assert_eq!(callers[0], world.home.identity("staging"));
    assert_names(&callers[1], &[":assumed-role/First/"]);
}

/// AWS refuses the key of a revoked session: the broker loads a new key, and the call is signed again unnoticed.
#[tokio::test]
async fn a_refused_signature_is_replaced_by_one_with_a_new_key() {
    let home = AwsHome::new();
    home.role("reader", "dev", "arn:aws:iam::123456789012:role/Reader");
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let mut client = client(&world, &aws, "reader").await;
    text(&whoami(&mut client, "reader").await);
    let before = world.upstream.requests_of("tools/call").remove(0);

    // The refusal must hit the call, not the stream of the session that was just opened.
    let reader = before.identity();
    let stream = |request: &Received| request.http_method == "GET" && request.identity() == reader;
    world.upstream.expect("the stream of the new session", stream).await;
    world.upstream.refuse_signatures(1);
    let called = whoami(&mut client, "reader").await;
    assert_names(text(&called), &[":assumed-role/Reader/sigward-tests"]);
    let calls = world.upstream.requests_of("tools/call");
    assert_eq!(calls.len(), 3, "one call, one that is refused, and its resend");
    let key = |number: usize| calls[number].signature.as_ref().unwrap().key.access_key_id.clone();
    assert_eq!(key(1), key(0));
    assert_ne!(key(2), key(1), "with a newly loaded key");
    assert_eq!(calls[2].body, calls[1].body);
    assert_eq!(aws.issued().len(), 2);
}

#[tokio::test]
async fn a_role_that_sts_refuses_is_an_error() {
    let home = AwsHome::new();
    home.role("reader", "dev", "arn:aws:iam::123456789012:role/Reader");
    let world = World::at_home(home, |builder| builder).await;
    // An STS that knows no key.
    let aws = Aws::start(sigward_tests::keys::KeyTable::default()).await;
    let mut client = client(&world, &aws, "reader").await;
    let refused = whoami(&mut client, "reader").await;
    assert_names(failure(&refused), &["reader"]);
    let called = whoami(&mut client, "dev").await;
    assert_eq!(text(&called), world.home.identity("dev"), "the session is still usable");
}

#[tokio::test]
async fn a_web_identity_gets_its_role() {
    let home = AwsHome::new();
    let token = home.path().join("token");
    std::fs::write(&token, sigward_tests::aws::WEB_IDENTITY_TOKEN).unwrap();
    home.config(&format!(
        "[profile pod]\nregion = us-east-2\nrole_arn = arn:aws:iam::123456789012:role/Pod\nrole_session_name = pod-1\nweb_identity_token_file = {}\n",
        token.display()
    ));
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let mut client = client(&world, &aws, "pod").await;
    let called = whoami(&mut client, "pod").await;
    assert_names(text(&called), &[":assumed-role/Pod/pod-1"]);
    assert_eq!(aws.issued()[0].action, "AssumeRoleWithWebIdentity");
}

#[tokio::test]
async fn a_credential_process_provides_the_keys() {
    let mut home = AwsHome::new();
    let key = Key::role("FromProcess", "p");
    home.process("tool", &key);
    home.config("[profile broken]\nregion = us-west-1\ncredential_process = /bin/false\n");
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let mut client = client(&world, &aws, "tool").await;
    let called = whoami(&mut client, "tool").await;
    assert_eq!(text(&called), key.identity);

    let mut client = self::client(&world, &aws, "broken").await;
    let refused = whoami(&mut client, "broken").await;
    assert_names(failure(&refused), &["broken"]);
}

/// Waits until the process whose id is in the file has ended.
async fn gone(pid: &Path) {
    let pid = std::fs::read_to_string(pid).unwrap();
    let gone = async {
        // A zombie has ended: its new parent may reap it later.
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        while stat().is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::task::yield_now().await;
        }
    };
    deadline::within(gone, || "the process still runs".to_owned()).await;
}

/// A broker that stops also stops the programs that it runs.
#[tokio::test]
async fn a_credential_process_ends_with_the_broker() {
    let home = AwsHome::new();
    let pid = home.path().join("pid");
    home.config(&format!(
        "[profile slow]\ncredential_process = sh -c 'sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait'\n",
        pid.display()
    ));
    let world = World::at_home(home, |builder| builder).await;
    let more = "[[profile]]\nname = \"slow\"\nendpoints = [\"upstream\"]\n";
    let mut broker = world.broker(&world.configuration(more)).await;
    let mut caller = connect(&world.socket()).await;
    let request = SignRequest {
        profile: "slow".to_owned(),
        method: "GET".to_owned(),
        uri: world.upstream.url(),
        ..SignRequest::default()
    };
    let waiting = tokio::spawn(async move { caller.sign(request).await });
    let started = async {
        while !pid.exists() {
            tokio::task::yield_now().await;
        }
    };
    deadline::within(started, || "the program isn't run".to_owned()).await;
    // The broker would wait for a caller that waits for a signature.
    waiting.abort();
    broker.signal(Signal::TERM);
    assert!(broker.ended().await.0.success());
    gone(&pid).await;
}

/// A program that reads the proxy's input, writes its secret to standard error and leaves a process behind: the session
/// stays usable, and the secret isn't logged.
#[tokio::test]
async fn a_misbehaving_credential_process_does_no_harm() {
    let home = AwsHome::new();
    let key = Key::role("FromProcess", "p");
    home.keys().insert(key.clone());
    let pid = home.path().join("left-behind");
    let answer = json!({
        "Version": 1, "AccessKeyId": key.access_key_id, "SecretAccessKey": key.secret,
        "SessionToken": key.session_token, "Expiration": "2099-01-01T00:00:00Z",
    });
    let program = home.path().join("bad");
    let script = format!(
        "cat\necho {} >&2\nsleep 600 &\necho $! > {}\ncat <<'END'\n{answer}\nEND\n",
        key.secret,
        pid.display()
    );
    std::fs::write(&program, script).unwrap();
    home.config(&format!("[profile bad]\ncredential_process = sh {}\n", program.display()));
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let mut client = client(&world, &aws, "bad").await;
    assert_eq!(text(&whoami(&mut client, "bad").await), key.identity);
    gone(&pid).await;
    text(&whoami(&mut client, "dev").await);
    let (status, _, errors) = client.close().await;
    assert!(status.success());
    assert_no_canary("standard error", &errors);
}

#[tokio::test]
async fn identity_center_provides_the_keys() {
    let home = AwsHome::new();
    Aws::sign_in(&home, "person", "Developer");
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let mut client = client(&world, &aws, "person").await;
    let called = whoami(&mut client, "person").await;
    assert_names(text(&called), &["AWSReservedSSO_Developer"]);
    assert_eq!(called["result"]["structuredContent"]["region"], "eu-west-1");
}

#[tokio::test]
async fn identity_center_without_a_sign_in_names_the_command() {
    let home = AwsHome::new();
    Aws::sign_in(&home, "person", "Developer");
    std::fs::remove_dir_all(home.path().join(".aws/sso")).unwrap();
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let mut client = client(&world, &aws, "person").await;
    let refused = whoami(&mut client, "person").await;
    assert_names(failure(&refused), &["person", "login"]);
    assert_eq!(aws.issued(), []);
}

#[tokio::test]
async fn an_unknown_profile_is_named_in_the_error() {
    let world = World::new().await;
    let aws = Aws::start(world.home.keys()).await;
    let mut client = client(&world, &aws, "misspelt").await;
    let refused = whoami(&mut client, "misspelt").await;
    assert_names(failure(&refused), &["misspelt"]);
    let called = whoami(&mut client, "dev").await;
    assert_eq!(text(&called), world.home.identity("dev"));
}
