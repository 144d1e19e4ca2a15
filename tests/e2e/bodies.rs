//! Which part of a request is sent to the broker: the body if a rule inspects it, else only its hash.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use sigward_tests::deadline;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::setup::{World, own_uid, text};

/// The size of the argument of each call.
const SIZE: usize = 300_000;

/// Relays between a proxy and the broker, and counts the bytes that the proxy sends.
fn counting_relay(world: &World) -> (std::path::PathBuf, Arc<AtomicUsize>) {
    let (path, broker) = (world.directory.path().join("counted.sock"), world.socket());
    let (listener, sent) = (UnixListener::bind(&path).unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((proxy, _)) = listener.accept().await {
            let (mut from_proxy, mut to_proxy) = proxy.into_split();
            let broker = UnixStream::connect(&broker).await.unwrap();
            let (mut from_broker, mut to_broker) = broker.into_split();
            let counter = Arc::clone(&counter);
            tokio::spawn(async move { tokio::io::copy(&mut from_broker, &mut to_proxy).await });
            tokio::spawn(async move {
                let mut bytes = vec![0; 1 << 16];
                while let Ok(length @ 1..) = from_proxy.read(&mut bytes).await {
                    counter.fetch_add(length, Ordering::SeqCst);
                    to_broker.write_all(&bytes[..length]).await.unwrap();
                }
            });
        }
    });
    (path, sent)
}

#[tokio::test]
async fn a_body_that_no_rule_inspects_is_not_sent_to_the_broker() {
    let world = World::new().await;
    let rule = |more: &str| {
        let uid = own_uid();
        world.configuration(&format!(
            "[[rule]]\npeer = {{ uid = {uid} }}\nprofiles = [\"dev\"]\nendpoints = [\"upstream\"]\n{more}\n"
        ))
    };
    let broker = world.broker(&rule("")).await;
    let (socket, sent) = counting_relay(&world);
    let mut client = world.client_of(&socket, &["dev"]).await;
    let arguments = format!(r#"{{"padding":"{}"}}"#, "x".repeat(SIZE));
    let mut call = async || {
        let before = sent.load(Ordering::SeqCst);
        let called = client.call("whoami", &arguments).await;
        assert_eq!(text(&called), world.home.identity("dev"));
        sent.load(Ordering::SeqCst) - before
    };
    let first = call().await;
    assert!(first < SIZE / 10, "{first} bytes were sent to the broker");

    // With a rule that inspects the call, the proxy learns this from the next answer, and sends the body.
    world.write("broker.toml", &rule("tools = { allow = [\"whoami\"] }"));
    broker.signal(Signal::HUP);
    deadline::within(broker.logged("the configuration was reloaded"), || "no reload".to_owned())
        .await;
    for _ in 0..2 {
        let whole = call().await;
        assert!(whole > SIZE, "{whole} bytes were sent to the broker");
    }
    let log = broker.errors();
    assert_eq!(log.matches("denial=BODY_REQUIRED").count(), 1, "the call is refused once: {log}");
}
