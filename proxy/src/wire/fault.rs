//! Why a text isn't a message.

/// Why a text isn't a message. The texts are for the person at the other end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It isn't JSON.
    #[error("not valid JSON (line 1, column {column})")]
    NotJson {
        /// The position of the error in bytes, counted from 1.
        column: usize,
    },
    /// It is JSON, but not an object where one is required.
    #[error("expected a JSON object")]
    NotObject,
    /// A duplicate key in an object whose meaning depends on it.
    #[error("the key {0:?} appears more than once")]
    DuplicateKey(String),
    /// Another parser could understand it differently.
    #[error("{0}")]
    Ambiguous(String),
    /// An edit doesn't fit its text. This is a bug, and nothing may be sent.
    #[error("the message can't be edited as required")]
    BadEdit,
    /// The nesting exceeds a limit.
    #[error("nested deeper than {0} levels")]
    TooDeep(usize),
    /// There are too many members, elements or messages, each of which needs additional memory.
    #[error("more than {0} in one object, array or batch")]
    TooMany(usize),
    /// It is JSON, but not a JSON-RPC message.
    #[error("{0}")]
    NotMessage(&'static str),
}

impl Fault {
    /// Whether it isn't JSON (`-32700`), rather than not a JSON-RPC message (`-32600`).
    #[must_use]
    pub fn is_parse_error(&self) -> bool {
        matches!(self, Self::NotJson { .. })
    }
}
