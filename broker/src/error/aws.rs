//! What AWS said when it refused: a code and a message, fit to be shown.
//!
//! Invariant: no key, token or signature is in it, whatever AWS's answer held, and it is one line of bounded length.

use std::fmt;

/// Longer messages are cut: an encoded authorization message has kilobytes.
const MAX_MESSAGE: usize = 500;
const MAX_CODE: usize = 64;
/// A given secret that is shorter is none: AWS's access key ids have 16 characters at least.
const MIN_GIVEN: usize = 8;
/// The shortest run of characters that may be a secret key, a signature or a token: AWS's secret keys have 40.
const MIN_SECRET: usize = 36;

/// AWS's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsError {
    code: String,
    message: String,
}

impl AwsError {
    /// Takes over an answer to a request that was made with `secrets`.
    #[must_use]
    pub fn new(code: Option<&str>, message: Option<&str>, secrets: &[&str]) -> Self {
        let sound = |code: &&str| {
            let known = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
            (1..=MAX_CODE).contains(&code.len()) && code.chars().all(known)
        };
        let code = code.filter(sound).unwrap_or("an unreadable error code");
        Self { code: code.to_owned(), message: shown(message.unwrap_or_default(), secrets) }
    }

    /// `AccessDenied`, `ExpiredToken`, …
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What AWS says about it; may be empty.
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

/// A foreign text as one line without secrets: those that are given, and what may be one.
#[must_use]
pub fn shown(text: &str, secrets: &[&str]) -> String {
    // So much of it can be shown at most; a secret that begins before the end is whole in it.
    let end = text.floor_char_boundary(4 * MAX_MESSAGE);
    let mut text = text[..end].to_owned();
    for secret in secrets.iter().filter(|secret| secret.len() >= MIN_GIVEN) {
        text = text.replace(secret, "…");
    }
    let words = text.split(|c: char| c.is_whitespace() || c.is_control() || is_invisible(c));
    let words = words.filter(|word| !word.is_empty()).map(without_secrets);
    let mut line = words.collect::<Vec<_>>().join(" ");
    if line.chars().count() > MAX_MESSAGE {
        line = line.chars().take(MAX_MESSAGE).collect();
        line.push('…');
    }
    line
}

/// What changes how the text around it is shown.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A word, with what may be a key or a token left out.
fn without_secrets(word: &str) -> String {
    // ARNs hold long names, and no secret.
    let of_secret = |c: char| c.is_ascii_alphanumeric() || "+/=_-%.".contains(c);
    let mut shown = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let length = rest.find(|c| !of_secret(c)).unwrap_or(rest.len());
        let (run, next) = rest.split_at(length);
        let in_arn = shown.contains("arn:aws");
        shown.push_str(if is_key_id(run) || (may_be_secret(run) && !in_arn) { "…" } else { run });
        let mut others = next.chars();
        shown.extend(others.next());
        rest = others.as_str();
    }
    shown
}

/// `AKIA…`, `ASIA…`: not secret by itself, and no part of an explanation.
fn is_key_id(run: &str) -> bool {
    run.len() >= 16
        && ["AKIA", "ASIA"].iter().any(|prefix| run.starts_with(prefix))
        && run.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

fn may_be_secret(run: &str) -> bool {
    let has = |is: fn(&u8) -> bool| run.as_bytes().iter().any(is);
    run.len() >= MIN_SECRET && has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_is_shown_as_it_is() {
        for message in [
            "User: arn:aws:iam::123456789012:user/x is not authorized to perform: sts:AssumeRole on resource: \
             arn:aws:iam::123456789012:role/aws-reserved/sso.amazonaws.com/eu-west-1/AWSReservedSSO_Admin_0123456789abcdef",
            "The security token included in the request is expired",
            "Signature expired: 20261125T101500Z is now earlier than 20261126T095500Z (20261126T101000Z - 15 min.)",
            "No access",
            "",
        ] {
            let error = AwsError::new(Some("AccessDenied"), Some(message), &["token"; 0]);
            assert_eq!(error.message(), message);
        }
        let told = AwsError::new(Some("AccessDenied"), Some("no"), &[]).to_string();
        assert_eq!(told, "AccessDenied: no");
        assert_eq!(AwsError::new(Some("AccessDenied"), None, &[]).to_string(), "AccessDenied");
    }

    #[test]
    fn no_secret_is_shown() {
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY0";
        let token = "IQoJb3JpZ2luX2VjEPT//////////wEaCXVzLWVhc3QtMSJHMEUCIQDcanary1234567890==";
        let signature = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
        let bearer = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl0123";
        let message = format!(
            "Key AKIAIOSFODNN7EXAMPLE '{secret}'\nx-amz-security-token:{token}\r\n\u{1b}[31mSignature={signature}, \
             Authorization: Bearer {bearer} short-secret\u{202e}!"
        );
        let error = AwsError::new(Some("X"), Some(&message), &["short-secret"]);
        let shown = error.message();
        for part in
            [secret, token, signature, bearer, "AKIAIOSFODNN7EXAMPLE", "short-secret", "canary"]
        {
            assert!(!shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.chars().any(|c| c.is_control() || is_invisible(c)), "{shown:?}");
        assert!(shown.starts_with("Key … '…' x-amz-security-token:…"), "{shown}");
    }

    #[test]
    fn length_and_code_are_bounded() {
        let long = "é ".repeat(100_000);
        let error = AwsError::new(Some(&"C".repeat(100)), Some(&long), &[]);
        assert!(error.message().chars().count() <= MAX_MESSAGE + 1);
        assert_eq!(error.code(), "an unreadable error code");
        for code in ["", "a b", "a\nb", "é"] {
            assert_eq!(AwsError::new(Some(code), None, &[]).code(), "an unreadable error code");
        }
    }
}
