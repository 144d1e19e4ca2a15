//! Where keys come from: each kind of profile, end to end, to the identity that the server verifies.

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
async fn a_role_by_source_profile() {
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
async fn a_role_over_two_hops() {
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

/// What AWS does when a session was revoked: the key is new, the call is signed once more, nobody notices.
#[tokio::test]
async fn a_refused_signature_is_made_again_with_a_fresh_key() {
    let home = AwsHome::new();
    home.role("reader", "dev", "arn:aws:iam::123456789012:role/Reader");
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let mut client = client(&world, &aws, "reader").await;
    text(&whoami(&mut client, "reader").await);
    let before = world.upstream.requests_of("tools/call").remove(0);

    // The call must meet the refusal, not the stream of the session that was just opened.
    let reader = before.identity();
    let stream = |request: &Received| request.http_method == "GET" && request.identity() == reader;
    world.upstream.expect("the stream of the new session", stream).await;
    world.upstream.refuse_signatures(1);
    let called = whoami(&mut client, "reader").await;
    assert_names(text(&called), &[":assumed-role/Reader/sigward-tests"]);
    let calls = world.upstream.requests_of("tools/call");
    assert_eq!(calls.len(), 3, "one call, one refused, the same once more");
    let key = |number: usize| calls[number].signature.as_ref().unwrap().key.access_key_id.clone();
    assert_eq!(key(1), key(0));
    assert_ne!(key(2), key(1), "with the key of another load");
    assert_eq!(calls[2].body, calls[1].body);
    assert_eq!(aws.issued().len(), 2);
}

#[tokio::test]
async fn a_role_that_sts_refuses() {
    let home = AwsHome::new();
    home.role("reader", "dev", "arn:aws:iam::123456789012:role/Reader");
    let world = World::at_home(home, |builder| builder).await;
    // An STS that knows nobody.
    let aws = Aws::start(sigward_tests::keys::KeyTable::default()).await;
    let mut client = client(&world, &aws, "reader").await;
    let refused = whoami(&mut client, "reader").await;
    assert_names(failure(&refused), &["reader"]);
    let called = whoami(&mut client, "dev").await;
    assert_eq!(text(&called), world.home.identity("dev"), "the session goes on");
}

#[tokio::test]
async fn a_web_identity() {
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
async fn a_credential_process() {
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

/// Waits for the end of the process whose id a program wrote down.
async fn gone(pid: &Path) {
    let pid = std::fs::read_to_string(pid).unwrap();
    let gone = async {
        // A zombie is: whoever inherits it may take its time.
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        while stat().is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::task::yield_now().await;
        }
    };
    deadline::within(gone, || "it lives on".to_owned()).await;
}

/// A broker that ends ends the programs that it runs.
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
    // Whoever waits for a signature would be waited for.
    waiting.abort();
    broker.signal(Signal::TERM);
    assert!(broker.ended().await.0.success());
    gone(&pid).await;
}

/// A program that reads what isn't its own, tells its secret to standard error, and leaves somebody behind: the session
/// goes on, and nobody hears of it.
#[tokio::test]
async fn a_credential_process_that_behaves_badly() {
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
async fn identity_center() {
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
async fn identity_center_without_a_sign_in_says_what_to_do() {
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
async fn a_profile_that_is_not_there() {
    let world = World::new().await;
    let aws = Aws::start(world.home.keys()).await;
    let mut client = client(&world, &aws, "misspelt").await;
    let refused = whoami(&mut client, "misspelt").await;
    assert_names(failure(&refused), &["misspelt"]);
    let called = whoami(&mut client, "dev").await;
    assert_eq!(text(&called), world.home.identity("dev"));
}
