//! The name of a profile: any text that an AWS file can use as a name, compared byte by byte.
//!
//! A name must not contain characters that could end a line, hide text or move the cursor where it
//! is shown. Messages with commands quote the name so that a shell reads it as one word.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The name of a profile, as the broker knows it. A newtype: another string in place of a profile
/// would sign with the wrong identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProfileName(Arc<str>);

impl ProfileName {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// Checks a name.
    ///
    /// # Errors
    /// Describes the error, to be appended to the name.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("is empty");
        }
        if text.len() > Self::MAX_BYTES {
            return Err("is longer than 256 bytes");
        }
        if text.chars().any(is_control) {
            return Err("contains a control character");
        }
        Ok(Self(text.into()))
    }

    /// The name that represents the SDK's default chain if no profile is named.
    pub(super) fn default_chain() -> Self {
        Self("default".into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An option with the name as its value, quoted for a shell: `--profile 'my profile'`.
    #[must_use]
    pub fn as_option(&self, option: &str) -> String {
        // A value that begins with a dash would be parsed as the next option.
        let between = if self.0.starts_with('-') { '=' } else { ' ' };
        format!("{option}{between}{}", shell_word(&self.0))
    }

    /// The name as an operand, quoted for a shell: `'my profile'`.
    #[must_use]
    pub fn as_operand(&self) -> String {
        let before = if self.0.starts_with('-') { "-- " } else { "" };
        format!("{before}{}", shell_word(&self.0))
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether it is a control character (C0, DEL, C1) or a Unicode line separator.
pub(crate) fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// `text` as one word of a POSIX shell.
pub(crate) fn shell_word(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_alphanumeric() || "_-.,/:@%+".contains(c);
    if text.chars().all(plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', r"'\''")).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ProfileName {
        ProfileName::parse(text).unwrap()
    }

    #[test]
    fn any_text_without_control_characters_is_a_name() {
        let longest = "é".repeat(128);
        for text in ["dev", "my profile", "'quoted'", "Zürich", "e\u{301}", "a/b", "-x", &longest]
        {
            assert_eq!(name(text).as_str(), text);
        }
        assert_ne!(name("é"), name("e\u{301}"), "names are compared byte for byte");
        let too_long = format!("{longest}x");
        for text in
            ["", &too_long, "a\nb", "a\u{7f}", "a\u{9b}31m", "a\u{2028}b", "a\u{2029}", "\0"]
        {
            assert!(ProfileName::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_name_in_a_command_is_one_word_of_the_shell() {
        for (text, option, operand) in [
            ("dev", "--profile dev", "dev"),
            ("a@b.c/d-1", "--profile a@b.c/d-1", "a@b.c/d-1"),
            ("Zürich", "--profile Zürich", "Zürich"),
            ("my profile", "--profile 'my profile'", "'my profile'"),
            ("it's", r"--profile 'it'\''s'", r"'it'\''s'"),
            ("$(reboot)", "--profile '$(reboot)'", "'$(reboot)'"),
            ("-x y", "--profile='-x y'", "-- '-x y'"),
            ("~", "--profile '~'", "'~'"),
        ] {
            assert_eq!(name(text).as_option("--profile"), option);
            assert_eq!(name(text).as_operand(), operand);
        }
    }

    /// The shell itself parses each word as the original name.
    #[test]
    fn a_shell_reads_the_name() {
        for text in ["my profile", "it's", "a\\b", "*", "$HOME `id` \"x\"", "Zürich ©", "!x #y"] {
            let script = format!("printf %s {}", shell_word(text));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }
}
