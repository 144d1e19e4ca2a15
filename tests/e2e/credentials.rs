//! Credentials over time, as processes see them: an STS of another project, and keys that must leave the memory.

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
async fn chained_roles_work_with_the_sts_of_moto() {
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

/// The number of copies of each key's secret in the broker; `None` if only root may read that.
fn copies(broker: &Process, keys: &[&Key]) -> Option<Vec<usize>> {
    let needles: Vec<&[u8]> = keys.iter().map(|key| key.secret.as_bytes()).collect();
    match memory::count(broker.pid(), &needles) {
        Ok(counts) => Some(counts),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            assert_ne!(own_uid(), 0, "root can read it");
            None
        }
    }
}

/// A client after a call with each of both profiles.
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
        assert!(counts.iter().all(|count| *count > 0), "control: both are in memory {counts:?}");
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
    assert_eq!(text(&called), world.home.identity("dev"), "the other profile still works");
    if let Some(counts) = copies(&broker, &keys) {
        assert!(counts[0] > 0 && counts[1] == 0, "dev and prod: {counts:?}");
    }
}

/// The same if the profile is removed from the AWS files.
#[tokio::test]
async fn the_keys_of_a_profile_removed_from_the_files_are_gone_from_memory() {
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
    assert_eq!(text(&called), world.home.identity("dev"), "the other profile still works");
    if let Some(counts) = copies(&broker, &[world.home.key("dev"), world.home.key("prod")]) {
        assert!(counts[0] > 0 && counts[1] == 0, "dev and prod: {counts:?}");
    }
}

/// Waits until `profile` signs with credentials of a generation other than `before`.
async fn renewed(world: &World, profile: &str, before: u64) {
    let mut watched = connect(&world.socket()).await;
    let lists = watched.watch_profiles(WatchProfilesRequest {}).await;
    let mut lists = lists.unwrap().into_inner();
    let seen = async {
        loop {
            let list = lists.message().await.unwrap().expect("the broker still runs");
            let found = list.profiles.iter().find(|found| found.name == profile).unwrap();
            if found.credential_generation != before && found.state() == ProfileState::Fresh {
                return;
            }
        }
    };
    deadline::within(seen, || format!("no other credentials of {profile}")).await;
}

/// Rotation: the file has other keys, and the previous ones are no longer in memory.
#[tokio::test]
async fn the_keys_before_a_rotation_are_gone_from_memory() {
    let world = World::new().await;
    let broker = world.broker(&world.configuration(&rule(&THREE))).await;
    let mut client = dev_and_prod(&world).await;
    // The same user, so that the session stays valid.
    let (old, new) = (world.home.key("dev"), Key::user("dev"));
    world.home.keys().insert(new.clone());
    let keys = [old, &new, world.home.key("prod")];
    if let Some(counts) = copies(&broker, &keys) {
        assert!(counts[0] > 0 && counts[1] == 0 && counts[2] > 0, "control: {counts:?}");
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

/// A reload gives a profile other credentials: the previous ones are no longer in memory.
#[tokio::test]
async fn the_keys_replaced_by_a_reload_are_gone_from_memory() {
    let world = World::new().await;
    let config = world.configuration(&rule(&THREE));
    let broker = world.broker(&config).await;
    let _before = dev_and_prod(&world).await;
    let keys = ["dev", "staging", "prod"].map(|profile| world.home.key(profile));
    if let Some(counts) = copies(&broker, &keys) {
        assert!(counts[0] > 0 && counts[1] == 0 && counts[2] > 0, "control: {counts:?}");
    }
    let other = config.replace("name = \"dev\"\n", "name = \"dev\"\naws_profile = \"staging\"\n");
    assert_ne!(other, config);
    world.write("broker.toml", &other);
    broker.signal(Signal::HUP);
    broker.logged("the configuration was reloaded").await;
    // A new session: the server accepts no other user in the previous one.
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    let called = client.call("whoami", "{}").await;
    assert_eq!(
        text(&called),
        world.home.identity("staging"),
        "dev has the identity of staging now"
    );
    if let Some(counts) = copies(&broker, &keys) {
        assert!(counts[0] == 0 && counts[1] > 0 && counts[2] > 0, "dev, staging, prod: {counts:?}");
    }
}

#[tokio::test]
async fn a_faulty_configuration_keeps_the_previous_one() {
    let world = World::new().await;
    let broker = world.broker(&world.configuration(&rule(&THREE))).await;
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    world.write("broker.toml", &world.configuration("nonsense = 1\n"));
    broker.signal(Signal::HUP);
    assert_names(&broker.logged("nonsense").await, &["broker.toml"]);
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"));
}

/// A file that gets back the content of before a reload has changed, and is loaded.
#[tokio::test]
async fn a_file_that_gets_back_its_previous_content_is_reloaded() {
    let world = World::new().await;
    let good = world.configuration(&rule(&["dev"]));
    let broker = world.broker(&good).await;
    let mut watched = connect(&world.socket()).await;
    let lists = watched.watch_profiles(WatchProfilesRequest {}).await;
    let mut lists = lists.unwrap().into_inner();
    let mut reported = async |rejected: bool, profiles: usize| {
        let reported = async {
            loop {
                let list = lists.message().await.unwrap().expect("the broker still runs");
                if (list.config_rejected, list.profiles.len()) == (rejected, profiles) {
                    return;
                }
            }
        };
        let explain = || format!("rejected {rejected} with {profiles} profiles isn't reported");
        deadline::within(reported, explain).await;
    };
    reported(false, 1).await;
    let (bad, wider) =
        (world.configuration("nonsense = 1\n"), world.configuration(&rule(&["dev", "prod"])));
    for (text, rejected, profiles) in [(bad, true, 1), (wider, false, 2)] {
        world.write("broker.toml", &text);
        broker.signal(Signal::HUP);
        reported(rejected, profiles).await;
        world.write("broker.toml", &good);
        reported(false, 1).await;
    }
}

/// Bound addresses don't change: the log says that a restart is needed, and the rest is in force.
#[tokio::test]
async fn a_changed_address_needs_a_restart() {
    let world = World::new().await;
    let metrics = |port: u16| format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n");
    let broker = world.broker(&world.configuration(&(metrics(0) + &rule(&["dev"])))).await;
    // Unchanged addresses cause no warning.
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
