//! Connections that never complete the handshake: hundreds from one address, beside a normal caller from the same one.

use std::time::{Duration, Instant};

use sigward_tests::{deadline, memory};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::scene::{AGENT, Scene, rule};
use crate::setup::ping;

/// The most memory that such connections may cost the broker, in bytes.
const MOST: u64 = 48 << 20;
const CONNECTIONS: usize = 1500;

#[tokio::test]
async fn silent_and_slow_handshakes_block_no_caller() {
    let scene = Scene::new(&rule("spiffe_id", AGENT)).await;
    let agent = scene.authority.workload(AGENT);
    let pid = scene.broker.pid();
    let normal = async || {
        let began = Instant::now();
        let mut client = scene.client(&agent).await.expect("a normal caller gets in");
        client.sign(ping(&scene.world, "dev")).await.expect("and gets a signature");
        began.elapsed()
    };
    normal().await;
    let alone = normal().await;
    let idle = memory::restart_peak(pid).unwrap();
    let descriptors = memory::descriptors(pid).unwrap();
    // Nothing; a byte; and a first message of 16 KiB of which the last byte never comes.
    let mut long = vec![22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc];
    long.resize(16_000, 0);
    for sent in [&b""[..], &[22], &long] {
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(scene.address).await.unwrap();
            // The broker may already have closed it, to make room.
            stream.write_all(sent).await.ok();
            held.push(stream);
        }
        let during = normal().await;
        let grown = memory::peak(pid).unwrap().saturating_sub(idle);
        let shown = format!(
            "{} bytes each: {} KiB more, {during:?} after {alone:?}",
            sent.len(),
            grown >> 10
        );
        eprintln!("{shown}");
        assert!(grown <= MOST, "memory: {shown}");
        assert!(during <= Duration::from_secs(2) + 4 * alone, "latency: {shown}");
        let open = memory::descriptors(pid).unwrap();
        assert!(open <= descriptors + 1100, "{open} descriptors: {shown}");
        // An unfinished handshake is closed at the timeout, not only when the client leaves.
        let mut last = held.pop().unwrap();
        let closed = async { last.read_to_end(&mut Vec::new()).await.ok() };
        deadline::within(closed, || "an unfinished handshake isn't closed".to_owned()).await;
        drop(held);
    }
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let given_back = async {
        while memory::descriptors(pid).unwrap() > descriptors {
            ticks.tick().await;
        }
    };
    deadline::within(given_back, || "descriptors are kept".to_owned()).await;
    normal().await;
}
