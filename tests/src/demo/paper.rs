//! What the demo prints on: sections, tables, marks. Colours only where they were asked for.
#![allow(clippy::print_stdout, reason = "a demo prints; no MCP runs over this standard output")]

const GOOD: &str = "✔";
const BAD: &str = "✘";

/// Standard output, and whether everything was right so far.
pub(super) struct Paper {
    colours: bool,
    checks: usize,
    faults: usize,
}

impl Paper {
    pub(super) fn new(colours: bool) -> Self {
        Self { colours, checks: 0, faults: 0 }
    }

    pub(super) fn title(&self, text: &str) {
        println!("{}", self.paint("1", text));
    }

    pub(super) fn note(&self, text: &str) {
        println!("{}", self.paint("2", text));
    }

    pub(super) fn section(&self, text: &str) {
        println!("\n{}", self.paint("1;36", text));
    }

    /// Counts a check without printing it.
    pub(super) fn check(&mut self, good: bool) {
        self.checks += 1;
        self.faults += usize::from(!good);
    }

    /// Counts a check; answers its mark for a cell of a table.
    pub(super) fn mark(&mut self, good: bool) -> String {
        self.check(good);
        if good { GOOD.to_owned() } else { BAD.to_owned() }
    }

    /// A check on a line of its own.
    pub(super) fn line(&mut self, good: bool, text: &str) {
        let mark = self.mark(good);
        println!("  {} {text}", self.cell(&mark, 1));
    }

    /// Somebody else's words.
    pub(super) fn quote(&self, text: &str) {
        println!("      {}", self.paint("3", text));
    }

    /// A table; columns are as wide as their widest cell.
    pub(super) fn table(&self, head: &[&str], rows: &[Vec<String>]) {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            let cells = cells.map(|cell| cell.chars().count());
            cells.chain([head[column].chars().count()]).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..head.len()).map(width).collect();
        if head.iter().any(|text| !text.is_empty()) {
            let head: Vec<_> =
                head.iter().zip(&widths).map(|(text, width)| format!("{text:width$}")).collect();
            println!("  {}", self.paint("2", head.join("  ").trim_end()));
        }
        for row in rows {
            let cells: Vec<_> =
                row.iter().zip(&widths).map(|(cell, width)| self.cell(cell, *width)).collect();
            println!("  {}", cells.join("  ").trim_end());
        }
    }

    /// The last line. Answers whether every check was good.
    pub(super) fn verdict(&self) -> bool {
        let good = self.faults == 0 && self.checks > 0;
        let text = if good {
            self.paint("1;32", &format!("{GOOD} All {} checks are true.", self.checks))
        } else {
            self.paint("1;31", &format!("{BAD} {} of {} checks failed.", self.faults, self.checks))
        };
        println!("\n{text}");
        good
    }

    fn cell(&self, text: &str, width: usize) -> String {
        let padded = format!("{text:width$}");
        match text {
            GOOD => self.paint("32", &padded),
            BAD => self.paint("31", &padded),
            _ => padded,
        }
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.colours { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}
