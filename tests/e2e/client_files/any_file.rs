//! Any content of a client's file: after an edit, other parsers read the entry and all that was there before, and a
//! removal restores every byte; or the edit is refused, and the file unchanged.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde_json::json;
use sigward_proxy::cli::{self, config};
use sigward_proxy::environment::Environment;
use sigward_tests::tools;

use super::files;

const URL: &str = "https://h/mcp";
const CASES: u32 = 300;

/// A client, the format of its file, and the key of its servers.
struct Kind {
    client: &'static str,
    format: &'static str,
    container: &'static str,
}

const CURSOR: Kind = Kind { client: "cursor", format: "json", container: "mcpServers" };
const CODEX: Kind = Kind { client: "codex", format: "toml", container: "mcp_servers" };

/// Runs `sigward-proxy config` within this process.
fn run(kind: &Kind, file: &Path, more: &[&str]) -> Result<(), String> {
    let file = file.to_str().unwrap();
    let words = ["sigward-proxy", "config", "--client", kind.client, "--file", file];
    let task = cli::config(words.iter().chain(more).map(Into::into)).unwrap().unwrap();
    let places =
        config::Places { home: None, config: None, codex: None, claude: None, is_mac: false };
    let given = |words: &[String]| cli::given(words).map_err(|error| error.to_string());
    let serving = |words: &[String]| {
        let all = ["sigward-proxy"].into_iter().chain(words.iter().map(String::as_str));
        let parsed = cli::parse(all.map(Into::into), &Environment::of_process());
        let config = parsed.map_err(|error| error.to_string())?.config;
        Ok(config::Serving { endpoint: config.endpoint, profiles: Vec::new() })
    };
    let offered = |_: &_| -> Result<config::Offered, String> { panic!("the broker was asked") };
    let asked = config::Asked { given: &given, serving: &serving, offered: &offered };
    let program = Path::new("/opt/sigward-proxy");
    task.run(&Environment::of_process(), &places, program, &asked).map(drop)
}

/// Writes the entry into a file with this text and removes it, with and without the backup. Returns the text of the
/// file before, with the entry, and after the removal without the backup; `None` if the edit was refused.
fn edited(kind: &Kind, before: &str) -> Result<Option<[String; 3]>, TestCaseError> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let backup = directory.path().join("file.sigward-backup");
    fs::write(&file, before).unwrap();
    let write = ["--write", URL, "--service", "x", "--region", "us-east-1", "--profile", "dev"];
    if run(kind, &file, &write).is_err() {
        let all = files(directory.path());
        prop_assert_eq!(
            all,
            [(file, before.as_bytes().to_owned())],
            "a refused edit changes no file"
        );
        return Ok(None);
    }
    let after = fs::read_to_string(&file).unwrap();
    prop_assert!(run(kind, &file, &write).is_ok());
    prop_assert_eq!(&fs::read_to_string(&file).unwrap(), &after, "a second write");
    prop_assert_eq!(run(kind, &file, &["--remove"]), Ok(()));
    prop_assert_eq!(fs::read_to_string(&file).unwrap(), before, "removal with the backup");

    let _ = fs::remove_file(&backup);
    fs::write(&file, &after).unwrap();
    prop_assert_eq!(
        run(kind, &file, &["--remove"]),
        Ok(()),
        "removal without the backup: {:?}",
        after
    );
    // A file that only we have written is removed.
    let without = fs::read_to_string(&file).unwrap_or_default();
    // The places of commas are checked by `reader.py`.
    let is_kept = |it: &char| !it.is_whitespace() && *it != ',';
    let kept = |text: &str| text.chars().filter(is_kept).collect::<String>();
    // The container of the entry stays if the file had none before.
    let container = format!("\"{}\":{{}}", kind.container);
    let left = [String::new(), format!("{{{container}}}"), container];
    let is_back = |left: &String| kept(&without).replacen(left, "", 1) == kept(before);
    prop_assert!(left.iter().any(is_back), "{:?}", without);
    Ok(Some([before.to_owned(), after, without]))
}

/// Edits many files, the same ones in each run, and checks the results with other parsers.
fn check(kind: &Kind, file: impl Strategy<Value = String>) {
    let seed = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let settings = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let cases = std::cell::RefCell::new(Vec::new());
    let checked = TestRunner::new_with_rng(settings, seed).run(&file, |before| {
        cases.borrow_mut().extend(edited(kind, &before)?);
        Ok(())
    });
    if let Err(error) = checked {
        panic!("{error}");
    }
    let cases = cases.into_inner();
    assert!(cases.len() > CASES as usize / 3, "only {} files were edited", cases.len());
    let mut lines = String::new();
    for [before, after, without] in cases {
        let path = [kind.container, "aws"];
        let case = json!({"format": kind.format, "path": path, "before": before, "after": after, "without": without});
        lines.push_str(&format!("{case}\n"));
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/client_files/reader.py");
    let mut reader = std::process::Command::new(tools::python())
        .args(["-B", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = reader.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = reader.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    let differences = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && differences.is_empty(), "{differences}");
}

/// A text, or the same with a few characters removed, inserted or changed.
fn damaged(text: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let damage = prop_oneof![
        6 => Just(None),
        1 => (any::<prop::sample::Index>(), 0..3_usize, "[{}\\[\\]\",:/*#=\r\n\\\\a\u{a0}\u{e9}]").prop_map(Some),
    ];
    (text, damage).prop_map(|(text, damage)| {
        let Some((place, taken, put)) = damage else { return text };
        let characters: Vec<char> = text.chars().collect();
        let at = place.index(characters.len() + 1);
        let before =
            characters[..at].iter().chain(put.chars().collect::<Vec<_>>().iter()).collect();
        [before, characters[at..].iter().skip(taken).collect::<String>()].concat()
    })
}

mod jsonc {
    use super::*;

    #[test]
    fn a_json_file_is_edited_as_other_parsers_read_it_or_unchanged() {
        check(&CURSOR, damaged(file()));
    }

    /// Text between two parts.
    fn filler() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => Just(""),
            4 => Just(" "),
            4 => Just("\n  "),
            2 => Just("\r\n\t"),
            1 => Just("\n\n \t\n"),
            1 => Just(" /* , } */ "),
            1 => Just("/**/"),
            1 => Just("/* \u{4e2d} \"aws\": {\n // } */"),
            2 => Just(" // \"mcpServers\": { \"aws\": 1,\n"),
            1 => Just("//\r\n"),
            1 => Just("// \u{1f600} /*\n"),
        ]
        .prop_map(str::to_owned)
    }

    fn key() -> impl Strategy<Value = String> {
        prop_oneof![
            6 => "\"[a-z\u{e9}]{1,3}\"",
            1 => Just("\"a\\\"\\u0062\"".to_owned()),
            1 => Just("\"aws\"".to_owned()),
            1 => Just("\"mcpServers\"".to_owned()),
            1 => Just("\"\"".to_owned()),
        ]
    }

    /// Members or elements, within their brackets.
    fn container(
        open: &'static str,
        close: &'static str,
        parts: impl Strategy<Value = Vec<String>>,
    ) -> impl Strategy<Value = String> {
        let fillers = (filler(), filler(), filler(), filler());
        (parts, fillers, any::<bool>()).prop_map(move |(parts, fillers, trails)| {
            let (first, before, after, last) = fillers;
            let comma = if trails && !parts.is_empty() { "," } else { "" };
            let parts = parts.join(&format!("{before},{after}"));
            format!("{open}{first}{parts}{before}{comma}{last}{close}")
        })
    }

    fn member(
        key: impl Strategy<Value = String>,
        value: impl Strategy<Value = String>,
    ) -> impl Strategy<Value = String> {
        (key, filler(), filler(), value)
            .prop_map(|(key, before, after, value)| format!("{key}{before}:{after}{value}"))
    }

    fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("1.0".to_owned()),
            Just("-0".to_owned()),
            Just("1e400".to_owned()),
            Just("null".to_owned()),
            Just("true".to_owned()),
            "\"[a-z \u{e9}\u{1f600}{}\\[\\],:/*]{0,6}\"",
            Just(r#""\u00e9\" // no comment""#.to_owned()),
            Just(r#""\\""#.to_owned()),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                container("{", "}", vec(member(key(), inner.clone()), 0..4)),
                container("[", "]", vec(inner, 0..4)),
            ]
        })
    }

    fn file() -> impl Strategy<Value = String> {
        let servers = container("{", "}", vec(member(key(), value()), 0..4));
        let servers = member(Just("\"mcpServers\"".to_owned()), servers);
        let others = || vec(member("\"x[a-z]{1,4}\"", value()), 0..3);
        let members = (others(), prop::option::weighted(0.8, servers), others()).prop_map(
            |(before, servers, after)| [before, servers.into_iter().collect(), after].concat(),
        );
        let root = prop_oneof![
            12 => container("{", "}", members).boxed(),
            1 => value().boxed(),
            1 => Just(String::new()).boxed(),
        ];
        ("[\u{feff}]{0,1}", filler(), root, filler())
            .prop_map(|(mark, before, root, after)| format!("{mark}{before}{root}{after}"))
    }
}

mod toml {
    use super::*;

    #[test]
    fn a_toml_file_is_edited_as_other_parsers_read_it_or_unchanged() {
        check(&CODEX, damaged(file()));
    }

    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            "\"[a-z \u{e9}#=\\[\\]]{0,6}\"",
            "'[a-z \\\\\"#]{0,6}'",
            Just("\"\"\"\n[mcp_servers.aws]\ncommand = 'x'\n\"\"\"".to_owned()),
            Just("'''\n# no comment\n[x]'''".to_owned()),
            Just("0x1F".to_owned()),
            Just("1_000.5e3".to_owned()),
            Just("-inf".to_owned()),
            Just("1979-05-27T07:32:00Z".to_owned()),
            Just("[1, 2, # two\n  3,\n]".to_owned()),
            Just("[ ]".to_owned()),
            Just("{ a = 1, b = { c = \"d\" } }".to_owned()),
        ]
    }

    /// A key with a number, so that it is there only once.
    fn key(number: usize) -> impl Strategy<Value = String> {
        prop_oneof![
            4 => Just(format!("k{number}")),
            1 => Just(format!("\"k \u{e9}{number}\"")),
            1 => Just(format!("'k.{number}'")),
            1 => Just(format!("d{number} . e")),
            1 => Just("same".to_owned()),
        ]
    }

    fn line(number: usize) -> impl Strategy<Value = String> {
        let comment =
            prop_oneof![3 => Just(""), 1 => Just(" # \u{e9} [mcp_servers.aws]"), 1 => Just("\t")];
        prop_oneof![
            6 => (key(number), value(), comment, "[ \t]{0,2}")
                .prop_map(|(key, value, comment, indent)| format!("{indent}{key} = {value}{comment}")),
            2 => Just(String::new()),
            1 => Just("  \t".to_owned()),
            1 => Just("# a comment".to_owned()),
        ]
    }

    fn header(number: usize) -> impl Strategy<Value = String> {
        prop_oneof![
            3 => Just(format!("[t{number}]")),
            2 => Just(format!("[t{number}.aws] # t")),
            1 => Just("[[list]]".to_owned()),
            2 => Just(format!("[mcp_servers.s{number}]")),
            1 => Just(format!("  [ mcp_servers . \"s {number}\" . env ]")),
            1 => Just("[mcp_servers]".to_owned()),
            1 => Just("[[mcp_servers]]".to_owned()),
            1 => Just("[mcp_servers.aws.env]".to_owned()),
        ]
    }

    fn file() -> impl Strategy<Value = String> {
        let lines = |from: usize| (from..from + 3).map(line).collect::<Vec<_>>();
        let sections: Vec<_> = (1..5).map(|it| (header(it), lines(it * 10))).collect();
        let servers = prop_oneof![
            12 => Just(""),
            1 => Just("mcp_servers = { }\n"),
            1 => Just("mcp_servers.a.command = 'a'\n"),
        ];
        let kept = 0..=4_usize;
        let body =
            (servers, lines(0), sections, kept).prop_map(|(servers, first, sections, kept)| {
                let sections = sections.into_iter().take(kept);
                let sections =
                    sections.flat_map(|(header, lines)| std::iter::once(header).chain(lines));
                let lines: Vec<String> = first.into_iter().chain(sections).collect();
                format!("{servers}{}", lines.join("\n"))
            });
        let body = prop_oneof![12 => body.boxed(), 1 => Just(String::new()).boxed()];
        let end = prop_oneof![Just(""), Just("\n"), Just("\n\n"), Just(" \n\t")];
        ("[\u{feff}]{0,1}", body, end, any::<bool>()).prop_map(|(mark, body, end, is_crlf)| {
            let text = format!("{mark}{body}{end}");
            if is_crlf { text.replace('\n', "\r\n") } else { text }
        })
    }
}
