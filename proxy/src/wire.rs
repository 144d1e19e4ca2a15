//! JSON-RPC as text: the envelope of a message, and edits that leave every other byte alone.
//!
//! A relay that parses and prints loses data: number spellings, key order, fields that it has never
//! heard of. So nothing here turns a message into values. [`Object`] borrows the spans of one
//! object's members from the text; [`Edits`] collects replacements and writes the text once. This
//! is the only module that cuts text.
//!
//! What the rest may rely on: a text that [`Envelope::parse`] accepted is one JSON object in valid
//! UTF-8 with unambiguous envelope members, and [`Edits::apply`] changes only what was named.

mod edit;
mod object;
mod originate;
mod peek;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use self::edit::{Edits, object, trimmed, with_metadata};
pub use self::object::{Member, Object, elements};
pub use self::originate::{error_response, notification, request, result_response, tool_error};
pub use self::peek::{Peek, peek};

/// Deeper nesting than this is refused when it comes from a client: nothing in MCP needs it, and
/// recursive parsers behind us would fall over it.
pub const MAX_DEPTH: usize = 512;

/// The most messages in one batch.
pub const MAX_BATCH: usize = 1024;

/// Why a text isn't a message. The wording is for the person at the other end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not a JSON text at all.
    #[error("not valid JSON (line 1, column {column})")]
    NotJson {
        /// Where the parser gave up, counted in bytes from 1.
        column: usize,
    },
    /// JSON, but not an object where one must stand.
    #[error("expected a JSON object")]
    NotObject,
    /// One key twice in an object whose meaning depends on it.
    #[error("the key {0:?} appears more than once")]
    DuplicateKey(String),
    /// Something that another reader would understand differently.
    #[error("{0}")]
    Ambiguous(String),
    /// An edit doesn't fit its text: a bug, for which nothing may be sent.
    #[error("the message can't be changed as it must be")]
    BadEdit,
    /// Nesting beyond a limit.
    #[error("nested deeper than {0} levels")]
    TooDeep(usize),
    /// More members, elements or messages than anybody needs: each takes memory of its own.
    #[error("more than {0} in one object, array or batch")]
    TooMany(usize),
    /// JSON, but no JSON-RPC message.
    #[error("{0}")]
    NotMessage(&'static str),
}

impl Fault {
    /// Whether the text failed as JSON (`-32700`), rather than as a JSON-RPC message (`-32600`).
    #[must_use]
    pub fn is_parse_error(&self) -> bool {
        matches!(self, Self::NotJson { .. })
    }
}

/// The id of a request, as the token that it was written as.
///
/// `1`, `1.0` and `"1"` are three ids: each is answered with the token that it came with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Id(Box<str>);

impl Id {
    /// The id that `token` spells.
    #[must_use]
    pub fn from_token(token: &str) -> Self {
        Self(token.into())
    }

    /// The JSON token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.0
    }

    /// Whether `token` spells the same id. Servers print numbers anew: `1.0` comes back as `1`, and
    /// what has more digits than theirs comes back rounded. `1` and `"1"` are two ids.
    #[must_use]
    pub fn is_spelt(&self, token: &str) -> bool {
        if *self.0 == *token {
            return true;
        }
        match (string(&self.0), string(token)) {
            (Some(own), Some(other)) => own == other,
            (None, None) => number(&self.0).is_some_and(|own| Some(own) == number(token)),
            _ => false,
        }
    }

    /// The id of answers to what can't be attributed.
    #[must_use]
    pub fn null() -> Self {
        Self("null".into())
    }
}

/// What kind of message an envelope holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A method and an id.
    Request,
    /// A method, no id.
    Notification,
    /// A result or an error, with the id of its request.
    Response,
}

/// One JSON-RPC message: the spans of its envelope.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// The members, for edits.
    pub object: Object<'a>,
    /// Request, notification or response.
    pub kind: Kind,
    /// The token of `id`; absent in notifications.
    pub id: Option<&'a str>,
    /// Empty in responses.
    pub method: Cow<'a, str>,
    /// The text of `params`.
    pub params: Option<&'a str>,
    /// The text of `result`.
    pub result: Option<&'a str>,
    /// The text of `error`.
    pub error: Option<&'a str>,
}

impl<'a> Envelope<'a> {
    /// Reads the envelope of `text`.
    pub fn parse(text: &'a str) -> Result<Self, Fault> {
        let object = Object::parse(text)?;
        let [mut id, mut method, mut params, mut result, mut error] = [None; 5];
        for member in object.members() {
            let name = member.name();
            let slot = match name.as_ref() {
                "id" => &mut id,
                "method" => &mut method,
                "params" => &mut params,
                "result" => &mut result,
                "error" => &mut error,
                _ => continue,
            };
            if slot.replace(member.value).is_some() {
                return Err(Fault::DuplicateKey(name.into_owned()));
            }
        }
        if id.is_some_and(|id: &str| id.starts_with(['{', '[', 't', 'f'])) {
            return Err(Fault::NotMessage("the id must be a string or a number"));
        }
        let kind = match (method, id) {
            (Some(_), Some(_)) => Kind::Request,
            (Some(_), None) => Kind::Notification,
            (None, Some(_)) if result.is_some() || error.is_some() => Kind::Response,
            // An error that the other side couldn't attribute may come without any id.
            (None, None) if error.is_some() => Kind::Response,
            _ => return Err(Fault::NotMessage("neither a request, a notification nor a response")),
        };
        let method = match method {
            None => Cow::Borrowed(""),
            Some(token) => string(token).ok_or(Fault::NotMessage("the method must be a string"))?,
        };
        Ok(Self { object, kind, id, method, params, result, error })
    }

    /// The members of `params`, if that is an object.
    #[must_use]
    pub fn params_object(&self) -> Option<Object<'a>> {
        self.params.and_then(|params| Object::parse(params).ok())
    }

    /// Whether this has the id of the request `id`.
    #[must_use]
    pub fn answers(&self, id: &Id) -> bool {
        self.id.is_some_and(|token| id.is_spelt(token))
    }

    /// The id, for keeping.
    #[must_use]
    pub fn owned_id(&self) -> Id {
        self.id.map_or_else(Id::null, Id::from_token)
    }
}

/// The string that a JSON token spells; `None` if it is no string, or not one of Unicode (a lone
/// surrogate).
#[must_use]
pub fn string(token: &str) -> Option<Cow<'_, str>> {
    let inner = token.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(token).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// The number that a JSON token spells, as most programs read it.
fn number(token: &str) -> Option<f64> {
    // What Rust reads beyond JSON (`inf`) begins with none of these.
    let is_number = token.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    is_number.then(|| token.parse().ok()).flatten().filter(|number: &f64| number.is_finite())
}

/// The JSON token of a string.
#[must_use]
pub fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The messages of a batch, if `text` is one (JSON-RPC 2.0 section 6).
pub fn batch(text: &str) -> Result<Option<Vec<&str>>, Fault> {
    if text.trim_start().starts_with('[') {
        object::elements_up_to(MAX_BATCH, text).map(Some)
    } else {
        Ok(None)
    }
}

/// Refuses nesting beyond [`MAX_DEPTH`].
pub fn check_depth(text: &str) -> Result<(), Fault> {
    check_depth_to(MAX_DEPTH, text)
}

/// Refuses nesting beyond `limit`, in one pass and without recursion.
pub fn check_depth_to(limit: usize, text: &str) -> Result<(), Fault> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > limit {
                    return Err(Fault::TooDeep(limit));
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// `text` on one line: stdio frames messages by newlines, HTTP doesn't.
///
/// In valid JSON a line break can only stand between tokens, so dropping it changes no value.
#[must_use]
pub fn one_line(text: String) -> String {
    if memchr::memchr2(b'\n', b'\r', text.as_bytes()).is_none() {
        return text;
    }
    text.replace(['\n', '\r'], "")
}
