//! Reads the id or the method from the beginning of a message that is too large to wait for.

use super::text::string;

/// The first member found at the top level of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Peek<'a> {
    /// Its id.
    Id(&'a str),
    /// A method: the message is a request or a notification.
    Method,
    /// Neither was found.
    Unknown,
}

/// Searches the id or the method in `beginning`, which may be cut anywhere.
#[must_use]
pub fn peek(beginning: &[u8]) -> Peek<'_> {
    find(beginning).unwrap_or(Peek::Unknown)
}

fn find(beginning: &[u8]) -> Option<Peek<'_>> {
    let mut rest = after(blank(beginning), b'{')?;
    loop {
        let (key, tail) = token(blank(rest))?;
        let (value, tail) = token(blank(after(blank(tail), b':')?))?;
        match string(std::str::from_utf8(key).ok()?)?.as_ref() {
            "id" => return Some(Peek::Id(std::str::from_utf8(value).ok()?)),
            "method" => return Some(Peek::Method),
            _ => rest = after(blank(tail), b',')?,
        }
    }
}

fn blank(text: &[u8]) -> &[u8] {
    text.trim_ascii_start()
}

fn after(text: &[u8], byte: u8) -> Option<&[u8]> {
    text.strip_prefix(&[byte])
}

/// One value, and the rest; `None` if the value isn't complete.
fn token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.iter().enumerate() {
        let is_last = match byte {
            _ if escaped => {
                escaped = false;
                false
            }
            b'\\' if in_string => {
                escaped = true;
                false
            }
            b'"' => {
                in_string = !in_string;
                !in_string && depth == 0
            }
            _ if in_string => false,
            b'{' | b'[' => {
                depth += 1;
                false
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                depth == 0
            }
            // A number or a word ends at one of these characters.
            b',' | b'}' | b']' | b':' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => {
                return Some(text.split_at(at)).filter(|(token, _)| !token.is_empty());
            }
            _ => false,
        };
        if is_last {
            return Some(text.split_at(at + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_at_any_position() {
        for (text, found) in [
            (r#"{"jsonrpc":"2.0","id":17,"#, Peek::Id("17")),
            (r#" { "x" : {"id":1,"a":["}"]} , "id" : "a,b" ,"#, Peek::Id("\"a,b\"")),
            (r#"{"\u0069d":1}"#, Peek::Id("1")),
            (r#"{"id":17"#, Peek::Unknown),
            (r#"{"id":"a\"#, Peek::Unknown),
            (r#"{"result":{"id":1,"method":2"#, Peek::Unknown),
            (r#"{"method":"m","#, Peek::Method),
            ("[{", Peek::Unknown),
            ("", Peek::Unknown),
            ("{,", Peek::Unknown),
        ] {
            assert_eq!(peek(text.as_bytes()), found, "{text}");
        }
    }
}
