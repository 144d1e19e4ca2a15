//! Splits text into words like a POSIX shell and Python's `shlex.split`: the headers of the AWS
//! files, and the command of a `credential_process`. Nothing is expanded, and `#` doesn't start a
//! comment.

use zeroize::Zeroizing;

/// An incomplete quotation or escape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::profile) enum Unclosed {
    /// A `'` or `"` without its closing counterpart.
    #[error("has an unclosed quotation mark")]
    Quote,
    /// A backslash at the end.
    #[error("ends with a backslash")]
    Escape,
}

/// Splits `text` into its words.
///
/// # Errors
/// A quotation or an escape isn't complete.
pub(in crate::profile) fn split(text: &str) -> Result<Vec<Zeroizing<String>>, Unclosed> {
    let mut words = Vec::new();
    let mut word: Option<Zeroizing<String>> = None;
    // No word is longer than the text, so that the string never grows and leaves no copies.
    let fresh = || Zeroizing::new(String::with_capacity(text.len()));
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_with(fresh);
                loop {
                    match characters.next().ok_or(Unclosed::Quote)? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_with(fresh);
                loop {
                    match characters.next().ok_or(Unclosed::Quote)? {
                        '"' => break,
                        '\\' => {
                            let escaped = characters.next().ok_or(Unclosed::Escape)?;
                            if !matches!(escaped, '\\' | '"') {
                                word.push('\\');
                            }
                            word.push(escaped);
                        }
                        c => word.push(c),
                    }
                }
            }
            '\\' => {
                let escaped = characters.next().ok_or(Unclosed::Escape)?;
                word.get_or_insert_with(fresh).push(escaped);
            }
            c => word.get_or_insert_with(fresh).push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_like_shlex() {
        // The expected values are what `shlex.split` of CPython 3.11 returns.
        for (text, words) in [
            ("profile p", &["profile", "p"][..]),
            ("profile  \t p ", &["profile", "p"]),
            ("profile 'a b'", &["profile", "a b"]),
            ("profile \"a b\"", &["profile", "a b"]),
            ("profile a\\ b", &["profile", "a b"]),
            ("profile \"a\\\"b\\c\\\\\"", &["profile", "a\"b\\c\\"]),
            ("profile 'a\\b'", &["profile", "a\\b"]),
            ("'pro'file a\"b\"'c'", &["profile", "abc"]),
            ("a '' \"\"", &["a", "", ""]),
            ("a #b c", &["a", "#b", "c"]),
            ("a\u{a0}b", &["a\u{a0}b"]),
            ("$HOME ~ a|b;c", &["$HOME", "~", "a|b;c"]),
            ("", &[]),
        ] {
            let split = split(text).expect(text);
            assert_eq!(split.iter().map(|word| word.as_str()).collect::<Vec<_>>(), words, "{text}");
        }
        for (text, error) in [
            ("it's", Unclosed::Quote),
            ("\"a", Unclosed::Quote),
            ("a\\", Unclosed::Escape),
            ("\"a\\", Unclosed::Escape),
        ] {
            assert_eq!(split(text), Err(error), "{text}");
        }
    }
}
