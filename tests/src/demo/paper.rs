//! The demo's output: sections, tables, marks; colours only on request. It keeps the printed lines for the pictures.
#![allow(clippy::print_stdout, reason = "a demo prints; no MCP runs over this standard output")]

const GOOD: &str = "✔";
const BAD: &str = "✘";

/// The style of a piece of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Heading,
    Dim,
    Quote,
    Good,
    Bad,
    GoodVerdict,
    BadVerdict,
}

impl Style {
    /// The parameters of its escape sequence (ECMA-48, SGR).
    fn parameters(self) -> Option<&'static str> {
        Some(match self {
            Self::Plain => return None,
            Self::Bold => "1",
            Self::Heading => "1;36",
            Self::Dim => "2",
            Self::Quote => "3",
            Self::Good => "32",
            Self::Bad => "31",
            Self::GoodVerdict => "1;32",
            Self::BadVerdict => "1;31",
        })
    }
}

/// A line, as pieces of one style each.
pub(super) type Line = Vec<(Style, String)>;

/// Standard output, the printed lines, and the results of all checks so far.
pub(super) struct Paper {
    colours: bool,
    checks: usize,
    faults: usize,
    lines: Vec<Line>,
}

impl Paper {
    pub(super) fn new(colours: bool) -> Self {
        Self { colours, checks: 0, faults: 0, lines: Vec::new() }
    }

    /// All printed lines.
    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    pub(super) fn title(&mut self, text: &str) {
        self.print(vec![(Style::Bold, text.to_owned())]);
    }

    pub(super) fn note(&mut self, text: &str) {
        self.print(vec![(Style::Dim, text.to_owned())]);
    }

    pub(super) fn section(&mut self, text: &str) {
        self.print(Vec::new());
        self.print(vec![(Style::Heading, text.to_owned())]);
    }

    /// Counts a check without printing it.
    pub(super) fn check(&mut self, good: bool) {
        self.checks += 1;
        self.faults += usize::from(!good);
    }

    /// Counts a check, and returns its mark for a cell of a table.
    pub(super) fn mark(&mut self, good: bool) -> String {
        self.check(good);
        if good { GOOD.to_owned() } else { BAD.to_owned() }
    }

    /// A check on a line of its own.
    pub(super) fn line(&mut self, good: bool, text: &str) {
        let mark = self.mark(good);
        self.print(vec![plain("  "), cell(&mark, 1), plain(&format!(" {text}"))]);
    }

    /// Prints quoted text.
    pub(super) fn quote(&mut self, text: &str) {
        self.print(vec![plain("      "), (Style::Quote, text.to_owned())]);
    }

    /// A table; columns are as wide as their widest cell.
    pub(super) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            let cells = cells.map(|cell| cell.chars().count());
            cells.chain([head[column].chars().count()]).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..head.len()).map(width).collect();
        if head.iter().any(|text| !text.is_empty()) {
            let head: Vec<_> =
                head.iter().zip(&widths).map(|(text, width)| format!("{text:width$}")).collect();
            self.print(vec![plain("  "), (Style::Dim, head.join("  ").trim_end().to_owned())]);
        }
        for row in rows {
            let mut line = Line::new();
            for (text, width) in row.iter().zip(&widths) {
                line.extend([plain("  "), cell(text, *width)]);
            }
            if let Some((_, last)) = line.last_mut() {
                last.truncate(last.trim_end().len());
            }
            self.print(line);
        }
    }

    /// Prints the last line. Returns whether all checks succeeded.
    pub(super) fn verdict(&mut self) -> bool {
        let good = self.faults == 0 && self.checks > 0;
        let last = if good {
            (Style::GoodVerdict, format!("{GOOD} All {} checks are true.", self.checks))
        } else {
            (Style::BadVerdict, format!("{BAD} {} of {} checks failed.", self.faults, self.checks))
        };
        self.print(Vec::new());
        self.print(vec![last]);
        good
    }

    fn print(&mut self, line: Line) {
        let shown: String = line.iter().map(|(style, text)| self.paint(*style, text)).collect();
        println!("{shown}");
        self.lines.push(line);
    }

    fn paint(&self, style: Style, text: &str) -> String {
        match style.parameters().filter(|_| self.colours) {
            Some(parameters) => format!("\u{1b}[{parameters}m{text}\u{1b}[0m"),
            None => text.to_owned(),
        }
    }
}

fn plain(text: &str) -> (Style, String) {
    (Style::Plain, text.to_owned())
}

fn cell(text: &str, width: usize) -> (Style, String) {
    let style = match text {
        GOOD => Style::Good,
        BAD => Style::Bad,
        _ => Style::Plain,
    };
    (style, format!("{text:width$}"))
}
