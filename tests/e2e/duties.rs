//! The requirements for a relay, one by one: with every profile, over both sides of the proxy, in protocol versions
//! with and without sessions, where they apply. The ten cases in which relays usually fail are in [`crate::nasty`], and
//! the profiles in [`crate::profiles`].

mod headers;
mod lists;
mod replayed;
mod resumed;
mod server;
mod tasks;

use serde_json::{Value, json};
use sigward_tests::upstream::{Gate, Received, Reply, Step};

use crate::agent::{Agent, SESSIONS, SIDES, STATELESS, Side};
use crate::setup::{THREE, World, assert_names, failure, rpc_error, text};

/// Each side with each protocol version.
fn all() -> impl Iterator<Item = (Side, &'static str)> {
    SIDES.into_iter().flat_map(|side| [SESSIONS, STATELESS].map(|version| (side, version)))
}

/// The requests of a method that a profile signed.
fn signed_by(world: &World, method: &str, profile: &str) -> Vec<Received> {
    let mut requests = world.upstream.requests_of(method);
    requests.retain(|request| request.identity() == world.home.identity(profile));
    requests
}

/// Each session gets the client's own handshake, unchanged, once; nothing is called before it is complete.
#[tokio::test]
async fn each_session_has_one_handshake() {
    for side in SIDES {
        for version in ["2025-03-26", "2025-06-18", "2025-11-25"] {
            let world = World::new().await;
            let mut agent = Agent::unready(&world, side, version, &THREE, &[]).await;
            let capabilities = r#"{"roots":{"listChanged":true},"experimental":{"x":{"n":1.10}}}"#;
            let result = agent.initialize(capabilities).await;
            assert_eq!(result["serverInfo"]["name"], "verifying-upstream", "the server's own name");
            for profile in THREE {
                let called = agent.call_as("whoami", profile).await;
                assert_eq!(text(&called), world.home.identity(profile));
                for method in ["initialize", "notifications/initialized"] {
                    assert_eq!(signed_by(&world, method, profile).len(), 1, "{side:?} {version}");
                }
                let opened = &signed_by(&world, "initialize", profile)[0];
                assert_names(opened.text(), &[capabilities, version]);
                assert_eq!(opened.param("/clientInfo/name"), "sigward-tests");
                let streams = |it: &Received| {
                    it.http_method == "GET" && it.identity() == world.home.identity(profile)
                };
                world.upstream.expect("the GET stream", streams).await;
                // The server refuses calls before `notifications/initialized`.
                let methods: Vec<_> = world.upstream.requests();
                let mut methods: Vec<_> = methods
                    .iter()
                    .filter(|it| it.identity() == world.home.identity(profile))
                    .map(Received::method)
                    .collect();
                methods.retain(|method| *method != "tools/list" && !method.is_empty());
                assert_eq!(methods, ["initialize", "notifications/initialized", "tools/call"]);
            }
        }
    }
}

/// An answer that ends without a response is an error at once, and the call is never resent.
#[tokio::test]
async fn a_stream_without_a_response_fails_the_call() {
    let progress =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1}}"#;
    for (side, version) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &["--retries", "3"]).await;
        for profile in ["dev", "prod"] {
            if side == Side::Listening && (profile == "dev" || version == STATELESS) {
                // The client reads such a stream itself, and its end is passed on.
                continue;
            }
            for steps in [
                vec![],
                vec![Step::Data(progress.to_owned())],
                vec![Step::Data(progress.to_owned()), Step::Cut],
            ] {
                let before = world.upstream.requests_of("tools/call").len();
                world.upstream.next("tools/call", Reply::Stream(steps));
                let failed = agent.call_as("write_note", profile).await;
                assert!(!failure(&failed).is_empty());
                let sent = world.upstream.requests_of("tools/call").len() - before;
                assert_eq!(sent, 1, "{side:?} {version} {profile}");
            }
        }
    }
}

/// Progress is passed on unchanged, before the response; messages after the response aren't.
#[tokio::test]
async fn progress_of_a_call_is_passed_on_until_its_response() {
    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":0.50,"x":1e1}}"#;
    for (side, version) in all() {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
        for profile in ["dev", "staging"] {
            let gate = Gate::default();
            let late = progress.replace("0.50", &format!("\"late, of {profile}\""));
            let steps = vec![
                Step::Raw(": comment\nunknown: field\nid\n\n".to_owned()),
                Step::Data(progress.to_owned()),
                Step::Wait(gate.clone()),
                Step::UsualResponse,
                Step::Data(late.clone()),
            ];
            world.upstream.next("tools/call", Reply::Stream(steps));
            let id = agent.call_later("echo", profile).await;
            agent.expect_line("the progress", |line| line == progress).await;
            gate.open();
            assert_eq!(text(&agent.response(&id).await), "{}");
            text(&agent.call_as("whoami", profile).await);
            if side == Side::Stdio || (profile != "dev" && version == SESSIONS) {
                let unread = agent.unread();
                assert!(!unread.contains(&late), "{side:?} {version}: {unread:?}");
            }
        }
    }
}

/// A cancellation goes only to the session of the call, and no response follows.
#[tokio::test]
async fn a_cancellation_goes_to_the_session_of_its_call() {
    for (side, version) in all() {
        for profile in ["dev", "staging"] {
            let world = World::new().await;
            let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
            text(&agent.call_as("whoami", "staging").await);
            let id = agent.call_later("slow", profile).await;
            let call = world.upstream.expect("the call", |it| it.calls("slow")).await;
            agent.cancel(&id).await;
            if version == STATELESS {
                world.upstream.expect_abandoned(&call).await;
                assert_eq!(world.upstream.requests_of("notifications/cancelled").len(), 0);
            } else {
                let cancels = |it: &Received| it.method() == "notifications/cancelled";
                let cancelled = world.upstream.expect("the cancellation", cancels).await;
                assert_eq!(cancelled.identity(), world.home.identity(profile), "{side:?}");
                assert_eq!(cancelled.header("mcp-session-id"), call.header("mcp-session-id"));
                assert_eq!(cancelled.param("/requestId"), id);
                assert_eq!(cancelled.param("/reason"), "enough");
            }
            if !(side == Side::Listening && profile == "dev") {
                world.upstream.slow().open();
                text(&agent.call_as("whoami", profile).await);
                let answered = format!("\"id\":{id},");
                let unread = agent.unread();
                assert!(!unread.iter().any(|line| line.contains(&answered)), "{unread:?}");
            }
        }
    }
}

/// Changed roots are reported to every session, and progress to the server that requested it.
#[tokio::test]
async fn notifications_of_the_client_reach_the_right_sessions() {
    for side in SIDES {
        let world = World::new().await;
        let mut agent = Agent::unready(&world, side, SESSIONS, &THREE, &[]).await;
        agent.initialize(r#"{"roots":{"listChanged":true},"sampling":{}}"#).await;
        for profile in THREE {
            text(&agent.call_as("whoami", profile).await);
        }
        agent.send(r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#).await;
        for profile in THREE {
            let reported = |it: &Received| {
                it.method() == "notifications/roots/list_changed"
                    && it.identity() == world.home.identity(profile)
            };
            world.upstream.expect("the change of the roots", reported).await;
        }
        for profile in ["staging", "dev"] {
            let question = format!(
                r#"{{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{{"_meta":{{"progressToken":"of-{profile}"}}}}}}"#
            );
            let session = world.upstream.sessions_of(world.home.identity(profile)).remove(0);
            world.upstream.push(&session, &question).await;
            let asked = agent.expect("the question", |it| it["method"] == "sampling/createMessage");
            let asked = asked.await;
            // Two servers may use the same token, so the client gets a token of the proxy.
            let given = &asked["params"]["_meta"]["progressToken"];
            agent
                .send(&format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{given},"progress":1}}}}"#
                ))
                .await;
            let token = Value::from(format!("of-{profile}"));
            let reported = |it: &Received| {
                it.method() == "notifications/progress" && it.param("/progressToken") == token
            };
            let reported = world.upstream.expect("the progress", reported).await;
            assert_eq!(reported.identity(), world.home.identity(profile), "{side:?}");
            agent.answer(&asked, "{}").await;
        }
    }
}

#[tokio::test]
async fn pings_work_in_both_directions() {
    for side in SIDES {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
        assert_eq!(agent.request("ping", "{}").await["result"], json!({}));
        for profile in ["dev", "prod"] {
            text(&agent.call_as("whoami", profile).await);
            let session = world.upstream.sessions_of(world.home.identity(profile)).remove(0);
            world.upstream.push(&session, r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).await;
            let ping = agent.expect("the ping", |it| it["method"] == "ping").await;
            agent.answer(&ping, "{}").await;
            let pong =
                |it: &Received| it.is_response_to("\"p\"") && it.identity().ends_with(profile);
            world.upstream.expect("the answer", pong).await;
        }
    }
}

/// 2025-03-26 has batches: each message is handled separately, in order. Later versions refuse batches.
#[tokio::test]
async fn batches_are_split_or_refused() {
    let batch = r#"[{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"whoami","arguments":{"aws_profile":"prod"}}}, {"jsonrpc":"2.0","method":"notifications/roots/list_changed"},
        {"jsonrpc":"2.0","id":"b","method":"tools/call","params":{"name":"whoami"}},{"jsonrpc":"2.0","id":"c"}]"#;
    let batch = batch.replace('\n', "");
    for side in SIDES {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, "2025-03-26", &THREE, &[]).await;
        agent.send_batch(&batch).await;
        for (id, profile) in [("a", "prod"), ("b", "dev")] {
            let called = agent.response(&Value::from(id)).await;
            assert_eq!(text(&called), world.home.identity(profile), "{side:?}");
        }
        assert_eq!(rpc_error(&agent.response(&Value::from("c")).await).0, -32600);
        let noted = |it: &Received| it.method() == "notifications/roots/list_changed";
        world.upstream.expect("the notification", noted).await;
        let whole = world.upstream.requests();
        assert!(whole.iter().all(|it| !it.text().starts_with('[')), "no batch is sent");

        for version in ["2025-06-18", SESSIONS] {
            let world = World::new().await;
            let mut agent = Agent::start(&world, side, version, &THREE, &[]).await;
            agent.send_batch(&batch).await;
            let refused = agent.expect("the refusal", |it| it["error"].is_object()).await;
            assert_eq!(rpc_error(&refused).0, -32600, "{side:?} {version}");
            assert_eq!(world.upstream.requests_of("tools/call").len(), 0);
        }
    }
}

/// `subscriptions/listen` is a long POST: its notifications are passed on at once, and an end without a response is an
/// error.
#[tokio::test]
async fn a_subscription_has_no_time_limit() {
    let note = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"1"}}}"#;
    for side in SIDES {
        let world = World::new().await;
        let arguments = ["--read-timeout", "0.2", "--tool-timeout", "0.2"];
        let mut agent = Agent::start(&world, side, STATELESS, &THREE, &arguments).await;
        let (quiet, end) = (Gate::default(), Gate::default());
        let steps = vec![
            Step::Data(note.to_owned()),
            Step::Wait(quiet.clone()),
            Step::Data(note.to_owned()),
            Step::Wait(end.clone()),
            Step::Cut,
        ];
        world.upstream.next("subscriptions/listen", Reply::Stream(steps));
        let id = agent.start_request("subscriptions/listen", r#"{"notifications":{}}"#).await;
        agent.expect_line("the first", |line| line == note).await;
        // Longer than the limits on silence: each call of the slow tool takes as long as one.
        failure(&agent.call("slow", "{}").await);
        failure(&agent.call("slow", "{}").await);
        quiet.open();
        agent.expect_line("the second", |line| line == note).await;
        end.open();
        let sent = world.upstream.requests_of("subscriptions/listen");
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].identity(), world.home.identity("dev"));
        if side == Side::Stdio {
            rpc_error(&agent.response(&id).await);
        } else {
            agent.ended(&id).await;
        }
        assert_eq!(world.upstream.requests_of("subscriptions/listen").len(), 1, "{side:?}");
    }
}

/// An input request of the server is passed on as a result, and the repeated call with the answers goes to the same
/// profile (Multi Round-Trip Requests).
#[tokio::test]
async fn a_repeated_call_with_answers_keeps_its_profile() {
    let asks = r#"{"resultType":"input_required","inputRequests":{"k":{"method":"elicitation/create","params":{"message":"?","n":1.10}}},"requestState":"opaque/+= é"}"#;
    for side in SIDES {
        for profile in ["dev", "prod"] {
            let world = World::new().await;
            let mut agent = Agent::start(&world, side, STATELESS, &THREE, &[]).await;
            world.upstream.next("tools/call", Reply::Result(asks.to_owned()));
            let id = agent.call_later("echo", profile).await;
            let line = agent.expect_line("the request", |it| it.contains("input_required")).await;
            assert_names(&line, &[asks, &format!("\"id\":{id}")]);
            let again = format!(
                r#"{{"name":"echo","arguments":{{"aws_profile":"{profile}"}},"inputResponses":{{"k":{{"action":"accept","content":{{"n":1.10}}}}}},"requestState":"opaque/+= é"}}"#
            );
            assert_eq!(text(&agent.request("tools/call", &again).await), "{}");
            let calls = world.upstream.requests_of("tools/call");
            assert_eq!(calls.len(), 2);
            for call in &calls {
                assert_eq!(call.identity(), world.home.identity(profile), "{side:?}");
            }
            let kept = r#""inputResponses":{"k":{"action":"accept","content":{"n":1.10}}},"requestState":"opaque/+= é""#;
            assert_names(calls[1].text(), &[kept]);
        }
    }
}

/// Requests other than tool calls choose their profile in `_meta`.
#[tokio::test]
async fn other_requests_choose_their_profile_in_meta() {
    for (side, version) in all() {
        let world = World::new().await;
        let mut client = Agent::start(&world, side, version, &THREE, &[]).await;
        for (method, params) in [
            ("resources/list", ""),
            ("resources/templates/list", ""),
            ("resources/read", r#""uri":"test://note","#),
            ("prompts/list", ""),
            ("prompts/get", r#""name":"greet","#),
            (
                "completion/complete",
                r#""ref":{"type":"ref/prompt","name":"greet"},"argument":{"name":"a","value":""},"#,
            ),
        ] {
            for profile in ["prod", "dev"] {
                let params = format!(r#"{{{params}"_meta":{{"sigward/profile":"{profile}"}}}}"#);
                let answer = client.request(method, &params).await;
                assert!(answer["result"].is_object(), "{method}: {answer}");
                assert_eq!(signed_by(&world, method, profile).len(), 1, "{method} with {profile}");
            }
            let plain = format!("{{{}}}", params.trim_end_matches(','));
            client.request(method, &plain).await;
            assert_eq!(signed_by(&world, method, "dev").len(), 2, "{method} without a choice");

            let before = world.upstream.requests_of(method).len();
            for given in [r#""nobody""#, "7", "[]"] {
                let params = format!(r#"{{{params}"_meta":{{"sigward/profile":{given}}}}}"#);
                let answer = client.request(method, &params).await;
                let (_, message) = rpc_error(&answer);
                assert_names(message, &["dev", "staging", "prod"]);
            }
            let after = world.upstream.requests_of(method).len();
            assert_eq!(after, before, "{method}: no request was sent");
        }
    }
}
