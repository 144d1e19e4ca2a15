//! Floods of small things: idle connections and denied calls.

use std::fs;

use super::admitted;
use super::scene::Scene;
use crate::metrics::get;
use crate::setup::{connect, ping};

/// F3: idle connections for all descriptors that a process may have would keep other callers out.
#[tokio::test]
async fn idle_connections_leave_room_for_others() {
    for rule in [String::new(), admitted()] {
        let Some(scene) = Scene::new(&rule).await else { return };
        let attack = scene.attack(&["idle", "1100"]);
        attack.logged("placed").await;
        let mut new = connect(&scene.world.socket()).await;
        scene.sign(&mut new, "dev").await.expect("another user can connect and gets a signature");
        drop(attack);
        scene.assert_bounded_cost(&["idle", "1100"], &[]).await;
    }
}

/// F3: connecting to the metrics port needs no permission.
#[tokio::test]
async fn idle_connections_to_the_metrics_port_do_not_block_the_socket() {
    let Some(scene) = Scene::new("[metrics]\nlisten = \"127.0.0.1:0\"\n").await else { return };
    let line = scene.broker.logged("serving metrics").await;
    let address = line.split("address=").nth(1).unwrap().trim().to_owned();
    let attack = scene.attack(&["idle-tcp", &address, "1100"]);
    attack.logged("placed").await;
    let mut new = connect(&scene.world.socket()).await;
    scene.sign(&mut new, "dev").await.expect("callers can connect");
    drop(attack);
    scene.assert_bounded_cost(&["idle-tcp", &address, "1100"], &[]).await;
    assert!(get(&address, "/healthz").await.ends_with("ok\n"), "collectors can connect again");
}

/// F7: denials cost a caller without a rule nothing; their records must not fill the disk.
#[tokio::test]
async fn a_flood_of_denials_logs_a_bounded_number_of_lines() {
    let Some(scene) = Scene::new("").await else { return };
    let errors = scene.assert_bounded_cost(&["denials", "20000"], &["denied="]).await;
    let denied = errors.lines().find_map(|line| line.strip_prefix("placed denied=")).unwrap();
    assert!(denied.parse::<usize>().unwrap() >= 20_000, "{denied}");
    let of_attacker = |text: &str| text.lines().filter(|line| line.contains("54321")).count();
    let audit = fs::read_to_string(scene.audit()).unwrap();
    // A burst, then a few per second.
    let (records, lines) = (of_attacker(&audit), of_attacker(&scene.broker.errors()));
    assert!((1..300).contains(&records), "{records} records");
    assert!(lines < 300, "{lines} log lines");
}

/// F6: a token file that hangs affects only its own profile. (A pipe stands for a home directory that hangs; here it is
/// refused without waiting for it.)
#[tokio::test]
async fn a_token_cache_that_hangs_delays_no_other_profile() {
    use sha1::Digest as _;

    let Some(scene) = Scene::new("").await else { return };
    let home = &scene.world.home;
    let cache = home.path().join(".aws/sso/cache");
    fs::create_dir_all(&cache).unwrap();
    let mut config = fs::read_to_string(home.config_file()).unwrap();
    for (profile, session) in [("staging", "one"), ("prod", "two")] {
        config =
            config.replace(&format!("[profile {profile}]"), &format!("[profile {profile}-before]"));
        config += &format!(
            "\n[profile {profile}]\nsso_session = {session}\nsso_account_id = 111122223333\nsso_role_name = r\n\
             [sso-session {session}]\nsso_region = us-east-1\nsso_start_url = https://x.awsapps.com/start\n"
        );
        let name = hex::encode(sha1::Sha1::digest(session)) + ".json";
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, cache.join(name), fifo, mode, 0).unwrap();
    }
    fs::write(home.config_file(), config).unwrap();
    // Their static keys would take precedence over the SSO session.
    let keys = fs::read_to_string(home.credentials_file()).unwrap();
    let keys = keys.replace("[staging]", "[staging-before]").replace("[prod]", "[prod-before]");
    fs::write(home.credentials_file(), keys).unwrap();
    drop(scene.broker);
    let broker = scene.world.broker(&scene.config).await;
    let mut client = connect(&scene.world.socket()).await;
    let (mut one, mut two) = (client.clone(), client.clone());
    let asked = |profile: &str| ping(&scene.world, profile);
    let (one, two, third) = tokio::join!(
        one.sign(asked("staging")),
        two.sign(asked("prod")),
        client.sign(asked("dev"))
    );
    third.expect("dev is signed");
    for refused in [one, two] {
        let refused = refused.expect_err("there is no token");
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    }
    drop(broker);
}
