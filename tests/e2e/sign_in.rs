//! A profile that needs a sign-in: the person is sent there, and the call goes on.

use serde_json::{Value, json};
use sigward_tests::aws::{Aws, DEVICE_URL};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::processes::{StdioClient, call};

use crate::setup::{World, assert_names, failure, stateless, text};

/// What a client says that opens URLs for its user.
const OPENS_URLS: &str = r#"{"elicitation":{"url":{}}}"#;

/// A world with the profile `person`, whom nobody has signed in.
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
async fn the_person_is_sent_once_and_every_call_goes_on() {
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
async fn who_declines_isn_t_waited_for() {
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

#[tokio::test]
async fn who_can_t_be_asked_is_told_the_command() {
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
async fn without_sessions_the_answer_asks_and_the_call_comes_again() {
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
