//! What is made of the broker's process can't open the user's other files.

use sigward_proto::v1::SignRequest;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_tests::aws_home::AwsHome;
use sigward_tests::deadline;
use sigward_tests::processes::Process;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::setup::{World, assert_names, connect, own_uid};

const CONFINED: &str = "confined to its own files by Landlock";

fn rule() -> String {
    let uid = own_uid();
    format!(
        "[[rule]]\npeer = {{ uid = {uid} }}\nprofiles = [\"pod\"]\nendpoints = [\"upstream\"]\n"
    )
}

fn profile() -> String {
    format!("[[profile]]\nname = \"pod\"\nendpoints = [\"upstream\"]\n{}", rule())
}

fn web_identity(token: &std::path::Path) -> String {
    format!(
        "[profile pod]\nregion = us-east-2\nrole_arn = arn:aws:iam::123456789012:role/Pod\n\
         web_identity_token_file = {}\nendpoint_url = http://127.0.0.1:1\n",
        token.display()
    )
}

/// Whether the broker could confine itself: it says so, or why the kernel doesn't let it.
async fn is_confined(broker: &Process) -> bool {
    let line = broker.logged("confined").await;
    assert!(line.contains(CONFINED) || line.contains("WARN"), "{line}");
    line.contains(CONFINED)
}

/// What the broker's own user is told of a failure.
async fn failure(mut client: BrokerClient<Channel>, world: &World) -> String {
    let request = SignRequest {
        profile: "pod".to_owned(),
        method: "GET".to_owned(),
        uri: world.upstream.url(),
        ..Default::default()
    };
    let signed = deadline::within(client.sign(request), || "no answer".to_owned()).await;
    let status = signed.expect_err("nothing answers there");
    status.get_error_details().error_info().unwrap().metadata["detail"].clone()
}

/// The attack: whoever can write to an AWS file has the broker read another file, and send it somewhere.
#[tokio::test]
async fn a_file_that_is_named_later_stays_closed() {
    let elsewhere = tempfile::tempdir().unwrap();
    let token = elsewhere.path().join("token");
    std::fs::write(&token, "canary").unwrap();
    let world = World::new().await;
    let broker = world.broker(&world.configuration(&profile())).await;
    let client = connect(&world.socket()).await;
    world.home.config(&web_identity(&token));
    let detail = failure(client, &world).await;
    if is_confined(&broker).await {
        assert_names(&detail, &["token", "can't be read", "Permission denied", "restart it"]);
    } else {
        assert_names(&detail, &["AssumeRoleWithWebIdentity"]);
    }
}

#[tokio::test]
async fn a_file_that_was_named_at_the_start_is_open() {
    let elsewhere = tempfile::tempdir().unwrap();
    let token = elsewhere.path().join("token");
    let home = AwsHome::new();
    home.config(&web_identity(&token));
    let world = World::at_home(home, |builder| builder).await;
    let broker = world.broker(&world.configuration(&profile())).await;
    is_confined(&broker).await;
    // Kubernetes writes it later.
    std::fs::write(&token, "canary").unwrap();
    let detail = failure(connect(&world.socket()).await, &world).await;
    assert_names(&detail, &["AssumeRoleWithWebIdentity"]);
}

/// Its programs would inherit it, and open files of their own.
#[tokio::test]
async fn a_broker_that_runs_programs_is_not_confined_and_a_confined_one_runs_none() {
    let process = "[profile pod]\ncredential_process = /bin/echo canary\n";
    let home = AwsHome::new();
    home.config(process);
    let world = World::at_home(home, |builder| builder).await;
    let broker = world.broker(&world.configuration(&profile())).await;
    let line = broker.logged("not confined").await;
    assert_names(&line, &["a profile has a credential_process", "INFO"]);
    let detail = failure(connect(&world.socket()).await, &world).await;
    assert!(!detail.contains("can't be started"), "{detail}");

    let world = World::new().await;
    let broker = world.broker(&world.configuration(&profile())).await;
    world.home.config(process);
    let detail = failure(connect(&world.socket()).await, &world).await;
    let refused = ["can't be started", "no profile had one when the broker started", "restart"];
    if is_confined(&broker).await {
        assert_names(&detail, &refused);
    }
}

/// To a confined process the kernel shows no program of a peer.
#[tokio::test]
async fn a_rule_about_programs_needs_a_broker_that_is_not_confined() {
    let exe = rule().replace(" }", ", exe = \"/bin/agent\" }");
    let world = World::new().await;
    let broker = world.broker(&world.configuration(&profile())).await;
    let confined = is_confined(&broker).await;
    world.write("broker.toml", &world.configuration(&format!("{}{exe}", profile())));
    if confined {
        let line = broker.logged("is rejected").await;
        assert_names(&line, &["a rule with exe needs a restart of the broker"]);
    } else {
        broker.logged("was reloaded").await;
    }
    drop(broker);

    let world = World::new().await;
    let broker = world.broker(&world.configuration(&format!("{}{exe}", profile()))).await;
    assert_names(&broker.logged("not confined").await, &["exe", "INFO"]);
}
