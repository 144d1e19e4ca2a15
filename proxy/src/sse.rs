//! Server-sent events, as far as MCP uses them (WHATWG HTML, section 9.2.6).
//!
//! The parser is as lenient as the standard (unknown fields, comments, lines without a colon, any
//! line break, cuts at every byte), and bounded: an event beyond the limit is dropped as a whole
//! and reported, and the next one isn't affected.

mod frames;

use std::collections::VecDeque;

pub use self::frames::{Boundaries, beginning_of_data, event, id, message, with_data};

/// Longer ids are ignored: they would have to fit into a header, and are stored as long as the stream.
pub const MAX_ID: usize = 4096;

/// The longest line that can contain an id.
const MAX_ID_LINE: usize = MAX_ID + b"id: ".len();

/// The largest buffer that is kept from one line to the next.
const MAX_KEPT: usize = 64 << 10;

/// A result of parsing.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The data of one event of type `message`.
    Message(String),
    /// An event was dropped.
    Dropped(Why),
}

/// Why an event was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It is larger than the limit.
    #[error("larger than the limit")]
    TooLarge,
    /// It isn't UTF-8.
    #[error("not UTF-8")]
    NotText,
    /// It is a batch that isn't valid JSON, or has too many messages.
    #[error("a batch that can't be read")]
    BadBatch,
}

/// An incremental parser of one stream.
#[derive(Debug)]
pub struct Parser {
    limit: usize,
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// Whether the event's type isn't `message`.
    is_other: bool,
    /// The id of the incomplete event, which becomes valid once the event is complete: after a cut
    /// within the event, the event must be sent again.
    id_buffer: Option<String>,
    /// The id of the last complete event. It is kept across connections if a stream is resumed.
    last_id: Option<String>,
    retry_ms: Option<u64>,
    oversize: bool,
    /// Whether the line is skipped.
    is_long: bool,
    after_cr: bool,
    at_start: bool,
    ready: VecDeque<Event>,
}

impl Parser {
    /// A parser whose events have at most `limit` bytes. `last_id` is the last id of the stream
    /// that this one resumes.
    #[must_use]
    pub fn new(limit: usize, last_id: Option<String>) -> Self {
        Self {
            limit,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            is_other: false,
            id_buffer: last_id.clone(),
            last_id,
            retry_ms: None,
            oversize: false,
            is_long: false,
            after_cr: false,
            at_start: true,
            ready: VecDeque::new(),
        }
    }

    /// The bytes of the incomplete event, and of events that wait to be popped.
    #[must_use]
    pub fn held(&self) -> usize {
        let ready = self.ready.iter().map(|event| match event {
            Event::Message(text) => text.len(),
            Event::Dropped(_) => 0,
        });
        self.line.len() + self.data.len() + ready.sum::<usize>()
    }

    /// The id of the last complete event, to resume after, if the stream has one.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The wait before resuming in milliseconds, if the stream has set it.
    #[must_use]
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// The next complete event.
    pub fn pop(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    /// Adds the next bytes of the stream, cut anywhere.
    pub fn push(&mut self, mut bytes: &[u8]) {
        // An empty push doesn't separate CR and LF.
        if bytes.is_empty() {
            return;
        }
        if std::mem::take(&mut self.after_cr) && bytes.first() == Some(&b'\n') {
            bytes = &bytes[1..];
        }
        while let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) {
            self.keep(&bytes[..end]);
            let cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if cr {
                match bytes.first() {
                    Some(b'\n') => bytes = &bytes[1..],
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            self.end_line();
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let line = self.line.len() + bytes.len();
        if !self.oversize && line + self.data.len() > self.limit {
            self.oversize = true;
            self.data = Vec::new();
        }
        // The rest of a too large event is parsed only for its id.
        if self.oversize && (self.is_long || line > self.limit.min(MAX_ID_LINE)) {
            self.is_long = true;
            self.line = Vec::new();
            // A skipped line must not look blank: a blank line ends the event.
            self.line.push(b':');
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.at_start) && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        let mut line = match line.is_empty() {
            true => {
                self.dispatch();
                line
            }
            false => self.field(line),
        };
        self.is_long = false;
        line.clear();
        // A stream may live long after its largest event.
        line.shrink_to(MAX_KEPT);
        self.line = line;
    }

    /// Handles a field, and returns a buffer for reuse.
    fn field(&mut self, mut line: Vec<u8>) -> Vec<u8> {
        let colon = memchr::memchr(b':', &line).unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" if self.oversize => {}
            // Most events have one line of data, which is moved without copying.
            b"data" if !self.has_data => {
                self.has_data = true;
                let before = line.len() - value.len();
                line.drain(..before);
                return std::mem::replace(&mut self.data, line);
            }
            b"data" => {
                self.data.push(b'\n');
                self.data.extend_from_slice(value);
            }
            b"event" => self.is_other = !matches!(value, b"" | b"message"),
            // An empty id clears the ids before it.
            b"id" if !value.contains(&0) => {
                let id = std::str::from_utf8(value).ok();
                let id = id.filter(|id| !id.is_empty() && id.len() <= MAX_ID);
                self.id_buffer = id.map(str::to_owned);
            }
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                self.retry_ms = std::str::from_utf8(value).ok().and_then(|ms| ms.parse().ok());
            }
            _ => {}
        }
        line
    }

    fn dispatch(&mut self) {
        let data = std::mem::take(&mut self.data);
        let has_data = std::mem::take(&mut self.has_data);
        let is_other = std::mem::take(&mut self.is_other);
        self.last_id.clone_from(&self.id_buffer);
        if std::mem::take(&mut self.oversize) {
            self.ready.push_back(Event::Dropped(Why::TooLarge));
        } else if has_data && !data.is_empty() && !is_other {
            self.ready.push_back(match String::from_utf8(data) {
                Ok(data) => Event::Message(data),
                Err(_) => Event::Dropped(Why::NotText),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&[u8]], limit: usize) -> (Vec<Event>, Parser) {
        let mut parser = Parser::new(limit, None);
        let mut events = Vec::new();
        for piece in pieces {
            parser.push(piece);
            events.extend(std::iter::from_fn(|| parser.pop()));
        }
        (events, parser)
    }

    const STREAM: &[u8] = b"\xef\xbb\xbf: hello\r\nid: 7\r\nretry: 250\nunknown: x\nlonely\rdata: {\"a\":\r\ndata: 1}\r\n\r\nevent: ping\ndata: no\n\nid: 8\ndata:\n\ndata:{\"b\":2}\n\ndata: cut";

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let expected =
            vec![Event::Message("{\"a\":\n1}".into()), Event::Message("{\"b\":2}".into())];
        for cut in 0..=STREAM.len() {
            let (events, parser) = parse(&[&STREAM[..cut], b"", &STREAM[cut..]], 1 << 20);
            assert_eq!(events, expected, "cut at {cut}");
            assert_eq!((parser.last_id(), parser.retry_ms()), (Some("8"), Some(250)));
        }
        let bytes: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(parse(&bytes, 1 << 20).0, expected);
    }

    #[test]
    fn only_the_event_beyond_the_limit_is_lost() {
        let stream = b"data: 0123456789012345678901234567890123456789\n\ndata: ok\n\n";
        for cut in 0..=stream.len() {
            let (events, _) = parse(&[&stream[..cut], &stream[cut..]], 24);
            assert_eq!(
                events,
                [Event::Dropped(Why::TooLarge), Event::Message("ok".into())],
                "cut at {cut}"
            );
        }
        let many = b"data: 0123456789\ndata: 0123456789\ndata: 0123456789\n\ndata: ok\n\n";
        assert_eq!(parse(&[many], 24).0.len(), 2);
    }

    #[test]
    fn memory_stays_within_the_limit() {
        let (events, parser) = parse(&[&[b'x'; 4096]; 64].map(|piece| piece as &[u8]), 1024);
        assert_eq!(events, []);
        assert!(parser.line.capacity() + parser.data.capacity() <= 2048);
    }

    #[test]
    fn a_large_event_leaves_no_memory_behind() {
        let large = vec![b'x'; 1 << 20];
        let one = [b"data: ".as_slice(), &large, b"\n\n"].concat();
        let two = [b"data: ".as_slice(), &large, b"\ndata: ", &large, b"\n\n"].concat();
        for stream in [one, two] {
            let (events, parser) = parse(&[&stream, b"id: 1\n"], 1 << 24);
            assert_eq!(events.len(), 1);
            assert!(parser.line.capacity() + parser.data.capacity() <= 2 * MAX_KEPT);
        }
    }

    #[test]
    fn an_id_can_be_resumed_after_or_is_ignored() {
        let long = format!("id: {}\n\n", "x".repeat(MAX_ID + 1));
        for (stream, id) in [
            ("id: 1\n\n", Some("1")),
            ("id: 1\nid\n\n", None),
            ("id: 1\n\nid:\n\n", None),
            (&long, None),
        ] {
            assert_eq!(parse(&[stream.as_bytes()], 1 << 20).1.last_id(), id, "{stream}");
        }
    }

    /// WHATWG HTML, 9.2.6: the id is set when the event is dispatched. A cut event must be sent again.
    #[test]
    fn an_id_counts_once_its_event_is_complete() {
        let stream = b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n";
        for cut in 0..=stream.len() {
            let (events, parser) = parse(&[&stream[..cut]], 1 << 20);
            let id = [None, Some("1"), Some("2")][events.len()];
            assert_eq!(parser.last_id(), id, "cut at {cut}");
        }
    }

    #[test]
    fn an_event_that_is_too_large_has_an_id() {
        for stream in
            ["id: 7\ndata: 0123456789012345678\n\n", "data: 0123456789012345678\nid: 7\n\n"]
        {
            let (events, parser) = parse(&[stream.as_bytes()], 16);
            assert_eq!(events, [Event::Dropped(Why::TooLarge)]);
            assert_eq!(parser.last_id(), Some("7"), "the dropped event isn't requested again");
        }
    }

    #[test]
    fn invalid_utf8_is_reported() {
        assert_eq!(parse(&[b"data: \xff\n\n"], 64).0, [Event::Dropped(Why::NotText)]);
    }
}
