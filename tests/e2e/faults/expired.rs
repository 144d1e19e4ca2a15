//! Certificates of both sides that are valid for seconds and are replaced in time, under continuous calls.

use std::time::Duration;

use sigward_tests::deadline;
use sigward_tests::processes::StdioClient;
use sigward_tests::workloads::{self, BROKER, dns, uri};

use super::CALLS;
use crate::setup::text;
use crate::tls::scene::{AGENT, Scene, rule};

/// The validity of the first certificates, which are replaced as soon as they are in use.
const LIFE: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn certificates_expiring_under_load_lose_no_call() {
    let scene = Scene::new(&rule("spiffe_id", AGENT)).await;
    let write = |end| {
        let issue =
            |names: &[_]| scene.authority.issue_between(names, workloads::now() - HOUR, end);
        scene.write_broker(&issue(&[uri(BROKER), dns("broker.test")]));
        scene.write_agent(&issue(&[uri(AGENT)]));
    };
    let reloaded = async |count: usize| {
        let done = || scene.broker.errors().matches("the TLS files were reloaded").count();
        let waiting = async {
            while done() < count {
                tokio::task::yield_now().await;
            }
        };
        deadline::within(waiting, || format!("not {count} reloads: {}", scene.broker.errors()))
            .await;
    };
    let end = workloads::now() + LIFE;
    write(end);
    reloaded(1).await;
    let mut client = StdioClient::start(scene.proxy(&["dev"], &["--broker-name", BROKER]));
    client.initialize().await;
    write(workloads::now() + HOUR);

    let identity = scene.world.home.identity("dev").to_owned();
    let (mut before, mut after) = (0, 0);
    while after < 3 * CALLS {
        let mut ids = Vec::new();
        for _ in 0..CALLS {
            let call = r#"{"name":"whoami","arguments":{}}"#;
            ids.push(client.start_request("tools/call", call).await);
        }
        for id in ids {
            assert_eq!(text(&client.response(&id).await), identity, "after {before} + {after}");
            match workloads::now() < end {
                true => before += 1,
                false => after += 1,
            }
        }
    }
    reloaded(2).await;
    eprintln!("{before} calls before the certificates expired, {after} after");
}
