//! Fidelity: what the proxy needn't change is passed on byte for byte, in both directions.

mod lines;
mod messages;
mod over_http;

use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sigward_tests::upstream::{Received, Reply, Step};

use self::messages::{Answer, Case, Protocol};
use crate::setup::World;

/// Checks generated messages until one was changed.
fn check(protocol: Protocol, exchange: impl Fn(Case) -> Result<(), TestCaseError>) {
    let config =
        Config { cases: 300, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    if let Err(error) = TestRunner::new(config).run(&messages::case(protocol), exchange) {
        panic!("{error}");
    }
}

/// Sets the server's answer to the message of a case; returns the number of the first request that may be it.
fn prepare(world: &World, case: &Case) -> usize {
    let first = world.upstream.requests().len();
    // A message without a method is found under the HTTP method.
    let name = if case.method.is_empty() { "POST" } else { &case.method };
    let accepted = || Reply::Http(202, Vec::new(), String::new());
    world.upstream.next(name, case.answer.as_ref().map_or_else(accepted, reply));
    first
}

/// The request of a case, as the server received it.
async fn received(world: &World, first: usize, case: &Case) -> Received {
    // The GET stream of a session has no method either.
    let it = |it: &Received| {
        it.number >= first && it.http_method == "POST" && it.method() == case.method
    };
    let received = world.upstream.expect("the message", it).await;
    assert!(received.signature.is_ok());
    received
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
