//! Edits one entry of a TOML file as text, by the rules of `jsonc`, for Codex.
//!
//! An entry is a table with its own header, `[mcp_servers.NAME]`. Entries in other forms (within an
//! inline table, with dotted keys) are read, but not edited.

use std::ops::Range;

use toml_edit::{Document, InlineTable, Item, Key, Table, TableLike, Value};

use super::text::{Node, Style, splice};

/// The names from the root of the file to a member.
pub(super) type Path<'a> = [&'a str];

/// Sets the member at `path` to `value`; a missing entry becomes a table at the end of the file.
pub(super) fn set(text: &str, path: &Path, value: &Node) -> Result<String, String> {
    let document = parse(text)?;
    let edit = match item(&document, path) {
        Some(Item::Value(old)) => {
            if of_value(text, old) == *value {
                return Ok(text.to_owned());
            }
            (old.span().ok_or_else(|| by_hand(path))?, inline(value))
        }
        Some(_) => return Err(by_hand(path)),
        None => insertion(text, &document, path, value)?,
    };
    verified(text, splice(text, &[edit]), path)
}

/// Removes the member at `path`. Returns `None` if it doesn't exist.
pub(super) fn remove(text: &str, path: &Path) -> Result<Option<String>, String> {
    let document = parse(text)?;
    let mut ranges = Vec::new();
    match item(&document, path) {
        None => return Ok(None),
        Some(Item::Table(table)) if !table.is_dotted() => sections(table, &mut ranges),
        Some(Item::Value(value)) => {
            let is_line = parent(&document, path).is_some_and(|it| matches!(it, Item::Table(_)));
            let start = key(&document, path).and_then(Key::span);
            let (Some(start), Some(end), true) = (start, value.span(), is_line) else {
                return Err(by_hand(path));
            };
            ranges.push(start.start..end.end);
        }
        Some(_) => return Err(by_hand(path)),
    }
    if ranges.is_empty() {
        return Err(by_hand(path));
    }
    ranges.sort_by_key(|range| range.start);
    let ranges: Vec<_> = ranges.into_iter().map(|range| lines(text, &range)).collect();
    let edits: Vec<_> = joined(text, ranges).into_iter().map(|it| (it, String::new())).collect();
    verified(text, splice(text, &edits), path).map(Some)
}

/// The value at `path`.
pub(super) fn find(text: &str, path: &Path) -> Result<Option<Node>, String> {
    let document = parse(text)?;
    Ok(item(&document, path).map(|item| of_item(text, item)))
}

/// The names of the members of the table at `path`.
pub(super) fn names(text: &str, path: &Path) -> Result<Vec<String>, String> {
    let document = parse(text)?;
    let Some(item) = item(&document, path) else { return Ok(Vec::new()) };
    let table = item.as_table_like().ok_or_else(|| format!("{} isn't a table", shown(path)))?;
    Ok(table.iter().map(|(name, _)| name.to_owned()).collect())
}

/// Replaces the first `count` elements of the array at `path` with `by`; the others keep their
/// text.
pub(super) fn replace_first(
    text: &str,
    path: &Path,
    count: usize,
    by: &[String],
) -> Result<String, String> {
    let document = parse(text)?;
    let array = item(&document, path).and_then(Item::as_array);
    let array = array.ok_or_else(|| format!("{} isn't an array", shown(path)))?;
    let by: Vec<String> = by.iter().map(|word| inline(&Node::Text(word.clone()))).collect();
    let span = |at: usize| array.get(at).and_then(Value::span);
    let own = array.span().ok_or_else(|| by_hand(path))?;
    let edit = match (span(0), span(count)) {
        (Some(first), Some(next)) => {
            let gap = if by.is_empty() { "" } else { ", " };
            (first.start..next.start, by.join(", ") + gap)
        }
        // All elements are replaced, including a trailing comma, or there are none.
        _ => (own.start + 1..own.end - 1, by.join(", ")),
    };
    verified(text, splice(text, &[edit]), path)
}

fn parse(text: &str) -> Result<Document<&str>, String> {
    Document::parse(text).map_err(|error| {
        let line =
            error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        format!("{line}{}", error.message())
    })
}

fn item<'a>(document: &'a Document<&str>, path: &Path) -> Option<&'a Item> {
    let item =
        path.iter().try_fold(document.as_item(), |at, name| at.as_table_like()?.get(name))?;
    (!item.is_none()).then_some(item)
}

fn parent<'a>(document: &'a Document<&str>, path: &Path) -> Option<&'a Item> {
    item(document, path.split_last()?.1)
}

fn key<'a>(document: &'a Document<&str>, path: &Path) -> Option<&'a Key> {
    let (last, parents) = path.split_last()?;
    let parent = item(document, parents)?.as_table_like()?;
    parent.get_key_value(last).map(|(key, _)| key)
}

/// The edit that inserts a missing member.
fn insertion(
    text: &str,
    document: &Document<&str>,
    path: &Path,
    value: &Node,
) -> Result<(Range<usize>, String), String> {
    let style = Style::of(text);
    let newline = style.newline;
    let (last, parents) = path.split_last().ok_or("there is no name")?;
    let member = |indent: &str| format!("{indent}{} = {}", written_key(last), inline(value));
    match item(document, parents) {
        // A member of an entry.
        Some(Item::Table(table))
            if !table.is_implicit() && !table.is_dotted() && parents.len() > 1 =>
        {
            let end = end(table).ok_or_else(|| by_hand(path))?;
            let line_end = text[end..].find('\n').map_or(text.len(), |at| end + at);
            let line_end = line_end - usize::from(text[..line_end].ends_with('\r'));
            let first =
                table.iter().find_map(|(name, _)| key(document, &[parents, &[name]].concat()));
            let indent = first.and_then(Key::span).map(|it| style.indentation(text, it.start));
            Ok((line_end..line_end, format!("{newline}{}", member(indent.unwrap_or_default()))))
        }
        Some(Item::Value(Value::InlineTable(table))) if parents.len() > 1 => {
            let close = table.span().ok_or_else(|| by_hand(path))?.end - 1;
            let last = last_end(table);
            match last {
                Some(end) => Ok((end..end, format!(", {}", member("")))),
                None => Ok((close..close, format!(" {} ", member("")))),
            }
        }
        // An entry, as a separate table.
        None if parents.len() == 1 => Ok(section(text, path, value, newline)),
        Some(Item::Table(table)) if parents.len() == 1 && !table.is_dotted() => {
            Ok(section(text, path, value, newline))
        }
        Some(Item::Table(_) | Item::Value(Value::InlineTable(_))) => Err(by_hand(path)),
        Some(_) => Err(format!("{} isn't a table", shown(parents))),
        None => Err(by_hand(path)),
    }
}

/// `value` as a table at the end of the file, after an empty line.
fn section(text: &str, path: &Path, value: &Node, newline: &str) -> (Range<usize>, String) {
    let header: Vec<String> = path.iter().map(|name| written_key(name)).collect();
    let mut section = String::new();
    let is_empty = text.strip_prefix('\u{feff}').unwrap_or(text).is_empty();
    if !is_empty {
        section.push_str(if text.ends_with('\n') { newline } else { "" });
        section.push_str(&if text.ends_with('\n') { String::new() } else { newline.repeat(2) });
    }
    section.push_str(&format!("[{}]{newline}", header.join(".")));
    for (name, member) in value.members() {
        section.push_str(&format!("{} = {}{newline}", written_key(name), inline(member)));
    }
    (text.len()..text.len(), section)
}

/// The end of the last value of a table, in its own section.
fn end(table: &Table) -> Option<usize> {
    let mut end = table.span()?.end;
    for (_, item) in table {
        match item {
            Item::Value(value) => end = end.max(value.span()?.end),
            Item::Table(dotted) if dotted.is_dotted() => end = end.max(dotted_end(dotted)?),
            Item::None | Item::Table(_) | Item::ArrayOfTables(_) => {}
        }
    }
    Some(end)
}

fn dotted_end(table: &Table) -> Option<usize> {
    let ends = table.iter().map(|(_, item)| match item {
        Item::Table(dotted) => dotted_end(dotted),
        item => item.span().map(|span| span.end),
    });
    ends.max().flatten()
}

fn last_end(table: &InlineTable) -> Option<usize> {
    let ends = table.iter().filter_map(|(_, value)| value.span().map(|span| span.end));
    ends.max()
}

/// Collects the sections of a table and of the tables below it.
fn sections(table: &Table, ranges: &mut Vec<Range<usize>>) {
    if !table.is_implicit()
        && !table.is_dotted()
        && let (Some(header), Some(end)) = (table.span(), end(table))
    {
        ranges.push(header.start..end);
    }
    for (_, item) in table {
        match item {
            Item::Table(child) => sections(child, ranges),
            Item::ArrayOfTables(children) => children.iter().for_each(|it| sections(it, ranges)),
            Item::None | Item::Value(_) => {}
        }
    }
}

/// The whole lines of a range.
fn lines(text: &str, range: &Range<usize>) -> Range<usize> {
    let start = text[..range.start].rfind('\n').map_or_else(|| bom(text), |at| at + 1);
    let end = text[range.end..].find('\n').map_or(text.len(), |at| range.end + at + 1);
    start..end
}

/// Merges ranges with only white space between them, and extends each by an empty line before it
/// that is no longer needed.
fn joined(text: &str, ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut all: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if text[last.end.min(range.start)..range.start].trim().is_empty() => {
                last.end = range.end.max(last.end);
            }
            _ => all.push(range),
        }
    }
    for range in &mut all {
        let follows = &text[range.end..];
        let is_over =
            follows.is_empty() || follows.starts_with('\n') || follows.starts_with("\r\n");
        let before = &text[..range.start];
        for empty in ["\r\n", "\n"] {
            let shorter = before.strip_suffix(empty).filter(|rest| rest.ends_with('\n'));
            if let (true, Some(shorter)) = (is_over, shorter) {
                range.start = shorter.len();
                break;
            }
        }
    }
    all
}

fn bom(text: &str) -> usize {
    if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 }
}

/// A key in TOML syntax.
fn written_key(name: &str) -> String {
    Key::new(name).display_repr().into_owned()
}

/// A value in TOML syntax, on one line.
fn inline(value: &Node) -> String {
    match value {
        Node::Text(text) => Value::from(text.as_str()).to_string(),
        Node::Other(written) => written.clone(),
        Node::List(elements) => {
            let elements: Vec<String> = elements.iter().map(inline).collect();
            format!("[{}]", elements.join(", "))
        }
        Node::Map(members) if members.is_empty() => "{}".to_owned(),
        Node::Map(members) => {
            let member =
                |(name, it): &(String, Node)| format!("{} = {}", written_key(name), inline(it));
            format!("{{ {} }}", members.iter().map(member).collect::<Vec<_>>().join(", "))
        }
    }
}

fn of_item(text: &str, item: &Item) -> Node {
    match item {
        Item::None => Node::Map(Vec::new()),
        Item::Value(value) => of_value(text, value),
        Item::Table(table) => of_table(text, table),
        Item::ArrayOfTables(tables) => {
            Node::List(tables.iter().map(|table| of_table(text, table)).collect())
        }
    }
}

fn of_table(text: &str, table: &dyn TableLike) -> Node {
    Node::Map(table.iter().map(|(name, item)| (name.to_owned(), of_item(text, item))).collect())
}

fn of_value(text: &str, value: &Value) -> Node {
    match value {
        Value::String(string) => Node::Text(string.value().clone()),
        Value::Array(elements) => {
            Node::List(elements.iter().map(|it| of_value(text, it)).collect())
        }
        Value::InlineTable(table) => of_table(text, table),
        other => {
            let span = other.span().unwrap_or_default();
            Node::Other(text.get(span).unwrap_or_default().to_owned())
        }
    }
}

/// The edited text, if everything except the member at `path` has the same meaning as before.
fn verified(text: &str, edited: String, path: &Path) -> Result<String, String> {
    let before = of_item(text, parse(text)?.as_item()).without(path);
    let after = parse(&edited).map_err(|why| unexpected(path, &why))?;
    if of_item(&edited, after.as_item()).without(path) != before {
        return Err(unexpected(path, "another entry would change"));
    }
    drop(after);
    Ok(edited)
}

fn by_hand(path: &Path) -> String {
    format!(
        "{} isn't written as a table with its own header; edit it by hand, or rewrite it as one",
        shown(path)
    )
}

fn unexpected(path: &Path, why: &str) -> String {
    format!("{} can't be edited without touching the rest ({why}); edit it by hand", shown(path))
}

/// A path as text for messages.
fn shown(path: &Path) -> String {
    path.iter().map(|name| written_key(name)).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests;
