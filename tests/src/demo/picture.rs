//! The demo's terminal as an SVG, for a light and for a dark page.
//!
//! Text stays text. Each group of words has a position and a width in columns, so that tables are aligned in any
//! monospaced font. The SVG refers to nothing outside of it.

use std::fmt::Write as _;

use super::paper::{Line, Style};

/// Colours by purpose.
pub(super) struct Theme {
    background: &'static str,
    border: &'static str,
    text: &'static str,
    dim: &'static str,
    heading: &'static str,
    good: &'static str,
    bad: &'static str,
}

/// For a page with a light background. Each colour has a contrast of at least 4.5 to it (WCAG 2.2, 1.4.3).
pub(super) const LIGHT: Theme = Theme {
    background: "#ffffff",
    border: "#d0d7de",
    text: "#1f2328",
    dim: "#59636e",
    heading: "#0550ae",
    good: "#116329",
    bad: "#a40e26",
};

/// For a page with a dark background; contrasts as above.
pub(super) const DARK: Theme = Theme {
    background: "#0d1117",
    border: "#30363d",
    text: "#e6edf3",
    dim: "#9198a1",
    heading: "#79c0ff",
    good: "#56d364",
    bad: "#ff7b72",
};

/// Pixels of a column, of a row, of the font, and of the margin.
const COLUMN: f64 = 7.8;
const ROW: f64 = 19.0;
const FONT: f64 = 13.0;
const MARGIN: f64 = 18.0;

const FONTS: &str = "ui-monospace, SFMono-Regular, Menlo, Consolas, \
                     'DejaVu Sans Mono', 'Liberation Mono', monospace";

/// A picture of the command and the `lines` that it printed; `title` is for screen readers.
pub(super) fn svg(title: &str, command: &str, lines: &[Line], theme: &Theme) -> String {
    let prompt = vec![(Style::Dim, "$ ".to_owned()), (Style::Bold, command.to_owned())];
    let lines: Vec<&Line> = [&prompt].into_iter().chain(lines).collect();
    let length = |line: &&Line| line.iter().map(|(_, text)| text.chars().count()).sum::<usize>();
    let columns = lines.iter().map(length).max().unwrap_or_default();
    let width = 2.0 * MARGIN + COLUMN * to_float(columns);
    let height = 2.0 * MARGIN + ROW * to_float(lines.len());
    let Theme { background, border, text, dim, heading, good, bad } = theme;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-labelledby=\"title\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\">\n\
         <title id=\"title\">{}</title>\n\
         <style>\n\
         text {{ font: {FONT}px {FONTS}; fill: {text}; white-space: pre }}\n\
         .bold, .heading, .good-verdict, .bad-verdict {{ font-weight: bold }}\n\
         .dim {{ fill: {dim} }}\n\
         .heading {{ fill: {heading} }}\n\
         .quote {{ font-style: italic }}\n\
         .good, .good-verdict {{ fill: {good} }}\n\
         .bad, .bad-verdict {{ fill: {bad} }}\n\
         </style>\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{:.0}\" height=\"{:.0}\" rx=\"8\" fill=\"{background}\" \
         stroke=\"{border}\"/>\n",
        escaped(title),
        width - 1.0,
        height - 1.0,
    );
    for (row, line) in lines.iter().enumerate() {
        let y = MARGIN + ROW * to_float(row) + FONT;
        let mut column = 0;
        for (style, text) in line.iter() {
            for (offset, group) in groups(text) {
                let x = MARGIN + COLUMN * to_float(column + offset);
                let length = COLUMN * to_float(group.chars().count());
                let class = class(*style).map(|class| format!(" class=\"{class}\""));
                let class = class.unwrap_or_default();
                // Writing to a string can't fail.
                let _ = writeln!(
                    svg,
                    "<text x=\"{x:.1}\" y=\"{y:.1}\" textLength=\"{length:.1}\" \
                     lengthAdjust=\"spacingAndGlyphs\"{class}>{}</text>",
                    escaped(group)
                );
            }
            column += text.chars().count();
        }
    }
    svg + "</svg>\n"
}

fn class(style: Style) -> Option<&'static str> {
    Some(match style {
        Style::Plain => return None,
        Style::Bold => "bold",
        Style::Heading => "heading",
        Style::Dim => "dim",
        Style::Quote => "quote",
        Style::Good => "good",
        Style::Bad => "bad",
        Style::GoodVerdict => "good-verdict",
        Style::BadVerdict => "bad-verdict",
    })
}

/// The parts of a text between two or more spaces, each with its position in characters.
fn groups(text: &str) -> Vec<(usize, &str)> {
    let mut groups = Vec::new();
    let mut at = 0;
    for part in text.split("  ") {
        let group = part.trim();
        if !group.is_empty() {
            let before = part.chars().take_while(|c| *c == ' ').count();
            groups.push((at + before, group));
        }
        at += part.chars().count() + 2;
    }
    groups
}

/// Escapes text for an XML 1.0 element: markup is quoted, and characters that XML can't have are replaced.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A number of columns or rows, which is small enough for an exact float.
fn to_float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_their_position() {
        assert_eq!(groups("a b  c"), [(0, "a b"), (5, "c")]);
        assert_eq!(groups("   ✔ x     y  "), [(3, "✔ x"), (11, "y")]);
        assert_eq!(groups("    "), []);
        assert_eq!(groups(""), []);
    }

    #[test]
    fn text_stays_text() {
        let line = vec![
            (Style::Plain, "  <script>alert(\"&\")</script>".to_owned()),
            (Style::Bad, "\u{1b}[2K".to_owned()),
        ];
        let svg = svg("a < b", "demo", &[line], &LIGHT);
        assert!(svg.contains(">&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;</text>"));
        assert!(svg.contains("<title id=\"title\">a &lt; b</title>"));
        assert!(svg.contains("class=\"bad\">\u{fffd}[2K</text>"));
        assert!(!svg.contains("<script"), "{svg}");
    }
}
