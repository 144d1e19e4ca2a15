//! Over standard input and output: one message per line.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use sigward_tests::processes::StdioClient;

use super::messages::{Case, Protocol};
use super::{check, prepare, question_under, received, response_under};
use crate::setup::{THREE, World};

#[test]
fn any_message_arrives_unchanged() {
    run(Protocol::Sessions);
}

#[test]
fn any_message_without_a_session_arrives_unchanged() {
    run(Protocol::Stateless);
}

/// One proxy and one server for all messages.
fn run(protocol: Protocol) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (world, client) = runtime.block_on(async {
        let world = World::new().await;
        let mut client = StdioClient::start(world.private_proxy(&THREE, &[]));
        if protocol == Protocol::Sessions {
            client.initialize_as("2025-11-25", r#"{"sampling":{}}"#).await;
        }
        (world, RefCell::new(client))
    });
    check(protocol, |case| runtime.block_on(exchange(&world, &mut client.borrow_mut(), &case)));
}

/// Sends the message of a case, and compares what each side received.
async fn exchange(
    world: &World,
    client: &mut StdioClient,
    case: &Case,
) -> Result<(), TestCaseError> {
    let first = prepare(world, case);
    let asked = case.answer.as_ref().and_then(|answer| answer.question.as_ref());
    client.send(&case.sent).await;
    let received = received(world, first, case).await;

    let mut expected = Vec::new();
    let mut answered = None;
    if let Some(answer) = &case.answer {
        let is_stream = answer.as_events || asked.is_some();
        expected.extend(is_stream.then(|| answer.notification.clone()));
        if let Some((id, params, result)) = asked {
            // This id is the proxy's, as two sessions may use the same.
            let question = line(client).await;
            let given = serde_json::from_str::<Envelope<'_>>(&question);
            let given = given.map_err(|error| TestCaseError::fail(format!("{error}: {question}")));
            let given = given?.id.get().to_owned();
            expected.insert(0, question_under(&given, params));
            client.send(&response_under(&given, result)).await;
            let arrived =
                world.upstream.expect("the client's answer", |it| it.is_response_to(id)).await;
            answered = Some((arrived.text().to_owned(), response_under(id, result)));
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
    if let Some((arrived, sent)) = answered {
        prop_assert_eq!(arrived, sent);
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
