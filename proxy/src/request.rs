//! Reads a client's message once: the phase *receive*.
//!
//! The text is read once, by the same reader with which the broker applies its rules, and owned together with the
//! ranges of its members. A message that another reader could understand differently (a key on which routing depends is
//! duplicated, or in another case) is refused here, so that all later readers see the same message. Changes are edits
//! of the ranges; every other byte stays.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::HeaderValue;
use sigward_proto::call::{self, Call, Place, Want};

use crate::budget::Message;
use crate::protocol::{self, Generation};
use crate::wire::{self, Edits, Fault, Id, Kind, Object};

/// One message of a client.
#[derive(Debug)]
pub enum Incoming {
    /// A request, which gets a response.
    Request(Request),
    /// A notification, or the response to a request of a server.
    Other(Kind, Message),
}

/// A request: its text, and the ranges of its members.
#[derive(Debug, Clone)]
pub struct Request {
    message: Arc<Message>,
    call: Call,
    id: Id,
    method: String,
    generation: Generation,
    /// The name of the called tool, if it has one.
    tool: Option<String>,
}

/// The longest params of a handshake: they are stored as long as its session.
const MAX_HANDSHAKE: usize = 64 << 10;

/// The places that are read in addition to the envelope.
struct Places {
    want: Arc<Want>,
    version: Place,
    client: Place,
    capabilities: Place,
    profile: Place,
}

/// The key in `_meta` with which requests other than tool calls choose a profile.
pub const PROFILE_KEY: &str = "sigward/profile";

static PLACES: LazyLock<Places> = LazyLock::new(|| {
    let mut want = Want::default();
    let mut of_meta = |key: &str| {
        let pointer = format!("/_meta/{}", key.replace('~', "~0").replace('/', "~1"));
        // These are valid pointers, which a test checks; `_meta` is read in any case.
        want.look_at(&pointer).unwrap_or(Place::META)
    };
    let version = of_meta(protocol::META_VERSION);
    let client = of_meta(protocol::META_CLIENT);
    let capabilities = of_meta(protocol::META_CAPABILITIES);
    let profile = of_meta(PROFILE_KEY);
    Places { want: Arc::new(want), version, client, capabilities, profile }
});

impl Incoming {
    /// Reads a message.
    ///
    /// # Errors
    /// It isn't a message, or readers could understand it differently; the text is returned.
    pub fn read(message: Message) -> Result<Self, (Fault, Message)> {
        let call = match call::read_with(message.text.as_bytes(), &PLACES.want) {
            Ok(call) => call,
            // A text that begins like a word may not be JSON.
            Err(call::Fault::NotObject) => {
                let fault = Object::parse(&message.text).err().unwrap_or(Fault::NotObject);
                return Err((fault, message));
            }
            Err(fault) => return Err((fault.into(), message)),
        };
        match call.kind() {
            call::Kind::Response => Ok(Self::Other(Kind::Response, message)),
            // The client wouldn't see the refusal of a notification, and some servers would carry
            // it out: without any rule for tools, and with any profile that it names.
            call::Kind::Notification if call.method() == Some("tools/call") => {
                Err((Fault::NotMessage("a call of a tool needs an id"), message))
            }
            call::Kind::Notification => Ok(Self::Other(Kind::Notification, message)),
            call::Kind::Request => Request::new(call, message).map(Self::Request),
        }
    }
}

impl Request {
    fn new(call: Call, message: Message) -> Result<Self, (Fault, Message)> {
        let version = match call.value(PLACES.version) {
            Ok(Some(call::Value::Text(version))) => HeaderValue::try_from(version.as_str()).ok(),
            Ok(_) => None,
            // Servers of different generations would read different messages.
            Err(fault) => return Err((fault.into(), message)),
        };
        let id = call.range(Place::ID).and_then(|range| message.text.get(range));
        let id = id.map_or_else(Id::null, Id::from_token);
        let method = call.method().unwrap_or_default().to_owned();
        let tool = (method == "tools/call").then(|| call.text(Place::NAME).ok().flatten());
        let tool = tool.flatten().map(str::to_owned);
        let generation = version.map_or(Generation::Sessions, Generation::Stateless);
        let handshake = call.range(Place::PARAMS).filter(|_| method == "initialize");
        if handshake.is_some_and(|params| params.len() > MAX_HANDSHAKE) {
            return Err((Fault::NotMessage("initialize has more than 64 KiB"), message));
        }
        Ok(Self { message: Arc::new(message), call, id, method, generation, tool })
    }

    /// A request of the proxy itself.
    pub(crate) fn from_proxy(text: String) -> Result<Self, Fault> {
        match Incoming::read(text.into()) {
            Ok(Incoming::Request(request)) => Ok(request),
            Ok(Incoming::Other(..)) => Err(Fault::NotMessage("not a request")),
            Err((fault, _)) => Err(fault),
        }
    }

    /// The same request with another text, and the same share of the memory.
    pub(crate) fn with_text(&self, text: String) -> Result<Self, Fault> {
        let message = self.message.part_of(text);
        match Incoming::read(message) {
            Ok(Incoming::Request(request)) => Ok(request),
            Ok(Incoming::Other(..)) => Err(Fault::NotMessage("not a request")),
            Err((fault, _)) => Err(fault),
        }
    }

    /// The text, as the client sent it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.message.text
    }

    /// The text as bytes, which keep its share of the memory.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes::from_owner(Whole(Arc::clone(&self.message)))
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The protocol generation: with or without sessions.
    #[must_use]
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Whether it belongs to the generation without sessions.
    #[must_use]
    pub fn is_stateless(&self) -> bool {
        self.generation.is_stateless()
    }

    /// Whether it is the handshake of a session.
    #[must_use]
    pub fn begins_session(&self) -> bool {
        self.method == "initialize" && !self.is_stateless()
    }

    /// Whether the answer is a stream that may be silent for hours (2026-07-28).
    #[must_use]
    pub fn is_patient(&self) -> bool {
        self.method == "subscriptions/listen"
    }

    /// Whether it calls a tool.
    #[must_use]
    pub fn is_tool_call(&self) -> bool {
        self.method == "tools/call"
    }

    /// The name of the called tool, if it has one.
    #[must_use]
    pub fn tool(&self) -> Option<&str> {
        self.tool.as_deref()
    }

    /// The id of the task in the params.
    #[must_use]
    pub fn task(&self) -> Option<&str> {
        self.call.text(Place::TASK_ID).ok().flatten()
    }

    /// The URI of the resource in the params.
    #[must_use]
    pub fn uri(&self) -> Option<&str> {
        self.call.text(Place::URI).ok().flatten()
    }

    /// The text of `params`.
    #[must_use]
    pub fn params(&self) -> Option<&str> {
        self.at(Place::PARAMS)
    }

    /// The text of `params._meta`.
    #[must_use]
    pub fn meta(&self) -> Option<&str> {
        self.at(Place::META)
    }

    /// The text of `params.arguments`, and its position.
    #[must_use]
    pub fn arguments(&self) -> Option<(&str, usize)> {
        let start = self.call.range(Place::ARGUMENTS)?.start;
        Some((self.at(Place::ARGUMENTS)?, start))
    }

    /// The client's description of itself in `_meta` (2026-07-28).
    #[must_use]
    pub fn client(&self) -> Option<&str> {
        self.at(PLACES.client)
    }

    /// The client's capabilities in `_meta` (2026-07-28).
    #[must_use]
    pub fn capabilities(&self) -> Option<&str> {
        self.at(PLACES.capabilities)
    }

    /// The profile in `_meta`: the text of the value, and the range of the member.
    ///
    /// # Errors
    /// The key is duplicated, or in another case.
    pub fn profile(&self) -> Result<Option<(&str, Range<usize>)>, Fault> {
        // Such a value names no profile; the text is shown in the refusal.
        match self.call.value(PLACES.profile) {
            Ok(None) => Ok(None),
            Ok(Some(_)) | Err(call::Fault::TooLong(_) | call::Fault::HalfPair(_)) => {
                Ok(self.at(PLACES.profile).zip(self.call.member_range(PLACES.profile)))
            }
            Err(fault) => Err(fault.into()),
        }
    }

    /// The final text: without the member at `cut`, and with `metadata` (JSON text by key) in
    /// `params._meta`. Keys that the request already has keep their value.
    ///
    /// # Errors
    /// The edits don't fit the text; none of it may be sent.
    pub fn finish(
        &self,
        cut: Option<Range<usize>>,
        metadata: &[(String, String)],
    ) -> Result<Bytes, Fault> {
        let mut edits = Edits::new(self.text());
        if let Some(cut) = cut {
            edits.cut_member(cut);
        }
        self.add_metadata(&mut edits, metadata);
        if edits.is_empty() {
            return Ok(self.bytes());
        }
        Ok(self.message.part_of(edits.apply()?).into_bytes())
    }

    fn add_metadata(&self, edits: &mut Edits<'_>, metadata: &[(String, String)]) {
        let meta = match (self.meta(), self.params()) {
            (Some(meta), _) => match Object::parse(meta) {
                Ok(meta) => Some(meta),
                Err(_) => return,
            },
            // Params by position (JSON-RPC 2.0 section 4.2) have no place for it.
            (None, Some(params)) if !params.starts_with('{') => return,
            (None, _) => None,
        };
        let known: Vec<_> = meta.iter().flat_map(Object::members).map(|it| it.name()).collect();
        let missing = metadata.iter().filter(|(key, _)| !known.iter().any(|name| name == key));
        let add: Vec<(&str, &str)> =
            missing.map(|(key, value)| (key.as_str(), value.as_str())).collect();
        if add.is_empty() {
            return;
        }
        let object = || wire::object(&add);
        match (self.call.range(Place::META), self.call.range(Place::PARAMS)) {
            (Some(meta), _) => edits.add_members(meta, &add),
            (None, Some(params)) => edits.add_members(params, &[("_meta", &object())]),
            (None, None) => {
                let params = format!(r#"{{"_meta":{}}}"#, object());
                edits.add_members(wire::trimmed(self.text()), &[("params", &params)]);
            }
        }
    }

    fn at(&self, place: Place) -> Option<&str> {
        self.text().get(self.call.range(place)?)
    }
}

/// Owns the text of a request for its bytes.
struct Whole(Arc<Message>);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        self.0.text.as_bytes()
    }
}

impl From<call::Fault> for Fault {
    fn from(fault: call::Fault) -> Self {
        match fault {
            call::Fault::NotJson(at) => Self::NotJson { column: at + 1 },
            call::Fault::NotUtf8 => Self::NotMessage("not UTF-8"),
            call::Fault::TooDeep => Self::TooDeep(call::MAX_DEPTH),
            call::Fault::Batch => Self::NotMessage("a batch within a batch"),
            call::Fault::NotObject => Self::NotObject,
            call::Fault::NotMessage => {
                Self::NotMessage("neither a request, a notification nor a response")
            }
            call::Fault::WrongType(key) if &*key == "method" => {
                Self::NotMessage("the method must be a string")
            }
            call::Fault::WrongType(key) if &*key == "id" => {
                Self::NotMessage("the id must be a string or a number")
            }
            call::Fault::Twice(key) => Self::DuplicateKey(key.into()),
            other => Self::Ambiguous(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
