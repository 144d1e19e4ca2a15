//! A person signs in at a broker that is far away: over TLS, by the certificate that is theirs.

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

/// A broker whose profile `person` nobody has signed in: the agent may use it, the person may sign in for it.
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

/// `sigward-broker login person` with this certificate, which trusts the broker of `authority`.
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
async fn a_person_signs_in_from_afar_and_the_agent_s_calls_go_on() {
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

/// The attacks: the agent starts a sign-in that the person is to finish for it; and whoever has a certificate of somebody
/// else's authority, or stands between the person and the broker.
#[tokio::test]
async fn whoever_may_not_sign_in_gets_no_code() {
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
