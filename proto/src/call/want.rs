//! The values of a message to examine, as a tree of keys.

use std::borrow::Cow;
use std::fmt;

/// The place of an examined value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(pub(super) usize);

impl Place {
    pub(super) const ROOT: Self = Self(0);
    /// `jsonrpc`
    pub const JSONRPC: Self = Self(1);
    /// `id`
    pub const ID: Self = Self(2);
    /// `method`
    pub const METHOD: Self = Self(3);
    /// `params`
    pub const PARAMS: Self = Self(4);
    /// `result`
    pub const RESULT: Self = Self(5);
    /// `error`
    pub const ERROR: Self = Self(6);
    /// `params.name` of a tool or a prompt.
    pub const NAME: Self = Self(7);
    /// `params.uri` of a resource.
    pub const URI: Self = Self(8);
    /// `params.arguments`
    pub const ARGUMENTS: Self = Self(9);
    /// `params._meta`
    pub const META: Self = Self(10);
    /// `params.taskId`
    pub const TASK_ID: Self = Self(11);
    /// `params.ref`, the object of a completion.
    pub const REF: Self = Self(12);
    /// `params.ref.type`
    pub const REF_TYPE: Self = Self(13);
    /// `params.ref.name`
    pub const REF_NAME: Self = Self(14);
    /// `params.ref.uri`
    pub const REF_URI: Self = Self(15);
    /// Places below this are examined in every message.
    pub(super) const FIRST_OWN: usize = 16;
}

/// The values to examine, in addition to the envelope and the names.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) parent: usize,
    pub(super) key: Box<str>,
    pub(super) folded: Box<str>,
    /// The key as the index of an array element, if it is one.
    pub(super) index: Option<usize>,
    pub(super) children: Vec<usize>,
    names: Names,
}

/// The keys of a node's children, and their folded forms.
#[derive(Debug, Clone, Default, PartialEq)]
struct Names {
    all: Vec<Box<str>>,
    /// A bit for each ASCII letter with which a key begins: a quick check that excludes most other keys.
    initials: u128,
    /// A bit for each length; the last bit is for all longer ones.
    lengths: u64,
}

/// The error for a text that isn't a JSON pointer (RFC 6901).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPointer;

impl fmt::Display for BadPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a JSON pointer: write /key/key, with ~1 for a slash and ~0 for a tilde")
    }
}

impl std::error::Error for BadPointer {}

impl Default for Want {
    fn default() -> Self {
        let node = |parent: Place, key: &str| Node::new(parent.0, key);
        let root = Place::ROOT;
        let params = Place::PARAMS;
        let nodes = [
            node(root, ""),
            node(root, "jsonrpc"),
            node(root, "id"),
            node(root, "method"),
            node(root, "params"),
            node(root, "result"),
            node(root, "error"),
            node(params, "name"),
            node(params, "uri"),
            node(params, "arguments"),
            node(params, "_meta"),
            node(params, "taskId"),
            node(params, "ref"),
            node(Place::REF, "type"),
            node(Place::REF, "name"),
            node(Place::REF, "uri"),
        ];
        let mut want = Self { nodes: Vec::new() };
        for node in nodes {
            want.add(node);
        }
        want
    }
}

impl Want {
    /// Adds the value of a JSON pointer that starts at `params`: `/arguments/region`. The same pointer gives the same
    /// place.
    ///
    /// # Errors
    /// It isn't a pointer, or it is empty.
    pub fn look_at(&mut self, pointer: &str) -> Result<Place, BadPointer> {
        let tokens = pointer.strip_prefix('/').ok_or(BadPointer)?;
        let mut at = Place::PARAMS.0;
        for token in tokens.split('/') {
            let key = unescaped(token).ok_or(BadPointer)?;
            let known = self.nodes[at].children.iter().copied();
            at = match known.into_iter().find(|child| *self.nodes[*child].key == *key) {
                Some(child) => child,
                None => self.add(Node::new(at, &key)),
            };
        }
        Ok(Place(at))
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    fn add(&mut self, node: Node) -> usize {
        let child = self.nodes.len();
        if let Some(parent) = self.nodes.get_mut(node.parent) {
            parent.children.push(child);
            parent.names.add(&node.key);
            parent.names.add(&node.folded);
        }
        self.nodes.push(node);
        child
    }
}

impl Names {
    fn add(&mut self, name: &str) {
        if !self.all.iter().any(|known| **known == *name) {
            self.all.push(name.into());
            self.initials |= Self::initial(name.as_bytes());
            self.lengths |= Self::length(name.as_bytes());
        }
    }

    /// Empty keys, and keys that begin beyond ASCII, share a bit with NUL.
    fn initial(name: &[u8]) -> u128 {
        1 << name.first().filter(|byte| byte.is_ascii()).unwrap_or(&0)
    }

    fn length(name: &[u8]) -> u64 {
        1 << name.len().min(63)
    }

    fn contains(&self, name: &[u8]) -> bool {
        self.initials & Self::initial(name) != 0
            && self.lengths & Self::length(name) != 0
            && self.all.iter().any(|known| known.as_bytes() == name)
    }
}

impl Node {
    fn new(parent: usize, key: &str) -> Self {
        let canonical = key == "0" || !key.starts_with(['0', '+']);
        let index = key.parse().ok().filter(|_| canonical);
        let folded = fold(key).into();
        let key = key.into();
        Self { parent, key, folded, index, children: Vec::new(), names: Names::default() }
    }

    /// Whether no reader treats this key as that of a child; false if that needs a closer comparison.
    pub(super) fn is_foreign(&self, key: &[u8]) -> bool {
        // Such a key equals its folded form.
        is_folded(key) && !self.names.contains(key)
    }
}

fn unescaped(token: &str) -> Option<String> {
    let mut key = String::with_capacity(token.len());
    let mut characters = token.chars();
    while let Some(character) = characters.next() {
        key.push(match character {
            '~' => match characters.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            },
            other => other,
        });
    }
    Some(key)
}

/// A key without case and invisible characters. Two keys with the same folded form are equal for some reader: those of
/// Go and .NET don't distinguish `Method` from `method` (nor, in Go, the long s from `s`, and the Kelvin sign from
/// `k`), and invisible characters may be dropped.
pub(super) fn fold(key: &str) -> Cow<'_, str> {
    if is_folded(key.as_bytes()) {
        return Cow::Borrowed(key);
    }
    // Upper case first: only that way the long s and the Kelvin sign become `s` and `k`.
    let visible = key.chars().filter(|character| !is_invisible(*character));
    visible.flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// A quick check whether folding changes nothing.
fn is_folded(key: &[u8]) -> bool {
    key.iter().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase())
}

/// White space, control characters, and characters that Unicode calls "default ignorable".
fn is_invisible(character: char) -> bool {
    character.is_whitespace()
        || character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
                | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
                | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
        )
}
