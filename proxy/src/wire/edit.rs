//! Replacements in a text, collected first and applied once.

use std::ops::Range;

use super::fault::Fault;
use super::object::{Member, Object};
use super::text::quote;

/// Edits of one text, by spans that borrow from it.
#[derive(Debug)]
pub struct Edits<'a> {
    text: &'a str,
    edits: Vec<(Range<usize>, String)>,
    /// Set if a span of another text was given; then the result is invalid.
    is_bad: bool,
}

impl<'a> Edits<'a> {
    /// Makes an empty set of edits of `text`.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self { text, edits: Vec::new(), is_bad: false }
    }

    /// Whether there are no edits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Replaces `span` with `new`. `span` must borrow from the text of these edits.
    pub fn replace(&mut self, span: &str, new: impl Into<String>) {
        let range = self.range(span);
        self.edits.push((range, new.into()));
    }

    /// Rewrites the members of one object: removes those that `cut` selects, with one comma each,
    /// and appends `add`. May be called once for each object.
    pub fn members(
        &mut self,
        object: &Object<'_>,
        cut: impl Fn(&Member<'_>) -> bool,
        add: &[(&str, &str)],
    ) {
        let members = object.members();
        let cuts: Vec<bool> = members.iter().map(cut).collect();
        let starts = members.iter().map(|member| self.range(member.key).start).collect();
        let ends = members.iter().map(|member| self.range(member.value).end).collect();
        let kept_end = self.cut(&cuts, starts, ends);
        if !add.is_empty() {
            let at = kept_end.unwrap_or_else(|| self.range(object.text()).start + 1);
            let comma = if kept_end.is_some() { "," } else { "" };
            self.edits.push((at..at, format!("{comma}{}", self::members(add))));
        }
    }

    /// Removes elements of an array; `spans` must be all of its elements in order.
    pub fn elements(&mut self, spans: &[&str], cut: impl Fn(usize) -> bool) {
        let cuts: Vec<bool> = (0..spans.len()).map(cut).collect();
        let starts = spans.iter().map(|span| self.range(span).start).collect();
        let ends = spans.iter().map(|span| self.range(span).end).collect();
        self.cut(&cuts, starts, ends);
    }

    /// Removes items of a list, with one comma each, and returns the end of the last remaining item. Takes linear time.
    fn cut(&mut self, cuts: &[bool], starts: Vec<usize>, ends: Vec<usize>) -> Option<usize> {
        let last_kept = cuts.iter().rposition(|cut| !cut);
        let kept_end = last_kept.map(|at| ends[at]);
        // Before a remaining item: removed with the following comma.
        let before = last_kept.unwrap_or(0);
        let cut_before = (0..before).filter(|at| cuts[*at]);
        self.edits.extend(cut_before.map(|at| (starts[at]..starts[at + 1], String::new())));
        // After the last remaining item: removed with the preceding comma.
        let first = last_kept.map_or(0, |at| at + 1);
        if let (Some(start), Some(end)) = (starts.get(first), ends.last()) {
            self.edits.push((kept_end.unwrap_or(*start)..*end, String::new()));
        }
        kept_end
    }

    /// Removes the member at `member`, from its key to the end of its value, with one comma.
    pub fn cut_member(&mut self, member: Range<usize>) {
        let text = self.text.as_bytes();
        let (Some(before), Some(after)) = (text.get(..member.start), text.get(member.end..)) else {
            self.is_bad = true;
            return;
        };
        let next = after.trim_ascii_start();
        let range = match (next.strip_prefix(b","), before.trim_ascii_end().strip_suffix(b",")) {
            (Some(next), _) => member.start..text.len() - next.trim_ascii_start().len(),
            // For the last member, the preceding comma is removed.
            (None, Some(before)) => before.trim_ascii_end().len()..member.end,
            (None, None) => member,
        };
        self.edits.push((range, String::new()));
    }

    /// Appends members to the object at `object`. May be called once for an object, after its removals.
    pub fn add_members(&mut self, object: Range<usize>, add: &[(&str, &str)]) {
        let inner = self.text.get(object.clone()).and_then(|text| text.strip_suffix('}'));
        let Some(inner) = inner.filter(|inner| inner.starts_with('{')) else {
            self.is_bad = true;
            return;
        };
        let mut end = object.start + inner.trim_ascii_end().len();
        // The removals at the end may have left nothing, or nothing after another member.
        for (range, new) in &self.edits {
            if range.end == end && range.start > object.start && new.is_empty() {
                end = self.text[..range.start].trim_ascii_end().len();
            }
        }
        let members = members(add);
        let is_first = end == object.start + 1;
        self.edits.push((end..end, if is_first { members } else { format!(",{members}") }));
    }

    /// Applies all edits, and returns the new text.
    ///
    /// # Errors
    /// An edit isn't within this text, or two edits overlap.
    pub fn apply(mut self) -> Result<String, Fault> {
        if self.is_bad {
            return Err(Fault::BadEdit);
        }
        // At the same position, insertions come before removals: both concern the same gap.
        self.edits.sort_by_key(|(range, _)| (range.start, range.end));
        let grown: usize = self.edits.iter().map(|(_, new)| new.len()).sum();
        let mut out = String::with_capacity(self.text.len() + grown);
        let mut at = 0;
        for (range, new) in &self.edits {
            out.push_str(self.text.get(at..range.start).ok_or(Fault::BadEdit)?);
            out.push_str(new);
            at = range.end;
        }
        out.push_str(self.text.get(at..).ok_or(Fault::BadEdit)?);
        Ok(out)
    }

    /// The range of a span that borrows from the text.
    fn range(&mut self, span: &str) -> Range<usize> {
        let start = (span.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        let end = start.saturating_add(span.len());
        self.is_bad |= end > self.text.len();
        start..end
    }
}

/// The range of the text without surrounding white space.
#[must_use]
pub fn trimmed(text: &str) -> Range<usize> {
    let start = text.len() - text.trim_ascii_start().len();
    start..text.trim_ascii_end().len()
}

/// Members as JSON text, from keys and JSON values.
fn members(members: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (key, value) in members {
        let comma = if text.is_empty() { "" } else { "," };
        text.extend([comma, &quote(key), ":", value]);
    }
    text
}

/// An object as JSON text, from keys and JSON values.
#[must_use]
pub fn object(of: &[(&str, &str)]) -> String {
    format!("{{{}}}", members(of))
}

/// `text` with `metadata` (JSON text by key) in `params._meta`, which is created if necessary. Keys
/// that the message already has keep their value.
#[must_use]
pub fn with_metadata(text: String, metadata: &[(String, String)]) -> String {
    metadata_edits(&text, metadata).unwrap_or(text)
}

fn metadata_edits(text: &str, metadata: &[(String, String)]) -> Option<String> {
    let envelope = Object::parse(text).ok()?;
    let params = envelope.find("params").map(|params| Object::parse(params).ok());
    let meta = match &params {
        // Params by position (JSON-RPC 2.0 section 4.2) have no place for it.
        Some(None) => return None,
        Some(Some(params)) => params.find("_meta").map(|meta| Object::parse(meta).ok()),
        None => None,
    };
    let known = match &meta {
        Some(None) => return None,
        Some(Some(meta)) => meta.members().iter().map(Member::name).collect(),
        None => Vec::new(),
    };
    let add: Vec<(&str, &str)> = metadata
        .iter()
        .filter(|(key, _)| !known.iter().any(|name| name == key))
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    if add.is_empty() {
        return None;
    }
    let object = object(&add);
    let mut edits = Edits::new(text);
    match (&params, &meta) {
        (_, Some(Some(meta))) => edits.members(meta, |_| false, &add),
        (Some(Some(params)), _) => edits.members(params, |_| false, &[("_meta", &object)]),
        _ => {
            let params = format!(r#"{{"_meta":{object}}}"#);
            edits.members(&envelope, |_| false, &[("params", &params)]);
        }
    }
    edits.apply().ok()
}
