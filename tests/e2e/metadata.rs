//! Keys of the machine or the container that the broker runs in: the end of the default chain, and the source of a role.

use std::path::PathBuf;

use serde_json::json;
use sigward_tests::aws::Aws;
use sigward_tests::aws_home::AwsHome;
use sigward_tests::metadata::{CONTAINER_TOKEN, Metadata};
use sigward_tests::processes::StdioClient;

use crate::setup::{World, assert_names, failure, text};

type Variables = Vec<(String, String)>;

/// A proxy without any profile: it signs with the SDK's default chain.
fn default_chain(world: &World, variables: Variables) -> StdioClient {
    let mut command = world.proxy(&["--broker", "private"]);
    command.envs(variables);
    StdioClient::start(command)
}

fn token_file(world: &World, token: &str) -> PathBuf {
    world.write("container-token", token)
}

#[tokio::test]
async fn the_default_chain_ends_with_the_container_and_the_machine() {
    let world = World::new().await;
    let metadata = Metadata::start(world.home.keys()).await;
    let token = token_file(&world, CONTAINER_TOKEN);
    for (variables, role) in [
        (metadata.container(&token), "TaskRole"),
        (metadata.instance(), "InstanceRole"),
        // The container comes first.
        ([metadata.instance(), metadata.container(&token)].concat(), "TaskRole"),
    ] {
        let mut client = default_chain(&world, variables);
        client.initialize().await;
        let called = client.call("whoami", "{}").await;
        assert_names(text(&called), &[&format!(":assumed-role/{role}/")]);
        assert_eq!(text(&called), metadata.given().pop().unwrap().identity);
    }
    assert_eq!(metadata.given().len(), 3, "one key for each broker");
}

#[tokio::test]
async fn a_role_by_credential_source() {
    let home = AwsHome::new();
    for (profile, source) in [("task", "EcsContainer"), ("machine", "Ec2InstanceMetadata")] {
        home.config(&format!(
            "[profile {profile}]\nregion = us-east-2\nrole_arn = arn:aws:iam::123456789012:role/Reader\ncredential_source = {source}\n"
        ));
    }
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let metadata = Metadata::start(world.home.keys()).await;
    let mut command = world.private_proxy(&["dev", "task", "machine"], &[]);
    let token = token_file(&world, CONTAINER_TOKEN);
    command.envs(aws.environment()).envs(metadata.instance()).envs(metadata.container(&token));
    let mut client = StdioClient::start(command);
    client.initialize().await;
    for (profile, role) in [("task", "TaskRole"), ("machine", "InstanceRole")] {
        let called = client.call("whoami", &json!({"aws_profile": profile}).to_string()).await;
        let session = format!(":assumed-role/Reader/sigward-{profile}");
        assert_names(text(&called), &[&session]);
        assert_names(&aws.issued().pop().unwrap().caller, &[&format!("/{role}/")]);
    }
}

/// Who can't show the token, has no role, or is told to trust a stranger gets no key, and sends nothing.
#[tokio::test]
async fn a_service_that_gives_nothing() {
    let world = World::new().await;
    let metadata = Metadata::start(world.home.keys()).await;
    let bare = Metadata::without_role().await;
    let (good, bad) =
        (token_file(&world, CONTAINER_TOKEN), world.write("bad-token", "SgwCanaryToken/other"));
    let mut stranger = metadata.container(&good);
    stranger[0].1 = "http://192.0.2.1/v1/credentials".to_owned();
    for variables in [metadata.container(&bad), bare.container(&good), bare.instance(), stranger] {
        let mut client = default_chain(&world, variables.clone());
        let params = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;
        let refused = client.request("initialize", params).await;
        assert_names(failure(&refused), &["default"]);
    }
    assert_eq!(metadata.given(), []);
    assert_eq!(world.upstream.requests().len(), 0);
}
