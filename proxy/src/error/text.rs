//! Makes foreign text safe for use in a sentence.

use crate::config::is_control;

/// Foreign text for display on one line: without characters that end a line, move the cursor or change the writing
/// direction, and with at most `limit` characters.
#[must_use]
pub fn printable(text: &str, limit: usize) -> String {
    let hides =
        |c: char| is_control(c) || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown: String = text
        .chars()
        .map(|c| if hides(c) { ' ' } else { c })
        .take(limit.saturating_add(1))
        .collect();
    if let Some((end, _)) = shown.char_indices().nth(limit) {
        shown.truncate(end);
        shown.push('…');
    }
    shown.truncate(shown.trim_end().len());
    shown
}

/// The innermost cause of an error: "connection refused" rather than the layers around it.
#[must_use]
pub fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_shown_on_one_line() {
        assert_eq!(printable("plain: \"é\" 東京", 80), "plain: \"é\" 東京");
        assert_eq!(
            printable("a\nb\u{1b}[2Kc\u{9b}d\u{2028}e\u{202e}f\u{7f}", 80),
            "a b [2Kc d e f"
        );
        assert_eq!(printable("東京都", 2), "東京…");
        assert_eq!(printable("東京", 2), "東京");
    }
}
