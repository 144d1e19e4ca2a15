use proptest::prelude::*;

use super::*;

const PATH: [&str; 2] = ["mcp_servers", "aws"];

fn text(text: &str) -> Node {
    Node::Text(text.to_owned())
}

fn entry() -> Node {
    let words = Node::List(vec![text("https://h/mcp"), text("a \"b\" \\")]);
    Node::Map(vec![("command".to_owned(), text("sigward-proxy")), ("args".to_owned(), words)])
}

const OURS: &str =
    "[mcp_servers.aws]\ncommand = \"sigward-proxy\"\nargs = [\"https://h/mcp\", 'a \"b\" \\']\n";

#[test]
fn an_entry_is_a_table_at_the_end() {
    for (before, after) in [
        ("", OURS.to_owned()),
        ("model = \"x\"", format!("model = \"x\"\n\n{OURS}")),
        ("model = \"x\" # mine\n", format!("model = \"x\" # mine\n\n{OURS}")),
        (
            "[mcp_servers.a]\ncommand = 'a'\n\n[profiles.o]\nx = 1\n",
            format!("[mcp_servers.a]\ncommand = 'a'\n\n[profiles.o]\nx = 1\n\n{OURS}"),
        ),
        (
            "[mcp_servers]\na = { command = \"a\" }\n",
            format!("[mcp_servers]\na = {{ command = \"a\" }}\n\n{OURS}"),
        ),
    ] {
        let written = set(before, &PATH, &entry()).unwrap();
        assert_eq!(written, after, "{before:?}");
        assert_eq!(find(&written, &PATH), Ok(Some(entry())));
        let again = remove(&written, &PATH).unwrap().unwrap();
        let expected = if before.is_empty() || before.ends_with('\n') {
            before.to_owned()
        } else {
            format!("{before}\n")
        };
        assert_eq!(again, expected);
    }
}

#[test]
fn line_breaks_and_a_byte_order_mark_are_kept() {
    let before = "\u{feff}model = \"x\"\r\n";
    let after = set(before, &PATH, &entry()).unwrap();
    assert_eq!(after.matches('\n').count(), after.matches("\r\n").count(), "{after:?}");
    assert!(after.starts_with('\u{feff}'));
    assert_eq!(remove(&after, &PATH).unwrap().as_deref(), Some(before));
}

#[test]
fn an_entry_is_removed_with_the_tables_below_it() {
    let before = "# first\n[mcp_servers.a]\ncommand = 'a'\n\n# about aws\n[mcp_servers.aws]\ncommand = \"sigward-proxy\" # ours\nargs = [\n  \"x\", # a word\n]\n\n[mcp_servers.aws.env]\nA = \"b\"\n\n[mcp_servers.b]\ncommand = 'b'\n";
    let after = "# first\n[mcp_servers.a]\ncommand = 'a'\n\n# about aws\n\n[mcp_servers.b]\ncommand = 'b'\n";
    assert_eq!(remove(before, &PATH).unwrap().as_deref(), Some(after));
    let apart =
        "[mcp_servers.aws]\ncommand = \"s\"\n[other]\nx = 1\n[mcp_servers.aws.env]\nA = \"b\"\n";
    assert_eq!(remove(apart, &PATH).unwrap().as_deref(), Some("[other]\nx = 1\n"));
    assert_eq!(remove("[mcp_servers.a]\n", &PATH), Ok(None));
    let inline =
        "[mcp_servers]\na = { command = 'a' }\naws = { command = 's' }\nb = { command = 'b' }\n";
    let without = "[mcp_servers]\na = { command = 'a' }\nb = { command = 'b' }\n";
    assert_eq!(remove(inline, &PATH).unwrap().as_deref(), Some(without));
}

#[test]
fn members_are_set_in_place() {
    let before = "[mcp_servers.aws]\ncommand = \"old\" # c\nenabled = true\n\n[mcp_servers.aws.env]\nA = \"b\"\n\n[z]\n";
    let command = set(before, &["mcp_servers", "aws", "command"], &text("new")).unwrap();
    assert_eq!(command, before.replace("\"old\"", "\"new\""));
    let added = set(before, &["mcp_servers", "aws", "args"], &Node::List(vec![text("x")])).unwrap();
    assert_eq!(added, before.replace("enabled = true\n", "enabled = true\nargs = [\"x\"]\n"));
    let env = set(before, &["mcp_servers", "aws", "env", "B"], &text("c")).unwrap();
    assert_eq!(env, before.replace("A = \"b\"\n", "A = \"b\"\nB = \"c\"\n"));
    let inline = "[mcp_servers.aws]\nenv = { A = \"b\" }\n";
    let env = set(inline, &["mcp_servers", "aws", "env", "B"], &text("c")).unwrap();
    assert_eq!(env, "[mcp_servers.aws]\nenv = { A = \"b\", B = \"c\" }\n");
    let empty =
        set("[mcp_servers.aws]\nenv = {}\n", &["mcp_servers", "aws", "env", "B"], &text("c"));
    assert_eq!(empty.as_deref(), Ok("[mcp_servers.aws]\nenv = { B = \"c\" }\n"));
}

#[test]
fn only_the_first_elements_are_replaced() {
    let path = ["mcp_servers", "aws", "args"];
    for (args, count, by, expected) in [
        ("[\n  \"p\", # v\n  \"u\",\n]", 1, &[][..], "[\n  \"u\",\n]"),
        ("[\"p\", 'u']", 1, &["s"], "[\"s\", 'u']"),
        ("[ \"p\", ]", 1, &[], "[]"),
        ("[]", 0, &["s"], "[\"s\"]"),
    ] {
        let before = format!("[mcp_servers.aws]\nargs = {args}\n");
        let by: Vec<String> = by.iter().map(|&word| word.to_owned()).collect();
        let after = replace_first(&before, &path, count, &by).unwrap();
        assert_eq!(after, format!("[mcp_servers.aws]\nargs = {expected}\n"));
    }
}

#[test]
fn an_error_names_the_place_that_cannot_be_edited() {
    for (before, named) in [
        ("mcp_servers = 1\n", "mcp_servers isn't a table"),
        ("[[mcp_servers]]\n", "mcp_servers isn't a table"),
        ("mcp_servers = { a = { command = 'a' } }\n", "by hand"),
        ("mcp_servers.a.command = 'a'\n", "by hand"),
        ("a = 1\na = 2\n", "line 2"),
        ("a = 1\n\n[open\n", "line 3"),
    ] {
        let error = set(before, &PATH, &entry()).unwrap_err();
        assert!(error.contains(named), "{before}: {error}");
    }
    let inline = "mcp_servers = { aws = { command = 's' } }\n";
    assert!(remove(inline, &PATH).unwrap_err().contains("by hand"));
    assert!(find(inline, &PATH).unwrap().is_some(), "it is read");
}

#[test]
fn a_name_is_quoted_if_necessary() {
    let path = ["mcp_servers", "my server.é"];
    let after = set("", &path, &entry()).unwrap();
    assert!(after.starts_with("[mcp_servers.\"my server.é\"]\n"), "{after}");
    assert_eq!(find(&after, &path), Ok(Some(entry())));
    assert_eq!(remove(&after, &path).unwrap().as_deref(), Some(""));
}

fn document() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("1_000".to_owned()),
        Just("1979-05-27".to_owned()),
        Just("0x1F".to_owned()),
        Just("[ 1, # one\n  2,\n]".to_owned()),
        Just("'''\n[mcp_servers.aws]\n'''".to_owned()),
        Just("{ x = 'y' }".to_owned()),
        "\"[a-z ]{0,5}\"",
    ];
    let pairs = prop::collection::vec(value, 0..3).prop_map(|values| {
        let pairs =
            values.iter().enumerate().map(|(number, value)| format!("k{number} = {value} # c\n"));
        pairs.collect::<String>()
    });
    let tables = prop::collection::vec((any::<bool>(), pairs.clone(), "[ \t]{0,2}"), 0..4);
    (pairs, tables).prop_map(|(root, tables)| {
        let tables = tables.iter().enumerate().map(|(number, (server, pairs, indent))| {
            let kind = if *server { "mcp_servers" } else { "others" };
            format!("\n# {number}\n{indent}[{kind}.t{number}]\n{pairs}")
        });
        root + &tables.collect::<String>()
    })
}

proptest! {
    #[test]
    fn writing_and_removing_restores_the_file(before in document(), crlf in any::<bool>()) {
        let before = if crlf { before.replace('\n', "\r\n") } else { before };
        let after = set(&before, &PATH, &entry()).unwrap();
        prop_assert!(after.starts_with(&before));
        prop_assert_eq!(find(&after, &PATH), Ok(Some(entry())));
        let again = remove(&after, &PATH).unwrap();
        prop_assert_eq!(again.as_deref(), Some(before.as_str()));
    }

    #[test]
    fn no_text_panics(before in "[\\[\\]{}=.\"'# \na1é]{0,30}") {
        if let Ok(after) = set(&before, &PATH, &entry()) {
            prop_assert!(remove(&after, &PATH).is_ok());
        }
    }
}
