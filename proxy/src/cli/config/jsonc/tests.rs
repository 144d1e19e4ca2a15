use proptest::prelude::*;

use super::*;

const PATH: [&str; 2] = ["mcpServers", "aws"];

fn text(text: &str) -> Node {
    Node::Text(text.to_owned())
}

fn entry() -> Node {
    let words = Node::List(vec![text("https://h/mcp"), text("--profile"), text("é \"x\"")]);
    Node::Map(vec![("command".to_owned(), text("sigward-proxy")), ("args".to_owned(), words)])
}

fn written(before: &str) -> String {
    set(before, &PATH, &entry()).unwrap()
}

/// Texts of all kinds, with the expected result.
#[test]
fn an_entry_is_added_after_the_others_in_their_style() {
    let one = "{\n  \"mcpServers\": {\n    \"aws\": {\n      \"command\": \"sigward-proxy\",\n      \"args\": [\n        \"https://h/mcp\",\n        \"--profile\",\n        \"é \\\"x\\\"\"\n      ]\n    }\n  }\n}\n";
    let short =
        r#"{"command": "sigward-proxy", "args": ["https://h/mcp", "--profile", "é \"x\""]}"#;
    let tabs = |before: &str, comma: &str| {
        format!(
            "{before}\n\t\t\"aws\": {{\n\t\t\t\"command\": \"sigward-proxy\",\n\t\t\t\"args\": [\n\t\t\t\t\"https://h/mcp\",\n\t\t\t\t\"--profile\",\n\t\t\t\t\"é \\\"x\\\"\"\n\t\t\t]\n\t\t}}{comma}"
        )
    };
    for (before, after) in [
        ("", one.to_owned()),
        ("{}", one.trim_end().to_owned()),
        ("{\n}\n", one.to_owned()),
        ("\u{feff}", format!("\u{feff}{one}")),
        ("// mine", format!("// mine\n{one}")),
        ("{\"mcpServers\":{\"a\":1}}", format!("{{\"mcpServers\":{{\"a\":1, \"aws\":{short}}}}}")),
        (
            "{\"mcpServers\":{\"a\":1,}}",
            format!("{{\"mcpServers\":{{\"a\":1, \"aws\":{short},}}}}"),
        ),
        (
            "{\n\t\"mcpServers\": {\n\t\t\"a\": {} // of mine\n\t}\n}",
            tabs("{\n\t\"mcpServers\": {\n\t\t\"a\": {}, // of mine", "\n\t}\n}"),
        ),
        (
            "{\n\t\"mcpServers\": {\n\t\t\"a\": {}, /* , */\n\t\t// \"old\": {}\n\t},\n}",
            tabs(
                "{\n\t\"mcpServers\": {\n\t\t\"a\": {}, /* , */\n\t\t// \"old\": {}",
                ",\n\t},\n}",
            ),
        ),
    ] {
        assert_eq!(written(before), after, "{before:?}");
        assert_eq!(written(&after), after, "the second time changes nothing");
        assert_eq!(find(&after, &PATH), Ok(Some(entry())));
    }
}

#[test]
fn line_breaks_are_those_of_the_file() {
    let before = "{\r\n    \"mcpServers\": {\r\n        \"a\": 1\r\n    }\r\n}";
    let after = written(before);
    assert_eq!(after.matches('\n').count(), after.matches("\r\n").count(), "{after:?}");
    assert!(after.contains("\r\n        \"aws\": {\r\n            \"command\""), "{after}");
    assert_eq!(remove(&after, &PATH).unwrap().as_deref(), Some(before));
}

#[test]
fn only_the_entry_is_removed() {
    for (before, after) in [
        (r#"{"mcpServers":{"aws":1}}"#, r#"{"mcpServers":{}}"#),
        (r#"{"mcpServers":{"aws":1,}}"#, r#"{"mcpServers":{}}"#),
        (r#"{"mcpServers":{"aws":1,"b":2}}"#, r#"{"mcpServers":{"b":2}}"#),
        (r#"{"mcpServers":{"a":0, "aws":1, "b":2}}"#, r#"{"mcpServers":{"a":0, "b":2}}"#),
        (r#"{"mcpServers":{"a":0,"aws":1}}"#, r#"{"mcpServers":{"a":0}}"#),
        (
            "{\"mcpServers\":{\n  // first\n  \"aws\": 1, // ours\n  \"b\": 2\n}}",
            "{\"mcpServers\":{\n  // first\n  // ours\n  \"b\": 2\n}}",
        ),
        (
            "{\"mcpServers\":{\n  \"a\": 0, // a's\n  \"aws\": 1\n  // last\n}}",
            "{\"mcpServers\":{\n  \"a\": 0 // a's\n  // last\n}}",
        ),
        (
            "{\"mcpServers\":{\n  \"a\": 0, // a's\n  \"aws\": 1, \"b\": 2\n}}",
            "{\"mcpServers\":{\n  \"a\": 0, // a's\n  \"b\": 2\n}}",
        ),
        (
            "{\"mcpServers\":{\n  /* only */\n  \"aws\": {}\n}}",
            "{\"mcpServers\":{\n  /* only */\n}}",
        ),
    ] {
        assert_eq!(remove(before, &PATH).unwrap().as_deref(), Some(after), "{before}");
    }
    for none in ["", "{}", r#"{"mcpServers":{}}"#, r#"{"aws":1}"#, "// x"] {
        assert_eq!(remove(none, &PATH), Ok(None), "{none}");
    }
}

#[test]
fn an_existing_member_is_replaced_in_place() {
    let before = "{\"mcpServers\": {\"aws\": {\"command\": \"old\", // c\n \"disabled\": true}, \"b\": 1.0}}";
    let after = set(before, &["mcpServers", "aws", "command"], &text("new")).unwrap();
    assert_eq!(after, before.replace("old", "new"));
    let same = set(before, &["mcpServers", "aws", "command"], &text("old"));
    assert_eq!(same.as_deref(), Ok(before));
}

#[test]
fn only_the_first_elements_are_replaced() {
    let path = ["mcpServers", "aws", "args"];
    let replaced = |args: &str, count, by: &[&str]| {
        let text = format!("{{\"mcpServers\": {{\"aws\": {{\"args\": {args}}}}}}}");
        let by: Vec<String> = by.iter().map(|&word| word.to_owned()).collect();
        let edited = replace_first(&text, &path, count, &by).unwrap();
        let args = edited.strip_prefix("{\"mcpServers\": {\"aws\": {\"args\": ").unwrap();
        args.strip_suffix("}}}").unwrap().to_owned()
    };
    assert_eq!(replaced("[\"p\", // v\n  \"u\", \"x\" ]", 1, &[]), "[\"u\", \"x\" ]");
    assert_eq!(replaced("[\n  \"p\",\n  \"u\"\n]", 1, &["s"]), "[\n  \"s\", \"u\"\n]");
    assert_eq!(replaced("[\"p\", \"q\",]", 2, &[]), "[]");
    assert_eq!(replaced("[\"p\"]", 1, &["s", "t"]), "[\"s\", \"t\"]");
    assert_eq!(replaced("[]", 0, &["s"]), "[\"s\"]");
    assert_eq!(replaced("[\"u\"]", 0, &["s"]), "[\"s\", \"u\"]");
}

#[test]
fn an_error_names_the_place_that_cannot_be_edited() {
    for (before, named) in [
        ("[]", "isn't a JSON object"),
        ("\"text\"", "isn't a JSON object"),
        ("{\"mcpServers\": []}", "\"mcpServers\" isn't an object"),
        ("{\"mcpServers\": null}", "\"mcpServers\" isn't an object"),
        ("{\"mcpServers\": {}, \"mcpServers\": {}}", "\"mcpServers\" is declared twice"),
        ("{\"mcpServers\": {\"aws\": 1, \"aws\": 2}}", "\"aws\" is declared twice"),
        ("{\n\"a\": 1\n\"b\": 2}", "line 2"),
        ("{\n  \"a\": ", "line 2"),
        ("{\"a\": 1} x", "line 1"),
        ("{'a': 1}", "line 1"),
        ("{\"a\":\n \"b\nc\"}", "line 2: a control character in a string"),
    ] {
        let error = set(before, &PATH, &entry()).unwrap_err();
        assert!(error.contains(named), "{before}: {error}");
    }
    let deep = "[".repeat(100_000);
    assert!(set(&deep, &PATH, &entry()).is_err(), "and no overflow of the stack");
}

/// A key in another spelling is the same key.
#[test]
fn an_escaped_key_is_found() {
    let before = r#"{"mcp\u0053ervers": {"a\u0077s": 1, "b": 2}}"#;
    let after = remove(before, &PATH).unwrap();
    assert_eq!(after.as_deref(), Some(r#"{"mcp\u0053ervers": {"b": 2}}"#));
}

/// Generates JSON values as people write them.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("1.0".to_owned()),
        Just("-0".to_owned()),
        Just("1e400".to_owned()),
        Just("null".to_owned()),
        Just("true".to_owned()),
        "\"[a-z \u{e9}{}\\[\\],:/*]{0,6}\"",
        Just(r#""\u00e9\" // no comment""#.to_owned()),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            (prop::collection::vec((key(), inner.clone()), 0..4), style()).prop_map(
                |(members, style)| {
                    let members =
                        members.iter().map(|(key, value)| format!("{key}:{}{value}", style.0));
                    container(("{", "}"), members.collect(), &style)
                }
            ),
            (prop::collection::vec(inner, 0..4), style()).prop_map(|(elements, style)| container(
                ("[", "]"),
                elements,
                &style
            )),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof!["\"[a-z]{1,4}\"", Just("\"a\\\"\\u0062\"".to_owned())]
}

type Filling = (String, String, bool);

/// The fillers between the parts, and whether there is a trailing comma.
fn style() -> impl Strategy<Value = Filling> {
    let filler = || {
        prop_oneof![
            Just(String::new()),
            Just(" ".to_owned()),
            Just("\n  ".to_owned()),
            Just("\r\n\t".to_owned()),
            Just(" /* , } */ ".to_owned()),
            Just(" // { \"aws\": 1,\n".to_owned()),
        ]
    };
    (filler(), filler(), any::<bool>())
}

fn container((open, close): (&str, &str), parts: Vec<String>, style: &Filling) -> String {
    let (before, after, trailing) = style;
    let comma = if *trailing && !parts.is_empty() { "," } else { "" };
    let between = format!("{after},{before}");
    format!("{open}{before}{}{comma}{after}{close}", parts.join(&between))
}

/// Generates a file with other servers, and other members before and after them.
fn file() -> impl Strategy<Value = String> {
    let servers = (prop::collection::vec((key(), json()), 0..4), style());
    let others = prop::collection::vec(("\"x[a-z]{1,4}\"", json()), 0..3);
    (prop::option::of(servers), others, style(), any::<bool>(), "[\u{feff}]{0,1}").prop_map(
        |(servers, mut others, style, newline, mark)| {
            if let Some((members, style)) = servers {
                let members = members.iter().map(|(key, value)| format!("{key}: {value}"));
                let servers = container(("{", "}"), members.collect(), &style);
                others.insert(others.len() / 2, ("\"mcpServers\"".to_owned(), servers));
            }
            let members = others.iter().map(|(key, value)| format!("{key}: {value}"));
            let end = if newline { "\n" } else { "" };
            format!("{mark}{}{end}", container(("{", "}"), members.collect(), &style))
        },
    )
}

proptest! {
    /// Every byte of the file is still there, in the same order, and only the entry was added. Writing twice gives the
    /// same result as writing once.
    #[test]
    fn everything_except_the_entry_stays(before in file()) {
        let after = set(&before, &PATH, &entry()).unwrap();
        prop_assert_eq!(find(&after, &PATH), Ok(Some(entry())));
        let is_whitespace = |c: &char| c.is_whitespace();
        let mut rest = after.chars().filter(|c| !is_whitespace(c));
        for c in before.chars().filter(|c| !is_whitespace(c)) {
            prop_assert!(rest.any(|other| other == c), "{:?} is gone: {}", c, after);
        }
        prop_assert_eq!(&set(&after, &PATH, &entry()).unwrap(), &after);
        // After removing it, everything is as before, except for the white space of containers that
        // were empty.
        let again = remove(&after, &PATH).unwrap().unwrap();
        let has_others = Document::parse(&before).ok().and_then(|document| {
            let servers = document.member(&PATH[..1]).ok()??;
            Some(!object(&servers.value, &PATH[..1]).ok()?.properties.is_empty())
        });
        if has_others == Some(true) {
            prop_assert_eq!(&again, &before);
        }
        prop_assert_eq!(find(&again, &PATH), Ok(None));
    }

    /// Any text gives an error, or an edit that can be parsed.
    #[test]
    fn no_text_panics(before in "[{}\\[\\]\",:/*\\\\ \na1\u{e9}]{0,40}") {
        if let Ok(after) = set(&before, &PATH, &entry()) {
            prop_assert_eq!(find(&after, &PATH), Ok(Some(entry())));
            prop_assert!(remove(&after, &PATH).is_ok());
        }
    }
}
