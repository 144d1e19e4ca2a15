//! Edits one entry of a JSON file that people write, with comments and trailing commas, as text.
//!
//! The file is parsed only to find the positions of its members. An edit replaces only a range of the text, so that
//! every byte outside the entry stays. Then the result is parsed again: everything except the entry must have the same
//! meaning as before.

use std::ops::Range;

use super::text::{Node, Style, splice};
use crate::wire;
use jsonc_parser::ast::{Object, ObjectProp, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::tokens::Token;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

/// Comments and trailing commas are allowed; otherwise the text must be JSON.
const OPTIONS: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_trailing_commas: true,
    allow_loose_object_property_names: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// The names from the root of the file to a member.
pub(super) type Path<'a> = [&'a str];

/// Sets the member at `path` to `value`, and creates missing objects above it.
pub(super) fn set(text: &str, path: &Path, value: &Node) -> Result<String, String> {
    let edited =
        if is_blank(text)? { new_file(text, path, value) } else { set_member(text, path, value)? };
    verified(text, edited, path)
}

/// Removes the member at `path`. Returns `None` if it doesn't exist.
pub(super) fn remove(text: &str, path: &Path) -> Result<Option<String>, String> {
    if is_blank(text)? {
        return Ok(None);
    }
    let document = Document::parse(text)?;
    let edits = document.removals(path)?;
    let Some(last) = edits.len().checked_sub(1) else { return Ok(None) };
    for (number, edit) in edits.into_iter().enumerate() {
        match verified(text, splice(text, &[edit]), path) {
            Err(_) if number < last => {}
            verified => return verified.map(Some),
        }
    }
    Ok(None)
}

/// The value at `path`.
pub(super) fn find(text: &str, path: &Path) -> Result<Option<Node>, String> {
    if is_blank(text)? {
        return Ok(None);
    }
    let document = Document::parse(text)?;
    Ok(document.member(path)?.map(|member| value(&member.value)))
}

/// The names of the members of the object at `path`; duplicates are included.
pub(super) fn names(text: &str, path: &Path) -> Result<Vec<String>, String> {
    if is_blank(text)? {
        return Ok(Vec::new());
    }
    let document = Document::parse(text)?;
    let found = match path {
        [] => document.root()?,
        path => match document.member(path)? {
            None => return Ok(Vec::new()),
            Some(member) => object(&member.value, path)?,
        },
    };
    Ok(found.properties.iter().map(|it| it.name.as_str().to_owned()).collect())
}

/// Replaces the first `count` elements of the array at `path` with `by`; the others keep their
/// text.
pub(super) fn replace_first(
    text: &str,
    path: &Path,
    count: usize,
    by: &[String],
) -> Result<String, String> {
    let document = Document::parse(text)?;
    let member = document.member(path)?.ok_or_else(|| format!("{} is missing", shown(path)))?;
    let Value::Array(array) = &member.value else {
        return Err(format!("{} isn't an array", shown(path)));
    };
    let by: Vec<String> = by.iter().map(|word| wire::quote(word)).collect();
    let edit = match (array.elements.first(), array.elements.get(count)) {
        // All elements are replaced, or there are none: the brackets stay.
        (Some(first), None) => {
            let last = array.elements.last().map_or(first.end(), Ranged::end);
            let mut range = first.start()..last;
            if by.is_empty() {
                range.end = document.comma_after(last).map_or(range.end, |comma| comma + 1);
            }
            (range, by.join(", "))
        }
        (Some(first), Some(next)) => {
            let mut by = by.join(", ");
            if !by.is_empty() {
                by.push_str(", ");
            }
            (first.start()..next.start(), by)
        }
        (None, _) => (array.start() + 1..array.start() + 1, by.join(", ")),
    };
    verified(text, splice(text, &[edit]), path)
}

/// Whether a file contains only white space and comments.
fn is_blank(text: &str) -> Result<bool, String> {
    let body = body(text);
    let parsed = parse_to_ast(body, &CollectOptions::default(), &OPTIONS).map_err(parse_error)?;
    Ok(parsed.value.is_none())
}

/// The text after a byte order mark.
fn body(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn new_file(text: &str, path: &Path, value: &Node) -> String {
    let style = Style::of(text);
    let nested = nested(path, value);
    let newline = style.newline;
    let mut made = text.to_owned();
    if !body(text).trim().is_empty() && !text.ends_with('\n') {
        made.push_str(newline);
    }
    made.push_str(&style.pretty(&nested, ""));
    made.push_str(newline);
    made
}

fn set_member(text: &str, path: &Path, value: &Node) -> Result<String, String> {
    let document = Document::parse(text)?;
    if let Some(member) = document.member(path)? {
        if self::value(&member.value) == *value {
            return Ok(text.to_owned());
        }
        let style = Style::of(text);
        let range = document.range(&member.value);
        let is_one_line = !text[range.clone()].contains('\n');
        let written = match is_one_line {
            true => value.to_string(),
            false => style.pretty(value, style.indentation(text, document.start(member))),
        };
        return Ok(splice(text, &[(range, written)]));
    }
    // Finds the deepest existing object.
    let mut depth = path.len() - 1;
    let target = loop {
        if depth == 0 {
            break document.root()?;
        }
        match document.member(&path[..depth])? {
            Some(member) => break object(&member.value, &path[..depth])?,
            None => depth -= 1,
        }
    };
    let nested = nested(&path[depth + 1..], value);
    Ok(splice(text, &document.insertion(target, path[depth], &nested)))
}

/// A text and the positions of its parts.
struct Document<'a> {
    text: &'a str,
    /// The length of the byte order mark.
    offset: usize,
    root: Value<'a>,
    /// The positions of all commas.
    commas: Vec<usize>,
}

impl<'a> Document<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let body = body(text);
        let collect = CollectOptions { tokens: true, ..CollectOptions::default() };
        let parsed = parse_to_ast(body, &collect, &OPTIONS).map_err(parse_error)?;
        let offset = text.len() - body.len();
        let tokens = parsed.tokens.unwrap_or_default();
        // The parser accepts control characters in strings, but clients' parsers don't (RFC 8259,
        // 7).
        let texts = tokens.iter().filter(|it| matches!(it.token, Token::String(_)));
        let is_control = |at: &usize| body.as_bytes()[*at] < b' ';
        if let Some(at) = texts.flat_map(|it| it.range.start..it.range.end).find(is_control) {
            let line = body[..at].matches('\n').count() + 1;
            return Err(format!("line {line}: a control character in a string"));
        }
        let commas = tokens.iter().filter(|it| it.token == Token::Comma);
        let commas = commas.map(|it| it.range.start + offset).collect();
        let root = parsed.value.ok_or("it is empty")?;
        Ok(Self { text, offset, root, commas })
    }

    fn root(&self) -> Result<&Object<'a>, String> {
        match &self.root {
            Value::Object(object) => Ok(object),
            _ => Err("it isn't a JSON object".to_owned()),
        }
    }

    /// The member at `path`, if it exists.
    fn member(&self, path: &Path) -> Result<Option<&ObjectProp<'a>>, String> {
        let mut at = self.root()?;
        let Some((last, parents)) = path.split_last() else { return Ok(None) };
        for (depth, name) in parents.iter().enumerate() {
            match only(at, name, &path[..=depth])? {
                Some(member) => at = object(&member.value, &path[..=depth])?,
                None => return Ok(None),
            }
        }
        only(at, last, path)
    }

    fn start(&self, member: &ObjectProp<'_>) -> usize {
        member.start() + self.offset
    }

    fn range(&self, part: &impl Ranged) -> Range<usize> {
        part.start() + self.offset..part.end() + self.offset
    }

    /// The comma after `end`, if only white space and comments are between.
    fn comma_after(&self, end: usize) -> Option<usize> {
        let end = end + self.offset;
        let comma = self.commas.iter().copied().find(|at| *at >= end)?;
        is_filler(&self.text[end..comma]).then_some(comma)
    }

    /// The edits that append a member to `object`.
    fn insertion(
        &self,
        object: &Object<'_>,
        name: &str,
        value: &Node,
    ) -> Vec<(Range<usize>, String)> {
        let text = self.text;
        let style = Style::of(text);
        let Range { start, end } = self.range(object);
        let name = wire::quote(name);
        let inner = &text[start + 1..end - 1];
        let filled = start + 1 + inner.trim_end().len();
        let Some(last) = object.properties.last() else {
            let base = style.indentation(text, start).to_owned();
            let own = format!("{base}{}", style.unit);
            let newline = style.newline;
            let member = format!("{newline}{own}{name}: {}", style.pretty(value, &own));
            // An existing line break before the closing brace is kept.
            let rest = &text[filled..end - 1];
            let close =
                if rest.contains('\n') { String::new() } else { format!("{newline}{base}") };
            let gap = if rest.contains('\n') { filled..filled } else { filled..end - 1 };
            return vec![(gap, format!("{member}{close}"))];
        };
        let after = last.end() + self.offset;
        let trailing = self.comma_after(last.end());
        let one_line = !text[start..end].contains('\n');
        let (before, written) = if one_line {
            (" ".to_owned(), value.to_string())
        } else {
            let own = style.indentation(text, self.start(last)).to_owned();
            let written = style.pretty(value, &own);
            (format!("{}{own}", style.newline), written)
        };
        let between = if one_line { ":" } else { ": " };
        match trailing {
            Some(_) => vec![(filled..filled, format!("{before}{name}{between}{written},"))],
            None => vec![
                (after..after, ",".to_owned()),
                (filled..filled, format!("{before}{name}{between}{written}")),
            ],
        }
    }

    /// Alternative edits that remove the member at `path`, the best one first; an edit that would move following text
    /// into a comment is rejected later. Empty if the member doesn't exist.
    fn removals(&self, path: &Path) -> Result<Vec<(Range<usize>, String)>, String> {
        let Some(member) = self.member(path)? else { return Ok(Vec::new()) };
        let parent = match path.split_last() {
            Some((_, [])) | None => self.root()?,
            Some((_, parents)) => match self.member(parents)? {
                Some(parent) => object(&parent.value, parents)?,
                None => return Ok(Vec::new()),
            },
        };
        let text = self.text;
        let Range { start, end } = self.range(member);
        let Range { start: open, end: close } = self.range(parent);
        let place = parent.properties.iter().position(|it| it.start() == member.start());
        let before = place.and_then(|place| place.checked_sub(1)).map(|it| &parent.properties[it]);
        let own_comma = self.comma_after(member.end());
        // With its own comma, or without.
        let end = own_comma.map_or(end, |comma| comma + 1);
        let is_blank = |range: Range<usize>| text[range].trim().is_empty();
        if is_blank(open + 1..start) && is_blank(end..close - 1) {
            return Ok(vec![(open + 1..close - 1, String::new())]);
        }
        let from = text[..start].trim_end().len().max(open + 1);
        if own_comma.is_none()
            && let Some(before) = before
        {
            // The comma of the member before is removed, too; comments between them are kept.
            let comma = self.comma_after(before.end());
            let comma = comma.ok_or_else(|| format!("there is no comma before {}", shown(path)))?;
            return Ok(vec![(comma..end, text[comma + 1..from.max(comma + 1)].to_owned())]);
        }
        let after = text[end..].trim_start_matches([' ', '\t']);
        let in_line = (start..text.len() - after.len(), String::new());
        let whole = (from..end, String::new());
        // A comment after it stays on its line. The first member of a line leaves no space.
        let is_first = before.is_none() && !text[from..start].contains('\n');
        Ok(if after.starts_with('/') || is_first { vec![in_line] } else { vec![whole, in_line] })
    }
}

/// Whether the text is only white space and comments.
fn is_filler(text: &str) -> bool {
    let mut rest = text.trim_start();
    loop {
        if rest.is_empty() {
            return true;
        }
        let end = if rest.starts_with("//") {
            rest.find('\n').map_or(rest.len(), |at| at + 1)
        } else if rest.starts_with("/*") {
            match rest.find("*/") {
                Some(at) => at + 2,
                None => return false,
            }
        } else {
            return false;
        };
        rest = rest[end..].trim_start();
    }
}

/// The only member with this name.
fn only<'a, 'b>(
    object: &'b Object<'a>,
    name: &str,
    path: &Path,
) -> Result<Option<&'b ObjectProp<'a>>, String> {
    let mut found = object.properties.iter().filter(|member| member.name.as_str() == name);
    let first = found.next();
    // The attack: of two members with the same name, this program would edit one, and the client
    // would read the other.
    if found.next().is_some() {
        return Err(format!("{} is declared twice; delete one of them", shown(path)));
    }
    Ok(first)
}

fn object<'a, 'b>(value: &'b Value<'a>, path: &Path) -> Result<&'b Object<'a>, String> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(format!("{} isn't an object", shown(path))),
    }
}

/// A path as text for messages.
fn shown(path: &Path) -> String {
    path.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" / ")
}

/// The parser's message, with line and column.
#[allow(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn parse_error(error: jsonc_parser::errors::ParseError) -> String {
    format!(
        "line {}, column {}: {}",
        error.line_display(),
        error.column_display(),
        error.kind().to_string().to_lowercase()
    )
}

/// The value as a node: numbers keep their text, and duplicate members are kept.
fn value(value: &Value<'_>) -> Node {
    match value {
        Value::StringLit(text) => Node::Text(text.value.as_ref().to_owned()),
        Value::NumberLit(number) => Node::Other(number.value.to_owned()),
        Value::BooleanLit(literal) => Node::Other(literal.value.to_string()),
        Value::NullKeyword(_) => Node::Other("null".to_owned()),
        Value::Array(array) => Node::List(array.elements.iter().map(self::value).collect()),
        Value::Object(object) => {
            let members = object.properties.iter();
            let member =
                |it: &ObjectProp<'_>| (it.name.as_str().to_owned(), self::value(&it.value));
            Node::Map(members.map(member).collect())
        }
    }
}

/// `value` inside objects with one member each.
fn nested(path: &Path, value: &Node) -> Node {
    let within = |inner, name: &&str| Node::Map(vec![((*name).to_owned(), inner)]);
    path.iter().rev().fold(value.clone(), within)
}

/// The edited text, if everything except the member at `path` has the same meaning as before.
fn verified(text: &str, edited: String, path: &Path) -> Result<String, String> {
    let before = match is_blank(text)? {
        true => Node::Map(Vec::new()),
        false => value(&Document::parse(text)?.root).without(path),
    };
    let after = Document::parse(&edited).map_err(|why| unexpected(path, &why))?;
    if value(&after.root).without(path) != before {
        return Err(unexpected(path, "another entry would change"));
    }
    Ok(edited)
}

fn unexpected(path: &Path, why: &str) -> String {
    format!("{} can't be edited without touching the rest ({why}); edit it by hand", shown(path))
}

#[cfg(test)]
mod tests;
