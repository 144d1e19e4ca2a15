//! Over Streamable HTTP: bodies and events are passed on unchanged.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use sigward_tests::upstream::event;

use super::messages::{Case, Protocol};
use super::{check, prepare, question_under, received, response_under};
use crate::http::{Headers, Listening, lines};
use crate::setup::{THREE, World};

#[test]
fn any_message_over_http_arrives_unchanged() {
    run(Protocol::Sessions);
}

#[test]
fn any_message_over_http_without_a_session_arrives_unchanged() {
    run(Protocol::Stateless);
}

/// One proxy and one server for all messages.
fn run(protocol: Protocol) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (world, proxy, headers) = runtime.block_on(async {
        let world = World::new().await;
        let proxy = Listening::start(&world, &THREE, &[]).await;
        let headers = match protocol {
            Protocol::Sessions => proxy.session("2025-11-25").await,
            Protocol::Stateless => vec![("mcp-protocol-version", "2026-07-28".to_owned())],
        };
        (world, proxy, headers)
    });
    check(protocol, |case| runtime.block_on(exchange(&world, &proxy, &lines(&headers), &case)));
}

/// Sends the message of a case, and compares what each side received.
async fn exchange(
    world: &World,
    proxy: &Listening,
    headers: Headers<'_>,
    case: &Case,
) -> Result<(), TestCaseError> {
    let first = prepare(world, case);
    let mut answered = proxy.post(headers, &case.sent).await;
    let received = received(world, first, case).await;
    prop_assert_eq!(received.text(), &case.forwarded);

    let Some(answer) = &case.answer else {
        prop_assert_eq!(answered.status, 202);
        return Ok(());
    };
    prop_assert_eq!(answered.status, 200);
    let mut expected = String::new();
    if let Some((id, params, result)) = &answer.question {
        // The session is the client's own, and so are its ids.
        let question = answered.expect_event("the question").await;
        prop_assert_eq!(question, event(None, &question_under(id, params)));
        let response = response_under(id, result);
        prop_assert_eq!(proxy.post(headers, &response).await.status, 202);
        let arrived =
            world.upstream.expect("the client's answer", |it| it.is_response_to(id)).await;
        prop_assert_eq!(arrived.text(), response);
    }
    if answered.is_stream() {
        expected += &event(None, &answer.notification);
        expected += &event(None, &answer.response);
    } else {
        expected += &answer.response;
    }
    prop_assert_eq!(answered.text().await, expected);
    Ok(())
}
