//! Keys of the shell, the pod, the container or the machine in which the broker runs: the end of the default chain, and
//! the sources of roles.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::json;
use sigward_tests::aws::{Aws, WEB_IDENTITY_TOKEN};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::keys::Key;
use sigward_tests::metadata::{CONTAINER_TOKEN, Metadata};
use sigward_tests::processes::{Process, StdioClient};

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
async fn a_role_can_use_each_credential_source() {
    let home = AwsHome::new();
    for (profile, source) in
        [("task", "EcsContainer"), ("machine", "Ec2InstanceMetadata"), ("shell", "Environment")]
    {
        home.config(&format!(
            "[profile {profile}]\nregion = us-east-2\nrole_arn = arn:aws:iam::123456789012:role/Reader\ncredential_source = {source}\n"
        ));
    }
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let metadata = Metadata::start(world.home.keys()).await;
    let shell = Key::role("ShellRole", "login");
    world.home.keys().insert(shell.clone());
    let mut command = world.private_proxy(&["dev", "task", "machine", "shell"], &[]);
    let token = token_file(&world, CONTAINER_TOKEN);
    command.envs(aws.environment()).envs(metadata.instance()).envs(metadata.container(&token));
    command.env("AWS_ACCESS_KEY_ID", &shell.access_key_id);
    command.env("AWS_SECRET_ACCESS_KEY", &shell.secret);
    command.env("AWS_SESSION_TOKEN", shell.session_token.as_deref().unwrap());
    let mut client = StdioClient::start(command);
    client.initialize().await;
    for (profile, role) in
        [("task", "TaskRole"), ("machine", "InstanceRole"), ("shell", "ShellRole")]
    {
        let called = client.call("whoami", &json!({"aws_profile": profile}).to_string()).await;
        let session = format!(":assumed-role/Reader/sigward-{profile}");
        assert_names(text(&called), &[&session]);
        assert_names(&aws.issued().pop().unwrap().caller, &[&format!("/{role}/")]);
    }
    // Keys in the environment are only for profiles that name them as their source.
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"));
}

/// A profile can set the address of the metadata service. A file that the broker doesn't read, here that of its home,
/// has no effect.
#[tokio::test]
async fn a_profile_can_set_the_address_of_its_metadata_service() {
    let world = World::new().await;
    let aws = Aws::start(world.home.keys()).await;
    let (own, other) =
        (Metadata::start(world.home.keys()).await, Metadata::start(world.home.keys()).await);
    let named = |metadata: &Metadata| {
        format!("ec2_metadata_service_endpoint = {}\n", metadata.instance().remove(0).1)
    };
    world.home.config(&format!("[default]\n{}", named(&other)));
    let files = world.directory.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let role = "region = us-east-2\nrole_arn = arn:aws:iam::123456789012:role/Reader\ncredential_source = Ec2InstanceMetadata\n";
    let config = format!("[profile machine]\n{role}{}", named(&own));
    std::fs::write(files.join("config"), config).unwrap();
    std::fs::write(files.join("credentials"), "").unwrap();
    let profile = "[[profile]]\nname = \"machine\"\nendpoints = [\"upstream\"]\n";
    let broker = world.configuration(profile);
    let broker =
        broker.replace(world.home.path().join(".aws").to_str().unwrap(), files.to_str().unwrap());
    let broker = world.write("broker.toml", &broker);
    let mut command = world.broker_command(&["serve", "--config", broker.to_str().unwrap()]);
    command.envs(aws.environment()).env("AWS_EC2_METADATA_DISABLED", "false");
    let broker = Process::start(command);
    broker.logged("listening").await;
    let mut client = world.client_of(&world.socket(), &["machine"]).await;
    assert_names(text(&client.call("whoami", "{}").await), &[":assumed-role/Reader/"]);
    assert_eq!((own.given().len(), other.given()), (1, vec![]));
}

/// Keys of the machine and the container must not pass through a proxy.
#[tokio::test]
async fn the_metadata_services_are_not_asked_through_a_proxy() {
    let world = World::new().await;
    let metadata = Metadata::start(world.home.keys()).await;
    let proxy = Metadata::start(world.home.keys()).await;
    let proxy = proxy.instance().remove(0).1;
    let token = token_file(&world, CONTAINER_TOKEN);
    for variables in [metadata.container(&token), metadata.instance()] {
        let endpoint = world.upstream.url();
        let mut command =
            world.broker_command(&["serve", "--endpoint", &endpoint, "--audit", "none"]);
        command.args(["--service", "aws-mcp", "--region", "us-east-1", "--socket"]);
        command.arg(world.socket());
        command.envs(variables).env("HTTP_PROXY", &proxy).env("http_proxy", &proxy);
        let mut broker = Process::start(command);
        broker.logged("listening").await;
        let mut client = world.client_of(&world.socket(), &["default"]).await;
        let given = metadata.given().pop().unwrap();
        assert_eq!(text(&client.call("whoami", "{}").await), given.identity);
        // The next broker uses the same socket.
        broker.signal(Signal::TERM);
        let (status, errors) = broker.ended().await;
        assert!(status.success(), "{errors}");
    }
    assert_eq!(metadata.given().len(), 2);
}

/// A role whose source has no keys is an error, and nothing is signed with other keys.
#[tokio::test]
async fn a_credential_source_without_keys_is_an_error() {
    let home = AwsHome::new();
    home.config(
        "[profile shell]\nregion = us-east-2\nrole_arn = arn:aws:iam::123456789012:role/Reader\ncredential_source = Environment\n",
    );
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let metadata = Metadata::start(world.home.keys()).await;
    let mut command = world.private_proxy(&["dev", "shell"], &[]);
    command.envs(aws.environment()).envs(metadata.instance());
    let mut client = StdioClient::start(command);
    client.initialize().await;
    let refused = client.call("whoami", r#"{"aws_profile":"shell"}"#).await;
    assert_names(failure(&refused), &["shell"]);
    assert_eq!((aws.issued(), metadata.given()), (vec![], vec![]));
}

/// EKS gives a pod a token in a file. It comes before the container and the machine, and after the files.
#[tokio::test]
async fn the_default_chain_includes_a_web_identity() {
    let world = World::new().await;
    let aws = Aws::start(world.home.keys()).await;
    let metadata = Metadata::start(world.home.keys()).await;
    let token = world.write("web-identity", WEB_IDENTITY_TOKEN);
    let pod = |more: &[(&str, &str)]| {
        let variables = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/Pod"),
        ];
        let variables = variables.iter().chain(more);
        let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        [variables.collect(), aws.environment(), metadata.instance()].concat()
    };
    for (variables, session) in
        [(pod(&[]), "sigward-default"), (pod(&[("AWS_ROLE_SESSION_NAME", "pod-7")]), "pod-7")]
    {
        let mut client = default_chain(&world, variables);
        client.initialize().await;
        let called = client.call("whoami", "{}").await;
        assert_names(text(&called), &[&format!(":assumed-role/Pod/{session}")]);
        let asked = aws.issued().pop().unwrap();
        assert_eq!(asked.action, "AssumeRoleWithWebIdentity");
        assert_eq!(asked.parameters["WebIdentityToken"], WEB_IDENTITY_TOKEN);
        assert_eq!(asked.role, "arn:aws:iam::123456789012:role/Pod");
    }
    assert_eq!(metadata.given(), [], "the machine wasn't asked");

    // An incomplete one is an error, as in botocore: the chain doesn't continue to the machine, another identity.
    let mut half = pod(&[]);
    half.retain(|(name, _)| name != "AWS_ROLE_ARN");
    let mut client = default_chain(&world, half);
    let params = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;
    assert_names(failure(&client.request("initialize", params).await), &["default"]);
    assert_eq!(metadata.given(), [], "the machine wasn't asked");
    assert_eq!(aws.issued().len(), 2);

    // Keys of a profile come first.
    let mut client = default_chain(&world, pod(&[("AWS_PROFILE", "dev")]));
    client.initialize().await;
    assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
    assert_eq!(aws.issued().len(), 2);
}

/// A wrong token, a machine without a role or a foreign address gives no keys, and no request is signed.
#[tokio::test]
async fn a_metadata_service_that_gives_no_keys_is_an_error() {
    let world = World::new().await;
    let metadata = Metadata::start(world.home.keys()).await;
    let bare = Metadata::without_role().await;
    let (good, bad) =
        (token_file(&world, CONTAINER_TOKEN), world.write("bad-token", "SgwCanaryToken/other"));
    let mut foreign = metadata.container(&good);
    foreign[0].1 = "http://192.0.2.1/v1/credentials".to_owned();
    for variables in [metadata.container(&bad), bare.container(&good), bare.instance(), foreign] {
        let mut client = default_chain(&world, variables.clone());
        let params = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;
        let answer = client.request("initialize", params).await;
        // An error, or instructions in place of the server's; both say why nothing can be signed.
        let instructions = answer["result"]["instructions"].as_str();
        let why = instructions.unwrap_or_else(|| failure(&answer));
        assert_names(why, &["default"]);
        assert_eq!(instructions.is_some(), why.contains("can't be used yet"), "{why}");
    }
    assert_eq!(metadata.given(), []);
    let requests = world.upstream.requests();
    assert!(requests.iter().all(|request| request.header("authorization").is_none()));
}
