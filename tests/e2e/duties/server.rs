//! Requests and notifications of servers, in the streams of every session.

use serde_json::json;
use sigward_tests::upstream::{Received, Reply, Step};

use crate::agent::{Agent, SESSIONS, SIDES, STATELESS, Side};
use crate::setup::{THREE, World, assert_names, text};

const CAPABILITIES: &str = r#"{"roots":{},"sampling":{},"elicitation":{"form":{},"url":{}}}"#;

/// Sampling, elicitation and roots, from each profile's session, in the stream of a call and in the GET stream: the
/// params are passed on unchanged, and the answer has the server's own id.
#[tokio::test]
async fn questions_of_every_session_are_answered() {
    for side in SIDES {
        let world = World::new().await;
        let mut agent = Agent::unready(&world, side, SESSIONS, &THREE, &[]).await;
        agent.initialize(CAPABILITIES).await;
        for profile in THREE {
            text(&agent.call_as("whoami", profile).await);
            let session = world.upstream.sessions_of(world.home.identity(profile)).remove(0);
            for (number, method) in
                ["sampling/createMessage", "elicitation/create", "roots/list"].iter().enumerate()
            {
                let params = format!(r#"{{"n":1.10,"of":"{profile}","é":"\u00e9"}}"#);
                for pushed in [true, false] {
                    let id = format!("\"q/{profile}/{number}/{pushed}\"");
                    let question = format!(
                        r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#
                    );
                    let call = if pushed {
                        world.upstream.push(&session, &question).await;
                        None
                    } else {
                        let steps = vec![
                            Step::Data(question),
                            Step::AwaitResponse(id.clone()),
                            Step::UsualResponse,
                        ];
                        world.upstream.next("tools/call", Reply::Stream(steps));
                        Some(agent.call_later("write_note", profile).await)
                    };
                    let asked =
                        agent.expect_line("the question", |line| line.contains(&params)).await;
                    let asked = serde_json::from_str(&asked).unwrap();
                    agent.answer(&asked, r#"{"m":2.50}"#).await;
                    let answered =
                        world.upstream.expect("the answer", |it| it.is_response_to(&id)).await;
                    assert_eq!(answered.identity(), world.home.identity(profile), "{side:?}");
                    assert_eq!(answered.header("mcp-session-id"), Some(session.as_str()));
                    assert_names(answered.text(), &[r#""result":{"m":2.50}"#]);
                    if let Some(call) = call {
                        text(&agent.response(&call).await);
                    }
                }
            }
        }
    }
}

/// An error of the client is passed on as an answer, and a question that the server cancels is cancelled at the client,
/// with the id that the client knows.
#[tokio::test]
async fn refused_and_cancelled_questions_are_passed_on() {
    for side in SIDES {
        let world = World::new().await;
        let mut agent = Agent::unready(&world, side, SESSIONS, &THREE, &[]).await;
        agent.initialize(CAPABILITIES).await;
        for profile in THREE {
            text(&agent.call_as("whoami", profile).await);
            let session = world.upstream.sessions_of(world.home.identity(profile)).remove(0);
            let question = r#"{"jsonrpc":"2.0","id":0,"method":"roots/list"}"#;
            world.upstream.push(&session, question).await;
            let asked = agent.expect("the question", |it| it["method"] == "roots/list").await;
            let id = &asked["id"];
            agent
                .send(&format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-1,"message":"not {profile}"}}}}"#
                ))
                .await;
            let refusal = format!("not {profile}");
            let refused = |it: &Received| it.is_response_to("0") && it.text().contains(&refusal);
            let refused = world.upstream.expect("the refusal", refused).await;
            assert_eq!(refused.identity(), world.home.identity(profile));

            world.upstream.push(&session, &question.replace('0', "1")).await;
            let asked = agent.expect("the question", |it| it["method"] == "roots/list").await;
            let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"reason":"never mind"}}"#;
            world.upstream.push(&session, cancel).await;
            let cancelled = agent
                .expect("the cancellation", |it| it["method"] == "notifications/cancelled")
                .await;
            assert_eq!(cancelled["params"]["requestId"], asked["id"], "{side:?} {profile}");
            assert_eq!(cancelled["params"]["reason"], "never mind");
        }
    }
}

/// 2026-07-28 has no questions: if a server asks one, it isn't passed on to a client that couldn't answer it.
#[tokio::test]
async fn questions_without_sessions_are_dropped() {
    let world = World::new().await;
    let mut agent = Agent::start(&world, Side::Stdio, STATELESS, &THREE, &[]).await;
    for profile in ["dev", "prod"] {
        let question = r#"{"jsonrpc":"2.0","id":0,"method":"roots/list"}"#;
        let steps = vec![Step::Data(question.to_owned()), Step::UsualResponse];
        world.upstream.next("tools/call", Reply::Stream(steps));
        text(&agent.call_as("write_note", profile).await);
        assert_eq!(agent.unread(), [""; 0]);
    }
}

/// A changed list is reported once, by the default profile's server; a changed resource, by the server of the
/// subscription.
#[tokio::test]
async fn changes_are_reported_once() {
    for side in SIDES {
        let world = World::new().await;
        let mut agent = Agent::start(&world, side, SESSIONS, &THREE, &[]).await;
        for profile in THREE {
            let params =
                json!({"uri": format!("test://{profile}"), "_meta": {"sigward/profile": profile}});
            let subscribed = agent.request("resources/subscribe", &params.to_string()).await;
            assert!(subscribed["result"].is_object(), "{subscribed}");
            let session = world.upstream.sessions_of(world.home.identity(profile)).remove(0);
            for list in ["tools", "resources", "prompts"] {
                let changed =
                    format!(r#"{{"jsonrpc":"2.0","method":"notifications/{list}/list_changed"}}"#);
                world.upstream.push(&session, &changed).await;
            }
            let updated = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"test://{profile}"}}}}"#
            );
            world.upstream.push(&session, &updated).await;
            // Messages that were pushed earlier have arrived by now, if at all.
            agent.expect_line("the update", |line| line == updated).await;
            let reports = agent.unread();
            let reports = reports.iter().filter(|line| line.contains("list_changed")).count();
            assert_eq!(reports, 3, "{side:?}: those of the default profile, after {profile}");
        }
    }
}

/// Unanswered questions don't accumulate: the server gets an error for the oldest ones, and can still ask.
#[tokio::test]
async fn the_oldest_of_too_many_questions_are_refused() {
    let world = World::new().await;
    let mut agent = Agent::unready(&world, Side::Stdio, SESSIONS, &THREE, &[]).await;
    agent.initialize(CAPABILITIES).await;
    let mut questions = String::new();
    for number in 0..1100 {
        questions +=
            &format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{number},\"method\":\"roots/list\"}}\n\n");
    }
    let steps = vec![Step::Raw(questions), Step::UsualResponse];
    world.upstream.next("tools/call", Reply::Stream(steps));
    text(&agent.call_as("write_note", "prod").await);
    for number in [0, 75] {
        let number = number.to_string();
        let given_up = |it: &Received| it.is_response_to(&number) && it.text().contains("too many");
        let given_up = world.upstream.expect("the error for an old question", given_up).await;
        assert_eq!(given_up.identity(), world.home.identity("prod"));
    }
    // The last one is still open; an answer to a refused one is dropped.
    let asked = agent.unread();
    assert_eq!(asked.len(), 1100, "all questions were passed on");
    for question in [&asked[0], &asked[1099]] {
        let question = serde_json::from_str(question).unwrap();
        agent.answer(&question, r#"{"roots":[]}"#).await;
    }
    world.upstream.expect("the answer", |it| it.is_response_to("1099")).await;
    text(&agent.call_as("whoami", "prod").await);
    let to_first = |it: &&Received| it.is_response_to("0");
    assert_eq!(world.upstream.requests().iter().filter(to_first).count(), 1, "only the error");

    let long = format!(r#""{}""#, "x".repeat(2000));
    let question = format!(r#"{{"jsonrpc":"2.0","id":{long},"method":"roots/list"}}"#);
    let steps = vec![Step::Data(question), Step::UsualResponse];
    world.upstream.next("tools/call", Reply::Stream(steps));
    text(&agent.call_as("write_note", "prod").await);
    let refused = |it: &Received| it.is_response_to(&long) && it.text().contains("too long");
    world.upstream.expect("the refusal", refused).await;
    assert_eq!(agent.unread().len(), 1100, "the long question isn't passed on");
}
