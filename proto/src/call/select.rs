//! Selects the examined values of a message, and detects where another reader would select another
//! value.
//!
//! Invariant: the stored data is bounded by the number of places, [`MAX_TEXT`] and [`MAX_TEXTS`],
//! whatever the message contains.

use std::ops::Range;
use std::sync::Arc;

use super::want::{Place, Want, fold};
use crate::json::{Container, Handler, Literal, Scalar};

/// The longest text of one value, in bytes.
pub const MAX_TEXT: usize = 64 << 10;
/// The longest total text of all values of a message, in bytes.
const MAX_TEXTS: usize = 4 * MAX_TEXT;
/// Longer keys aren't compared, and count as ambiguous.
const MAX_KEY: usize = 1 << 10;

/// An examined value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number as it is written.
    Number(String),
    /// A decoded string.
    Text(String),
    /// An array.
    Array,
    /// An object.
    Object,
    /// A number or a string longer than [`MAX_TEXT`].
    TooLong,
    /// A string with half of a surrogate pair.
    HalfPair,
}

/// Why readers may disagree on the value of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conflict {
    Twice,
    /// A key that some readers don't distinguish from the one that is looked for.
    Spelling,
    /// A key with NUL, at which some readers end it; with half of a surrogate pair; or too long.
    OddKey,
}

/// What was found at a place.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Found {
    pub(super) value: Option<Value>,
    /// The beginning of its key, or of the element itself.
    pub(super) key: usize,
    pub(super) range: Range<usize>,
    pub(super) conflict: Option<Conflict>,
}

#[derive(Debug)]
pub(super) struct Selector {
    want: Arc<Want>,
    found: Vec<Found>,
    /// The open containers on the path to a place, and one that isn't.
    path: Vec<Level>,
    /// The place of the next value.
    next: Option<usize>,
    /// The text of the key, or of the value at `next`.
    text: Vec<u8>,
    reading: Option<Reading>,
    too_long: bool,
    kept: usize,
}

#[derive(Debug)]
struct Level {
    /// `None` if the container isn't examined.
    node: Option<usize>,
    /// In an array, the number of elements that have begun.
    elements: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    scalar: Scalar,
    at: usize,
}

impl Selector {
    pub(super) fn new(want: Arc<Want>) -> Self {
        let found = vec![Found::default(); want.nodes().len()];
        Self {
            want,
            found,
            path: Vec::new(),
            next: Some(Place::ROOT.0),
            text: Vec::new(),
            reading: None,
            too_long: false,
            kept: 0,
        }
    }

    pub(super) fn into_found(self) -> (Arc<Want>, Vec<Found>) {
        (self.want, self.found)
    }

    pub(super) fn held(&self) -> usize {
        self.kept + self.text.capacity()
    }

    /// A value begins at `at`. Returns its place.
    fn begin_value(&mut self, at: usize) -> Option<usize> {
        if let Some(Level { node: Some(node), elements: Some(elements) }) = self.path.last_mut() {
            let (node, index) = (*node, *elements);
            *elements += 1;
            let nodes = self.want.nodes();
            let mut children = nodes[node].children.iter().copied();
            self.next = children.find(|child| nodes[*child].index == Some(index));
            if let Some(next) = self.next {
                self.found[next].key = at;
            }
        }
        if let Some(next) = self.next {
            self.found[next].range = at..at;
        }
        self.next
    }

    fn end_value(&mut self, value: Value, end: usize) {
        if let Some(place) = self.next.take() {
            self.found[place].value = Some(value);
            self.found[place].range.end = end;
        }
    }

    fn end_key(&mut self, at: usize, well_formed: bool) {
        self.next = None;
        let Some(node) = self.path.last().and_then(|level| level.node) else { return };
        let nodes = self.want.nodes();
        let odd = !well_formed || self.too_long || self.text.contains(&0);
        let children = &nodes[node].children;
        let key = std::str::from_utf8(&self.text).ok();
        let Some(key) = key.filter(|_| !odd) else {
            for child in children {
                self.found[*child].conflict = Some(Conflict::OddKey);
            }
            return;
        };
        let folded = fold(key);
        for &child in children {
            let found = &mut self.found[child];
            if *key == *nodes[child].key {
                if found.value.is_some() {
                    found.conflict = Some(Conflict::Twice);
                } else {
                    found.key = at;
                    self.next = Some(child);
                }
            } else if *nodes[child].folded == *folded {
                found.conflict = Some(Conflict::Spelling);
            }
        }
    }
}

impl Handler for Selector {
    fn open(&mut self, container: Container, at: usize) -> bool {
        let node = self.begin_value(at);
        let (value, elements) = match container {
            Container::Object => (Value::Object, None),
            Container::Array => (Value::Array, Some(0)),
        };
        self.end_value(value, at);
        self.path.push(Level { node, elements });
        let nodes = self.want.nodes();
        node.is_some_and(|node| match container {
            Container::Object => !nodes[node].children.is_empty(),
            Container::Array => nodes[node].children.iter().any(|it| nodes[*it].index.is_some()),
        })
    }

    fn close(&mut self, end: usize) {
        if let Some(node) = self.path.pop().and_then(|level| level.node) {
            self.found[node].range.end = end;
        }
    }

    fn skips_key(&mut self, key: &[u8]) -> bool {
        let Some(node) = self.path.last().and_then(|level| level.node) else { return true };
        let is_skipped = self.want.nodes()[node].is_foreign(key);
        if is_skipped {
            self.next = None;
        }
        is_skipped
    }

    fn scalar(&mut self, scalar: Scalar, at: usize) -> bool {
        let wanted = match scalar {
            // Only examined values are passed on.
            Scalar::Key => true,
            Scalar::String | Scalar::Number => self.begin_value(at).is_some(),
        };
        self.reading = wanted.then_some(Reading { scalar, at });
        self.text.clear();
        self.too_long = false;
        wanted
    }

    fn text(&mut self, piece: &[u8]) {
        let limit = match self.reading {
            Some(Reading { scalar: Scalar::Key, .. }) => MAX_KEY,
            Some(_) => MAX_TEXT.min(MAX_TEXTS - self.kept),
            None => 0,
        };
        if self.text.len() + piece.len() > limit {
            self.too_long = true;
            self.text = Vec::new();
        } else if !self.too_long {
            self.text.extend_from_slice(piece);
        }
    }

    fn scalar_end(&mut self, end: usize, well_formed: bool) {
        let Some(Reading { scalar, at }) = self.reading.take() else { return };
        if scalar == Scalar::Key {
            self.end_key(at, well_formed);
            return;
        }
        let value = if self.too_long {
            Value::TooLong
        } else if !well_formed {
            Value::HalfPair
        } else {
            self.kept += self.text.len();
            match (scalar, String::from_utf8(std::mem::take(&mut self.text))) {
                (Scalar::Number, Ok(text)) => Value::Number(text),
                (_, Ok(text)) => Value::Text(text),
                (_, Err(_)) => Value::HalfPair,
            }
        };
        self.end_value(value, end);
    }

    fn literal(&mut self, literal: Literal, at: usize, end: usize) {
        self.begin_value(at);
        let value = match literal {
            Literal::Null => Value::Null,
            Literal::True => Value::Bool(true),
            Literal::False => Value::Bool(false),
        };
        self.end_value(value, end);
    }
}
