use super::*;

fn of(line: &str) -> Result<Task, String> {
    let words = std::iter::once("sigward-proxy").chain(line.split_whitespace()).map(OsString::from);
    task(words).expect("the command").map_err(|error| error.to_string())
}

#[test]
fn options_of_config_may_be_anywhere_and_the_rest_is_for_serving() {
    let url = "https://h/mcp";
    let line = format!(
        "config --profile a b --client cursor {url} --write --name=x --scope project --read-only"
    );
    let task = of(&line).unwrap();
    assert_eq!(task.words, ["--profile", "a", "b", url, "--read-only"]);
    assert_eq!(task.options.client, Some(Client::Cursor));
    assert_eq!((task.options.name.as_str(), task.options.scope), ("x", Scope::Project));
    assert!(task.options.write);
    let behind = of("config --client zed -- --write").unwrap();
    assert_eq!(behind.words, ["--", "--write"]);
    assert!(!behind.options.write);
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    for (line, named) in [
        ("config", "--client"),
        ("config --client emacs", "emacs"),
        ("config --client cursor --write --remove", "--remove"),
        ("config --remove", "--client"),
        ("config --from-mcp-proxy-for-aws --file x", "--client"),
        ("config --client cursor --remove https://h/mcp", "https://h/mcp"),
        ("config --from-mcp-proxy-for-aws https://h/mcp", "https://h/mcp"),
        ("config --client cursor --name=", "empty"),
    ] {
        let error = of(line).unwrap_err();
        assert!(error.contains(named), "{line}: {error}");
    }
}

#[test]
fn any_other_first_word_is_for_serving() {
    for line in ["https://h/mcp config", "--profile config https://h/mcp", "", "configure"] {
        let words =
            std::iter::once("sigward-proxy").chain(line.split_whitespace()).map(OsString::from);
        assert!(task(words).is_none(), "{line}");
    }
}
