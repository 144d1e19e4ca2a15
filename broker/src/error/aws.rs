//! An error of AWS: a code and a message that can be shown safely.
//!
//! Invariant: they contain no key, token or signature, whatever the response contained, and are one
//! line of bounded length.

use std::fmt;

/// The longest message in characters; longer ones are cut, because an encoded authorization message
/// has kilobytes.
const MAX_MESSAGE: usize = 500;
const MAX_CODE: usize = 64;
/// The most bytes of a foreign text that are examined. White space and removed parts reduce it to
/// what is shown.
const MAX_READ: usize = 64 << 10;
/// Shorter strings aren't treated as given secrets: AWS's access key ids have at least 16 characters.
const MIN_GIVEN: usize = 8;
/// The shortest run of characters that may be a secret key, a signature or a token: AWS's secret
/// keys have 40.
const MIN_SECRET: usize = 36;
/// The same in an ARN, where names are long, without the characters that separate words.
const MIN_IN_ARN: usize = 32;
/// The prefixes of access key ids, and their minimum length.
const KEY_IDS: ([&str; 2], usize) = (["AKIA", "ASIA"], 16);
/// The replacement for removed parts.
const REMOVED: &str = "…";

/// AWS's error code and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsError {
    code: String,
    message: String,
}

impl AwsError {
    /// Sanitizes the response to a request that was made with `secrets`.
    #[must_use]
    pub fn new(code: Option<&str>, message: Option<&str>, secrets: &[&str]) -> Self {
        let is_clean = |code: &&str| {
            let known = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
            (1..=MAX_CODE).contains(&code.len()) && code.chars().all(known)
            // The attack: a server that puts a key in place of the code, which every caller gets.
                && shown(code, secrets) == **code
        };
        let code = code.filter(is_clean).unwrap_or("an unreadable error code");
        Self { code: code.to_owned(), message: shown(message.unwrap_or_default(), secrets) }
    }

    /// The error code, like `AccessDenied` or `ExpiredToken`.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// AWS's message; may be empty.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for AwsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => f.write_str(&self.code),
            message => write!(f, "{}: {message}", self.code),
        }
    }
}

/// A foreign text as one line without secrets: the given ones, and anything that may be one.
#[must_use]
pub fn shown(text: &str, secrets: &[&str]) -> String {
    let mut text = beginning(text).to_owned();
    let secrets = secrets.iter().map(|secret| secret.trim());
    let secrets: Vec<_> = secrets.filter(|secret| secret.len() >= MIN_GIVEN).collect();
    for secret in &secrets {
        text = text.replace(secret, REMOVED);
    }
    // The secret appears in another encoding: the whole text is removed.
    let plain = unescaped(&text);
    if secrets.iter().any(|secret| plain.contains(secret)) {
        return REMOVED.to_owned();
    }
    let words = text.split(|c: char| c.is_whitespace() || c.is_control() || is_invisible(c));
    let words = words.filter(|word| !word.is_empty()).map(without_secrets);
    let mut line = String::new();
    let mut length = 0;
    for word in words {
        length += word.chars().count() + 1;
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
        if length > MAX_MESSAGE {
            line = line.chars().take(MAX_MESSAGE).collect();
            line.push('…');
            break;
        }
    }
    line
}

/// The part of a text that is examined. A word that the limit cuts is removed as a whole: a part of
/// a secret is as bad, and wouldn't be recognised.
fn beginning(text: &str) -> &str {
    if text.len() <= MAX_READ {
        return text;
    }
    let text = &text[..text.floor_char_boundary(MAX_READ)];
    text.rfind(char::is_whitespace).map_or("", |end| &text[..end])
}

/// Resolves the escapes of JSON (`\/`, `\u002F`) and of URLs (`%2F`) for ASCII: tokens often
/// contain slashes.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '%']) {
        let (before, escape) = rest.split_at(at);
        plain.push_str(before);
        let byte = |prefix: &str| {
            let digits = escape.strip_prefix(prefix)?.get(..2)?;
            let byte = u8::from_str_radix(digits, 16).ok().filter(u8::is_ascii)?;
            Some((char::from(byte), prefix.len() + 2))
        };
        let slash = || escape.starts_with("\\/").then_some(('/', 2));
        let (c, length) = byte("%")
            .or_else(|| byte("\\u00"))
            .or_else(slash)
            .unwrap_or((if escape.starts_with('%') { '%' } else { '\\' }, 1));
        plain.push(c);
        rest = &escape[length..];
    }
    plain.push_str(rest);
    plain
}

/// Whether a character changes how the text around it is displayed.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A word, without anything that may be a key or a token.
fn without_secrets(word: &str) -> String {
    let of_secret = |c: char| c.is_ascii_alphanumeric() || "+/=_-%.".contains(c);
    let mut shown = String::new();
    let mut rest = word;
    let mut in_arn = false;
    while !rest.is_empty() {
        let length = rest.find(|c| !of_secret(c)).unwrap_or(rest.len());
        let (run, next) = rest.split_at(length);
        // ARNs contain long names, and no secret; text after an ARN in the same word may be anything.
        let secret = if in_arn { may_be_secret_in_arn(run) } else { may_be_secret(run) };
        shown.push_str(if secret || contains_key_id(run) { REMOVED } else { run });
        in_arn = next.starts_with([':', '@', '*']) && (in_arn || run.ends_with("arn"));
        let mut others = next.chars();
        shown.extend(others.next());
        rest = others.as_str();
    }
    shown
}

/// Whether a run contains an access key id (`AKIA…`, `ASIA…`), which isn't secret, but doesn't
/// explain anything.
fn contains_key_id(run: &str) -> bool {
    let (prefixes, length) = KEY_IDS;
    let of_id = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    prefixes.iter().any(|prefix| {
        run.match_indices(prefix).any(|(at, _)| {
            run.as_bytes()[at..].iter().take_while(|byte| of_id(**byte)).count() >= length
        })
    })
}

fn has_letters_and_digits(run: &str) -> bool {
    let has = |is: fn(&u8) -> bool| run.as_bytes().iter().any(is);
    has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic)
}

fn may_be_secret(run: &str) -> bool {
    run.len() >= MIN_SECRET && has_letters_and_digits(run)
}

/// Whether a run may be a signature or a token: names consist of shorter words.
fn may_be_secret_in_arn(run: &str) -> bool {
    run.split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| word.len() >= MIN_IN_ARN && has_letters_and_digits(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_is_shown_as_it_is() {
        for message in [
            "User: arn:aws:iam::123456789012:user/x is not authorized to perform: sts:AssumeRole on resource: \
             arn:aws:iam::123456789012:role/aws-reserved/sso.amazonaws.com/eu-west-1/AWSReservedSSO_Admin_0123456789abcdef",
            "User: arn:aws-us-gov:sts::123456789012:assumed-role/Reader/3f2504e0-4f89-11d3-9a0c-0305e82c3301 is not \
             authorized to perform: sts:AssumeRole",
            "The security token included in the request is expired",
            "Signature expired: 20261125T101500Z is now earlier than 20261126T095500Z (20261126T101000Z - 15 min.)",
            "No access",
            "100% of it",
            "",
        ] {
            let error = AwsError::new(Some("AccessDenied"), Some(message), &["token"; 0]);
            assert_eq!(error.message(), message);
        }
        let text = AwsError::new(Some("AccessDenied"), Some("no"), &[]).to_string();
        assert_eq!(text, "AccessDenied: no");
        assert_eq!(AwsError::new(Some("AccessDenied"), None, &[]).to_string(), "AccessDenied");
    }

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY0";
    const SIGNATURE: &str = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";

    #[test]
    fn no_secret_is_shown() {
        let token = "IQoJb3JpZ2luX2VjEPT//////////wEaCXVzLWVhc3QtMSJHMEUCIQDcanary1234567890==";
        let bearer = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl0123";
        let message = format!(
            "Key AKIAIOSFODNN7EXAMPLE '{SECRET}'\nx-amz-security-token:{token}\r\n\u{1b}[31mSignature={SIGNATURE}, \
             Authorization: Bearer {bearer} short-secret\u{202e}!"
        );
        let error = AwsError::new(Some("X"), Some(&message), &["short-secret\n"]);
        let shown = error.message();
        for part in
            [SECRET, token, SIGNATURE, bearer, "AKIAIOSFODNN7EXAMPLE", "short-secret", "canary"]
        {
            assert!(!shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.chars().any(|c| c.is_control() || is_invisible(c)), "{shown:?}");
        assert!(shown.starts_with("Key … '…' x-amz-security-token:…"), "{shown}");
    }

    #[test]
    fn no_secret_is_shown_in_another_spelling() {
        for secret in ["short/secret+=", "short/secret+=\n"] {
            for text in [
                "a short%2Fsecret%2B%3D",
                "a short%2fsecret%2b%3d",
                r"a short\/secret+=",
                r"a short\u002Fsecret\u002b=",
                "a short/secret+= and short%2Fsecret+=",
            ] {
                assert_eq!(shown(text, &[secret]), "…", "{text}");
            }
        }
    }

    #[test]
    fn no_secret_is_shown_behind_an_arn_or_beside_other_text() {
        for (text, expected) in [
            (
                format!("arn:aws:iam::1:role/x,Signature={SIGNATURE}"),
                "arn:aws:iam::1:role/x,…".to_owned(),
            ),
            (
                format!("arn:aws:iam::1:role/x&Signature={SIGNATURE}"),
                "arn:aws:iam::1:role/x&…".to_owned(),
            ),
            (format!("arn:aws:iam::1:role/{SIGNATURE}"), "arn:aws:iam::1:…".to_owned()),
            (format!("arn:aws:iam::1:role/x'{SECRET}'"), "arn:aws:iam::1:role/x'…'".to_owned()),
            ("key=AKIAIOSFODNN7EXAMPLE.".to_owned(), "…".to_owned()),
            ("arn:aws:iam::1:user/ASIAIOSFODNN7EXAMPLE".to_owned(), "arn:aws:iam::1:…".to_owned()),
        ] {
            assert_eq!(shown(&text, &[]), expected);
        }
    }

    #[test]
    fn no_part_of_a_secret_is_shown_where_a_text_is_cut() {
        // White space is dropped from shown texts, so text from far behind may be shown too.
        for before in [499, 1990, MAX_READ - 10] {
            for filling in [" ", "x "] {
                let before = filling.repeat(before / filling.len());
                let shown = shown(&format!("{before}{SECRET} and so on"), &[SECRET]);
                assert!(!shown.contains("wJal"), "{shown}");
            }
        }
    }

    #[test]
    fn length_and_code_are_bounded() {
        let long = "é ".repeat(100_000);
        let error = AwsError::new(Some(&"C".repeat(100)), Some(&long), &[]);
        assert!(error.message().chars().count() <= MAX_MESSAGE + 1);
        assert_eq!(error.code(), "an unreadable error code");
        for code in ["", "a b", "a\nb", "é", SIGNATURE, "AKIAIOSFODNN7EXAMPLE", "short-secret"] {
            let error = AwsError::new(Some(code), None, &["short-secret"]);
            assert_eq!(error.code(), "an unreadable error code");
        }
    }
}
