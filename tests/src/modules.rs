//! Checks the order of a crate's modules: `lib.rs` lists the modules in data-flow order, a module imports only modules
//! listed below it, and a child module imports nothing of its parent but the parent's other children.
//!
//! It reads the formatted text, and doesn't parse Rust: every path that begins with `crate::` or `super::` counts, in a
//! `use` or elsewhere. Tests may import anything.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// A module of a crate, by its path from the root.
pub type Module = Vec<String>;

/// An import that the order forbids: `profile::watch -> profile::Profile`.
pub type Finding = String;

/// The modules of a crate's program, with their text.
struct Crate {
    order: Vec<String>,
    modules: Vec<(Module, String)>,
    names: BTreeSet<Module>,
}

/// The imports of the crate in this directory that violate the order.
///
/// # Errors
/// Its files can't be read.
pub fn findings(directory: &Path) -> io::Result<BTreeSet<Finding>> {
    let source = directory.join("src");
    let mut files = Vec::new();
    collect(&source, &mut Vec::new(), &mut files)?;
    Ok(Crate::new(&fs::read_to_string(source.join("lib.rs"))?, files).findings())
}

fn collect(at: &Path, module: &mut Module, files: &mut Vec<(Module, String)>) -> io::Result<()> {
    for entry in fs::read_dir(at)? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if module.is_empty() && ["lib", "main"].contains(&name.as_str()) {
            continue;
        }
        module.push(name);
        if path.is_dir() {
            collect(&path, module, files)?;
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push((module.clone(), fs::read_to_string(&path)?));
        }
        module.pop();
    }
    Ok(())
}

impl Crate {
    fn new(lib: &str, files: Vec<(Module, String)>) -> Self {
        let order = declared(lib).filter(|(_, test)| !test).map(|(name, _)| name).collect();
        let names = files.iter().map(|(module, _)| module.clone()).collect();
        let of_tests: BTreeSet<Module> = files
            .iter()
            .flat_map(|(module, text)| {
                let tests = declared(text).filter(|(_, test)| *test);
                tests.map(|(name, _)| [module.as_slice(), &[name]].concat()).collect::<Vec<_>>()
            })
            .collect();
        let is_test = |module: &Module| (1..=module.len()).any(|n| of_tests.contains(&module[..n]));
        let modules = files.into_iter().filter(|(module, _)| !is_test(module)).collect();
        Self { order, modules, names }
    }

    fn findings(&self) -> BTreeSet<Finding> {
        let mut findings = BTreeSet::new();
        for (module, text) in &self.modules {
            for path in paths(&code(text)) {
                let Some(path) = absolute(module, &path) else { continue };
                if self.is_above(module, &path) || self.is_of_parent(module, &path) {
                    findings.insert(format!("{} -> {}", module.join("::"), path.join("::")));
                }
            }
        }
        findings
    }

    /// Whether the path is in a module that is listed above.
    fn is_above(&self, module: &Module, path: &[String]) -> bool {
        let place = |name: Option<&String>| self.order.iter().position(|it| Some(it) == name);
        match (place(module.first()), place(path.first())) {
            (Some(own), Some(other)) => other < own,
            _ => false,
        }
    }

    /// Whether the path is in a parent of the module.
    fn is_of_parent(&self, module: &Module, path: &[String]) -> bool {
        let length = (1..=path.len()).rev().find(|n| self.names.contains(&path[..*n]));
        length.is_some_and(|n| n < module.len() && module[..n] == path[..n])
    }
}

/// The modules that a text declares, each with whether it is only for tests.
fn declared(text: &str) -> impl Iterator<Item = (String, bool)> {
    let mut test = false;
    text.lines().filter_map(move |line| {
        if line.starts_with("#[") {
            test |= line.starts_with("#[cfg(") && line.contains("test");
            return None;
        }
        let of_test = std::mem::take(&mut test);
        let declared = line.strip_suffix(';').filter(|line| is_declared(line))?;
        Some((declared.rsplit(' ').next()?.to_owned(), of_test))
    })
}

/// Whether a line is `mod name`, with any visibility.
fn is_declared(line: &str) -> bool {
    line.split_once("mod ").is_some_and(|(who, _)| who.is_empty() || who.starts_with("pub"))
}

/// A text without its comments and its inline tests, on one line.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let begins = |next: &&str| is_declared(next.strip_suffix(" {").unwrap_or_default());
        if line.starts_with("#[cfg(") && line.contains("test") && lines.peek().is_some_and(begins) {
            lines.by_ref().find(|line| *line == "}");
            continue;
        }
        // But not the one in `https://`.
        let comment = line.match_indices("//").map(|(at, _)| at);
        let comment = comment.clone().find(|at| line[..*at].trim_end().len() < *at || *at == 0);
        code.push_str(line[..comment.unwrap_or(line.len())].trim());
        code.push(' ');
    }
    code
}

/// Every path that begins with `crate` or `super`, with the groups of a `use` multiplied out.
fn paths(code: &str) -> Vec<Module> {
    let mut paths = Vec::new();
    for start in ["crate::", "super::"].into_iter().flat_map(|it| code.match_indices(it)) {
        let before = &code[..start.0];
        let inside = before.ends_with(|c: char| c.is_alphanumeric() || "_:$".contains(c));
        // `pub(in crate::profile)` is a visibility, not an import.
        if !inside && !before.ends_with("(in ") {
            tree(&code[start.0..], &[], &mut paths);
        }
    }
    paths
}

/// Reads one branch of a `use`, and returns the rest of the text.
fn tree<'t>(text: &'t str, prefix: &[String], paths: &mut Vec<Module>) -> &'t str {
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start_matches([' ', ',']);
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            let after = tree(rest, prefix, paths);
            if after.len() == rest.len() {
                return after;
            }
            rest = after;
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    let end = if text.starts_with('*') { 1 } else { end };
    let mut path = prefix.to_vec();
    // In a call with a type, `crate::f::<T>()`, the type is a separate path.
    if end > 0 && &text[..end] != "self" {
        path.push(text[..end].to_owned());
    }
    let rest = &text[end..];
    if end > 0
        && let Some(next) = rest.strip_prefix("::")
    {
        return tree(next, &path, paths);
    }
    paths.push(path);
    let Some(renamed) = rest.strip_prefix(" as ") else { return rest };
    renamed.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
}

/// The path from the root of the crate.
fn absolute(module: &Module, path: &[String]) -> Option<Module> {
    if path.first().is_some_and(|it| it == "crate") {
        return Some(path[1..].to_vec());
    }
    let up = path.iter().take_while(|it| *it == "super").count();
    Some([module.get(..module.len().checked_sub(up)?)?, &path[up..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<Finding> {
        let lib = "//! Doc.\n\npub mod high;\n\nmod low;\n\n#[cfg(test)]\nmod deadline;\n";
        let files = files.iter().map(|(name, text)| {
            (name.split("::").map(str::to_owned).collect(), (*text).to_owned())
        });
        Crate::new(lib, files.collect()).findings().into_iter().collect()
    }

    const MODULES: [(&str, &str); 4] =
        [("high", "mod child;\n"), ("high::child", ""), ("high::other", ""), ("low", "")];

    fn of(name: &str, text: &str) -> Vec<Finding> {
        let mut files = MODULES.to_vec();
        files.retain(|(it, _)| *it != name);
        files.push((name, text));
        found(&files)
    }

    #[test]
    fn imports_from_modules_above_are_found_in_every_spelling() {
        let expected = ["low -> high::Thing"];
        for text in [
            "use crate::high::Thing;\n",
            "use crate::high::{\n    Thing,\n};\n",
            "use crate::{high::Thing, low::Other};\n",
            "fn f() -> crate::high::Thing {\n}\n",
            "pub(crate) use super::high::Thing;\n",
            "use crate::high::Thing as Other; // crate::low::X\n",
            "const URL: &str = \"https://x\";\nfn f(x: Vec<crate::high::Thing>) {}\n",
        ] {
            assert_eq!(of("low", text), expected, "{text}");
        }
        let both = of("low", "use crate::high::{child::{A, B}, Thing};\n");
        assert_eq!(both, ["low -> high::Thing", "low -> high::child::A", "low -> high::child::B"]);
    }

    #[test]
    fn imports_from_modules_below_and_other_paths_are_not_found() {
        let none: [&str; 0] = [];
        for (name, text) in [
            ("high", "use crate::low::Thing;\nuse self::child::Other;\n"),
            ("high::child", "use crate::low::{self, Thing};\nuse super::other::Thing;\n"),
            ("low", "/// See [`crate::high::Thing`].\nstruct A; // of crate::high::Thing\n"),
            ("low", "pub(in crate::high) struct A;\n"),
            ("low", "#[cfg(test)]\nmod tests {\n    use crate::high::Thing;\n}\n"),
            ("low", "#[cfg(test)]\npub(super) mod fake {\n    use crate::high::Thing;\n}\n"),
            ("low", "use mycrate::high::Thing;\nmacro_rules! m { () => { $crate::high::X } }\n"),
        ] {
            assert_eq!(of(name, text), none, "{text}");
        }
        let mut files = MODULES.to_vec();
        files[3] = ("low", "#[cfg(all(test, target_os = \"linux\"))]\nmod tests;\n");
        files.push(("low::tests", "use super::*;\nuse crate::high::Thing;\n"));
        assert_eq!(found(&files), none);
    }

    #[test]
    fn imports_of_a_child_from_its_parent_are_found() {
        for text in
            ["use super::Thing;\n", "use crate::high::Thing;\n", "fn f(x: super::Thing) {}\n"]
        {
            assert_eq!(of("high::child", text), ["high::child -> high::Thing"], "{text}");
        }
        assert_eq!(of("high::child", "use super::*;\n"), ["high::child -> high::*"]);
        let both = of("high::child", "use super::other::{self, A};\nuse super::{Thing, other};\n");
        assert_eq!(both, ["high::child -> high::Thing"]);
    }
}
