//! Parses one AWS file into its sections like Python's `configparser.RawConfigParser`, which
//! botocore and the AWS CLI use (CPython, `Lib/configparser.py`, `_read`).
//!
//! Invariant: nothing is dropped silently. Text that `configparser` accepts is parsed in the same
//! way; text for which it rejects the whole file is an error of the section that contains it, or of
//! the file if there is none.

use std::collections::HashMap;

use zeroize::Zeroizing;

/// A file that could be read, even if its sections have errors.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// The sections, in the order in which they begin.
    pub(super) sections: Vec<Section>,
    /// Lines that may have been intended as a section's header, and aren't valid ones.
    pub(super) suspects: Vec<Suspect>,
}

/// The settings under one header.
#[derive(Debug, Default)]
pub(super) struct Section {
    /// The text between the brackets, unchanged.
    pub(super) header: String,
    /// The line number of the header, from 1.
    pub(super) line: usize,
    pub(super) settings: Vec<Setting>,
    /// The reason why the AWS CLI wouldn't read this file; the section's settings must not be used
    /// then.
    pub(super) error: Option<Error>,
}

/// A setting. Its value may be a key.
pub(super) struct Setting {
    /// The name in lower case.
    pub(super) key: String,
    /// The value; continuation lines are joined by `\n`.
    pub(super) value: Zeroizing<String>,
    /// The line number of its name, from 1.
    pub(super) line: usize,
}

/// An error, without any text of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Error {
    pub(super) line: usize,
    pub(super) what: String,
}

/// A line that may be a section's header with an error. Its text may be a key.
pub(super) struct Suspect {
    pub(super) line: usize,
    pub(super) text: Zeroizing<String>,
    pub(super) what: &'static str,
}

/// The header whose settings `configparser` adds to every section.
const DEFAULTS: &str = "DEFAULT";

/// Parses a whole file.
///
/// # Errors
/// The file doesn't begin with a section, or an error concerns all sections.
pub(super) fn read(text: &str) -> Result<Document, Error> {
    let mut reader = Reader::default();
    for (index, line) in lines(text).enumerate() {
        reader.line(index + 1, line)?;
    }
    reader.finish()
}

#[derive(Default)]
struct Reader {
    document: Document,
    /// The index of each section by its header.
    known: HashMap<String, usize>,
    defaults: Section,
    current: Option<Current>,
    /// Whether the current section has a setting that a line may continue.
    open: bool,
    /// The indentation of the last line that wasn't a continuation, in characters.
    indentation: usize,
}

#[derive(Clone, Copy)]
enum Current {
    Defaults,
    Section(usize),
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) -> Result<(), Error> {
        let text = line.trim_matches(is_space);
        if text.starts_with(['#', ';']) {
            return Ok(());
        }
        if text.is_empty() {
            if self.open {
                self.continues("");
            }
            return Ok(());
        }
        let indentation = line.chars().take_while(|c| is_space(*c)).count();
        if self.open && indentation > self.indentation {
            if header(text).is_some() {
                let what =
                    "is indented, so that the AWS CLI reads it as a part of the setting above it";
                self.suspect(number, text, what);
            }
            self.continues(text);
            return Ok(());
        }
        self.indentation = indentation;
        if let Some(header) = header(text) {
            self.begin(number, header);
            return Ok(());
        }
        if self.current.is_none() {
            let what = if text.starts_with('\u{feff}') {
                "begins with a byte order mark, which the AWS CLI doesn't read: save the file without one"
            } else {
                "stands before the first [section]"
            };
            return Err(Error { line: number, what: what.to_owned() });
        }
        match text.split_once(['=', ':']) {
            Some((key, value)) => self.setting(number, key, value),
            None => {
                let what = "is no setting: there is no '=' in it";
                self.suspect(number, text, what);
                self.error(number, what.to_owned());
            }
        }
        Ok(())
    }

    fn begin(&mut self, number: usize, header: &str) {
        self.open = false;
        if header == DEFAULTS {
            self.current = Some(Current::Defaults);
            return;
        }
        if let Some(&index) = self.known.get(header) {
            self.current = Some(Current::Section(index));
            let first = self.document.sections[index].line;
            self.error(number, format!("begins the section of line {first} again"));
            return;
        }
        let index = self.document.sections.len();
        self.known.insert(header.to_owned(), index);
        let header = header.to_owned();
        self.document.sections.push(Section { header, line: number, ..Section::default() });
        self.current = Some(Current::Section(index));
    }

    fn setting(&mut self, number: usize, key: &str, value: &str) {
        let key = key.trim_end_matches(is_space).to_lowercase();
        self.open = !key.is_empty();
        if key.is_empty() {
            self.suspect(number, value, "has no name before its '='");
            self.error(number, "has no name before its '='".to_owned());
            return;
        }
        let value = Zeroizing::new(value.trim_matches(is_space).to_owned());
        let Some(section) = self.section() else { return };
        let twice = section.settings.iter().find(|setting| setting.key == key);
        let twice = twice.map(|first| format!("sets {key} again, after line {}", first.line));
        section.settings.push(Setting { key, value, line: number });
        if let Some(twice) = twice {
            self.error(number, twice);
        }
    }

    fn continues(&mut self, text: &str) {
        if let Some(setting) = self.section().and_then(|section| section.settings.last_mut()) {
            // A growing string would leave copies, which may be a key.
            let mut value =
                Zeroizing::new(String::with_capacity(setting.value.len() + 1 + text.len()));
            for part in [&setting.value, "\n", text] {
                value.push_str(part);
            }
            setting.value = value;
        }
    }

    fn suspect(&mut self, line: usize, text: &str, what: &'static str) {
        let text = Zeroizing::new(text.to_owned());
        self.document.suspects.push(Suspect { line, text, what });
    }

    /// Only the first error of a section is kept.
    fn error(&mut self, line: usize, what: String) {
        if let Some(section) = self.section() {
            section.error.get_or_insert(Error { line, what });
        }
    }

    fn section(&mut self) -> Option<&mut Section> {
        match self.current? {
            Current::Defaults => Some(&mut self.defaults),
            Current::Section(index) => self.document.sections.get_mut(index),
        }
    }

    fn finish(mut self) -> Result<Document, Error> {
        if let Some(error) = self.defaults.error.take() {
            return Err(error);
        }
        for section in self.document.sections.iter_mut().chain([&mut self.defaults]) {
            for setting in &mut section.settings {
                let end = setting.value.trim_end_matches(is_space).len();
                setting.value.truncate(end);
            }
        }
        for section in &mut self.document.sections {
            for default in &self.defaults.settings {
                if !section.settings.iter().any(|setting| setting.key == default.key) {
                    let (key, value) = (default.key.clone(), default.value.clone());
                    section.settings.push(Setting { key, value, line: default.line });
                }
            }
        }
        // botocore parses the nested settings of all values, and rejects the file if that fails.
        for section in &mut self.document.sections {
            let bad = section
                .settings
                .iter()
                .find(|it| nested(&it.value).any(|line| !line.contains('=')));
            let bad = bad.map(|it| Error {
                line: it.line,
                what: format!("{} is a block of indented lines, one of them without '='", it.key),
            });
            section.error = section.error.take().or(bad);
        }
        Ok(self.document)
    }
}

/// The lines of a file in Python's text mode: `\n`, `\r\n` and `\r` are line breaks.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.filter(|rest| !rest.is_empty())?;
        let Some(end) = text.find(['\n', '\r']) else {
            rest = None;
            return Some(text);
        };
        let next = if text[end..].starts_with("\r\n") { end + 2 } else { end + 1 };
        rest = Some(&text[next..]);
        Some(&text[..end])
    })
}

/// The text between the first bracket and the last; text after that is ignored.
fn header(text: &str) -> Option<&str> {
    let (header, _) = text.strip_prefix('[')?.rsplit_once(']')?;
    Some(header).filter(|header| !header.is_empty())
}

/// The lines of a block of nested settings; none for other values. They are split like
/// `str.splitlines`.
pub(super) fn nested(value: &str) -> impl Iterator<Item = &str> {
    let ends = |c| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let block = value.strip_prefix('\n').unwrap_or_default();
    block.split(ends).map(|line| line.trim_matches(is_space)).filter(|line| !line.is_empty())
}

/// White space in Python's `str.strip`, which includes four control characters.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setting")
            .field("key", &self.key)
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Suspect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suspect").field("line", &self.line).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
