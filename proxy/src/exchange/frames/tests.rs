use http_body_util::StreamBody;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::budget::Budget;
use crate::sse::{Event, Parser};

/// The server's messages for request 1: a comment, an event of another type, a request, a notification, the response to
/// another request, the response to request 1 in two lines, a second response, and a notification after it.
const NAMED: &str = concat!(
    ": hello\n\n",
    "id: 1\nevent: ping\ndata: {\"id\":1,\"result\":{}}\n\n",
    "id: 2\ndata: {\"id\":7,\"method\":\"roots/list\"}\r\n\r\n",
    "id: 3\ndata: {\"method\":\"notifications/message\"}\n\n",
    "id: 4\ndata: {\"id\":2,\"result\":{\"of\":2}}\n\n",
    "id: 5\ndata: {\"id\":1,\ndata: \"result\":{\"of\":1}}\n\n",
    "id: 6\ndata: {\"id\":1,\"result\":{\"of\":1,\"again\":1}}\n\n",
    "id: 7\ndata: {\"method\":\"notifications/late\"}\n\n",
);
const OWN: &str = "{\"id\":1,\n\"result\":{\"of\":1}}";

fn call(is_stateless: bool) -> Request {
    let meta = match is_stateless {
        true => r#","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#,
        false => "",
    };
    Request::from_proxy(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping"{meta}}}"#)).unwrap()
}

/// The reading of a body that arrives in `pieces`, and ends with success or an error.
fn reading(call: &Request, kind: &str, pieces: Vec<Bytes>, ends_well: bool) -> FrameReading {
    let pieces = pieces.into_iter().map(|piece| Ok(http_body::Frame::data(piece)));
    let end = (!ends_well).then(|| Err(std::io::Error::other("cut")));
    let body = StreamBody::new(futures_util::stream::iter(pieces.chain(end)));
    let response = reqwest::Response::from(http::Response::new(reqwest::Body::wrap(body)));
    let wait = std::time::Duration::from_secs(60);
    let frames = Frames::new(response, Some(kind), "h".to_owned(), wait, Budget::new(1 << 20));
    let on_response = OnResponse { inspect: Box::new(|_| None), needs_whole: false };
    FrameReading::begin(call, StatusCode::OK, Box::new(frames), on_response).unwrap()
}

/// Reads all frames; returns them with the result at the end.
async fn read(reading: &mut FrameReading) -> (Vec<u8>, Result<(), Error>) {
    let mut all = Vec::new();
    loop {
        match reading.next().await {
            Ok(Some(frame)) => all.extend_from_slice(&frame),
            Ok(None) => return (all, Ok(())),
            Err(error) => return (all, Err(error)),
        }
    }
}

/// The messages that a client reads, and whether it has an event id to resume after.
fn messages(bytes: &[u8]) -> (Vec<String>, bool) {
    let mut parser = Parser::new(1 << 20, None);
    parser.push(bytes);
    let events = std::iter::from_fn(|| parser.pop());
    let texts = events.filter_map(|event| match event {
        Event::Message(text) => Some(text),
        Event::Dropped(_) => None,
    });
    (texts.collect(), parser.last_id().is_some())
}

fn responses(messages: &[String]) -> Vec<&String> {
    messages.iter().filter(|text| !text.contains("method")).collect()
}

/// For a stream that ends at any byte, with success or an error: the client gets its own response once, or can resume
/// after an event, or gets an error.
#[tokio::test]
async fn a_stream_cut_at_any_byte_is_never_silent() {
    let unnamed: String =
        NAMED.split_inclusive('\n').filter(|line| !line.starts_with("id:")).collect();
    for stream in [NAMED, &unnamed] {
        let own_ends = stream.find("\"of\":1}}\n\n").unwrap() + "\"of\":1}}\n\n".len();
        for is_stateless in [false, true] {
            let call = call(is_stateless);
            for (cut, ends_well) in (0..=stream.len()).flat_map(|cut| [(cut, true), (cut, false)]) {
                let pieces = stream.as_bytes()[..cut].chunks(7).map(Bytes::copy_from_slice);
                let mut reading = reading(&call, "text/event-stream", pieces.collect(), ends_well);
                let (bytes, end) = read(&mut reading).await;
                let shown = format!("cut at {cut}, stateless {is_stateless}, well {ends_well}");
                assert!(reading.is_between(), "{shown}: an event can follow");
                let (messages, knows_event) = messages(&bytes);
                let responses = responses(&messages);
                let is_answered = cut >= own_ends;
                assert_eq!(responses, vec![OWN; usize::from(is_answered)], "{shown}");
                let can_go_on = !is_stateless && knows_event;
                assert_eq!(reading.is_resumable(), can_go_on, "{shown}");
                match end {
                    Ok(()) => assert!(ends_well && (is_answered || can_go_on), "{shown}"),
                    Err(_) => assert!(!ends_well || !(is_answered || can_go_on), "{shown}"),
                }
                let asks = messages.iter().any(|text| text.contains("roots/list"));
                assert!(!(asks && is_stateless), "{shown}");
            }
        }
    }
}

/// A body that needs no change is forwarded byte by byte, however it is split.
#[test]
fn unchanged_frames_are_the_received_bytes() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let large = "x".repeat(200 << 10);
    let stream = format!(
        ": hi\r\n\r\nid: 1\ndata: {{\"method\":\"notifications/message\",\"params\":\"{large}\"}}\n\ndata: \
         {{\"id\":1,\"result\":{{\"of\":\"{large}\"}}}}\r\rretry: 1\ndata: {{\"id\":1,\"error\":{{}}}}\n\n"
    );
    let (same, dropped) = stream.split_at(stream.rfind("retry").unwrap());
    assert!(dropped.contains("error"), "a second response");
    let strategy = proptest::collection::vec(1..stream.len(), 0..6);
    TestRunner::new(Config::with_cases(32))
        .run(&strategy, |mut cuts| {
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<Bytes> = cuts
                .windows(2)
                .map(|pair| Bytes::copy_from_slice(&stream.as_bytes()[pair[0]..pair[1]]))
                .collect();
            let mut reading = reading(&call(false), "text/event-stream", pieces, true);
            let (bytes, end) = runtime.block_on(read(&mut reading));
            assert!(end.is_ok());
            assert_eq!(bytes, format!("{same}retry: 1\n\n").into_bytes());
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn only_foreign_messages_of_a_batch_are_dropped() {
    let (note, own, other) = (
        r#"{"method":"notifications/message"}"#,
        r#"{"id":1,"result":{}}"#,
        r#"{"id":2,"result":{}}"#,
    );
    for (batch, kept) in [
        (format!("[{note},{own}]"), Some(format!("[{note},{own}]"))),
        (format!("[{note}, {other}, {own}]"), Some(format!("[{note},{own}]"))),
        (format!("[{other}]"), None),
        (other.to_owned(), None),
        (own.to_owned(), Some(own.to_owned())),
    ] {
        let body = vec![Bytes::from(batch.clone())];
        let mut reading = reading(&call(false), "application/json", body, true);
        let (bytes, end) = read(&mut reading).await;
        assert_eq!(bytes, kept.clone().unwrap_or_default().into_bytes(), "{batch}");
        assert_eq!(matches!(end, Err(Error::ForeignAnswer)), kept.is_none(), "{batch}: {end:?}");
    }
}

/// A success that isn't MCP, or has no message, is an error.
#[tokio::test]
async fn a_success_without_a_message_is_an_error() {
    for body in ["", "{}", "null", r#"{"method":"notifications/message"}"#] {
        let pieces = vec![Bytes::from(body)];
        let mut reading = reading(&call(false), "application/json", pieces, true);
        let _ = reading.next().await;
        assert!(reading.missing().is_some(), "{body}");
    }
}
