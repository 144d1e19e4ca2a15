//! Nothing lost: what the proxy needn't change leaves byte for byte, in both directions.

mod lines;
mod messages;
mod over_http;

use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sigward_tests::upstream::{Received, Reply, Step};

use self::messages::{Answer, Case, Generation};
use crate::setup::World;

/// Checks messages of a generation until one isn't what it was.
fn check(generation: Generation, exchange: impl Fn(Case) -> Result<(), TestCaseError>) {
    let config =
        Config { cases: 300, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    if let Err(error) = TestRunner::new(config).run(&messages::case(generation), exchange) {
        panic!("{error}");
    }
}

/// Tells the server what to answer to the message of a case; the number of the first request that may be it.
fn prepare(world: &World, case: &Case) -> usize {
    let first = world.upstream.requests().len();
    // What has no method is found under that of HTTP.
    let name = if case.method.is_empty() { "POST" } else { &case.method };
    let accepted = || Reply::Http(202, Vec::new(), String::new());
    world.upstream.next(name, case.answer.as_ref().map_or_else(accepted, reply));
    first
}

/// What the server received of it.
async fn received(world: &World, first: usize, case: &Case) -> Received {
    // A stream that a session asks for has no method either.
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
