//! Checks that all parsers read a resource's URI alike.

/// The longest URI that a rule may look at, in bytes.
const MAX_URI: usize = 2048;

/// Whether a URI is in the one form that no server normalises: `docs://a/../secret`,
/// `docs://s%65cret` and `DOCS://secret` would pass a rule that denies `docs://secret`.
pub(super) fn is_clear(uri: &str) -> bool {
    let printable = uri.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if !printable || uri.len() > MAX_URI {
        return false;
    }
    let Some((scheme, rest)) = uri.split_once(':') else { return false };
    let scheme_is_lower = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    let authority = rest.strip_prefix("//").map(|rest| rest.split(['/', '?', '#']).next());
    let authority_is_lower =
        authority.flatten().is_none_or(|host| !host.bytes().any(|b| b.is_ascii_uppercase()));
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let mut segments = path.split('/').map(|segment| segment.split(';').next());
    let stays = segments.all(|segment| !matches!(segment, Some("." | "..")));
    scheme_is_lower && authority_is_lower && stays && escapes_are_needed(rest)
}

/// Whether each `%` is an upper case escape of a character that must be escaped: not a letter, a
/// dot or a slash.
fn escapes_are_needed(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let Some(digits) = after.get(..2) else { return false };
        let upper = digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        let byte = u8::from_str_radix(digits, 16).ok().filter(|_| upper);
        byte.is_some_and(|byte| {
            let plain = byte.is_ascii_alphanumeric() || b"-._~/\\%;".contains(&byte);
            !plain && !byte.is_ascii_control()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_in_one_form() {
        for uri in [
            "docs://guide/one",
            "file:///home/x/a.txt",
            "mailto:a@b.example",
            "https://example.com/a?b=c#d",
            "docs://{id}/x",
            "docs://a%20b/%C3%A9",
            "urn:isbn:0451450523",
        ] {
            assert!(is_clear(uri), "{uri}");
        }
        for uri in [
            "",
            "guide",
            "DOCS://secret",
            "docs://Secret/x",
            "docs://a/../secret",
            "docs://a/./secret",
            "docs://a/..;x/secret",
            "docs://s%65cret",
            "docs://a%2fb",
            "docs://a%2Fb",
            "docs://%2e%2e/secret",
            "docs://a%c3%a9",
            "docs://a%00",
            "docs://a%",
            "docs://a%4",
            "docs://a%é1",
            "docs://a b",
            "docs://a\u{200b}",
            "docs:\\\\a",
            "docs://é",
        ] {
            assert!(!is_clear(uri), "{uri}");
        }
        assert!(!is_clear(&format!("docs://{}", "a".repeat(MAX_URI))));
    }
}
