//! Certificates and authorities that change while the broker runs.

use sigward_tests::deadline;
use sigward_tests::workloads::{Workloads, uri};

use super::scene::{AGENT, Scene, rule};
use crate::metrics::get;
use crate::setup::{assert_names, ping};

/// The attack: an authority with a stolen key is removed, but connections with its certificates stay open.
#[tokio::test]
async fn removing_an_authority_closes_its_connections() {
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
async fn invalid_tls_files_are_reported_and_the_previous_ones_stay_in_use() {
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
    // The previous files stay in use, for open and for new connections.
    open.sign(ping(&scene.world, "dev")).await.unwrap();
    let mut new = scene.client(&agent).await.unwrap();
    new.sign(ping(&scene.world, "dev")).await.unwrap();
    // Key and certificate match again: the broker uses the new certificate, and no connection was closed.
    let issued = scene.authority.broker();
    scene.write("key", &issued.key);
    scene.write("cert", &issued.cert);
    scene.broker.logged("the TLS files were reloaded").await;
    open.sign(ping(&scene.world, "dev")).await.unwrap();
    let good = async {
        while !get(&metrics, "/metrics").await.contains("\nsigward_tls_files_rejected 0\n") {}
    };
    deadline::within(good, || "the metric stays 1".to_owned()).await;
    scene.client(&agent).await.unwrap().sign(ping(&scene.world, "dev")).await.unwrap();
}
