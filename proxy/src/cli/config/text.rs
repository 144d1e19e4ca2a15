//! The style of a text (line breaks and indentation), its parsed values, and replacing ranges of
//! it.

use std::fmt;
use std::ops::Range;

use crate::wire;

/// A parsed value, as far as an entry needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Node>),
    /// An object or a table, in the order of the text.
    Map(Vec<(String, Node)>),
    /// Any other value, as it is written.
    Other(String),
}

impl Node {
    /// The strings of a list; `None` if it contains anything else.
    pub(super) fn texts(&self) -> Option<Vec<String>> {
        let Self::List(elements) = self else { return None };
        elements.iter().map(|it| it.text().map(str::to_owned)).collect()
    }

    /// The string, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::List(_) | Self::Map(_) | Self::Other(_) => None,
        }
    }

    /// A member of a map.
    pub(super) fn member(&self, name: &str) -> Option<&Self> {
        self.members().iter().find(|(known, _)| known == name).map(|(_, member)| member)
    }

    /// The members of a map; empty for other values.
    pub(super) fn members(&self) -> &[(String, Self)] {
        match self {
            Self::Map(members) => members,
            Self::Text(_) | Self::List(_) | Self::Other(_) => &[],
        }
    }

    /// The same without the value at `path`, and without the maps above it that become empty.
    pub(super) fn without(self, path: &[&str]) -> Self {
        let (Self::Map(members), Some((first, rest))) = (self.clone(), path.split_first()) else {
            return self;
        };
        let kept = members.into_iter().filter_map(|(name, member)| {
            if name != *first {
                return Some((name, member));
            }
            let member = if rest.is_empty() { Self::Map(Vec::new()) } else { member.without(rest) };
            (member != Self::Map(Vec::new())).then_some((name, member))
        });
        Self::Map(kept.collect())
    }

    /// Whether any string in it contains this part.
    pub(super) fn mentions(&self, part: &str) -> bool {
        match self {
            Self::Text(text) => text.contains(part),
            Self::List(elements) => elements.iter().any(|it| it.mentions(part)),
            Self::Map(members) => members.iter().any(|(_, it)| it.mentions(part)),
            Self::Other(_) => false,
        }
    }
}

/// Formats the value as JSON on one line.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = |number| if number > 0 { ", " } else { "" };
        match self {
            Self::Text(text) => f.write_str(&wire::quote(text)),
            Self::Other(written) => f.write_str(written),
            Self::List(elements) => {
                f.write_str("[")?;
                for (number, element) in elements.iter().enumerate() {
                    write!(f, "{}{element}", between(number))?;
                }
                f.write_str("]")
            }
            Self::Map(members) => {
                f.write_str("{")?;
                for (number, (name, member)) in members.iter().enumerate() {
                    write!(f, "{}{}: {member}", between(number), wire::quote(name))?;
                }
                f.write_str("}")
            }
        }
    }
}

/// The line breaks and the indentation of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style<'a> {
    /// LF or CRLF.
    pub(super) newline: &'static str,
    /// One level of indentation.
    pub(super) unit: &'a str,
}

impl<'a> Style<'a> {
    /// The style of `text`: its first line break, and the indentation of its first indented member.
    pub(super) fn of(text: &'a str) -> Self {
        let is_crlf = text.find('\n').is_some_and(|at| text[..at].ends_with('\r'));
        let indented = text.lines().find_map(|line| {
            let content = line.trim_start_matches([' ', '\t']);
            // Comments are ignored, because they may be indented differently.
            let unit = &line[..line.len() - content.len()];
            (!unit.is_empty() && content.starts_with(['"', '{', '['])).then_some(unit)
        });
        Self { newline: if is_crlf { "\r\n" } else { "\n" }, unit: indented.unwrap_or("  ") }
    }

    /// The white space at the beginning of the line that contains `at`.
    #[allow(clippy::unused_self, reason = "a question about the style")]
    pub(super) fn indentation<'b>(&self, text: &'b str, at: usize) -> &'b str {
        let line = text[..at].rfind('\n').map_or(0, |it| it + 1);
        let content = text[line..].trim_start_matches([' ', '\t']);
        &text[line..text.len() - content.len()]
    }

    /// `value` on several lines; all except the first begin with `base`.
    pub(super) fn pretty(&self, value: &Node, base: &str) -> String {
        let mut written = String::new();
        self.write(value, base, &mut written);
        written
    }

    fn write(&self, value: &Node, base: &str, to: &mut String) {
        match value {
            Node::Map(members) if !members.is_empty() => {
                let own = format!("{base}{}", self.unit);
                to.push('{');
                for (number, (name, member)) in members.iter().enumerate() {
                    to.push_str(if number > 0 { "," } else { "" });
                    to.push_str(self.newline);
                    to.push_str(&own);
                    to.push_str(&wire::quote(name));
                    to.push_str(": ");
                    self.write(member, &own, to);
                }
                to.push_str(self.newline);
                to.push_str(base);
                to.push('}');
            }
            Node::List(elements) if !elements.is_empty() => {
                let own = format!("{base}{}", self.unit);
                to.push('[');
                for (number, element) in elements.iter().enumerate() {
                    to.push_str(if number > 0 { "," } else { "" });
                    to.push_str(self.newline);
                    to.push_str(&own);
                    self.write(element, &own, to);
                }
                to.push_str(self.newline);
                to.push_str(base);
                to.push(']');
            }
            leaf => to.push_str(&leaf.to_string()),
        }
    }
}

/// `text` with the given ranges, which must be in order, replaced.
pub(super) fn splice(text: &str, edits: &[(Range<usize>, String)]) -> String {
    let mut edited = String::with_capacity(text.len() + 256);
    let mut at = 0;
    for (range, by) in edits {
        edited.push_str(&text[at..range.start]);
        edited.push_str(by);
        at = range.end;
    }
    edited.push_str(&text[at..]);
    edited
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Node {
        Node::Text(text.to_owned())
    }

    #[test]
    fn the_style_is_taken_from_the_text() {
        for (text, newline, unit) in [
            ("", "\n", "  "),
            ("{\n\t\"a\": 1\n}", "\n", "\t"),
            ("{\r\n    \"a\": 1\r\n}", "\r\n", "    "),
            ("{\n   // set in by three\n \"a\": 1\n}", "\n", " "),
        ] {
            assert_eq!(Style::of(text), Style { newline, unit }, "{text:?}");
        }
    }

    #[test]
    fn a_value_is_written_on_several_lines() {
        let style = Style { newline: "\n", unit: "  " };
        let list = Node::List(vec![text("x"), Node::Other("1".to_owned())]);
        let value = Node::Map(vec![("b".to_owned(), list), ("a".to_owned(), Node::Map(vec![]))]);
        assert_eq!(value.to_string(), r#"{"b": ["x", 1], "a": {}}"#);
        let written = style.pretty(&value, "    ");
        let expected =
            "{\n      \"b\": [\n        \"x\",\n        1\n      ],\n      \"a\": {}\n    }";
        assert_eq!(written, expected);
    }
}
