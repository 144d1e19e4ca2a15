//! Replacements in a text, collected first and written once.

use std::ops::Range;

use super::fault::Fault;
use super::object::{Member, Object};
use super::text::quote;

/// Edits of one text, by spans that borrow from it.
#[derive(Debug)]
pub struct Edits<'a> {
    text: &'a str,
    edits: Vec<(Range<usize>, String)>,
    /// A span of another text was given: nothing can be said of the result.
    is_bad: bool,
}

impl<'a> Edits<'a> {
    /// No edits of `text` yet.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self { text, edits: Vec::new(), is_bad: false }
    }

    /// Whether nothing is to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Puts `new` where `span` stands. `span` must borrow from the text of these edits.
    pub fn replace(&mut self, span: &str, new: impl Into<String>) {
        let range = self.range(span);
        self.edits.push((range, new.into()));
    }

    /// Rewrites the members of one object: those that `cut` picks go, with one comma each; `add`
    /// comes behind those that stay. At most one call an object.
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

    /// Cuts elements out of an array, `spans` being all of its elements in order.
    pub fn elements(&mut self, spans: &[&str], cut: impl Fn(usize) -> bool) {
        let cuts: Vec<bool> = (0..spans.len()).map(cut).collect();
        let starts = spans.iter().map(|span| self.range(span).start).collect();
        let ends = spans.iter().map(|span| self.range(span).end).collect();
        self.cut(&cuts, starts, ends);
    }

    /// Cuts items out of a list, with one comma each; where the last one ends that stays. In time that
    /// is linear in their number.
    fn cut(&mut self, cuts: &[bool], starts: Vec<usize>, ends: Vec<usize>) -> Option<usize> {
        let last_kept = cuts.iter().rposition(|cut| !cut);
        let kept_end = last_kept.map(|at| ends[at]);
        // In front of one that stays: with the comma behind.
        let before = last_kept.unwrap_or(0);
        let cut_before = (0..before).filter(|at| cuts[*at]);
        self.edits.extend(cut_before.map(|at| (starts[at]..starts[at + 1], String::new())));
        // Behind the last one that stays: with the comma in front.
        let first = last_kept.map_or(0, |at| at + 1);
        if let (Some(start), Some(end)) = (starts.get(first), ends.last()) {
            self.edits.push((kept_end.unwrap_or(*start)..*end, String::new()));
        }
        kept_end
    }

    /// Cuts the member at `member`, from its key to the end of its value, with one comma.
    pub fn cut_member(&mut self, member: Range<usize>) {
        let text = self.text.as_bytes();
        let (Some(before), Some(after)) = (text.get(..member.start), text.get(member.end..)) else {
            self.is_bad = true;
            return;
        };
        let next = after.trim_ascii_start();
        let range = match (next.strip_prefix(b","), before.trim_ascii_end().strip_suffix(b",")) {
            (Some(next), _) => member.start..text.len() - next.trim_ascii_start().len(),
            // Of the last one, the comma to go is the one in front.
            (None, Some(before)) => before.trim_ascii_end().len()..member.end,
            (None, None) => member,
        };
        self.edits.push((range, String::new()));
    }

    /// Adds members to the object at `object`, behind those that stay. At most once for an object, and
    /// after its cuts.
    pub fn add_members(&mut self, object: Range<usize>, add: &[(&str, &str)]) {
        let inner = self.text.get(object.clone()).and_then(|text| text.strip_suffix('}'));
        let Some(inner) = inner.filter(|inner| inner.starts_with('{')) else {
            self.is_bad = true;
            return;
        };
        let mut end = object.start + inner.trim_ascii_end().len();
        // What was cut at the end may have been all, or all behind another member.
        for (range, new) in &self.edits {
            if range.end == end && range.start > object.start && new.is_empty() {
                end = self.text[..range.start].trim_ascii_end().len();
            }
        }
        let members = members(add);
        let is_first = end == object.start + 1;
        self.edits.push((end..end, if is_first { members } else { format!(",{members}") }));
    }

    /// The text with all edits done.
    ///
    /// # Errors
    /// An edit isn't one of this text, or two touch the same place.
    pub fn apply(mut self) -> Result<String, Fault> {
        if self.is_bad {
            return Err(Fault::BadEdit);
        }
        // At one place insertions come before removals: both are about the same gap.
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

    /// Where a span that borrows from the text stands in it.
    fn range(&mut self, span: &str) -> Range<usize> {
        let start = (span.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        let end = start.saturating_add(span.len());
        self.is_bad |= end > self.text.len();
        start..end
    }
}

/// Where the text is, without the white space around it.
#[must_use]
pub fn trimmed(text: &str) -> Range<usize> {
    let start = text.len() - text.trim_ascii_start().len();
    start..text.trim_ascii_end().len()
}

/// Members, in JSON, by key and text.
fn members(members: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (key, value) in members {
        let comma = if text.is_empty() { "" } else { "," };
        text.extend([comma, &quote(key), ":", value]);
    }
    text
}

/// An object of members, by key and text.
#[must_use]
pub fn object(of: &[(&str, &str)]) -> String {
    format!("{{{}}}", members(of))
}

/// `text` with `metadata` (JSON text by key) in `params._meta`, made where there is none. What the
/// message says itself stays: its own value wins.
#[must_use]
pub fn with_metadata(text: String, metadata: &[(String, String)]) -> String {
    metadata_edits(&text, metadata).unwrap_or(text)
}

fn metadata_edits(text: &str, metadata: &[(String, String)]) -> Option<String> {
    let envelope = Object::parse(text).ok()?;
    let params = envelope.find("params").map(|params| Object::parse(params).ok());
    let meta = match &params {
        // By position (JSON-RPC 2.0 section 4.2): nowhere to put it.
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
