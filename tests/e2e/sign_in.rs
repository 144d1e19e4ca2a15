//! A profile that needs a sign-in: the user gets the URL, and the call continues afterwards.

mod limits;

use serde_json::{Value, json};
use sigward_tests::aws::{self, Aws, DEVICE_URL, Person};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::deadline;
use sigward_tests::keys::Key;
use sigward_tests::processes::{self, Process, StdioClient, assert_no_canary, call};
use sigward_tests::tools;
use tokio::process::Command;

use crate::agent::SESSIONS;
use crate::http::{Listening, data, lines};
use crate::setup::{World, assert_names, connect, failure, own_uid, ping, stateless, text};

/// The capabilities of a client that can open URLs for its user.
const OPENS_URLS: &str = r#"{"elicitation":{"url":{}}}"#;

/// A world with the profile `person`, which isn't signed in.
async fn signed_out() -> (World, Aws) {
    let home = AwsHome::new();
    Aws::sign_in(&home, "person", "Developer");
    std::fs::remove_dir_all(home.path().join(".aws/sso")).unwrap();
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    (world, aws)
}

fn start(world: &World, aws: &Aws, options: &[&str]) -> StdioClient {
    let mut command = world.private_proxy(&["dev", "person"], options);
    command.envs(aws.environment());
    StdioClient::start(command)
}

fn whoami() -> String {
    call("whoami", r#"{"aws_profile":"person"}"#)
}

fn is_elicitation(message: &Value) -> bool {
    message["method"] == "elicitation/create"
}

async fn answer(client: &mut StdioClient, id: &Value, action: &str) {
    client
        .send(&json!({"jsonrpc": "2.0", "id": id, "result": {"action": action}}).to_string())
        .await;
}

#[tokio::test]
async fn one_sign_in_is_requested_and_every_call_continues_after_it() {
    let (world, aws) = signed_out().await;
    let mut client = start(&world, &aws, &[]);
    client.initialize_as("2025-11-25", OPENS_URLS).await;
    let first = client.start_request("tools/call", &whoami()).await;
    let second = client.start_request("tools/call", &whoami()).await;

    let asked = client.expect("the question", is_elicitation).await;
    let params = &asked["params"];
    assert_eq!((&params["mode"], &params["url"]), (&json!("url"), &json!(DEVICE_URL)));
    assert_names(params["message"].as_str().unwrap(), &["person", "ABCD-EFGH"]);
    // Meanwhile other profiles don't wait.
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"));

    answer(&mut client, &asked["id"], "accept").await;
    aws.approve();
    for id in [first, second] {
        assert_names(text(&client.response(&id).await), &["AWSReservedSSO_Developer"]);
    }
    let complete = |it: &Value| it["method"] == "notifications/elicitation/complete";
    let complete = client.expect("the end", complete).await;
    assert_eq!(complete["params"]["elicitationId"], params["elicitationId"]);
    let (status, unread, _) = client.close().await;
    assert!(status.success());
    assert!(!unread.iter().any(|line| line.contains("elicitation/create")), "asked twice");
}

#[tokio::test]
async fn a_declined_question_ends_the_call() {
    let (world, aws) = signed_out().await;
    let mut client = start(&world, &aws, &[]);
    client.initialize_as("2025-11-25", OPENS_URLS).await;
    for action in ["decline", "cancel"] {
        let id = client.start_request("tools/call", &whoami()).await;
        let asked = client.expect("the question", is_elicitation).await;
        answer(&mut client, &asked["id"], action).await;
        let refused = client.response(&id).await;
        assert_names(failure(&refused), &["person", "declined"]);
    }
    assert_eq!(aws.issued(), []);
}

/// Clients of one listening proxy are different users: each is asked, and declines only for itself.
#[tokio::test]
async fn each_client_of_a_listening_proxy_asks_its_own_user() {
    let (world, aws) = signed_out().await;
    let mut command = world.private_proxy(&["dev", "person"], &["--listen", "127.0.0.1:0"]);
    command.envs(aws.environment());
    let proxy = Listening::started(Process::start(command)).await;
    let call = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}}"#, whoami());
    let mut clients = Vec::new();
    for _ in 0..2 {
        let session = proxy.session_as(SESSIONS, OPENS_URLS).await;
        let mut answer = proxy.post(&lines(&session), &call).await;
        let asked = answer.expect_event("the question").await;
        let asked: Value = serde_json::from_str(&data(&asked)).unwrap();
        assert_eq!(asked["method"], "elicitation/create", "{asked}");
        assert_eq!(asked["params"]["url"], DEVICE_URL);
        clients.push((session, answer, asked));
    }
    let (other, declined, asked) = clients.pop().unwrap();
    let response = |id: &Value, action: &str| {
        json!({"jsonrpc": "2.0", "id": id, "result": {"action": action}}).to_string()
    };
    let taken = proxy.post(&lines(&other), &response(&asked["id"], "decline")).await;
    assert_eq!(taken.status, 202);
    assert_names(failure(&declined.message().await), &["person", "declined"]);

    let (one, accepted, asked) = clients.pop().unwrap();
    let taken = proxy.post(&lines(&one), &response(&asked["id"], "accept")).await;
    assert_eq!(taken.status, 202);
    aws.approve();
    let mut accepted = accepted;
    let called = loop {
        let message = data(&accepted.expect_event("the response").await);
        let message: Value = serde_json::from_str(&message).unwrap_or_default();
        if message["id"] == 1 {
            break message;
        }
    };
    assert_names(text(&called), &["AWSReservedSSO_Developer"]);
}

/// A sign-in that AWS is slow to start is started once, and delays no other profile.
#[tokio::test]
async fn a_sign_in_that_starts_slowly_delays_no_other_profile() {
    let (world, aws) = signed_out().await;
    let mut client = start(&world, &aws, &[]);
    client.initialize_as("2025-11-25", OPENS_URLS).await;
    aws.hold();
    let mut waiting = Vec::new();
    for _ in 0..10 {
        waiting.push(client.start_request("tools/call", &whoami()).await);
    }
    aws.held().await;
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"));
    aws.release();
    let asked = client.expect("the question", is_elicitation).await;
    answer(&mut client, &asked["id"], "decline").await;
    for id in waiting {
        assert_names(failure(&client.response(&id).await), &["person", "declined"]);
    }
    let (_, unread, _) = client.close().await;
    assert!(!unread.iter().any(|line| line.contains("elicitation/create")), "asked twice");
}

#[tokio::test]
async fn a_sign_in_that_expires_or_is_declined_at_aws_ends_the_call() {
    let (world, aws) = signed_out().await;
    let mut client = start(&world, &aws, &[]);
    client.initialize_as("2025-11-25", OPENS_URLS).await;
    for (person, word) in [(Person::IsLate, "in time"), (Person::Declines, "declined")] {
        aws.person(person);
        let id = client.start_request("tools/call", &whoami()).await;
        let asked = client.expect("the question", is_elicitation).await;
        answer(&mut client, &asked["id"], "accept").await;
        assert_names(failure(&client.response(&id).await), &["person", word]);
    }
    assert_eq!(aws.issued(), []);
}

#[tokio::test]
async fn the_error_for_a_client_that_cannot_open_urls_names_the_command() {
    let (world, aws) = signed_out().await;
    for (capabilities, options) in
        [("{}", &[][..]), (r#"{"elicitation":{}}"#, &[]), (OPENS_URLS, &["--no-sign-in"])]
    {
        let mut client = start(&world, &aws, options);
        client.initialize_as("2025-11-25", capabilities).await;
        let refused = client.request("tools/call", &whoami()).await;
        assert_names(failure(&refused), &["person", "login"]);
        let (_, unread, _) = client.close().await;
        assert!(!unread.iter().any(|line| line.contains("elicitation")), "{unread:?}");
    }
}

#[tokio::test]
async fn without_sessions_the_response_asks_for_input_and_the_call_is_repeated() {
    let (world, aws) = signed_out().await;
    let mut client = start(&world, &aws, &[]);
    let able = |params: &str| {
        let capabilities = "\"io.modelcontextprotocol/clientCapabilities\":";
        stateless(params)
            .replace(&format!("{capabilities}{{}}"), &format!("{capabilities}{OPENS_URLS}"))
    };
    let params = able(&whoami());
    assert!(params.contains("\"url\""), "{params}");
    let asked = client.request("tools/call", &params).await;
    let result = &asked["result"];
    assert_eq!(result["resultType"], "input_required", "{asked}");
    let request = &result["inputRequests"]["sigward-sign-in"];
    assert_eq!(request["method"], "elicitation/create");
    assert_eq!(request["params"]["url"], DEVICE_URL);

    let again = |action: &str| {
        let more = json!({
            "inputResponses": {"sigward-sign-in": {"action": action}},
            "requestState": result["requestState"],
        });
        let more = more.to_string();
        let inner = more.strip_prefix('{').and_then(|more| more.strip_suffix('}')).unwrap();
        params.replacen('{', &format!("{{{inner},"), 1)
    };
    aws.approve();
    let called = client.request("tools/call", &again("accept")).await;
    assert_names(text(&called), &["AWSReservedSSO_Developer"]);
    let sent = world.upstream.requests_of("tools/call");
    assert_eq!(sent.len(), 1);
    assert!(!sent[0].text().contains("sigward-sign-in"), "{}", sent[0].text());
}

/// Only the AWS CLI can do this sign-in: the error names its command, and the broker loads the result.
#[tokio::test]
async fn the_error_for_a_login_session_names_the_command_of_the_aws_cli() {
    let home = AwsHome::new();
    aws::login_session(&home, "person");
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let (broker, _) = broker(&world, &aws, true).await;
    let socket = format!("unix:{}", world.socket().display());
    let mut own = start(&world, &aws, &[]);
    let command = world.proxy(&["--broker", &socket, "--profile", "dev", "person"]);
    let mut shared = StdioClient::start(command);
    for (client, command) in [
        (&mut own, "`aws login --profile person`"),
        (&mut shared, "`aws login --profile person` as the user of"),
    ] {
        client.initialize_as("2025-11-25", OPENS_URLS).await;
        let refused = client.request("tools/call", &whoami()).await;
        assert_names(failure(&refused), &["person", command]);
    }
    let (good, shown) = login(&world, "person").await;
    assert!(!good);
    assert_names(&shown, &["aws login"]);

    let key = Key::role("Console", "person");
    world.home.keys().insert(key.clone());
    aws::login(&world.home, &key);
    broker.logged("changed: its credentials are reloaded").await;
    fresh(&mut connect(&world.socket()).await, 1).await;
    let called = shared.request("tools/call", &whoami()).await;
    assert_eq!(text(&called), key.identity);
    assert_eq!(called["result"]["structuredContent"]["region"], "eu-north-1");
    let (_, unread, _) = own.close().await;
    assert!(!unread.iter().any(|line| line.contains("elicitation/create")), "{unread:?}");
}

/// A broker that serves `person`, and the path of its audit log.
async fn broker(world: &World, aws: &Aws, login: bool) -> (Process, std::path::PathBuf) {
    let audit = world.directory.path().join("audit.jsonl");
    (broker_of(world, aws, login, &audit).await, audit)
}

/// The same with its audit log at `audit`.
async fn broker_of(world: &World, aws: &Aws, login: bool, audit: &std::path::Path) -> Process {
    let more = format!(
        "[[profile]]\nname = \"person\"\nendpoints = [\"upstream\"]\n[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\", \"person\"]\nlogin = {login}\n[audit]\nfile = {audit:?}\n",
        own_uid()
    );
    let config = world.write("broker.toml", &world.configuration(&more));
    let mut command = world.broker_command(&["serve", "--config", config.to_str().unwrap()]);
    command.envs(aws.environment());
    let broker = Process::start(command);
    broker.logged("listening").await;
    broker
}

/// `sigward-broker login PROFILE`: whether it succeeded, and its output.
async fn login(world: &World, profile: &str) -> (bool, String) {
    let socket = format!("unix:{}", world.socket().display());
    let mut command = world.broker_command(&["login", profile, "--broker", &socket]);
    let ended = deadline::within(command.output(), || "the sign-in doesn't end".to_owned()).await;
    let output = ended.unwrap();
    let written = [output.stdout, output.stderr].concat();
    let written = String::from_utf8(written).unwrap();
    assert_no_canary("the output of login", &written);
    (output.status.success(), written)
}

fn records(path: &std::path::Path, action: &str) -> Vec<Value> {
    let log = std::fs::read_to_string(path).unwrap();
    assert_no_canary("the audit log", &log);
    let records = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.filter(|record| record["action"] == action).collect()
}

/// The token and the keys from it are revoked: nothing works before a sign-in, and everything after it.
#[tokio::test]
async fn a_revoked_session_works_again_after_a_sign_in() {
    let home = AwsHome::new();
    Aws::sign_in(&home, "person", "Developer");
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let (broker, audit) = broker(&world, &aws, true).await;
    let mut client = world.client_of(&world.socket(), &["dev", "person"]).await;
    let mut used = Vec::new();
    for sign_in in ["of before", "by the broker", "by another program"] {
        let called = client.request("tools/call", &whoami()).await;
        assert_names(text(&called), &["AWSReservedSSO_Developer"]);
        let last = world.upstream.requests_of("tools/call").pop().unwrap();
        let key = last.signature.unwrap().key.access_key_id;
        assert!(!used.contains(&key), "{sign_in}: the earlier key was used again");
        match sign_in {
            "of before" => {
                end_session(&world.home, &aws, &key);
                let refused = client.request("tools/call", &whoami()).await;
                let command = format!(
                    "`sigward-broker login --broker unix:{} person`",
                    world.socket().display()
                );
                assert_names(failure(&refused), &["\"person\" needs a sign-in", &command]);
                aws.approve();
                let (good, shown) = login(&world, "person").await;
                assert!(good, "{shown}");
                assert_names(&shown, &[DEVICE_URL, "ABCD-EFGH", "Signed in for person"]);
            }
            "by the broker" => {
                // The rejection has forced a load less than ten seconds ago, so that the broker itself must notice the
                // new token.
                end_session(&world.home, &aws, &key);
                aws.sign_in_again(&world.home);
                broker.logged("changed: its credentials are reloaded").await;
                let mut broker = connect(&world.socket()).await;
                fresh(&mut broker, 3).await;
            }
            _ => {}
        }
        used.push(key);
    }
    let logins = records(&audit, "login");
    assert_eq!(logins.len(), 1, "{logins:?}");
    assert_eq!(
        (&logins[0]["decision"], &logins[0]["profile"]),
        (&json!("allow"), &json!("person"))
    );
    assert_eq!(logins[0]["uid"], own_uid());
    let ends = records(&audit, "login_end");
    assert_eq!(ends.len(), 1, "{ends:?}");
    assert_eq!((&ends[0]["of"], &ends[0]["outcome"]), (&logins[0]["id"], &json!("done")));
    assert!(!records(&audit, "sign").is_empty());
}

/// Has the portal refuse the token, and AWS the key.
pub(crate) fn end_session(home: &AwsHome, aws: &Aws, key: &str) {
    aws.revoke();
    home.keys().remove(key);
}

/// Waits until `person` has credentials of that generation.
async fn fresh(
    broker: &mut sigward_proto::v1::broker_client::BrokerClient<tonic::transport::Channel>,
    generation: u64,
) {
    use sigward_proto::v1::{ProfileState, WatchProfilesRequest};

    let mut lists = broker.watch_profiles(WatchProfilesRequest {}).await.unwrap().into_inner();
    let seen = async {
        while let Some(list) = lists.message().await.unwrap() {
            let person = list.profiles.iter().find(|profile| profile.name == "person").unwrap();
            if person.credential_generation == generation && person.state() == ProfileState::Fresh {
                return;
            }
        }
        panic!("the broker has ended");
    };
    deadline::within(seen, || "the new credentials don't come".to_owned()).await;
}

/// Other programs of the home find the token of a sign-in: here botocore, which is independent of Sigward.
#[tokio::test]
async fn other_programs_can_use_the_token_of_a_sign_in() {
    const SCRIPT: &str = "import botocore.session
keys = botocore.session.Session(profile='person').get_credentials().get_frozen_credentials()
print(keys.access_key)";
    let (world, aws) = signed_out().await;
    let (_broker, _) = broker(&world, &aws, true).await;
    let python = || {
        let mut command = processes::command(tools::python());
        command.args(["-c", SCRIPT]).envs(world.home.environment()).envs(aws.environment());
        command
    };
    let ended = |mut command: Command| async move {
        deadline::within(command.output(), || "botocore doesn't end".to_owned()).await.unwrap()
    };
    let before = ended(python()).await;
    assert!(!before.status.success(), "the control: without a sign-in there are no keys");
    aws.approve();
    assert!(login(&world, "person").await.0);
    let after = ended(python()).await;
    assert!(after.status.success(), "{}", String::from_utf8_lossy(&after.stderr));
    let id = String::from_utf8(after.stdout).unwrap();
    let key = world.home.keys().find(id.trim()).expect("a key of the portal");
    assert_names(&key.identity, &["AWSReservedSSO_Developer"]);
}

/// A failed sign-in reports the cause and what to do, and leaves no file.
#[tokio::test]
async fn a_declined_or_expired_sign_in_is_reported() {
    let (world, aws) = signed_out().await;
    let (_broker, audit) = broker(&world, &aws, true).await;
    for (person, word) in [
        (Person::Declines, "the sign-in was declined"),
        (Person::IsLate, "for a new one: sigward-broker login person"),
    ] {
        aws.person(person);
        let (good, shown) = login(&world, "person").await;
        assert!(!good);
        assert_names(&shown, &[DEVICE_URL, word]);
    }
    // A confined broker creates the directory when it starts.
    let cache = world.home.path().join(".aws/sso/cache");
    let kept = || std::fs::read_dir(&cache).into_iter().flatten().count();
    assert_eq!(kept(), 0);
    aws.approve();
    assert!(login(&world, "person").await.0);
    // Records are written in order: with that of a signature, all earlier ones are there.
    connect(&world.socket()).await.sign(ping(&world, "dev")).await.unwrap();
    let (begun, ended) = (records(&audit, "login"), records(&audit, "login_end"));
    let of: Vec<_> = begun.iter().map(|record| &record["id"]).collect();
    assert_eq!(ended.iter().map(|record| &record["of"]).collect::<Vec<_>>(), of);
    let outcomes: Vec<_> = ended.iter().map(|end| (&end["outcome"], &end["reason"])).collect();
    let (failed, none) = (json!("failed"), json!(null));
    let expected = [
        (&failed, &json!("LOGIN_DENIED")),
        (&failed, &json!("LOGIN_EXPIRED")),
        (&json!("done"), &none),
    ];
    assert_eq!(outcomes, expected);
    assert!(kept() > 0);
}

#[tokio::test]
async fn a_sign_in_without_permission_is_refused_and_recorded() {
    let (world, aws) = signed_out().await;
    let (_broker, audit) = broker(&world, &aws, false).await;
    let (good, shown) = login(&world, "person").await;
    assert!(!good);
    assert_names(&shown, &["login = true"]);
    let logins = records(&audit, "login");
    assert_eq!(logins.len(), 1, "{logins:?}");
    assert_eq!(logins[0]["decision"], "deny");
    assert_eq!(logins[0]["reason"], "LOGIN_NOT_ALLOWED");
    assert_eq!(logins[0]["profile"], "person");
    assert_eq!(aws.issued(), []);
}
