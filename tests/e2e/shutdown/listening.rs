//! The end of a listening proxy: calls in flight may finish, new connections are refused, and every session gets its
//! DELETE.

use std::time::Instant;

use rustix::process::Signal;
use sigward_tests::processes;
use sigward_tests::upstream::{Gate, Reply};

use super::{LIMIT, assert_all_ended, gone, sessions};
use crate::agent::{Agent, SESSIONS, Side};
use crate::http::{Listening, connect, lines};
use crate::setup::{THREE, World, text};

const CLIENTS: usize = 5;

/// Several clients have open streams, calls in flight and sessions of every profile: the proxy ends within two seconds,
/// whether the server answers a DELETE or not.
#[tokio::test]
async fn the_end_deletes_every_session_of_every_client() {
    for (signal, answers) in [(Signal::TERM, true), (Signal::INT, true), (Signal::TERM, false)] {
        let world = World::new().await;
        let mut proxy = Listening::start(&world, &THREE, &[]).await;
        let broker = processes::children(proxy.proxy.pid())[0];
        let mut open_streams = Vec::new();
        for _ in 0..CLIENTS {
            let session = proxy.session(SESSIONS).await;
            let session = lines(&session);
            open_streams.push(proxy.get(&session).await);
            for profile in THREE {
                let call = format!(
                    r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"whoami","arguments":{{"aws_profile":"{profile}"}}}}}}"#
                );
                text(&proxy.post(&session, &call).await.message().await);
            }
            let slow = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"slow","arguments":{"aws_profile":"prod"}}}"#;
            open_streams.push(proxy.post(&session, slow).await);
        }
        let open = sessions(&world);
        assert_eq!(open.len(), CLIENTS * THREE.len());
        if !answers {
            let never = Gate::default();
            world.upstream.hook(move |request| {
                (request.http_method == "DELETE").then(|| Reply::Usual.held(&never))
            });
        }
        let started = Instant::now();
        proxy.proxy.signal(signal);
        let (status, errors) = proxy.proxy.ended().await;
        gone(broker).await;
        let took = started.elapsed();
        assert!(status.success(), "{errors}");
        assert!(took < LIMIT, "{signal:?}, answers: {answers}: took {took:?}");
        assert_all_ended(&world, &open);
    }
}

/// Calls in flight are answered, new connections are refused, and endless streams end normally.
#[tokio::test]
async fn a_drain_answers_calls_in_flight() {
    let world = World::new().await;
    let arguments = ["--log-level", "INFO"];
    let mut agent = Agent::start(&world, Side::Listening, SESSIONS, &THREE, &arguments).await;
    let mut calls = Vec::new();
    for profile in ["dev", "prod"] {
        calls.push(agent.call_later("slow", profile).await);
    }
    for profile in ["dev", "prod"] {
        let called = |it: &sigward_tests::upstream::Received| {
            it.calls("slow") && it.identity() == world.home.identity(profile)
        };
        world.upstream.expect("the slow call", called).await;
    }
    let (listening, session) = agent.http();
    let address = listening.address.clone();
    let stream = listening.get(&session).await;
    agent.process().signal(Signal::TERM);
    agent.process().logged("draining").await;
    assert!(connect(&address).await.is_err(), "new connections are refused");
    world.upstream.slow().open();
    for id in &calls {
        text(&agent.response(id).await);
    }
    assert_eq!(stream.text().await, "", "ends normally");
}
