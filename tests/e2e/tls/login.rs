//! A user signs in at a remote broker: over TLS, with a certificate of their own.

use std::process::Output;

use sigward_tests::aws::{Aws, DEVICE_URL};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::deadline;
use sigward_tests::processes::assert_no_canary;
use sigward_tests::workloads::{BROKER, Issued, Workloads};

use super::scene::{AGENT, Scene};
use crate::setup::{World, assert_names, failure, text};

const PERSON: &str = "spiffe://test.example/person/ana";
const WHOAMI: &str = "{}";

/// A broker whose profile `person` isn't signed in: the agent may use it, the person may sign in for it.
async fn signed_out() -> (Scene, Aws) {
    let home = AwsHome::new();
    Aws::sign_in(&home, "person", "Developer");
    std::fs::remove_dir_all(home.path().join(".aws/sso")).unwrap();
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let rule = |id: &str, more: &str| {
        format!(
            "[[rule]]\npeer = {{ spiffe_id = \"{id}\" }}\nprofiles = [\"person\"]\nendpoints = [\"upstream\"]\n{more}\n"
        )
    };
    let profile = "[[profile]]\nname = \"person\"\nendpoints = [\"upstream\"]\n";
    let rules = format!("{profile}{}{}", rule(AGENT, ""), rule(PERSON, "login = true"));
    (Scene::in_world(world, "", &rules, &aws.environment()).await, aws)
}

/// `sigward-broker login person` with this certificate, trusting a broker of `authority`.
async fn login(scene: &Scene, issued: &Issued, authority: &Workloads) -> (bool, String) {
    scene.keep_secret(issued);
    for (name, contents) in [
        ("person.key", &issued.key),
        ("person.cert", &issued.cert),
        ("person.ca", &authority.pem()),
    ] {
        scene.write(name, contents);
    }
    let mut command = scene.world.broker_command(&["login", "person"]);
    command.args(["--broker", &format!("https://{}", scene.address), "--broker-name", BROKER]);
    for name in ["cert", "key", "ca"] {
        command.arg(format!("--broker-{name}")).arg(scene.path(&format!("person.{name}")));
    }
    let Output { status, stdout, stderr } =
        deadline::within(command.output(), || "login doesn't end".to_owned()).await.unwrap();
    let shown = String::from_utf8([stdout, stderr].concat()).unwrap();
    scene.assert_no_secret(&shown);
    assert_no_canary("login", &shown);
    (status.success(), shown)
}

#[tokio::test]
async fn the_agent_s_calls_continue_after_a_sign_in_at_a_remote_broker() {
    let (scene, aws) = signed_out().await;
    let agent = scene.authority.workload(AGENT);
    let mut client = scene.agent(&agent, &["person"]).await;
    assert_names(failure(&client.call("whoami", WHOAMI).await), &["person", "needs a sign-in"]);

    aws.approve();
    let person = scene.authority.workload(PERSON);
    let (good, shown) = login(&scene, &person, &scene.authority).await;
    assert!(good, "{shown}");
    assert_names(&shown, &[DEVICE_URL, "ABCD-EFGH", "Signed in for person"]);
    let called = client.call("whoami", WHOAMI).await;
    assert_names(text(&called), &["AWSReservedSSO_Developer"]);
    let records = scene.audit();
    let begun = records.iter().find(|it| it["action"] == "login").expect("a record");
    assert_eq!((&begun["spiffe_id"], &begun["decision"]), (&PERSON.into(), &"allow".into()));
    assert!(
        records.iter().any(|it| it["action"] == "login_end" && it["outcome"] == "done"),
        "{records:?}"
    );
}

/// The attacks: the agent starts a sign-in for the person to complete; a caller has a certificate of a foreign
/// authority; a false broker stands between the person and the real one.
#[tokio::test]
async fn a_caller_without_permission_to_sign_in_gets_no_code() {
    let (scene, aws) = signed_out().await;
    aws.approve();
    let stranger = "spiffe://test.example/person/eve";
    let foreign = Workloads::new();
    for (issued, authority, expected) in [
        (scene.authority.workload(AGENT), &scene.authority, "login = true"),
        (scene.authority.workload(stranger), &scene.authority, "no rule matches this peer"),
        (foreign.workload(PERSON), &scene.authority, "--broker-cert"),
        (scene.authority.workload(PERSON), &foreign, "--broker-ca"),
    ] {
        let (good, shown) = login(&scene, &issued, authority).await;
        assert!(!good, "{shown}");
        assert_names(&shown, &[expected]);
        assert!(!shown.contains(DEVICE_URL) && !shown.contains("ABCD"), "{shown}");
    }
    assert_eq!(aws.sign_ins(), Vec::<String>::new(), "AWS was asked for a code");
}
