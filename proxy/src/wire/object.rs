//! The members of one JSON object, as spans of its text.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use sigward_proto::members;

use super::fault::Fault;
use super::text::string;

/// The most members of one object, and the most elements of one array. A message of the allowed size could have a
/// hundred times as many, and each needs more memory than its text.
const MAX_SPANS: usize = 1 << 20;

/// One member: the key's token with its quotes, and the value's text.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// The token of the key, with quotes and escapes.
    pub key: &'a str,
    /// The text of the value.
    pub value: &'a str,
}

impl<'a> Member<'a> {
    /// The decoded key. A key that isn't valid Unicode keeps its escapes, and therefore differs
    /// from every name that is looked up.
    #[must_use]
    pub fn name(&self) -> Cow<'a, str> {
        string(self.key).unwrap_or(Cow::Borrowed(self.key))
    }
}

/// A JSON object whose members are spans of `text`.
#[derive(Debug, Clone)]
pub struct Object<'a> {
    text: &'a str,
    members: Vec<Member<'a>>,
}

impl<'a> Object<'a> {
    /// Parses one object. Its values are checked as JSON, but not parsed further.
    pub fn parse(text: &'a str) -> Result<Self, Fault> {
        let text = text.trim_matches([' ', '\t', '\n', '\r']);
        let members = members::read(text, MAX_SPANS).map_err(|fault| not_object(text, fault))?;
        let span = |of: members::Member| Member { key: &text[of.key], value: &text[of.value] };
        Ok(Self { text, members: members.into_iter().map(span).collect() })
    }

    /// The members in the order of the text.
    #[must_use]
    pub fn members(&self) -> &[Member<'a>] {
        &self.members
    }

    /// The text of the object, from `{` to `}`.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The value of `name`. A duplicate is an error: the next reader of the message could choose
    /// either.
    pub fn get(&self, name: &str) -> Result<Option<&'a str>, Fault> {
        let mut found = self.members.iter().filter(|member| member.name() == name);
        let first = found.next();
        if found.next().is_some() {
            return Err(Fault::DuplicateKey(name.to_owned()));
        }
        Ok(first.map(|member| member.value))
    }

    /// The value of `name`, where no decision depends on it: the last one, as in most parsers.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&'a str> {
        self.members.iter().rev().find(|member| member.name() == name).map(|member| member.value)
    }

    /// The range of the member `name` in the text of the object, including its key.
    #[must_use]
    pub fn range_of(&self, name: &str) -> Option<Range<usize>> {
        let member = self.members.iter().find(|member| member.name() == name)?;
        // Both borrow from the text by construction.
        let base = self.text.as_ptr() as usize;
        let start = (member.key.as_ptr() as usize).checked_sub(base)?;
        let end = (member.value.as_ptr() as usize).checked_sub(base)? + member.value.len();
        (start <= end && end <= self.text.len()).then_some(start..end)
    }

    /// The object under `name`, for reading.
    #[must_use]
    pub fn find_object(&self, name: &str) -> Option<Object<'a>> {
        self.find(name).and_then(|text| Object::parse(text).ok())
    }

    /// The string under `name`, for reading.
    #[must_use]
    pub fn find_string(&self, name: &str) -> Option<Cow<'a, str>> {
        self.find(name).and_then(string)
    }
}

/// The elements of an array, as spans of its text.
pub fn elements(text: &str) -> Result<Vec<&str>, Fault> {
    elements_up_to(MAX_SPANS, text)
}

/// [`elements`] of an array with at most `limit` elements.
pub(super) fn elements_up_to(limit: usize, text: &str) -> Result<Vec<&str>, Fault> {
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let found = Elements(limit).deserialize(&mut deserializer);
    let all = found.and_then(|found| deserializer.end().map(|()| found));
    all.map_err(|error| fault(text, &error))?.ok_or(Fault::TooMany(limit))
}

/// The error for a text that isn't an object.
fn not_object(text: &str, fault: members::Fault) -> Fault {
    match fault {
        members::Fault::NotJson(at) => Fault::NotJson { column: at + 1 },
        members::Fault::Array => Fault::NotObject,
        // A text that begins like a word may not be JSON.
        members::Fault::Scalar => match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Fault::NotObject,
            Err(error) => self::fault(text, &error),
        },
        members::Fault::TooMany(limit) => Fault::TooMany(limit),
    }
}

fn fault(text: &str, error: &serde_json::Error) -> Fault {
    if error.is_data() {
        return Fault::NotObject;
    }
    let line_start = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum::<usize>();
    Fault::NotJson { column: line_start + error.column() }
}

/// Collects the elements of an array up to a limit; `None` if there are more.
struct Elements(usize);

impl<'de> DeserializeSeed<'de> for Elements {
    type Value = Option<Vec<&'de str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements {
    type Value = Option<Vec<&'de str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Some(Vec::new());
        while let Some(element) = seq.next_element::<&'de RawValue>()? {
            // The rest is still parsed: whether a text is JSON doesn't depend on its length.
            match &mut elements {
                Some(all) if all.len() < self.0 => all.push(element.get()),
                _ => elements = None,
            }
        }
        Ok(elements)
    }
}
