//! The demo of the README: it succeeds, prints no colours without a terminal, and the pictures in the README show its
//! output.

use std::collections::BTreeSet;
use std::fs;

use sigward_tests::demo::PICTURES;
use sigward_tests::{deadline, processes};
use tokio::process::Command;

use crate::setup::{THREE, assert_names};

#[tokio::test]
async fn the_demo_succeeds_and_its_pictures_are_current() {
    // The demo builds the programs itself, as for a user. Compiling may take minutes, so that it is done here, before
    // the deadline begins.
    processes::binaries();
    let directory = tempfile::tempdir().unwrap();
    // With the environment of the tests, which cargo needs.
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.arg("--svg").arg(directory.path());
    let ended = deadline::within(command.output(), || "the demo hangs".to_owned()).await.unwrap();
    let shown = String::from_utf8(ended.stdout).unwrap();
    let errors = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success(), "{shown}{errors}");
    assert_names(&shown, &THREE);
    assert_names(&shown, &["checks are true", "0 of 3 secrets", "admin"]);
    assert!(!shown.contains('\u{1b}'), "no colours without a terminal");
    processes::assert_no_canary("the demo's output", &shown);

    let readme = include_str!("../../README.md");
    for name in PICTURES {
        let kept = processes::workspace().join("tests/demo").join(name);
        assert!(readme.contains(&format!("\"tests/demo/{name}\"")), "the README shows {name}");
        let (kept, drawn) = (fs::read_to_string(kept).unwrap(), directory.path().join(name));
        let drawn = fs::read_to_string(drawn).unwrap();
        processes::assert_no_canary(name, &kept);
        assert_eq!(
            content(&kept),
            content(&drawn),
            "draw {name} again: cargo run --release --bin demo -- --svg tests/demo"
        );
        // The picture contains all that was printed.
        let printed = words(shown.lines());
        assert!(words(texts(&drawn).iter().map(String::as_str)).is_superset(&printed));
    }
}

/// The texts and styles of a picture, without positions, widths and numbers, which differ between runs.
///
/// The row about the broker's memory is different for root.
fn content(svg: &str) -> Vec<String> {
    let of_the_broker = [
        "3 of 3 secrets",
        "-",
        "readable because you are root",
        "closed by the kernel",
        "closed too",
        "not even its own user may look",
    ];
    let texts = texts(svg).into_iter().filter(|text| !of_the_broker.contains(&text.as_str()));
    let styles = svg.lines().take_while(|line| !line.starts_with("<text"));
    let styles = styles.filter(|line| !line.starts_with("<svg") && !line.starts_with("<rect"));
    styles.map(str::to_owned).chain(texts.map(|text| without_numbers(&text))).collect()
}

/// The text of each element of a picture.
fn texts(svg: &str) -> Vec<String> {
    let lines = svg.lines().filter_map(|line| line.strip_prefix("<text "));
    let texts = lines.map(|line| line.split_once('>').expect(line));
    let texts = texts.map(|(_, text)| text.strip_suffix("</text>").expect(text));
    let plain = |text: &str| {
        let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
        text.replace("&amp;", "&")
    };
    texts.map(plain).collect()
}

fn words<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

fn without_numbers(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        match (c.is_ascii_digit(), plain.ends_with('#')) {
            (true, false) => plain.push('#'),
            (true, true) => {}
            (false, _) => plain.push(c),
        }
    }
    plain
}
