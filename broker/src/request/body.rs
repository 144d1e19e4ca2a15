//! The body: its hash, and the tool that it calls.
//!
//! A rule about tools is only worth something if the broker and the server read the same message. So
//! whatever two JSON parsers may read differently is [`Tool::Ambiguous`], and gets no signature where
//! a rule looks at tools.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use sha2::{Digest, Sha256};
use sigward_proto::v1::Reason;

use crate::error::Denial;

/// What is known about the tool that a request calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tool {
    /// It calls none.
    None,
    /// It calls this one.
    Named(String),
    /// Only the body's hash is here.
    Unread,
    /// The body may be read in more than one way, for this reason.
    Ambiguous(&'static str),
}

pub(super) fn sha256(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

/// A hash must be one: the signer takes any text for it.
pub(super) fn hash(bytes: &[u8]) -> Result<[u8; 32], Denial> {
    bytes.try_into().map_err(|_| Denial::new(Reason::InvalidBodyHash, "not 32 bytes"))
}

/// The tool that the body of a POST calls.
pub(super) fn read_tool(body: &[u8], headers: &[(String, String)]) -> Tool {
    if let Err(why) = content(headers) {
        return Tool::Ambiguous(why);
    }
    let Ok(text) = std::str::from_utf8(body) else {
        return Tool::Ambiguous("not UTF-8");
    };
    let envelope: Envelope = match serde_json::from_str(text) {
        Ok(envelope) => envelope,
        Err(_) => return Tool::Ambiguous("not one JSON object"),
    };
    if let Some(why) = envelope.ambiguous {
        return Tool::Ambiguous(why);
    }
    match (envelope.method.as_deref(), envelope.params) {
        (Some("tools/call"), Some(Params { name: Some(name) })) => Tool::Named(name),
        (Some("tools/call"), _) => Tool::Ambiguous("a tools/call that names no tool"),
        _ => Tool::None,
    }
}

/// The headers that decide how a server reads the body. The content type must be signed: one that is
/// added later could name another character set (in UTF-7, `+ACI-` is a quotation mark).
fn content(headers: &[(String, String)]) -> Result<(), &'static str> {
    let all = |wanted: &str| {
        let values = headers.iter().filter(move |(name, _)| name == wanted);
        values.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    if !all("content-encoding").is_empty() {
        return Err("it has a content encoding");
    }
    let types = all("content-type");
    let [content_type] = types.as_slice() else { return Err("not one signed content type") };
    let plain = content_type.to_ascii_lowercase().replace([' ', '"'], "");
    match plain.as_str() {
        "application/json" | "application/json;charset=utf-8" => Ok(()),
        _ => Err("its content type is not JSON in UTF-8"),
    }
}

/// The part of a JSON-RPC message that decides about tools.
struct Envelope {
    method: Option<String>,
    params: Option<Params>,
    ambiguous: Option<&'static str>,
}

struct Params {
    name: Option<String>,
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EnvelopeVisitor)
    }
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON-RPC message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Envelope, A::Error> {
        let mut keys = Keys::new(&["method", "params", "jsonrpc", "id"]);
        let mut envelope = Envelope { method: None, params: None, ambiguous: None };
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                // A method that isn't a text is an error of the parser, and so ambiguous.
                "method" => envelope.method = Some(map.next_value()?),
                "params" => {
                    let ParamsValue { params, ambiguous } = map.next_value()?;
                    envelope.params = params;
                    envelope.ambiguous = envelope.ambiguous.or(ambiguous);
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
            keys.add(&key);
        }
        envelope.ambiguous = envelope.ambiguous.or(keys.ambiguous);
        Ok(envelope)
    }
}

/// Params may be anything for other methods; only those of an object are looked at.
struct ParamsValue {
    params: Option<Params>,
    ambiguous: Option<&'static str>,
}

impl<'de> Deserialize<'de> for ParamsValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParamsVisitor)
    }
}

struct ParamsVisitor;

impl<'de> Visitor<'de> for ParamsVisitor {
    type Value = ParamsValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("params")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ParamsValue, A::Error> {
        let mut keys = Keys::new(&["name"]);
        let mut name = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == "name" {
                // Other methods may have a `name` that isn't a text.
                name = match map.next_value()? {
                    serde_json::Value::String(name) => Some(name),
                    _ => None,
                };
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            keys.add(&key);
        }
        Ok(ParamsValue { params: Some(Params { name }), ambiguous: keys.ambiguous })
    }

    fn visit_unit<E>(self) -> Result<ParamsValue, E> {
        Ok(ParamsValue { params: None, ambiguous: None })
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<ParamsValue, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(ParamsValue { params: None, ambiguous: None })
    }
}

/// The keys of one object, decoded. A second key of the same name wins with one parser and loses with
/// another; and some parsers (Go's among them) don't tell `Method` from `method`.
struct Keys {
    read: &'static [&'static str],
    seen: HashSet<String>,
    ambiguous: Option<&'static str>,
}

impl Keys {
    fn new(read: &'static [&'static str]) -> Self {
        Self { read, seen: HashSet::new(), ambiguous: None }
    }

    fn add(&mut self, key: &str) {
        // Upper case first: the long s and the Kelvin sign fold to `s` and `k` only that way.
        let folded = key.to_uppercase().to_lowercase();
        if self.read.contains(&folded.as_str()) && key != folded {
            self.ambiguous = Some("a key in another case");
        }
        if !self.seen.insert(folded) {
            self.ambiguous = Some("a key that is there twice");
        }
    }
}
