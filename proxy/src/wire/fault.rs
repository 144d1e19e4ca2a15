//! Why a text is no message.

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
