//! Reads a body as a stream: its hash, and the call in it.
//!
//! Invariant: of the body, only what `sigward_proto::call` stores is kept, which is bounded. A
//! [`Call`] exists only if all parsers read the same call, and its names are such that no server
//! trims, folds, cuts or decodes them to others.

mod headers;
mod uri;

use std::borrow::Cow;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use sigward_proto::call::{self, Fault, Kind, Place, Reader, Target, Value, Want};

/// The result of reading a body.
#[derive(Debug)]
pub struct Body {
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// The call in the body.
    pub content: Content,
}

/// The call in a body, if it was read.
#[derive(Debug)]
pub enum Content {
    /// The body wasn't parsed.
    Unread,
    /// There is no body: a GET or a DELETE.
    None,
    /// A message that all parsers read alike.
    Call(Call),
    /// A body that parsers may read differently, and why.
    Ambiguous(Cow<'static, str>),
}

/// A message that all parsers read alike.
#[derive(Debug, Clone)]
pub struct Call {
    message: call::Call,
    method: String,
    target: OwnedTarget,
}

#[derive(Debug, Clone)]
enum OwnedTarget {
    None,
    Tool(String),
    Resource(String),
    Prompt(String),
    Task(String),
}

impl Call {
    /// The JSON-RPC method; empty for a response.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Whether it is a request, notification or response.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.message.kind()
    }

    /// The tool, resource, prompt or task that the method acts on.
    #[must_use]
    pub fn target(&self) -> Target<'_> {
        match &self.target {
            OwnedTarget::None => Target::None,
            OwnedTarget::Tool(name) => Target::Tool(name),
            OwnedTarget::Resource(uri) => Target::Resource(uri),
            OwnedTarget::Prompt(name) => Target::Prompt(name),
            OwnedTarget::Task(id) => Target::Task(id),
        }
    }

    /// The name of the target, of any kind.
    #[must_use]
    pub fn target_name(&self) -> Option<&str> {
        match &self.target {
            OwnedTarget::None => None,
            OwnedTarget::Tool(name)
            | OwnedTarget::Resource(name)
            | OwnedTarget::Prompt(name)
            | OwnedTarget::Task(name) => Some(name),
        }
    }

    /// The parts that were looked at when the body was read.
    #[must_use]
    pub fn want(&self) -> &Arc<Want> {
        self.message.want()
    }

    /// The value at a place that a rule looks at.
    ///
    /// # Errors
    /// Parsers may read the value differently.
    pub fn value(&self, place: Place) -> Result<Option<&Value>, Fault> {
        self.message.value(place)
    }

    fn new(message: call::Call, headers: &[(String, String)]) -> Result<Self, Cow<'static, str>> {
        let fault = |fault: Fault| Cow::Owned(fault.to_string());
        let method = message.method().unwrap_or_default();
        if message.kind() != Kind::Response && !call::is_name(method) {
            return Err("a method that servers may read differently".into());
        }
        let ambiguous = |what: &'static str| Err(Cow::Borrowed(what));
        let target = match message.target().map_err(fault)? {
            Target::None => OwnedTarget::None,
            Target::Tool(name) if call::is_name(name) => OwnedTarget::Tool(name.to_owned()),
            Target::Prompt(name) if call::is_name(name) => OwnedTarget::Prompt(name.to_owned()),
            Target::Resource(uri) if uri::is_clear(uri) => OwnedTarget::Resource(uri.to_owned()),
            Target::Task(id) if is_printable(id) => OwnedTarget::Task(id.to_owned()),
            Target::Tool(_) => {
                return ambiguous("the name of a tool that servers may read differently");
            }
            Target::Prompt(_) => {
                return ambiguous("the name of a prompt that servers may read differently");
            }
            Target::Resource(_) => {
                return ambiguous("a resource's URI that servers may read differently");
            }
            Target::Task(_) => return ambiguous("a task's id that servers may read differently"),
        };
        let call = Self { method: method.to_owned(), target, message };
        headers::agree(headers, call.method(), call.target_name())?;
        Ok(call)
    }
}

fn is_printable(text: &str) -> bool {
    (1..=512).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Reads a body in chunks.
#[derive(Debug)]
pub struct BodyReader {
    hash: Sha256,
    reading: Reading,
    empty: bool,
}

#[derive(Debug)]
enum Reading {
    /// No rule looks at the body.
    No,
    Yes(Box<Reader>),
    Ambiguous(Cow<'static, str>),
}

impl BodyReader {
    /// A reader that only computes the hash.
    #[must_use]
    pub fn hashing() -> Self {
        Self { hash: Sha256::new(), reading: Reading::No, empty: true }
    }

    /// A reader that also reads the call.
    #[must_use]
    pub fn reading(want: Arc<Want>, headers: &[(String, String)]) -> Self {
        let reading = match headers::content(headers) {
            Ok(()) => Reading::Yes(Box::new(Reader::new(want))),
            Err(why) => Reading::Ambiguous(why.into()),
        };
        Self { reading, ..Self::hashing() }
    }

    /// Reads the next chunk.
    pub fn push(&mut self, chunk: &[u8]) {
        self.empty &= chunk.is_empty();
        self.hash.update(chunk);
        if let Reading::Yes(reader) = &mut self.reading
            && let Err(fault) = reader.push(chunk)
        {
            self.reading = Reading::Ambiguous(fault.to_string().into());
        }
    }

    /// The bytes of the body that are stored.
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.reading {
            Reading::Yes(reader) => reader.held(),
            Reading::No | Reading::Ambiguous(_) => 0,
        }
    }

    /// Whether no bytes were read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.empty
    }

    /// The result, after the last chunk.
    #[must_use]
    pub fn finish(self, headers: &[(String, String)]) -> Body {
        let content = match self.reading {
            Reading::No => Content::Unread,
            Reading::Ambiguous(why) => Content::Ambiguous(why),
            Reading::Yes(reader) => {
                let message = reader.finish().map_err(|fault| Cow::Owned(fault.to_string()));
                match message.and_then(|message| Call::new(message, headers)) {
                    Ok(call) => Content::Call(call),
                    Err(why) => Content::Ambiguous(why),
                }
            }
        };
        Body { sha256: self.hash.finalize().into(), content }
    }
}

impl Body {
    /// The result for a request without a body.
    #[must_use]
    pub fn none() -> Self {
        Self { sha256: Sha256::digest([]).into(), content: Content::None }
    }

    /// The result for a body of which only the hash was sent.
    #[must_use]
    pub fn unread(sha256: [u8; 32]) -> Self {
        Self { sha256, content: Content::Unread }
    }
}

#[cfg(test)]
mod tests;
