//! Reads what a JSON-RPC message of MCP requests: once, strictly, and as the text streams in.
//!
//! A rule about tools is effective only if the program that applies it and the server read the same message. Therefore
//! broker and proxy share this reader, and everything that another reader could read differently is a [`Fault`]:
//! batches, duplicate keys, keys in another spelling, text that isn't JSON or UTF-8. [`Reader`] gets the text in chunks
//! and stores a bounded part of it.
//!
//! A key that only some rules use (an argument) is checked when it is requested: [`Call::value`]
//! fails if the message is ambiguous about it, and no other call is refused for it.

mod select;
mod want;

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use self::select::{Conflict, Found, Selector};
pub use self::select::{MAX_TEXT, Value};
pub use self::want::{BadPointer, Place, Want};
pub use crate::json::MAX_DEPTH;
use crate::json::{Defect, Scanner};

/// The longest name that a rule can match, in bytes.
pub const MAX_NAME: usize = 128;

/// Why a message has no unique meaning. The texts contain nothing of the message, only names of
/// keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It isn't JSON.
    #[error("not valid JSON, at byte {0}")]
    NotJson(usize),
    /// It isn't UTF-8.
    #[error("not valid UTF-8")]
    NotUtf8,
    /// It is nested too deep.
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// It contains several messages.
    #[error("a batch")]
    Batch,
    /// It is JSON, but not an object.
    #[error("not a JSON object")]
    NotObject,
    /// A duplicate key, of which readers use the first or the last.
    #[error("the key {0:?} appears more than once")]
    Twice(Box<str>),
    /// A key that some readers treat as the one that is looked for.
    #[error("a key is {0:?} but for its case, or for invisible characters")]
    Spelling(Box<str>),
    /// A key with NUL, with half of a surrogate pair, or longer than 1024 bytes: some readers may treat it as the
    /// one that is looked for.
    #[error("a key beside {0:?} is malformed, or too long")]
    OddKey(Box<str>),
    /// A string with half of a surrogate pair.
    #[error("{0:?} has half of a surrogate pair")]
    HalfPair(Box<str>),
    /// A value that is too long to be examined.
    #[error("{0:?} is longer than {MAX_TEXT} bytes")]
    TooLong(Box<str>),
    /// A value of the wrong type.
    #[error("{0:?} has the wrong type")]
    WrongType(Box<str>),
    /// It is JSON, but not JSON-RPC 2.0.
    #[error("neither a request, a notification nor a response")]
    NotMessage,
    /// The method needs a target, but the message has none.
    #[error("the method needs {0:?}")]
    NoTarget(Box<str>),
}

/// The kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It has a method and an id.
    Request,
    /// It has a method, but no id.
    Notification,
    /// It has a result or an error.
    Response,
}

/// The object that a request acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'c> {
    /// No named object.
    None,
    /// A tool, by name.
    Tool(&'c str),
    /// A resource, by URI.
    Resource(&'c str),
    /// A prompt, by name.
    Prompt(&'c str),
    /// A task, by its id.
    Task(&'c str),
}

/// Reads a message in chunks.
#[derive(Debug)]
pub struct Reader {
    scanner: Scanner,
    selector: Selector,
    fault: Option<Fault>,
}

/// One message: its examined values, and their positions in its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    want: Arc<Want>,
    found: Vec<Found>,
    kind: Kind,
}

/// Reads a whole text, and examines only the values that every message has.
///
/// # Errors
/// The same as for [`Reader::finish`].
pub fn read(text: &[u8]) -> Result<Call, Fault> {
    static ENVELOPE: LazyLock<Arc<Want>> = LazyLock::new(Arc::default);
    read_with(text, &ENVELOPE)
}

/// Reads a whole text, and examines the values in `want`.
///
/// # Errors
/// The same as for [`Reader::finish`].
pub fn read_with(text: &[u8], want: &Arc<Want>) -> Result<Call, Fault> {
    let mut reader = Reader::new(Arc::clone(want));
    reader.push(text)?;
    reader.finish()
}

impl Reader {
    /// Starts to read.
    #[must_use]
    pub fn new(want: Arc<Want>) -> Self {
        Self { scanner: Scanner::new(), selector: Selector::new(want), fault: None }
    }

    /// Reads the next chunk, in time linear in its length.
    ///
    /// # Errors
    /// The text isn't a message, whatever follows. Further calls return the same fault.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Fault> {
        if self.fault.is_none() {
            self.fault = self.scanner.push(chunk, &mut self.selector).err().map(Fault::from);
        }
        self.fault.clone().map_or(Ok(()), Err)
    }

    /// The number of stored bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.selector.held()
    }

    /// The message, if the text has a unique meaning.
    ///
    /// # Errors
    /// The first fault of the text.
    pub fn finish(self) -> Result<Call, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.scanner.finish()?;
        let (want, found) = self.selector.into_found();
        let mut call = Call { want, found, kind: Kind::Response };
        for place in (1..Place::FIRST_OWN).map(Place) {
            call.check(place)?;
        }
        call.kind = call.read_kind()?;
        Ok(call)
    }
}

impl From<Defect> for Fault {
    fn from(defect: Defect) -> Self {
        match defect {
            Defect::Syntax(at) => Self::NotJson(at),
            Defect::Encoding => Self::NotUtf8,
            Defect::Array => Self::Batch,
            Defect::Scalar => Self::NotObject,
            Defect::Depth => Self::TooDeep,
        }
    }
}

impl Call {
    /// The kind of the message.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The method; `None` in responses.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        match &self.found[Place::METHOD.0].value {
            Some(Value::Text(method)) => Some(method),
            _ => None,
        }
    }

    /// The object that the method acts on.
    ///
    /// # Errors
    /// The method needs a target, but the message doesn't name one.
    pub fn target(&self) -> Result<Target<'_>, Fault> {
        match self.method() {
            Some("tools/call") => self.name(Place::NAME).map(Target::Tool),
            Some("prompts/get") => self.name(Place::NAME).map(Target::Prompt),
            Some("resources/read" | "resources/subscribe" | "resources/unsubscribe") => {
                self.name(Place::URI).map(Target::Resource)
            }
            Some("completion/complete") => match self.name(Place::REF_TYPE)? {
                "ref/prompt" => self.name(Place::REF_NAME).map(Target::Prompt),
                "ref/resource" => self.name(Place::REF_URI).map(Target::Resource),
                _ => Err(Fault::NoTarget(self.path(Place::REF_TYPE))),
            },
            // A list has no target.
            Some(method) if method.starts_with("tasks/") => match self.text(Place::TASK_ID)? {
                Some(task) => Ok(Target::Task(task)),
                None => Ok(Target::None),
            },
            _ => Ok(Target::None),
        }
    }

    /// The examined values. Places of another [`Want`] aren't valid here.
    #[must_use]
    pub fn want(&self) -> &Arc<Want> {
        &self.want
    }

    /// The value at a place, if there is one.
    ///
    /// # Errors
    /// Readers may disagree on it, or it is too long.
    pub fn value(&self, place: Place) -> Result<Option<&Value>, Fault> {
        self.check(place)?;
        match &self.found[place.0].value {
            Some(Value::TooLong) => Err(Fault::TooLong(self.path(place))),
            Some(Value::HalfPair) => Err(Fault::HalfPair(self.path(place))),
            value => Ok(value.as_ref()),
        }
    }

    /// The text at a place, if there is a value.
    ///
    /// # Errors
    /// The same as for [`Call::value`], or the value isn't a string.
    pub fn text(&self, place: Place) -> Result<Option<&str>, Fault> {
        match self.value(place)? {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(Fault::WrongType(self.path(place))),
        }
    }

    /// The range of the value at a place in the text, in bytes.
    #[must_use]
    pub fn range(&self, place: Place) -> Option<Range<usize>> {
        let found = &self.found[place.0];
        found.value.as_ref().map(|_| found.range.clone())
    }

    /// The same including its key and the key's quotation marks.
    #[must_use]
    pub fn member_range(&self, place: Place) -> Option<Range<usize>> {
        let found = &self.found[place.0];
        found.value.as_ref().map(|_| found.key..found.range.end)
    }

    fn name(&self, place: Place) -> Result<&str, Fault> {
        self.text(place)?.ok_or_else(|| Fault::NoTarget(self.path(place)))
    }

    /// Checks that all readers find the same value here: every key on the path to it must be
    /// unambiguous.
    fn check(&self, place: Place) -> Result<(), Fault> {
        let nodes = self.want.nodes();
        let mut at = place.0;
        while at != Place::ROOT.0 {
            if let Some(conflict) = self.found[at].conflict {
                let key = self.path(Place(at));
                return Err(match conflict {
                    Conflict::Twice => Fault::Twice(key),
                    Conflict::Spelling => Fault::Spelling(key),
                    Conflict::OddKey => Fault::OddKey(key),
                });
            }
            at = nodes[at].parent;
        }
        Ok(())
    }

    /// The path of a place, such as `params.name`, from the keys that are looked for, not those of the
    /// message.
    fn path(&self, place: Place) -> Box<str> {
        let nodes = self.want.nodes();
        let mut keys = Vec::new();
        let mut at = place.0;
        while at != Place::ROOT.0 {
            keys.push(&*nodes[at].key);
            at = nodes[at].parent;
        }
        keys.reverse();
        keys.join(".").into()
    }

    fn read_kind(&self) -> Result<Kind, Fault> {
        match self.text(Place::JSONRPC)? {
            None | Some("2.0") => {}
            Some(_) => return Err(Fault::NotMessage),
        }
        let has = |place: Place| self.found[place.0].value.is_some();
        // The text of the id isn't examined here, and may have any length.
        let id = match &self.found[Place::ID.0].value {
            None => false,
            Some(Value::Bool(_) | Value::Array | Value::Object) => {
                return Err(Fault::WrongType(self.path(Place::ID)));
            }
            Some(_) => true,
        };
        let answers = has(Place::RESULT) || has(Place::ERROR);
        match (self.text(Place::METHOD)?, answers) {
            (Some(_), false) if id => Ok(Kind::Request),
            (Some(_), false) => Ok(Kind::Notification),
            (None, true) => Ok(Kind::Response),
            // Some readers would treat it as a request, others as a response.
            (Some(_), true) | (None, false) => Err(Fault::NotMessage),
        }
    }
}

/// Whether a rule can match a name: it has the form that MCP recommends for names of tools, and is
/// short. A server may trim, fold or shorten any other name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_./-".contains(&byte))
}

#[cfg(test)]
mod tests;
