//! Whether a refusal contains what a case wants. The words of a case are descriptions: "the file" stands for its path.

use serde_json::Value;

use super::scene::Scene;

/// Whether `text` contains what `word` stands for, or one of the alternatives if it is "A, or B".
pub(super) fn names(text: &str, word: &str, scene: &Scene) -> bool {
    let mut alternatives = word.split(", or ").flat_map(|word| word.split(" or "));
    alternatives.any(|word| named(text, word.trim(), scene))
}

fn named(text: &str, word: &str, scene: &Scene) -> bool {
    let contains = |word: &str| text.to_lowercase().contains(&word.to_lowercase());
    match word {
        // In the directory of any run.
        "the file" => ["config", "credentials"]
            .iter()
            .any(|name| text.contains(&format!("/home/.aws/{name}"))),
        "the line" => !lines(text).is_empty(),
        "the mark" => contains("byte order mark"),
        "both sections" => {
            let sections = headers(scene).into_iter().filter(|header| text.contains(header));
            sections.count() > 1 || lines(text).len() > 1
        }
        "the setting" => settings(scene).iter().any(|setting| contains(setting)),
        "what is cut off" => [" #", " ;"].iter().any(|comment| {
            let stands = scene.files().iter().any(|(_, file)| file.contains(comment));
            stands && text.contains(comment.trim())
        }),
        "what AWS said" => texts(&scene.answers).iter().any(|said| contains(said)),
        word if word.starts_with("the section") => {
            headers(scene).iter().any(|header| text.contains(header))
        }
        word => match word.strip_prefix("line ").and_then(|number| number.parse().ok()) {
            Some(number) => lines(text).contains(&number),
            None => contains(word),
        },
    }
}

/// The numbers of lines in a text: `line 7`, `lines 3 and 7`, `/home/.aws/config:7`.
fn lines(text: &str) -> Vec<usize> {
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse::<usize>().ok()
    };
    let mut found = Vec::new();
    for before in ["line ", "lines ", "config:", "credentials:"] {
        for (at, _) in text.match_indices(before) {
            let rest = &text[at + before.len()..];
            found.extend(number(rest));
            let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            let second = rest.strip_prefix(" and ");
            let second = second.map(|rest| rest.strip_prefix("line ").unwrap_or(rest));
            found.extend(second.and_then(number));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The section headers of the files, as written.
fn headers(scene: &Scene) -> Vec<String> {
    let files = scene.files();
    let lines = files.iter().flat_map(|(_, text)| text.split(['\n', '\r']));
    let lines = lines.map(str::trim).filter(|line| line.starts_with('['));
    let header = |line: &str| line.rfind(']').map(|end| line[..=end].to_owned());
    let mut headers: Vec<_> = lines.filter_map(header).collect();
    headers.sort();
    headers.dedup();
    headers
}

/// The names of the settings in the files, except for those that are common words.
fn settings(scene: &Scene) -> Vec<String> {
    let files = scene.files();
    let lines = files.iter().flat_map(|(_, text)| text.split(['\n', '\r']));
    let names = lines.filter_map(|line| line.split(['=', ':']).next());
    let names = names.map(|name| name.trim().to_lowercase());
    names.filter(|name| name.contains('_') && !name.contains(['[', '#', ';'])).collect()
}

/// The codes and messages among the answers of a case.
fn texts(answers: &Value) -> Vec<String> {
    match answers {
        Value::Object(entries) => entries.values().flat_map(texts).collect(),
        Value::String(text) if text.len() > 3 => vec![text.clone()],
        _ => Vec::new(),
    }
}
