//! The table of `tests/bench/speed.md` in the README.

/// The line before the table.
const BEGIN: &str = "<!-- figures: written by `cargo run --release --bin speed -- --write` -->\n";
/// The line after the table.
const END: &str = "<!-- end of the figures -->";

/// The table in a README; `None` if a marker is missing.
#[must_use]
pub fn shown(readme: &str) -> Option<&str> {
    let start = readme.find(BEGIN)? + BEGIN.len();
    let length = readme[start..].find(END)?;
    Some(&readme[start..start + length])
}

/// A README with another table; `None` if a marker is missing.
#[must_use]
pub fn replaced(readme: &str, table: &str) -> Option<String> {
    let start = readme.find(BEGIN)? + BEGIN.len();
    let end = start + readme[start..].find(END)?;
    Some(format!("{}{table}{}", &readme[..start], &readme[end..]))
}
