//! The attack: code that runs in the broker's process reads the user's other files.

use sigward_proto::v1::broker_client::BrokerClient;
use sigward_proto::v1::{SignRequest, SignResponse};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::deadline;
use sigward_tests::keys::Key;
use sigward_tests::processes::Process;
use tonic::transport::Channel;
use tonic::{Response, Status};
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

/// Whether the broker could confine itself; if not, it has logged why the kernel doesn't let it.
async fn is_confined(broker: &Process) -> bool {
    let line = broker.logged("confined").await;
    assert!(line.contains(CONFINED) || line.contains("WARN"), "{line}");
    line.contains(CONFINED)
}

fn request(world: &World) -> SignRequest {
    SignRequest {
        profile: "pod".to_owned(),
        method: "GET".to_owned(),
        uri: world.upstream.url(),
        ..Default::default()
    }
}

async fn sign(mut client: BrokerClient<Channel>, world: &World) -> Result<SignResponse, Status> {
    let signed = deadline::within(client.sign(request(world)), || "no answer".to_owned()).await;
    signed.map(Response::into_inner)
}

/// The detail of an error, which the broker's own user gets.
async fn failure(client: BrokerClient<Channel>, world: &World) -> String {
    let status = sign(client, world).await.expect_err("no AWS answers there");
    status.get_error_details().error_info().unwrap().metadata["detail"].clone()
}

/// The attack: a program that can write to an AWS file makes the broker read another file and send it somewhere.
#[tokio::test]
async fn a_file_named_after_the_start_cannot_be_read() {
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
async fn a_file_named_at_the_start_can_be_read() {
    let elsewhere = tempfile::tempdir().unwrap();
    let token = elsewhere.path().join("token");
    let home = AwsHome::new();
    home.config(&web_identity(&token));
    let world = World::at_home(home, |builder| builder).await;
    let broker = world.broker(&world.configuration(&profile())).await;
    is_confined(&broker).await;
    // Kubernetes may write it later.
    std::fs::write(&token, "canary").unwrap();
    let detail = failure(connect(&world.socket()).await, &world).await;
    assert_names(&detail, &["AssumeRoleWithWebIdentity"]);
}

/// Programs open other files: they aren't confined and may use set-gid bits, whenever they are named.
#[tokio::test]
async fn the_programs_of_a_confined_broker_are_not_confined() {
    let elsewhere = tempfile::tempdir().unwrap();
    let keys = elsewhere.path().join("keys");
    let key = Key::user("by-program");
    let printed = format!(
        r#"{{"Version":1,"AccessKeyId":"{}","SecretAccessKey":"{}"}}"#,
        key.access_key_id, key.secret
    );
    std::fs::write(&keys, printed).unwrap();
    let process = format!(
        "[profile pod]\nregion = us-east-2\ncredential_process = /bin/cat {}\n",
        keys.display()
    );
    for named_at_the_start in [true, false] {
        let home = AwsHome::new();
        if named_at_the_start {
            home.config(&process);
        }
        let world = World::at_home(home, |builder| builder).await;
        let broker = world.broker(&world.configuration(&profile())).await;
        is_confined(&broker).await;
        if !named_at_the_start {
            world.home.config(&process);
        }
        let signed = sign(connect(&world.socket()).await, &world).await.expect("a signature");
        assert_eq!(signed.access_key_id, key.access_key_id);
    }
}

/// The kernel doesn't show a confined thread the program of a peer, so the thread that looks isn't confined.
#[tokio::test]
async fn a_confined_broker_still_checks_the_executable_of_its_peers() {
    let own = std::env::current_exe().unwrap().canonicalize().unwrap();
    for (program, allowed) in [(own.to_str().unwrap(), true), ("/usr/bin/other", false)] {
        let exe = rule().replace("[\"pod\"]", "[\"dev\"]");
        let exe = exe.replace(" }", &format!(", exe = {program:?} }}"));
        let world = World::new().await;
        let broker = world.broker(&world.configuration(&exe)).await;
        is_confined(&broker).await;
        let mut client = connect(&world.socket()).await;
        let request = SignRequest { profile: "dev".to_owned(), ..request(&world) };
        assert_eq!(client.sign(request).await.is_ok(), allowed, "{program}");
    }
}
