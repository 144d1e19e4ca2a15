//! The identity of a profile: it is shown in the argument that chooses a profile, and with each result if requested.

use serde_json::{Value, json};
use sigward_tests::aws::Aws;
use sigward_tests::aws_home::AwsHome;
use sigward_tests::processes::{Process, StdioClient, call};

use crate::agent::SESSIONS;
use crate::http::Listening;
use crate::setup::{World, assert_names, text, tool_error};
use crate::status;

const READER: &str = "arn:aws:iam::123456789012:role/team/Reader";

/// A home with a role, and an identity of IAM Identity Center that is signed in.
fn home() -> AwsHome {
    let home = AwsHome::new();
    home.config(&format!(
        "[profile reader]\nregion = eu-west-3\nrole_arn = {READER}\nsource_profile = dev\n"
    ));
    Aws::sign_in(&home, "person", "Developer");
    home
}

fn proxy(world: &World, aws: &Aws, profiles: &[&str], options: &[&str]) -> tokio::process::Command {
    let mut command = world.private_proxy(profiles, options);
    command.envs(aws.environment());
    command
}

fn described(list: &Value) -> String {
    let tools = list["result"]["tools"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
    let whoami = tools.iter().find(|tool| tool["name"] == "whoami").unwrap();
    let argument = &whoami["inputSchema"]["properties"]["aws_profile"]["description"];
    argument.as_str().unwrap().to_owned()
}

/// Values from the files are shown before anything is signed, and don't change.
#[tokio::test]
async fn the_argument_names_account_role_and_region() {
    let world = World::at_home(home(), |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let mut client = StdioClient::start(proxy(&world, &aws, &["dev", "reader", "person"], &[]));
    client.initialize().await;
    let first = client.request("tools/list", "{}").await;
    let description = described(&first);
    assert_names(
        &description,
        &[
            "reader: account 123456789012, role Reader, Region eu-west-3.",
            "person: account 111122223333, role Developer, Region eu-west-1.",
        ],
    );
    assert!(
        !description.contains("dev: account"),
        "static keys have no known account: {description}"
    );
    client.call("whoami", r#"{"aws_profile":"reader"}"#).await;
    let again = client.request("tools/list", "{}").await;
    assert_eq!(first["result"], again["result"]);
}

/// AWS reports the identity of keys once they are loaded: the client is notified that the list has changed.
#[tokio::test]
async fn the_identity_reported_by_aws_changes_the_list() {
    let world = World::at_home(home(), |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let _broker = status::broker(&world, &aws).await;
    let mut client = world.client_of(&world.socket(), &["dev", "staging"]).await;
    let account = format!("account {}", world.home.key("dev").account);
    let mut description = described(&client.request("tools/list", "{}").await);
    let changed = |it: &Value| it["method"] == "notifications/tools/list_changed";
    if !description.contains(&account) {
        client.expect("the change", changed).await;
        description = described(&client.request("tools/list", "{}").await);
    }
    let dev = format!("dev: Development, everything goes ({account}, Region us-west-2).");
    assert_names(&description, &[&dev]);
    assert!(!description.contains("staging: account"), "it wasn't used yet: {description}");
    client.call("whoami", r#"{"aws_profile":"staging"}"#).await;
    client.expect("the change", changed).await;
    let description = described(&client.request("tools/list", "{}").await);
    assert_names(&description, &[&dev, "staging: account"]);
}

/// Each result has the identity of the call, whatever the server puts there, over both transports and with and without
/// sessions.
#[tokio::test]
async fn each_result_has_the_identity_of_the_call() {
    let world = World::at_home(home(), |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let options = ["--show-identity"];
    let reader = json!({"profile": "reader", "account": "123456789012", "role": "Reader", "region": "eu-west-3"});
    let dev = json!({"profile": "dev", "region": "us-west-2"});
    let mut client = StdioClient::start(proxy(&world, &aws, &["dev", "reader"], &options));
    client.initialize().await;
    let called = client.call("whoami", r#"{"aws_profile":"reader"}"#).await;
    assert_eq!(called["result"]["_meta"]["sigward/identity"], reader);
    assert_eq!(called["result"]["_meta"]["example.com/odd"], 1.10, "the server's own entries stay");
    let called = client.call("echo", r#"{"a":1.10}"#).await;
    assert_eq!(called["result"]["_meta"]["sigward/identity"], dev);
    assert_eq!(text(&called), r#"{"a":1.10}"#);
    let refused = client.call("whoami", r#"{"aws_profile":"nobody"}"#).await;
    assert_names(tool_error(&refused), &["nobody"]);
    assert!(refused["result"]["_meta"].is_null(), "no identity made that call");
    let params = crate::setup::stateless(&call("whoami", r#"{"aws_profile":"reader"}"#));
    let called = client.request("tools/call", &params).await;
    assert_eq!(called["result"]["_meta"]["sigward/identity"], reader);

    let options = ["--show-identity", "--listen", "127.0.0.1:0"];
    let command = proxy(&world, &aws, &["dev", "reader"], &options);
    let listening = Listening::started(Process::start(command)).await;
    let session = listening.session(SESSIONS).await;
    let session: Vec<_> = session.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for (arguments, identity) in [("{}", &dev), (r#"{"aws_profile":"reader"}"#, &reader)] {
        let params = call("whoami", arguments);
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let called = listening.post(&session, &text).await.message().await;
        assert_eq!(called["result"]["_meta"]["sigward/identity"], *identity, "{called}");
    }

    let mut client = StdioClient::start(proxy(&world, &aws, &["dev", "reader"], &[]));
    client.initialize().await;
    let called = client.call("whoami", r#"{"aws_profile":"reader"}"#).await;
    assert!(called["result"]["_meta"]["sigward/identity"].is_null(), "it wasn't requested");
}
