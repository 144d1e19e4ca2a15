//! Finds the members of one JSON object in its text, for edits that keep every other byte.
//!
//! Values are checked as JSON, but not parsed further. Keys aren't interpreted; a duplicate key is returned twice. The
//! depth of nesting isn't limited.

use std::ops::Range;

use crate::json::{Container, Defect, Handler, Literal, Scalar, Scanner};

/// The ranges of one member in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The range of the key, with its quotation marks.
    pub key: Range<usize>,
    /// The range of the value.
    pub value: Range<usize>,
}

/// Why a text isn't one JSON object with at most the allowed number of members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It isn't JSON from this byte on.
    #[error("not valid JSON, at byte {0}")]
    NotJson(usize),
    /// It is an array.
    #[error("a JSON array")]
    Array,
    /// It begins like a string, a number or a word; it wasn't checked whether it is JSON.
    #[error("not a JSON object")]
    Scalar,
    /// It has more members than allowed.
    #[error("more than {0} members")]
    TooMany(usize),
}

/// The members of the object in `text`, in their order.
///
/// # Errors
/// The text isn't an object, or has more than `limit` members. The whole text is checked nevertheless: whether it is
/// JSON doesn't depend on its length.
pub fn read(text: &str, limit: usize) -> Result<Vec<Member>, Fault> {
    let mut scanner = Scanner::with_depth(usize::MAX);
    let mut members = Members { all: Vec::with_capacity(4), limit, ..Members::default() };
    let scanned = scanner.push(text.as_bytes(), &mut members);
    scanned.and_then(|()| scanner.finish()).map_err(|defect| match defect {
        Defect::Syntax(at) => Fault::NotJson(at),
        Defect::Array => Fault::Array,
        Defect::Scalar => Fault::Scalar,
        // Neither can occur: the text is a `str`, and the depth has no limit.
        Defect::Encoding | Defect::Depth => Fault::NotJson(0),
    })?;
    match members.too_many {
        true => Err(Fault::TooMany(limit)),
        false => Ok(members.all),
    }
}

#[derive(Debug, Default)]
struct Members {
    all: Vec<Member>,
    limit: usize,
    too_many: bool,
    /// Whether the object has begun.
    is_open: bool,
    /// The key whose value comes next or is being read; empty while a key is read.
    key: Range<usize>,
    /// The beginning of the key or value that is being read.
    begin: usize,
}

impl Members {
    fn keep(&mut self, value: Range<usize>) {
        let key = std::mem::take(&mut self.key);
        if self.all.len() < self.limit {
            self.all.push(Member { key, value });
        } else {
            self.all = Vec::new();
            self.too_many = true;
        }
    }
}

impl Handler for Members {
    fn open(&mut self, _: Container, at: usize) -> bool {
        self.begin = at;
        !std::mem::replace(&mut self.is_open, true)
    }

    fn close(&mut self, end: usize) {
        // The object itself ends after a value.
        if !self.key.is_empty() {
            self.keep(self.begin..end);
        }
    }

    fn skips_key(&mut self, _: &[u8]) -> bool {
        false
    }

    fn scalar(&mut self, _: Scalar, at: usize) -> bool {
        self.begin = at;
        false
    }

    fn text(&mut self, _: &[u8]) {}

    fn scalar_end(&mut self, end: usize, _: bool) {
        match self.key.is_empty() {
            true => self.key = self.begin..end,
            false => self.keep(self.begin..end),
        }
    }

    fn literal(&mut self, _: Literal, at: usize, end: usize) {
        self.keep(at..end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(text: &str) -> Vec<(&str, &str)> {
        let members = read(text, 100).unwrap();
        members.into_iter().map(|it| (&text[it.key], &text[it.value])).collect()
    }

    #[test]
    fn every_kind_of_value_has_its_range() {
        let text = r#" { "a" : 1.5e3 ,"b":"x\"y","":null,"c":{"d":[{}]}, "e":[ ] ,"f":{},"a":-0,"g":true}"#;
        let expected = [
            (r#""a""#, "1.5e3"),
            (r#""b""#, r#""x\"y""#),
            (r#""""#, "null"),
            (r#""c""#, r#"{"d":[{}]}"#),
            (r#""e""#, "[ ]"),
            (r#""f""#, "{}"),
            (r#""a""#, "-0"),
            (r#""g""#, "true"),
        ];
        assert_eq!(members(text), expected);
        assert_eq!(members("{}"), []);
        assert_eq!(members(r#"{"a":7}"#), [(r#""a""#, "7")]);
    }

    #[test]
    fn depth_has_no_limit_and_takes_no_stack() {
        for depth in [1, 63, 64, 65, 127, 128, 129, 512, 513, 1_000_000] {
            let value = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let text = format!(r#"{{"a":{value},"b":{{"c":1}}}}"#);
            assert_eq!(members(&text), [(r#""a""#, value.as_str()), (r#""b""#, r#"{"c":1}"#)]);
            let cut = format!(r#"{{"a":{}}}"#, &value[1..]);
            assert!(matches!(read(&cut, 100), Err(Fault::NotJson(_))), "{depth}");
        }
        let mixed = format!(r#"{{"a":{}1{}}}"#, r#"[{"b":"#.repeat(300), "}]".repeat(300));
        assert_eq!(members(&mixed).len(), 1);
        let wrong = format!(r#"{{"a":{}1{}}}"#, r#"[{"b":"#.repeat(300), "]}".repeat(300));
        assert!(read(&wrong, 100).is_err());
    }

    #[test]
    fn a_text_that_is_no_object_is_refused() {
        for (text, fault) in [
            ("", Fault::NotJson(0)),
            ("{", Fault::NotJson(1)),
            (r#"{"a":1,}"#, Fault::NotJson(7)),
            (r#"{"a":01}"#, Fault::NotJson(6)),
            ("{} x", Fault::NotJson(3)),
            ("[]", Fault::Array),
            ("7", Fault::Scalar),
            (r#"{"a":1,"b":2,"c":3}"#, Fault::TooMany(2)),
            (r#"{"a":1,"b":2,"c":3,}"#, Fault::NotJson(19)),
        ] {
            assert_eq!(read(text, 2), Err(fault), "{text}");
        }
    }
}
