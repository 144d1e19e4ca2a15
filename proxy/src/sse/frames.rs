//! Events as bytes, for forwarding: finds the end of an event, and replaces its data.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// The UTF-8 byte order mark.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Follows a stream, and knows whether it is between two events.
#[derive(Debug, Clone, Copy)]
pub struct Boundaries {
    line_is_empty: bool,
    after_cr: bool,
    between: bool,
}

impl Default for Boundaries {
    fn default() -> Self {
        Self { line_is_empty: true, after_cr: false, between: true }
    }
}

impl Boundaries {
    /// Whether another event may be inserted here.
    #[must_use]
    pub fn between_events(&self) -> bool {
        self.between
    }

    /// Reads further. Returns how much of `bytes` belongs to the current event, including its blank
    /// line; `None` if the event isn't complete.
    pub fn advance(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                // The second byte of CR LF.
                b'\n' if std::mem::take(&mut self.after_cr) => at += 1,
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    at += 1;
                    if std::mem::replace(&mut self.line_is_empty, true) {
                        self.between = true;
                        if self.after_cr && bytes.get(at) == Some(&b'\n') {
                            self.after_cr = false;
                            at += 1;
                        }
                        return Some(at);
                    }
                }
                _ => {
                    (self.after_cr, self.line_is_empty, self.between) = (false, false, false);
                    at += memchr2(b'\n', b'\r', &bytes[at..]).unwrap_or(bytes.len() - at);
                }
            }
        }
        None
    }

    /// Reads all of `bytes`.
    pub fn advance_all(&mut self, mut bytes: &[u8]) {
        while let Some(end) = self.advance(bytes) {
            bytes = &bytes[end..];
        }
    }
}

/// The data of a whole event of type `message`, if it has any and that is UTF-8.
#[must_use]
pub fn message(event: &[u8]) -> Option<Cow<'_, str>> {
    let mut data: Option<Cow<'_, [u8]>> = None;
    let mut is_other = false;
    for (name, value) in fields(event) {
        match (name, &mut data) {
            (b"data", None) => data = Some(Cow::Borrowed(value)),
            (b"data", Some(data)) => {
                let data = data.to_mut();
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            (b"event", _) => is_other = !matches!(value, b"" | b"message"),
            _ => {}
        }
    }
    let data = data.filter(|data| !data.is_empty() && !is_other)?;
    match data {
        Cow::Borrowed(data) => std::str::from_utf8(data).ok().map(Cow::Borrowed),
        Cow::Owned(data) => String::from_utf8(data).ok().map(Cow::Owned),
    }
}

/// The received part of the first data line of an incomplete event.
#[must_use]
pub fn beginning_of_data(event: &[u8]) -> Option<&[u8]> {
    fields(event).find(|(name, _)| *name == b"data").map(|(_, value)| value)
}

/// The id that a whole event sets, after which its stream can be resumed. An empty id clears the ids before it; `None`
/// keeps them.
#[must_use]
pub fn id(event: &[u8]) -> Option<&str> {
    let ids = fields(event).filter(|(name, value)| *name == b"id" && !value.contains(&0));
    ids.last().map(|(_, id)| std::str::from_utf8(id).unwrap_or_default())
}

/// Names and values of the lines of an event.
fn fields(event: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let event = event.strip_prefix(BOM).unwrap_or(event);
    event.split(|byte| matches!(byte, b'\n' | b'\r')).map(|line| {
        let colon = memchr(b':', line).unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        (name, value.strip_prefix(b" ").unwrap_or(value))
    })
}

/// A message as an event. `message` must be on one line.
#[must_use]
pub fn event(message: &str) -> Vec<u8> {
    format!("event: message\ndata: {message}\n\n").into_bytes()
}

/// `event` with `data`, which must be on one line, in place of its own, or without data; its other
/// fields stay.
#[must_use]
pub fn with_data(event: &[u8], data: Option<&str>) -> Vec<u8> {
    let data = data.map(|data| format!("data: {data}\n")).unwrap_or_default();
    let mut out = Vec::with_capacity(event.len() + data.len());
    let mut written = false;
    for (number, line) in event.split(|byte| matches!(byte, b'\n' | b'\r')).enumerate() {
        // A stream may begin with a byte order mark, which isn't part of its first field. The first
        // line must stay first: before another line, the mark would become part of that line.
        let marked = line.strip_prefix(BOM).filter(|_| number == 0);
        let field = marked.unwrap_or(line);
        if !(field == b"data" || field.starts_with(b"data:")) {
            out.extend_from_slice(line);
            out.extend_from_slice(if line.is_empty() { b"" } else { b"\n" });
        } else if marked.is_some() {
            out.extend_from_slice(BOM);
            out.extend_from_slice(b":\n");
        } else if !std::mem::replace(&mut written, true) {
            out.extend_from_slice(data.as_bytes());
        }
    }
    if !written {
        out.extend_from_slice(data.as_bytes());
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [&[u8]; 4] = [
        b"\xef\xbb\xbf: hello\r\nid: 7\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\n",
        b"data: x\r\r",
        b"\n",
        b"event: ping\ndata: no\n\n",
    ];

    #[test]
    fn events_are_whole_however_the_bytes_are_cut() {
        let stream = EVENTS.concat();
        for cut in 0..=stream.len() {
            let mut boundaries = Boundaries::default();
            let mut all = vec![Vec::new()];
            for mut piece in [&stream[..cut], &stream[cut..]] {
                while let Some(end) = boundaries.advance(piece) {
                    all.last_mut().unwrap().extend_from_slice(&piece[..end]);
                    all.push(Vec::new());
                    piece = &piece[end..];
                }
                all.last_mut().unwrap().extend_from_slice(piece);
            }
            assert_eq!(all.concat(), stream, "cut at {cut}");
            assert_eq!(all.pop().unwrap(), b"");
            let messages: Vec<_> = all.iter().filter_map(|event| message(event)).collect();
            assert_eq!(messages, ["{\"a\":\n1}", "x"], "cut at {cut}");
        }
    }

    #[test]
    fn an_event_can_be_inserted_only_between_two() {
        let stream = b"data: a\n\ndata: b\r\n\r\n: c\n\n";
        let mut between = Vec::new();
        let mut boundaries = Boundaries::default();
        for (at, byte) in stream.iter().enumerate() {
            if boundaries.between_events() {
                between.push(at);
            }
            boundaries.advance_all(&[*byte]);
        }
        // Byte 19 is within a CR LF; an additional line break isn't an event.
        assert_eq!(between, [0, 9, 19, 20]);
        assert!(boundaries.between_events());
        boundaries.advance_all(b"data: cut\n");
        assert!(!boundaries.between_events());
    }

    #[test]
    fn the_beginning_of_data_is_read_before_the_event_is_complete() {
        for (event, data) in [
            (&b"id: 1\r\ndata: {\"id\":1,"[..], Some(&b"{\"id\":1,"[..])),
            (b"\xef\xbb\xbfdata:x", Some(b"x")),
            (b"id: data: 1", None),
        ] {
            assert_eq!(beginning_of_data(event), data);
        }
    }

    #[test]
    fn replacing_data_keeps_the_other_fields() {
        let event = b"id: 7\r\ndata: {\"a\":\r\nevent: message\r\ndata: 1}\r\n\r\n";
        assert_eq!(with_data(event, Some("{}")), b"id: 7\ndata: {}\nevent: message\n\n");
        assert_eq!(with_data(event, None), b"id: 7\nevent: message\n\n");
        for (event, with) in [
            (&b"\xef\xbb\xbfdata: 1\n\n"[..], &b"\xef\xbb\xbf:\ndata: {}\n\n"[..]),
            (b"\xef\xbb\xbfid: 7\ndata\n\n", b"\xef\xbb\xbfid: 7\ndata: {}\n\n"),
            (b"data: 1\n\xef\xbb\xbfid: 7\n\n", b"data: {}\n\xef\xbb\xbfid: 7\n\n"),
        ] {
            assert_eq!(with_data(event, Some("{}")), with);
        }
    }
}
