//! Nothing lost: what the proxy needn't change leaves byte for byte, in both directions.

mod messages;

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sigward_tests::processes::StdioClient;
use sigward_tests::upstream::{Reply, Step};

use self::messages::{Answer, Case, Generation};
use crate::setup::{THREE, World};

#[test]
fn any_message_arrives_as_it_was_sent() {
    run(Generation::Sessions);
}

#[test]
fn any_message_without_a_session_arrives_as_it_was_sent() {
    run(Generation::Stateless);
}

/// One proxy and one server for all messages of a generation.
fn run(generation: Generation) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (world, client) = runtime.block_on(async {
        let world = World::new().await;
        let mut client = StdioClient::start(world.private_proxy(&THREE, &[]));
        if generation == Generation::Sessions {
            client.initialize_as("2025-11-25", r#"{"sampling":{}}"#).await;
        }
        (world, RefCell::new(client))
    });
    let config =
        Config { cases: 300, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&messages::case(generation), |case| {
        runtime.block_on(exchange(&world, &mut client.borrow_mut(), &case))
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// Sends the message of a case, and compares what came of it everywhere.
async fn exchange(
    world: &World,
    client: &mut StdioClient,
    case: &Case,
) -> Result<(), TestCaseError> {
    let before = world.upstream.requests().len();
    // What has no method is found under that of HTTP.
    let name = if case.method.is_empty() { "POST" } else { &case.method };
    let accepted = || Reply::Http(202, Vec::new(), String::new());
    world.upstream.next(name, case.answer.as_ref().map_or_else(accepted, reply));
    let asked = case.answer.as_ref().and_then(|answer| answer.question.as_ref());
    client.send(&case.sent).await;
    let received = world
        .upstream
        .expect("the message", |it| it.number >= before && it.method() == case.method)
        .await;
    prop_assert!(received.signature.is_ok());

    let mut expected = Vec::new();
    let mut answered = None;
    if let Some(answer) = &case.answer {
        let is_stream = answer.as_events || asked.is_some();
        expected.extend(is_stream.then(|| answer.notification.clone()));
        if let Some((id, params, result)) = asked {
            // The id is the proxy's here: two sessions may use the same.
            let question = line(client).await;
            let given = serde_json::from_str::<Envelope<'_>>(&question);
            let given = given.map_err(|error| TestCaseError::fail(format!("{error}: {question}")));
            let given = given?.id.get().to_owned();
            expected.insert(0, question_under(&given, params));
            client.send(&response_under(&given, result)).await;
            let came =
                world.upstream.expect("the client's answer", |it| it.is_response_to(id)).await;
            answered = Some((came.text().to_owned(), response_under(id, result)));
            let mut lines = vec![question, line(client).await];
            lines.push(line(client).await);
            expected.push(answer.response.replace('\n', ""));
            prop_assert_eq!(lines, expected);
        } else {
            let mut lines = Vec::new();
            expected.push(answer.response.replace('\n', ""));
            while lines.len() < expected.len() {
                lines.push(line(client).await);
            }
            prop_assert_eq!(lines, expected);
        }
    }
    prop_assert_eq!(received.text(), &case.forwarded);
    if let Some((came, sent)) = answered {
        prop_assert_eq!(came, sent);
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: &'a serde_json::value::RawValue,
}

async fn line(client: &mut StdioClient) -> String {
    client.expect_line("a line of the answer", |_| true).await
}

fn question_under(id: &str, params: &str) -> String {
    format!(r#"{{"x":1.10, "method":"sampling/createMessage","id": {id} ,"params":{params}}}"#)
}

fn response_under(id: &str, result: &str) -> String {
    format!(r#"{{"result" : {result},"id":{id}, "jsonrpc":"2.0"}}"#)
}

fn reply(answer: &Answer) -> Reply {
    if !answer.as_events && answer.question.is_none() {
        return Reply::Http(200, Vec::new(), answer.response.clone());
    }
    let mut steps = Vec::new();
    if let Some((id, params, _)) = &answer.question {
        steps.push(Step::Data(question_under(id, params)));
        steps.push(Step::AwaitResponse(id.clone()));
    }
    steps.push(Step::Data(answer.notification.clone()));
    steps.push(Step::Data(answer.response.clone()));
    Reply::Stream(steps)
}
