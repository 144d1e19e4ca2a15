//! The envelope of a message, and the messages of a batch.

use std::borrow::Cow;

use super::fault::Fault;
use super::id::Id;
use super::object::{Object, elements_up_to};
use super::text::string;

/// The most messages in one batch.
pub const MAX_BATCH: usize = 1024;

/// The kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It has a method and an id.
    Request,
    /// It has a method, but no id.
    Notification,
    /// It has a result or an error, with the id of its request.
    Response,
}

/// One JSON-RPC message: the spans of its envelope.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// The members, for edits.
    pub object: Object<'a>,
    /// Request, notification or response.
    pub kind: Kind,
    /// The token of `id`; `None` in notifications.
    pub id: Option<&'a str>,
    /// The method; empty in responses.
    pub method: Cow<'a, str>,
    /// The text of `params`.
    pub params: Option<&'a str>,
    /// The text of `result`.
    pub result: Option<&'a str>,
    /// The text of `error`.
    pub error: Option<&'a str>,
}

impl<'a> Envelope<'a> {
    /// Parses the envelope of `text`.
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
            // An error that the other side couldn't attribute may have no id.
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

    /// Whether the message has the id of the request `id`.
    #[must_use]
    pub fn answers(&self, id: &Id) -> bool {
        self.id.is_some_and(|token| id.is_spelt(token))
    }

    /// The id as an owned value.
    #[must_use]
    pub fn owned_id(&self) -> Id {
        self.id.map_or_else(Id::null, Id::from_token)
    }
}

/// The messages of a batch, if `text` is one (JSON-RPC 2.0 section 6).
pub fn batch(text: &str) -> Result<Option<Vec<&str>>, Fault> {
    if text.trim_start().starts_with('[') {
        elements_up_to(MAX_BATCH, text).map(Some)
    } else {
        Ok(None)
    }
}
