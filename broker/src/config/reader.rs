//! Reads a TOML document and collects all errors, instead of stopping at the first.
//!
//! A [`Table`] records the keys that were read; [`Table::done`] reports all others as unknown. So
//! the list of known keys is the code that reads them.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Fault, Faults};

/// The document, and the errors so far.
pub(super) struct Reader<'a> {
    text: &'a str,
    faults: RefCell<Vec<Fault>>,
}

/// A table of the document.
pub(super) struct Table<'a> {
    reader: &'a Reader<'a>,
    entries: &'a DeTable<'a>,
    path: String,
    span: Range<usize>,
    known_keys: RefCell<Vec<&'static str>>,
}

/// A value, and its position.
pub(super) struct Value<'a, T> {
    reader: &'a Reader<'a>,
    path: String,
    span: Range<usize>,
    pub(super) value: T,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, faults: RefCell::default() }
    }

    /// The root table of the document.
    pub(super) fn root(&'a self, document: &'a Spanned<DeTable<'a>>) -> Table<'a> {
        Table {
            reader: self,
            entries: document.get_ref(),
            path: String::new(),
            span: 0..0,
            known_keys: RefCell::default(),
        }
    }

    /// Adds an error.
    pub(super) fn fault(&self, at: usize, key: &str, message: impl Into<String>) {
        let line = 1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        let fault = Fault { line, key: key.to_owned(), message: message.into() };
        self.faults.borrow_mut().push(fault);
    }

    /// Returns all errors, by line, or `Ok` if there are none.
    pub(super) fn finish(&self, file: &Path) -> Result<(), Faults> {
        let mut faults = self.faults.take();
        if faults.is_empty() {
            return Ok(());
        }
        faults.sort_by_key(|fault| fault.line);
        Err(Faults { file: file.to_owned(), faults })
    }
}

impl<'a> Table<'a> {
    /// The key path of an entry.
    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn entry(&self, key: &'static str) -> Option<Value<'a, &'a DeValue<'a>>> {
        self.known_keys.borrow_mut().push(key);
        let value = self.entries.get(key)?;
        Some(Value {
            reader: self.reader,
            path: self.path_of(key),
            span: value.span(),
            value: value.get_ref(),
        })
    }

    /// Whether the key exists, with any value.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.entry(key).is_some()
    }

    /// Whether the key exists and its value is a list.
    pub(super) fn is_list(&self, key: &'static str) -> bool {
        self.entry(key).is_some_and(|entry| entry.value.as_array().is_some())
    }

    /// Reads a text.
    pub(super) fn text(&self, key: &'static str) -> Option<Value<'a, &'a str>> {
        self.entry(key)?.typed("a text in quotes", |value| value.as_str())
    }

    /// Reads a boolean.
    pub(super) fn flag(&self, key: &'static str) -> Option<Value<'a, bool>> {
        self.entry(key)?.typed("true or false", |value| value.as_bool())
    }

    /// Reads a whole number in the range.
    pub(super) fn number(&self, key: &'static str, range: Range<u32>) -> Option<Value<'a, u32>> {
        let what = format!("a whole number from {} to {}", range.start, range.end - 1);
        self.entry(key)?.typed(&what, |value| {
            let integer = value.as_integer()?;
            let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok()?;
            range.contains(&number).then_some(number)
        })
    }

    /// Reads a number in the range, whole or not.
    pub(super) fn decimal(
        &self,
        key: &'static str,
        range: RangeInclusive<f64>,
    ) -> Option<Value<'a, f64>> {
        let what = format!("a number from {} to {}", range.start(), range.end());
        self.entry(key)?.typed(&what, |value| {
            let number = match (value.as_integer(), value.as_float()) {
                (Some(integer), _) => {
                    f64::from(u32::from_str_radix(integer.as_str(), integer.radix()).ok()?)
                }
                (None, float) => float?.as_str().parse().ok()?,
            };
            range.contains(&number).then_some(number)
        })
    }

    /// Reads a list of texts.
    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<Value<'a, &'a str>>> {
        let list =
            self.entry(key)?.typed("a list of texts: [\"…\"]", |value| value.as_array())?;
        let texts = list.value.iter().enumerate().filter_map(|(index, item)| {
            let item = Value {
                reader: self.reader,
                path: format!("{}[{index}]", list.path),
                span: item.span(),
                value: item.get_ref(),
            };
            item.typed("a text in quotes", |value| value.as_str())
        });
        Some(texts.collect())
    }

    /// Reads a table.
    pub(super) fn table(&self, key: &'static str) -> Option<Table<'a>> {
        self.entry(key)?.typed("a table", |value| value.as_table()).map(Table::from)
    }

    /// Reads all values of a list.
    pub(super) fn values(&self, key: &'static str) -> Option<Vec<Value<'a, &'a DeValue<'a>>>> {
        let list = self.entry(key)?.typed("a list", |value| value.as_array())?;
        let values = list.value.iter().enumerate().map(|(index, item)| Value {
            reader: self.reader,
            path: format!("{}[{index}]", list.path),
            span: item.span(),
            value: item.get_ref(),
        });
        Some(values.collect())
    }

    /// Reads a value of any type.
    pub(super) fn value(&self, key: &'static str) -> Option<Value<'a, &'a DeValue<'a>>> {
        self.entry(key)
    }

    /// Reads all tables of an array of tables: `[[key]]`.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Table<'a>> {
        let Some(list) = self
            .entry(key)
            .and_then(|entry| entry.typed(&format!("written [[{key}]]"), |value| value.as_array()))
        else {
            return Vec::new();
        };
        let tables = list.value.iter().enumerate().filter_map(|(index, item)| {
            let item = Value {
                reader: self.reader,
                path: format!("{}[{index}]", list.path),
                span: item.span(),
                value: item.get_ref(),
            };
            item.typed("a table", |value| value.as_table()).map(Table::from)
        });
        tables.collect()
    }

    /// Reports that a key is missing.
    pub(super) fn missing(&self, key: &str, message: &str) {
        self.reader.fault(self.span.start, &self.path_of(key), message);
    }

    /// Reports an error at an existing key.
    pub(super) fn fault(&self, key: &'static str, message: &str) {
        if let Some(entry) = self.entry(key) {
            entry.fault(message);
        }
    }

    /// Reports every unknown key.
    pub(super) fn done(self) {
        let known_keys = self.known_keys.into_inner();
        for key in self.entries.keys() {
            let name = key.get_ref().as_ref();
            if known_keys.contains(&name) {
                continue;
            }
            let path = if self.path.is_empty() {
                name.to_owned()
            } else {
                format!("{}.{name}", self.path)
            };
            let message = format!(
                "is not a key of this table{}",
                did_you_mean(name, known_keys.iter().copied())
            );
            self.reader.fault(key.span().start, &path, message);
        }
    }
}

impl<'a> From<Value<'a, &'a DeTable<'a>>> for Table<'a> {
    fn from(from: Value<'a, &'a DeTable<'a>>) -> Self {
        let Value { reader, path, span, value: entries } = from;
        Self { reader, entries, path, span, known_keys: RefCell::default() }
    }
}

impl<'a, T> Value<'a, T> {
    /// Reports an error at this value.
    pub(super) fn fault(&self, message: impl Into<String>) {
        self.reader.fault(self.span.start, &self.path, message);
    }

    /// Converts the value, or reports an error.
    pub(super) fn parse<U>(self, parse: impl FnOnce(T) -> Result<U, String>) -> Option<Value<'a, U>>
    where
        T: Copy,
    {
        match parse(self.value) {
            Ok(value) => {
                Some(Value { reader: self.reader, path: self.path, span: self.span, value })
            }
            Err(message) => {
                self.fault(message);
                None
            }
        }
    }

    fn typed<U>(self, what: &str, form: impl FnOnce(T) -> Option<U>) -> Option<Value<'a, U>>
    where
        T: Copy,
    {
        self.parse(|value| form(value).ok_or_else(|| format!("must be {what}")))
    }
}

/// Reads an absolute path.
pub(super) fn absolute(text: Value<'_, &str>) -> Option<PathBuf> {
    let absolute = |text: &str| {
        let path = PathBuf::from(text);
        if path.is_absolute() { Ok(path) } else { Err("must be an absolute path".to_owned()) }
    };
    text.parse(absolute).map(|path| path.value)
}

/// Checks references to declared names.
pub(super) fn references<'a>(
    texts: Vec<Value<'a, &'a str>>,
    declared: &[&'a str],
    what: &str,
) -> Vec<String> {
    let mut found = Vec::new();
    for text in texts {
        if !declared.contains(&text.value) {
            let hint = did_you_mean(text.value, declared.iter().copied());
            text.fault(format!("there is no {what} \"{}\"{hint}", text.value));
        } else if found.iter().any(|name| name == text.value) {
            text.fault(format!("\"{}\" is listed twice", text.value));
        } else {
            found.push(text.value.to_owned());
        }
    }
    found
}

/// The hint `: did you mean "x"?`, if one of the candidates is similar enough.
pub(super) fn did_you_mean<'c>(given: &str, known: impl Iterator<Item = &'c str>) -> String {
    known
        .map(|candidate| (distance(given, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().saturating_sub(1).min(2))
        .min()
        .map(|(_, candidate)| format!(": did you mean \"{candidate}\"?"))
        .unwrap_or_default()
}

/// The number of characters to insert, delete or replace (Levenshtein distance).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let next = (diagonal + usize::from(x != *y)).min(*cell + 1).min(left + 1);
            diagonal = std::mem::replace(cell, next);
            left = next;
        }
    }
    row.last().copied().unwrap_or_default()
}
