//! Credentials over time, as processes see them: an STS that others wrote, and keys that must go.

use rustix::process::Signal;
use sigward_proto::v1::{ProfileState, WatchProfilesRequest};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::keys::Key;
use sigward_tests::processes::{self, Process, StdioClient};
use sigward_tests::{deadline, memory, tools};

use crate::setup::{THREE, World, assert_names, connect, own_uid, text};

fn rule(profiles: &[&str]) -> String {
    let uid = own_uid();
    format!(
        "[[rule]]\npeer = {{ uid = {uid} }}\nprofiles = {profiles:?}\nendpoints = [\"upstream\"]\n"
    )
}

#[tokio::test]
async fn roles_over_several_hops_against_moto() {
    let home = AwsHome::new();
    home.role("first", "dev", "arn:aws:iam::123456789012:role/First");
    home.role("second", "first", "arn:aws:iam::210987654321:role/Second");
    let mut command = processes::command(tools::moto());
    command.env("PYTHONUNBUFFERED", "1").args(["-H", "127.0.0.1", "-p", "0"]);
    let moto = Process::start(command);
    let line = moto.logged("Running on http://").await;
    let url = line.split_whitespace().last().unwrap().to_owned();

    let world = World::at_home(home, |builder| builder).await;
    let mut command = world.broker_command(&[
        "check",
        "--profile",
        "first",
        "second",
        "--endpoint",
        &world.upstream.url(),
        "--service",
        "aws-mcp",
        "--region",
        "us-east-1",
    ]);
    command.env("AWS_ENDPOINT_URL_STS", url);
    let output = command.output().await.unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    assert_names(
        &shown,
        &[
            "arn:aws:sts::123456789012:assumed-role/First/",
            "arn:aws:sts::210987654321:assumed-role/Second/",
        ],
    );
}

/// The number of copies of each key's secret in the broker; `None` where only root may look.
fn copies(broker: &Process, keys: &[&Key]) -> Option<Vec<usize>> {
    let needles: Vec<&[u8]> = keys.iter().map(|key| key.secret.as_bytes()).collect();
    match memory::count(broker.pid(), &needles) {
        Ok(counts) => Some(counts),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            assert_ne!(own_uid(), 0, "root can look");
            None
        }
    }
}

/// A client for whom both profiles have signed.
async fn dev_and_prod(world: &World) -> StdioClient {
    let mut client = world.client_of(&world.socket(), &["dev", "prod"]).await;
    for profile in ["dev", "prod"] {
        let called = client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
        assert_eq!(text(&called), world.home.identity(profile));
    }
    client
}

#[tokio::test]
async fn the_keys_of_a_removed_profile_are_gone_from_memory() {
    let world = World::new().await;
    let broker = world.broker(&world.configuration(&rule(&THREE))).await;
    let mut client = dev_and_prod(&world).await;
    let keys = [world.home.key("dev"), world.home.key("prod")];
    if let Some(counts) = copies(&broker, &keys) {
        assert!(counts.iter().all(|count| *count > 0), "the control: both are there {counts:?}");
    }

    let all = world.configuration(&rule(&["dev", "staging"]));
    let (before, after) = all.split_once("[[profile]]\nname = \"prod\"").unwrap();
    let after = after.split_once("[[rule]]").unwrap().1;
    world.write("broker.toml", &format!("{before}[[rule]]{after}"));
    broker.signal(Signal::HUP);
    broker.logged("the configuration was reloaded").await;
    let refused = client.call("whoami", r#"{"aws_profile":"prod"}"#).await;
    assert_names(crate::setup::failure(&refused), &["prod"]);
    let called = client.call("whoami", r#"{"aws_profile":"dev"}"#).await;
    assert_eq!(text(&called), world.home.identity("dev"), "the other goes on");
    if let Some(counts) = copies(&broker, &keys) {
        assert!(counts[0] > 0 && counts[1] == 0, "dev and prod: {counts:?}");
    }
}

/// The same where somebody takes the profile out of the AWS files.
#[tokio::test]
async fn the_keys_of_a_profile_that_left_the_files_are_gone_from_memory() {
    let world = World::new().await;
    let broker = world.broker(&world.configuration(&rule(&THREE))).await;
    let mut client = dev_and_prod(&world).await;
    for file in [world.home.config_file(), world.home.credentials_file()] {
        let all = std::fs::read_to_string(&file).unwrap();
        // `prod` is the last one.
        let (others, _) = all.rsplit_once("\n[").unwrap();
        let new = file.with_extension("new");
        std::fs::write(&new, format!("{others}\n")).unwrap();
        std::fs::rename(new, file).unwrap();
    }
    broker.logged("no longer in the AWS files").await;
    let refused = client.call("whoami", r#"{"aws_profile":"prod"}"#).await;
    assert_names(crate::setup::failure(&refused), &["\"prod\" can't be used"]);
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"), "the other goes on");
    if let Some(counts) = copies(&broker, &[world.home.key("dev"), world.home.key("prod")]) {
        assert!(counts[0] > 0 && counts[1] == 0, "dev and prod: {counts:?}");
    }
}

/// Waits until `profile` signs with credentials of another generation than `before`.
async fn renewed(world: &World, profile: &str, before: u64) {
    let mut watched = connect(&world.socket()).await;
    let lists = watched.watch_profiles(WatchProfilesRequest {}).await;
    let mut lists = lists.unwrap().into_inner();
    let seen = async {
        loop {
            let list = lists.message().await.unwrap().expect("the broker goes on");
            let found = list.profiles.iter().find(|found| found.name == profile).unwrap();
            if found.credential_generation != before && found.state() == ProfileState::Fresh {
                return;
            }
        }
    };
    deadline::within(seen, || format!("no other credentials of {profile}")).await;
}

/// A rotation: there are other keys in the file, and nothing is left of those of before.
#[tokio::test]
async fn the_keys_of_before_a_rotation_are_gone_from_memory() {
    let world = World::new().await;
    let broker = world.broker(&world.configuration(&rule(&THREE))).await;
    let mut client = dev_and_prod(&world).await;
    // The same user: the session goes on.
    let (old, new) = (world.home.key("dev"), Key::user("dev"));
    world.home.keys().insert(new.clone());
    let keys = [old, &new, world.home.key("prod")];
    if let Some(counts) = copies(&broker, &keys) {
        assert!(counts[0] > 0 && counts[1] == 0 && counts[2] > 0, "the control: {counts:?}");
    }
    let file = world.home.credentials_file();
    let all = std::fs::read_to_string(&file).unwrap();
    let all = all.replace(&old.access_key_id, &new.access_key_id).replace(&old.secret, &new.secret);
    let other = file.with_extension("new");
    std::fs::write(&other, all).unwrap();
    std::fs::rename(other, file).unwrap();
    renewed(&world, "dev", 1).await;
    assert_eq!(text(&client.call("whoami", "{}").await), new.identity);
    let signed = world.upstream.requests_of("tools/call").pop().unwrap().signature.unwrap();
    assert_eq!(signed.key.access_key_id, new.access_key_id);
    if let Some(counts) = copies(&broker, &keys) {
        assert!(counts[0] == 0 && counts[1] > 0 && counts[2] > 0, "old, new, prod: {counts:?}");
    }
}

/// A reload that has a profile sign with other credentials: nothing is left of those of before.
#[tokio::test]
async fn the_keys_that_a_reload_replaces_are_gone_from_memory() {
    let world = World::new().await;
    let config = world.configuration(&rule(&THREE));
    let broker = world.broker(&config).await;
    let _before = dev_and_prod(&world).await;
    let keys = ["dev", "staging", "prod"].map(|profile| world.home.key(profile));
    if let Some(counts) = copies(&broker, &keys) {
        assert!(counts[0] > 0 && counts[1] == 0 && counts[2] > 0, "the control: {counts:?}");
    }
    let other = config.replace("name = \"dev\"\n", "name = \"dev\"\naws_profile = \"staging\"\n");
    assert_ne!(other, config);
    world.write("broker.toml", &other);
    broker.signal(Signal::HUP);
    broker.logged("the configuration was reloaded").await;
    // Another session: the server doesn't take another user in that of before.
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("staging"), "dev is another one now");
    if let Some(counts) = copies(&broker, &keys) {
        assert!(counts[0] == 0 && counts[1] > 0 && counts[2] > 0, "dev, staging, prod: {counts:?}");
    }
}

#[tokio::test]
async fn a_bad_configuration_keeps_the_old_one() {
    let world = World::new().await;
    let broker = world.broker(&world.configuration(&rule(&THREE))).await;
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    world.write("broker.toml", &world.configuration("nonsense = 1\n"));
    broker.signal(Signal::HUP);
    assert_names(&broker.logged("nonsense").await, &["broker.toml"]);
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"));
}

/// What was in force before a signal isn't in force after it: the file that goes back to it has changed.
#[tokio::test]
async fn a_file_that_goes_back_to_what_it_was_is_in_force_again() {
    let world = World::new().await;
    let good = world.configuration(&rule(&["dev"]));
    let broker = world.broker(&good).await;
    let mut watched = connect(&world.socket()).await;
    let lists = watched.watch_profiles(WatchProfilesRequest {}).await;
    let mut lists = lists.unwrap().into_inner();
    let mut told = async |rejected: bool, profiles: usize| {
        let told = async {
            loop {
                let list = lists.message().await.unwrap().expect("the broker goes on");
                if (list.config_rejected, list.profiles.len()) == (rejected, profiles) {
                    return;
                }
            }
        };
        let explain = || format!("rejected {rejected} with {profiles} profiles is never told");
        deadline::within(told, explain).await;
    };
    told(false, 1).await;
    let (bad, wider) =
        (world.configuration("nonsense = 1\n"), world.configuration(&rule(&["dev", "prod"])));
    for (text, rejected, profiles) in [(bad, true, 1), (wider, false, 2)] {
        world.write("broker.toml", &text);
        broker.signal(Signal::HUP);
        told(rejected, profiles).await;
        world.write("broker.toml", &good);
        told(false, 1).await;
    }
}

/// What is bound stays bound; whoever changed it is told, and the rest is in force.
#[tokio::test]
async fn another_address_waits_for_the_next_start() {
    let world = World::new().await;
    let metrics = |port: u16| format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n");
    let broker = world.broker(&world.configuration(&(metrics(0) + &rule(&["dev"])))).await;
    // The same addresses are nothing to warn of.
    world.write("broker.toml", &world.configuration(&(metrics(0) + &rule(&["dev", "prod"]))));
    broker.signal(Signal::HUP);
    broker.logged("the configuration was reloaded").await;
    assert!(!broker.errors().contains("needs a restart"), "{}", broker.errors());

    let moved = world.configuration(&(metrics(9) + &rule(&["staging"])));
    let moved = moved.replace("broker.sock", "elsewhere.sock");
    world.write("broker.toml", &moved);
    broker.signal(Signal::HUP);
    for section in ["[listen]", "[metrics]"] {
        broker.logged(&format!("the change of {section} needs a restart")).await;
    }
    let mut client = world.client_of(&world.socket(), &["staging"]).await;
    assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("staging"));
    assert!(!world.directory.path().join("elsewhere.sock").exists());
}
