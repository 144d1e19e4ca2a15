//! Sessions of `aws login`, renewed in turn by the broker and by botocore: each continues from what the other wrote.

use std::path::Path;

use serde_json::Value;
use sigward_proto::v1::{ProfileState, WatchProfilesRequest};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::console::Console;
use sigward_tests::deadline;
use sigward_tests::processes::{self, Process, StdioClient, assert_no_canary, call};
use sigward_tests::tools;

use crate::setup::{World, assert_names, connect, failure, own_uid, text};

/// Two profiles of one session.
const PROFILES: [&str; 2] = ["person", "again"];

/// A world with [`PROFILES`], whose session has expired keys.
async fn expired() -> (World, Console) {
    let world = World::at_home(AwsHome::new(), |builder| builder).await;
    let console = Console::start(world.home.keys()).await;
    console.sign_in(&world.home, "person");
    let session = std::fs::read_to_string(world.home.config_file()).unwrap();
    let person = session.split("[profile person]").nth(1).unwrap();
    world.home.config(&format!("[profile again]{person}"));
    (world, console)
}

async fn broker(world: &World, console: &Console) -> Process {
    let profiles = "[[profile]]\nname = \"person\"\nendpoints = [\"upstream\"]\n[[profile]]\nname = \"again\"\nendpoints = [\"upstream\"]\n";
    let rule = format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\", \"person\", \"again\"]\n",
        own_uid()
    );
    let config = world.write("broker.toml", &world.configuration(&(profiles.to_owned() + &rule)));
    let mut command = world.broker_command(&["serve", "--config", config.to_str().unwrap()]);
    command.envs([console.environment()]);
    let broker = Process::start(command);
    broker.logged("listening").await;
    broker
}

fn whoami(profile: &str) -> String {
    call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#))
}

/// The id of the key that signs for a profile.
async fn key(world: &World, client: &mut StdioClient, profile: &str) -> String {
    let called = client.request("tools/call", &whoami(profile)).await;
    assert_names(text(&called), &["Console/person"]);
    let signed = world.upstream.requests_of("tools/call").pop().unwrap().signature.unwrap();
    signed.key.access_key_id
}

fn cached(directory: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(Console::cache_file(directory)).unwrap()).unwrap()
}

/// The key id that botocore gets for `person`, with the sessions in `directory`.
async fn botocore(world: &World, console: &Console, directory: &Path) -> String {
    const SCRIPT: &str = "import botocore.session
keys = botocore.session.Session(profile='person').get_credentials().get_frozen_credentials()
print(keys.access_key)";
    let mut command = processes::command(tools::botocore_with_crt());
    command.args(["-c", SCRIPT]).envs(world.home.environment()).envs([console.environment()]);
    command.env("AWS_LOGIN_CACHE_DIRECTORY", directory);
    let ended = deadline::within(command.output(), || "botocore doesn't end".to_owned()).await;
    let output = ended.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn the_broker_and_botocore_renew_one_session_in_turn() {
    let (world, console) = expired().await;
    let home = world.home.path().join(".aws/login/cache");
    let _broker = broker(&world, &console).await;
    let mut client = world.client_of(&world.socket(), &["dev", "person", "again"]).await;

    // The broker renews, once for both profiles, and botocore uses what it wrote.
    let mut ids = Vec::new();
    for profile in PROFILES {
        ids.push(client.start_request("tools/call", &whoami(profile)).await);
    }
    for id in &ids {
        assert_names(text(&client.response(id).await), &["Console/person"]);
    }
    let (renewals, first) = console.renewals();
    assert_eq!(renewals, 1);
    let first = first.unwrap();
    for profile in PROFILES {
        assert_eq!(key(&world, &mut client, profile).await, first.access_key_id);
    }
    assert_eq!(botocore(&world, &console, &home).await, first.access_key_id);
    assert_eq!(console.renewals().0, 1, "what the broker wrote is fresh to botocore");
    assert_eq!(cached(&home)["idToken"], "SgwCanaryToken/login-id");

    // Botocore renews the session in another directory; the broker loads botocore's file.
    let elsewhere = world.directory.path().join("sessions");
    std::fs::create_dir(&elsewhere).unwrap();
    let expire = |mut session: Value, directory: &Path| {
        session["accessToken"]["expiresAt"] = "2020-01-01T00:00:00Z".into();
        let (file, temporary) = (Console::cache_file(directory), directory.join("new"));
        std::fs::write(&temporary, session.to_string()).unwrap();
        std::fs::rename(temporary, file).unwrap();
    };
    expire(cached(&home), &elsewhere);
    let second = botocore(&world, &console, &elsewhere).await;
    assert_eq!(console.renewals().0, 2, "with the refresh token and the key that the broker kept");
    assert_ne!(second, first.access_key_id);
    std::fs::rename(Console::cache_file(&elsewhere), Console::cache_file(&home)).unwrap();
    for profile in PROFILES {
        fresh(&world, profile, 2).await;
        assert_eq!(key(&world, &mut client, profile).await, second);
    }
    assert_eq!(console.renewals().0, 2);

    // The broker continues from botocore's file, and botocore from the broker's.
    expire(cached(&home), &home);
    let mut keys = Vec::new();
    for profile in PROFILES {
        fresh(&world, profile, 3).await;
        keys.push(key(&world, &mut client, profile).await);
    }
    keys.push(botocore(&world, &console, &home).await);
    let (renewals, third) = console.renewals();
    assert_eq!(renewals, 3);
    let third = third.unwrap().access_key_id;
    assert!(keys.iter().all(|key| *key == third), "{keys:?} {third}");
}

/// Waits until the profile has credentials of that generation.
async fn fresh(world: &World, name: &str, generation: u64) {
    let mut broker = connect(&world.socket()).await;
    let mut lists = broker.watch_profiles(WatchProfilesRequest {}).await.unwrap().into_inner();
    let seen = async {
        while let Some(list) = lists.message().await.unwrap() {
            let profile = list.profiles.iter().find(|profile| profile.name == name).unwrap();
            if profile.credential_generation == generation && profile.state() == ProfileState::Fresh
            {
                return;
            }
        }
        panic!("the broker has ended");
    };
    deadline::within(seen, || format!("{name} has no generation {generation}")).await;
}

/// Signed out elsewhere: nothing is signed, and the error reveals nothing of the session.
#[tokio::test]
async fn the_error_for_an_ended_session_names_aws_login() {
    let (world, console) = expired().await;
    let file = Console::cache_file(&world.home.path().join(".aws/login/cache"));
    let mut session: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    session["refreshToken"] = "SgwCanaryToken/used-up".into();
    std::fs::write(&file, session.to_string()).unwrap();
    let mut command = world.private_proxy(&["dev", "person"], &[]);
    command.envs([console.environment()]);
    let mut client = StdioClient::start(command);
    client.initialize_as("2025-11-25", "{}").await;
    let refused = client.request("tools/call", &whoami("person")).await;
    let failure = failure(&refused);
    assert_names(failure, &["person", "aws login"]);
    assert_no_canary("the error", failure);
    assert_eq!(console.renewals().0, 0);
}
