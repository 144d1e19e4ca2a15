//! Replacements in a text, collected first and written once.

use std::ops::Range;

use super::{Member, Object};

/// Edits of one text, by spans that borrow from it.
#[derive(Debug)]
pub struct Edits<'a> {
    text: &'a str,
    edits: Vec<(Range<usize>, String)>,
}

impl<'a> Edits<'a> {
    /// No edits of `text` yet.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self { text, edits: Vec::new() }
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
        let mut kept_end = None;
        for (index, member) in members.iter().enumerate() {
            if !cut(member) {
                kept_end = Some(self.range(member.value).end);
                continue;
            }
            let rest = &members[index + 1..];
            let (start, end) = (self.range(member.key).start, self.range(member.value).end);
            match (rest.first(), kept_end) {
                // With everything behind it cut as well, the comma to go is the one in front.
                _ if rest.iter().all(&cut) => {
                    let last = members.last().map_or(end, |last| self.range(last.value).end);
                    self.edits.push((kept_end.unwrap_or(start)..last, String::new()));
                    break;
                }
                (Some(next), _) => {
                    let next = self.range(next.key).start;
                    self.edits.push((start..next, String::new()));
                }
                (None, _) => {}
            }
        }
        if !add.is_empty() {
            let at = kept_end.unwrap_or_else(|| self.range(object.text()).start + 1);
            let mut text = String::new();
            for (key, value) in add {
                if kept_end.is_some() || !text.is_empty() {
                    text.push(',');
                }
                text.push_str(&super::quote(key));
                text.push(':');
                text.push_str(value);
            }
            self.edits.push((at..at, text));
        }
    }

    /// Cuts elements out of an array, `spans` being all of its elements in order.
    pub fn elements(&mut self, spans: &[&str], cut: impl Fn(usize) -> bool) {
        let mut kept_end = None;
        for (index, span) in spans.iter().enumerate() {
            let range = self.range(span);
            if !cut(index) {
                kept_end = Some(range.end);
                continue;
            }
            if (index + 1..spans.len()).all(&cut) {
                let last = spans.last().map_or(range.end, |last| self.range(last).end);
                self.edits.push((kept_end.unwrap_or(range.start)..last, String::new()));
                break;
            }
            if let Some(next) = spans.get(index + 1) {
                let next = self.range(next).start;
                self.edits.push((range.start..next, String::new()));
            }
        }
    }

    /// The text with all edits done.
    #[must_use]
    pub fn apply(mut self) -> String {
        // At one place insertions come before removals: both are about the same gap.
        self.edits.sort_by_key(|(range, _)| (range.start, range.end));
        let grown: usize = self.edits.iter().map(|(_, new)| new.len()).sum();
        let mut out = String::with_capacity(self.text.len() + grown);
        let mut at = 0;
        for (range, new) in &self.edits {
            out.push_str(self.text.get(at..range.start).unwrap_or_default());
            out.push_str(new);
            at = at.max(range.end);
        }
        out.push_str(self.text.get(at..).unwrap_or_default());
        out
    }

    /// Where a span that borrows from the text stands in it.
    fn range(&self, span: &str) -> Range<usize> {
        let start = (span.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        debug_assert!(start <= self.text.len(), "a span of another text");
        start..start + span.len()
    }
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
    let members: Vec<String> =
        add.iter().map(|(key, value)| format!("{}:{value}", super::quote(key))).collect();
    let object = format!("{{{}}}", members.join(","));
    let mut edits = Edits::new(text);
    match (&params, &meta) {
        (_, Some(Some(meta))) => edits.members(meta, |_| false, &add),
        (Some(Some(params)), _) => edits.members(params, |_| false, &[("_meta", &object)]),
        _ => {
            let params = format!(r#"{{"_meta":{object}}}"#);
            edits.members(&envelope, |_| false, &[("params", &params)]);
        }
    }
    Some(edits.apply())
}
