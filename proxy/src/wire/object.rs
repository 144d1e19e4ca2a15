//! The members of one JSON object, as spans of its text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Fault, string};

/// One member: the key's token with its quotes, and the value's text.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// The token of the key, quotes and escapes included.
    pub key: &'a str,
    /// The text of the value.
    pub value: &'a str,
}

impl<'a> Member<'a> {
    /// The key that the token spells. A key that isn't Unicode keeps its escapes, and so equals no
    /// name that we look for.
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
    /// Reads one object; what its values hold is checked as JSON and not looked into.
    pub fn parse(text: &'a str) -> Result<Self, Fault> {
        let text = text.trim_matches([' ', '\t', '\n', '\r']);
        let members: Members<'a> =
            serde_json::from_str(text).map_err(|error| fault(text, &error))?;
        Ok(Self { text, members: members.0 })
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

    /// The value of `name`. Two members of that name are a fault: which one counts would be the
    /// choice of whoever reads the message next.
    pub fn get(&self, name: &str) -> Result<Option<&'a str>, Fault> {
        let mut found = self.members.iter().filter(|member| member.name() == name);
        let first = found.next();
        if found.next().is_some() {
            return Err(Fault::DuplicateKey(name.to_owned()));
        }
        Ok(first.map(|member| member.value))
    }

    /// The value of `name`, for reading where nothing is decided by it: the last one, as most
    /// parsers do.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&'a str> {
        self.members.iter().rev().find(|member| member.name() == name).map(|member| member.value)
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
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    let elements: Vec<&RawValue> =
        serde_json::from_str(text).map_err(|error| fault(text, &error))?;
    Ok(elements.into_iter().map(RawValue::get).collect())
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

struct Members<'a>(Vec<Member<'a>>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Spans;
        impl<'de> Visitor<'de> for Spans {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some(key) = map.next_key::<&'de RawValue>()? {
                    let value = map.next_value::<&'de RawValue>()?.get();
                    let key = key.get();
                    if !key.starts_with('"') {
                        return Err(de::Error::custom("a key must be a string"));
                    }
                    members.push(Member { key, value });
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Spans)
    }
}
