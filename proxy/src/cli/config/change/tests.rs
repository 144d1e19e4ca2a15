use super::super::entry::{Given, Serving};
use super::*;

const URL: &str = "https://aws-mcp.us-east-1.api.aws/mcp";
const PATH: [&str; 2] = ["mcpServers", "aws"];

fn text(text: &str) -> Node {
    Node::Text(text.to_owned())
}

fn members(profile: &str) -> Vec<(String, Node)> {
    let words = Node::List(vec![text(URL), text("--profile"), text(profile)]);
    let env = Node::Map(vec![("AWS_CONFIG_FILE".to_owned(), text("/c"))]);
    vec![
        ("command".to_owned(), text("sigward-proxy")),
        ("args".to_owned(), words),
        ("env".to_owned(), env),
    ]
}

/// `change::converted` with this program's command line.
fn converted_by(
    client: Client,
    format: Format,
    before: &str,
    program: &[&str],
) -> (String, Vec<Converted>) {
    let serving = |words: &[String]| {
        let all = std::iter::once("sigward-proxy").chain(words.iter().map(String::as_str));
        let environment = crate::environment::Environment::with(&[]);
        let parsed = crate::cli::parse(all.map(Into::into), &environment);
        let config = parsed.map_err(|error| error.to_string())?.config;
        Ok(Serving { endpoint: config.endpoint, profiles: vec![] })
    };
    let given = |_: &[String]| -> Result<Given, String> { panic!("nobody asks") };
    let asked = Asked { given: &given, serving: &serving, offered: &|_| panic!("nobody asks") };
    let program: Vec<String> = program.iter().map(|&word| word.to_owned()).collect();
    converted(client, format, before, &program, &asked).unwrap()
}

#[test]
fn an_existing_entry_keeps_its_other_members() {
    let before = "{\n  \"mcpServers\": {\n    \"aws\": {\n      \"command\": \"sigward-proxy\",\n      \"args\": [\"https://old/mcp\"],\n      // mine\n      \"disabled\": true,\n      \"env\": {\"MINE\": \"1\"}\n    }\n  }\n}\n";
    let after = written(Format::Json, before, PATH, &members("dev")).unwrap();
    for kept in ["// mine", "\"disabled\": true", "\"MINE\": \"1\""] {
        assert!(after.contains(kept), "{after}");
    }
    let entry = Format::Json.find(&after, &PATH).unwrap().unwrap();
    assert_eq!(entry.member("args"), Some(&members("dev")[1].1));
    assert_eq!(entry.member("env").unwrap().member("AWS_CONFIG_FILE"), Some(&text("/c")));
    assert_eq!(written(Format::Json, &after, PATH, &members("dev")).as_deref(), Ok(after.as_str()));
}

#[test]
fn an_entry_of_another_server_is_not_changed() {
    for (entry, word) in [
        (r#"{"command": "uvx", "args": ["mcp-proxy-for-aws@latest"]}"#, "--from-mcp-proxy-for-aws"),
        (r#"{"command": "other"}"#, "another server's"),
        (r#"{"url": "https://x"}"#, "another server's"),
        ("1", "another server's"),
    ] {
        let before = format!(r#"{{"mcpServers": {{"aws": {entry}}}}}"#);
        let why = written(Format::Json, &before, PATH, &members("dev")).unwrap_err();
        assert!(why.contains(word), "{why}");
        assert!(removed(Format::Json, &before, PATH, &[]).unwrap_err().contains("isn't removed"));
    }
}

/// Writing and then removing an entry restores the file, whatever it was; so does writing several times, unless the
/// file is edited in between.
#[test]
fn a_removal_restores_the_file() {
    for before in [
        "",
        "{}",
        "{ }",
        "{\n}",
        "{\"mcpServers\":{ }}",
        "// only\n",
        "\u{feff}{\r\n\t\"a\": 1,\r\n}",
    ] {
        let after = written(Format::Json, before, PATH, &members("dev")).unwrap();
        let backups = [before.to_owned()];
        let gone = removed(Format::Json, &after, PATH, &backups);
        assert_eq!(gone, Ok(Outcome::Text(before.to_owned())), "{before:?}");
        let unknown = removed(Format::Json, &after, PATH, &["{\"other\": 1}".to_owned()]).unwrap();
        match unknown {
            // An empty file can't be distinguished from a missing one.
            Outcome::Gone => assert!(before.trim().is_empty(), "{before:?}"),
            Outcome::Text(text) => assert_eq!(Format::Json.find(&text, &PATH), Ok(None)),
            Outcome::Same => panic!("{before:?}"),
        }
    }
    let made = written(Format::Json, "", PATH, &members("dev")).unwrap();
    assert_eq!(removed(Format::Json, &made, PATH, &[]), Ok(Outcome::Gone));
    let edited = made.replace("\n  }\n}", ",\n    \"other\": {}\n  }\n}");
    match removed(Format::Json, &edited, PATH, &[]).unwrap() {
        Outcome::Text(text) => assert!(text.contains("other") && !text.contains("aws"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(removed(Format::Json, "{}", PATH, &[]), Ok(Outcome::Same));
}

#[test]
fn entries_of_the_reference_are_rewritten_and_keep_the_rest() {
    let before = "{\n  \"mcpServers\": {\n    \"aws\": {\n      \"command\": \"uvx\",\n      \"args\": [\n        \"mcp-proxy-for-aws@1.1.6\", // pinned\n        \"https://aws-mcp.us-east-1.api.aws/mcp\", // the server\n        \"--metadata\", \"AWS_REGION=us-west-2\"\n      ],\n      \"env\": {\"AWS_MCP_PROXY_PROFILES\": \"a b\", \"FASTMCP_LOG_LEVEL\": \"ERROR\"},\n      \"disabled\": false,\n      \"autoApprove\": [\"aws___*\"]\n    },\n    \"plain\": {\"command\": \"/x/mcp-proxy-for-aws\", \"args\": [\"https://aws-mcp.us-east-1.api.aws/mcp\"]},\n    \"boxed\": {\"command\": \"docker\", \"args\": [\"run\", \"mcp-proxy-for-aws\", \"https://h/mcp\"]},\n    \"wrong\": {\"command\": \"uvx\", \"args\": [\"mcp-proxy-for-aws\", \"https://h/mcp\", \"--no-such-option\"]},\n    \"shared\": {\"command\": \"uvx\", \"args\": [\"mcp-proxy-for-aws\", \"${URL}\"]},\n    \"other\": {\"command\": \"npx\", \"args\": [\"-y\", \"x\"]}\n  }\n}\n";
    let (after, all) = converted_by(Client::Cursor, Format::Json, before, &["sigward-proxy"]);
    let expected = before
        .replacen(
            "\"uvx\",\n      \"args\": [\n        \"mcp-proxy-for-aws@1.1.6\", // pinned\n        ",
            "\"sigward-proxy\",\n      \"args\": [\n        ",
            1,
        )
        .replace("/x/mcp-proxy-for-aws", "sigward-proxy")
        .replace(
            "\"uvx\", \"args\": [\"mcp-proxy-for-aws\", \"${URL}\"]",
            "\"sigward-proxy\", \"args\": [\"${URL}\"]",
        );
    assert_eq!(after, expected);
    let names: Vec<_> = all.iter().map(|it| (it.name.as_str(), it.outcome.is_ok())).collect();
    assert_eq!(
        names,
        [("aws", true), ("boxed", false), ("plain", true), ("shared", true), ("wrong", false)]
    );
    let aws = &all[0].notes;
    assert!(
        aws.len() == 2 && aws[0].contains("1.1.6") && aws[1].contains("FASTMCP_LOG_LEVEL"),
        "{aws:?}"
    );
    assert!(all[4].outcome.as_ref().unwrap_err().contains("--no-such-option"));
    let (again, left) = converted_by(Client::Cursor, Format::Json, &after, &["sigward-proxy"]);
    assert_eq!((again, left.len()), (after, 2), "the second time changes nothing");
}

#[test]
fn entries_of_one_project_of_claude_code_are_found() {
    let entry = r#"{"command": "uvx", "args": ["mcp-proxy-for-aws@latest", "https://aws-mcp.us-east-1.api.aws/mcp"]}"#;
    let before = format!(
        r#"{{"projects": {{"/src/a": {{"mcpServers": {{"aws": {entry}}}}}, "/src/b": {{}}}}}}"#
    );
    let (after, all) =
        converted_by(Client::ClaudeCode, Format::Json, &before, &["uvx", "sigward-proxy"]);
    assert_eq!(all.len(), 1);
    assert!(all[0].name.contains("/src/a"));
    assert_eq!(after, before.replace("mcp-proxy-for-aws@latest", "sigward-proxy"));
    let (same, none) = converted_by(Client::Cursor, Format::Json, &before, &["sigward-proxy"]);
    assert_eq!((same, none.len()), (before, 0));
}

/// `mcp.servers` in VS Code's settings, and Zed's object for a command.
#[test]
fn entries_of_older_versions_are_rewritten_where_they_stand() {
    let url = "https://aws-mcp.us-east-1.api.aws/mcp";
    let entry = format!(r#"{{"command": "uvx", "args": ["mcp-proxy-for-aws@latest", "{url}"]}}"#);
    let ours = format!(r#"{{"command": "sigward-proxy", "args": ["{url}"]}}"#);
    for file in [
        r#"{"editor.tabSize": 2, "mcp": {"inputs": [], "servers": {"aws": ENTRY}}, // mine
}"#,
        r#"{"mcp.servers": {"aws": ENTRY}, "mcp": "other"}"#,
        r#"{"servers": {"aws": ENTRY}, "mcp": {"servers": []}}"#,
    ] {
        let before = file.replace("ENTRY", &entry);
        let (after, all) = converted_by(Client::Vscode, Format::Json, &before, &["sigward-proxy"]);
        assert_eq!(after, file.replace("ENTRY", &ours), "{all:?}");
        assert_eq!(all.len(), 1);
    }
    let zed = format!(
        r#"{{"context_servers": {{"aws": {{"command": {{"path": "uvx", "args": ["mcp-proxy-for-aws@latest", "{url}"], "env": {{"FASTMCP_LOG_LEVEL": "ERROR", "AWS_PROFILE": "dev"}}}}, "settings": {{}}}}}}}}"#
    );
    let (after, all) = converted_by(Client::Zed, Format::Json, &zed, &["uvx", "sigward-proxy"]);
    assert_eq!(after, zed.replace("mcp-proxy-for-aws@latest", "sigward-proxy"));
    assert!(all[0].notes.len() == 1 && all[0].notes[0].contains("FASTMCP_LOG_LEVEL"), "{all:?}");
    // It is this program's entry then: it can be removed, and isn't mixed with another form.
    let path = ["context_servers", "aws"];
    let why = written(Format::Json, &after, path, &members("dev")).unwrap_err();
    assert!(why.contains("--remove"), "{why}");
    let gone = removed(Format::Json, &after, path, &[]);
    assert_eq!(gone, Ok(Outcome::Text(r#"{"context_servers": {}}"#.to_owned())));
    // The deny twin: another server's entry in the same form.
    let other = r#"{"context_servers": {"aws": {"command": {"path": "other", "args": []}}}}"#;
    assert!(removed(Format::Json, other, path, &[]).is_err());
}

#[test]
fn entries_of_codex_are_rewritten_too() {
    let before = "[mcp_servers.aws]\ncommand = \"uvx\" # c\nargs = [\"--from\", 'mcp-proxy-for-aws', \"mcp-proxy-for-aws\", 'https://aws-mcp.us-east-1.api.aws/mcp']\nstartup_timeout_sec = 60\n";
    let (after, all) = converted_by(Client::Codex, Format::Toml, before, &["/opt/sigward-proxy"]);
    assert_eq!(all.len(), 1);
    let expected = "[mcp_servers.aws]\ncommand = \"/opt/sigward-proxy\" # c\nargs = ['https://aws-mcp.us-east-1.api.aws/mcp']\nstartup_timeout_sec = 60\n";
    assert_eq!(after, expected);
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_where_it_has_the_reference() {
    let program = ["sigward-proxy".to_owned()];
    let given = |_: &[String]| -> Result<Given, String> { panic!("nobody asks") };
    let serving = |_: &[String]| -> Result<Serving, String> { panic!("nobody asks") };
    let asked = Asked { given: &given, serving: &serving, offered: &|_| panic!("nobody asks") };
    let of = |text: &str| converted(Client::Cursor, Format::Json, text, &program, &asked);
    assert!(of("{ broken").is_ok_and(|(_, all)| all.is_empty()), "it is nobody's business");
    assert!(of("{ \"mcp-proxy-for-aws").unwrap_err().contains("line 1"));
}
