//! Certificates and authorities that change under a broker that runs.

use sigward_tests::deadline;
use sigward_tests::workloads::{Workloads, uri};

use super::scene::{AGENT, Scene, rule};
use crate::metrics::get;
use crate::setup::{assert_names, ping};

/// The attack: an authority whose key was stolen is taken back, and what it has vouched for stays connected.
#[tokio::test]
async fn an_authority_that_is_removed_takes_its_connections_along() {
    let scene = Scene::new(&rule("spiffe_id", AGENT)).await;
    let other = Workloads::new();
    scene.write("client_ca", &format!("{}{}", scene.authority.pem(), other.pem()));
    scene.broker.logged("the TLS files were reloaded").await;
    let mut stays = scene.client(&scene.authority.workload(AGENT)).await.unwrap();
    let of_other = other.issue(&[uri(AGENT)]);
    let mut goes = scene.client(&of_other).await.unwrap();
    for client in [&mut stays, &mut goes] {
        client.sign(ping(&scene.world, "dev")).await.unwrap();
    }
    scene.write("client_ca", &scene.authority.pem());
    scene.until_unknown(&mut goes).await;
    scene.until_closed(&mut goes).await;
    stays.sign(ping(&scene.world, "dev")).await.expect("another authority's connection stays");
    if let Ok(mut again) = scene.client(&of_other).await {
        again.sign(ping(&scene.world, "dev")).await.unwrap_err();
    }
}

#[tokio::test]
async fn bad_files_change_nothing_and_say_so() {
    let scene =
        Scene::new(&format!("[metrics]\nlisten = \"127.0.0.1:0\"\n{}", rule("spiffe_id", AGENT)))
            .await;
    let line = scene.broker.logged("serving metrics").await;
    let metrics = line.split("address=").nth(1).unwrap().trim().to_owned();
    let agent = scene.authority.workload(AGENT);
    let mut open = scene.client(&agent).await.unwrap();
    scene.write("key", &scene.authority.broker().key);
    let line = scene.broker.logged("the new TLS files are rejected").await;
    assert_names(&line, &["listen.tls.key", scene.path("key").to_str().unwrap()]);
    assert_names(&get(&metrics, "/metrics").await, &["\nsigward_tls_files_rejected 1\n"]);
    // Those before are in force, for who is connected and for who comes.
    open.sign(ping(&scene.world, "dev")).await.unwrap();
    let mut new = scene.client(&agent).await.unwrap();
    new.sign(ping(&scene.world, "dev")).await.unwrap();
    // Both belong together again: a new broker's certificate, and nobody was dropped.
    let issued = scene.authority.broker();
    scene.write("key", &issued.key);
    scene.write("cert", &issued.cert);
    scene.broker.logged("the TLS files were reloaded").await;
    open.sign(ping(&scene.world, "dev")).await.unwrap();
    let good = async {
        while !get(&metrics, "/metrics").await.contains("\nsigward_tls_files_rejected 0\n") {}
    };
    deadline::within(good, || "the metric stays".to_owned()).await;
    scene.client(&agent).await.unwrap().sign(ping(&scene.world, "dev")).await.unwrap();
}
