//! Properties of every event stream, which the fuzz target `sse` tries to violate.
//!
//! The first two bytes of the input decide how the rest is split, and the limit for an event.

use sigward_proxy::sse::{Boundaries, Event, Parser, Why, event, message, with_data};

/// More than any input of the fuzzer.
const ENOUGH: usize = 1 << 20;

/// Panics if a property is violated for `data`.
pub(crate) fn check(data: &[u8]) {
    let [cut, limit, stream @ ..] = data else { return };
    let cut = usize::from(*cut);
    let whole = read(&[stream], ENOUGH);
    assert_eq!(whole, reference(stream), "the standard reads the same");
    for limit in [ENOUGH, usize::from(*limit)] {
        let whole = read(&[stream], limit);
        let chunks: Vec<&[u8]> = stream.chunks(cut.max(1)).collect();
        assert_eq!(read(&chunks, limit), whole);
        let (head, tail) = stream.split_at(cut.min(stream.len()));
        assert_eq!(read(&[head, &[], tail], limit), whole);
    }
    frames(stream, cut.max(1));
    interjection(stream, cut.min(stream.len()));
}

#[derive(Debug, PartialEq)]
struct Read {
    events: Vec<Event>,
    last_id: Option<String>,
    retry_ms: Option<u64>,
}

fn read(pieces: &[&[u8]], limit: usize) -> Read {
    let mut parser = Parser::new(limit, None);
    let mut events = Vec::new();
    for piece in pieces {
        parser.push(piece);
        let ready: Vec<Event> = std::iter::from_fn(|| parser.pop()).collect();
        for event in &ready {
            assert!(!matches!(event, Event::Message(data) if data.len() > limit));
        }
        events.extend(ready);
        // One byte marks a skipped line.
        assert!(parser.held() <= limit.max(1), "{} bytes are held", parser.held());
    }
    let last_id = parser.last_id().map(str::to_owned);
    Read { events, last_id, retry_ms: parser.retry_ms() }
}

/// The algorithm of the standard (WHATWG HTML, 9.2.6), applied to the whole stream: fields are stored in buffers, and
/// become valid when a blank line dispatches the event.
fn reference(stream: &[u8]) -> Read {
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let mut read = Read { events: Vec::new(), last_id: None, retry_ms: None };
    let (mut data, mut kind): (Option<Vec<u8>>, Vec<u8>) = (None, Vec::new());
    let mut id_buffer = None;
    for line in whole_lines(stream) {
        if line.is_empty() {
            read.last_id.clone_from(&id_buffer);
            let (data, kind) = (data.take().unwrap_or_default(), std::mem::take(&mut kind));
            if !data.is_empty() && (kind.is_empty() || kind == b"message") {
                read.events.push(match String::from_utf8(data) {
                    Ok(data) => Event::Message(data),
                    Err(_) => Event::Dropped(Why::NotText),
                });
            }
            continue;
        }
        let mut parts = line.splitn(2, |&byte| byte == b':');
        let name = parts.next().unwrap_or_default();
        let value = parts.next().unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let text = std::str::from_utf8(value).ok();
        match name {
            b"data" => match &mut data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => data = Some(value.to_vec()),
            },
            b"event" => kind = value.to_vec(),
            b"id" if !value.contains(&0) => {
                id_buffer = text.filter(|id| !id.is_empty()).map(str::to_owned);
            }
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                read.retry_ms = text.and_then(|ms| ms.parse().ok());
            }
            _ => {}
        }
    }
    read
}

/// The complete lines.
fn whole_lines(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = vec![Vec::new()];
    let mut bytes = stream.iter().peekable();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\n' | b'\r' => {
                if byte == b'\r' {
                    bytes.next_if_eq(&&b'\n');
                }
                lines.push(Vec::new());
            }
            _ => lines.last_mut().expect("there is always one").push(byte),
        }
    }
    lines.pop();
    lines
}

/// The frames of a stream are its bytes, and each contains what the parser reads from it; with
/// other data, it contains that.
fn frames(stream: &[u8], cut: usize) {
    let mut boundaries = Boundaries::default();
    let mut parser = Parser::new(ENOUGH, None);
    let (mut passed, mut frame) = (Vec::new(), Vec::new());
    for mut chunk in stream.chunks(cut) {
        while let Some(end) = boundaries.advance(chunk) {
            frame.extend_from_slice(&chunk[..end]);
            chunk = &chunk[end..];
            parser.push(&frame);
            let read = parser.pop();
            assert_eq!(parser.pop(), None, "a frame is one event");
            assert_eq!(parser.held(), 0, "a frame ends with its event");
            if let Some(Event::Message(data)) = &read {
                // A byte order mark counts only at the start of a stream.
                if passed.is_empty() || !frame.starts_with(b"\xef") {
                    assert_eq!(message(&frame).as_deref(), Some(data.as_str()));
                }
                replaced(&frame, passed.is_empty());
            }
            passed.append(&mut frame);
        }
        frame.extend_from_slice(chunk);
    }
    // The second byte of a line break isn't an event.
    assert_eq!(boundaries.between_events(), matches!(&*frame, b"" | b"\n"));
    parser.push(&frame);
    assert_eq!(parser.pop(), None, "the rest is no event");
    passed.extend(frame);
    assert_eq!(passed, stream);
}

fn replaced(frame: &[u8], first: bool) {
    // A byte order mark counts only at the start of a stream.
    let lead: &[u8] = if first { b"" } else { b"\n" };
    let before = read(&[lead, frame], ENOUGH);
    let after = read(&[lead, &with_data(frame, Some("{}"))], ENOUGH);
    assert_eq!(after.events, [Event::Message("{}".to_owned())]);
    assert_eq!((after.last_id, after.retry_ms), (before.last_id, before.retry_ms));
}

/// An event inserted at an allowed position changes no other event.
fn interjection(stream: &[u8], at: usize) {
    let (head, tail) = stream.split_at(at);
    let mut boundaries = Boundaries::default();
    boundaries.advance_all(head);
    if !boundaries.between_events() || (at == 0 && tail.starts_with(b"\xef")) {
        return;
    }
    let with = read(&[head, &event("{}"), tail], ENOUGH);
    let mut expected = read(&[head], ENOUGH).events;
    expected.push(Event::Message("{}".to_owned()));
    let before = expected.len() - 1;
    expected.extend(read(&[stream], ENOUGH).events.into_iter().skip(before));
    assert_eq!(with.events, expected);
}
