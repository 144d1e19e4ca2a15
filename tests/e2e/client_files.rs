//! `sigward-proxy config`: the entry in each client's file, written by the real program in a home of its own.

mod any_file;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::keys::Key;
use sigward_tests::processes::{self, StdioClient};
use sigward_tests::upstream::{REGION, SERVICE};
use tokio::process::Command;

use crate::commands::run;
use crate::setup::{World, assert_names, own_uid, text};

const CLIENTS: [&str; 8] =
    ["claude-code", "claude-desktop", "kiro", "cursor", "vscode", "codex", "cline", "zed"];

/// `sigward-proxy config …` in the home and in an empty project.
fn config(world: &World, arguments: &[&str]) -> Command {
    let project = world.directory.path().join("project");
    fs::create_dir_all(&project).unwrap();
    let mut command = processes::command(&processes::binaries().proxy);
    command.envs(world.home.environment()).env("XDG_RUNTIME_DIR", world.directory.path());
    command.current_dir(project).arg("config").args(arguments);
    command
}

/// The arguments after the options of `config`.
fn serving<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[url, "--service", SERVICE, "--region", REGION, "--broker", "private"], more].concat()
}

/// The command line and the variables of the entry in a client's file.
fn entry(client: &str, text: &str) -> (Vec<String>, Vec<(String, String)>) {
    if client == "codex" {
        let line = |key: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("{key} = ")));
            line.map(|line| line[key.len() + 3..].to_owned())
        };
        assert!(text.contains("[mcp_servers.aws]"), "{text}");
        let mut words: Vec<String> = vec![serde_json::from_str(&line("command").unwrap()).unwrap()];
        words.extend(serde_json::from_str::<Vec<String>>(&line("args").unwrap()).unwrap());
        // An inline table of strings.
        let env = line("env").unwrap_or_else(|| "{}".to_owned()).replace(" = ", "=");
        let env = env.trim_matches(['{', '}', ' ']).split(", ").filter(|it| !it.is_empty());
        let env = env.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            (name.to_owned(), value.trim_matches('"').to_owned())
        });
        return (words, env.collect());
    }
    let file: Value = serde_json::from_str(text).unwrap();
    let container = match client {
        "vscode" => "servers",
        "zed" => "context_servers",
        _ => "mcpServers",
    };
    let entry = &file[container]["aws"];
    assert_eq!(entry["type"] == "stdio", client == "vscode", "{entry}");
    let mut words = vec![entry["command"].as_str().unwrap().to_owned()];
    words
        .extend(entry["args"].as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()));
    let env = entry["env"].as_object().into_iter().flatten();
    let env = env.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
    (words, env.collect())
}

/// All files below a directory, with their contents.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(at) = waiting.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => waiting.push(path),
                false => files.push((path.clone(), fs::read(&path).unwrap())),
            }
        }
    }
    files.sort();
    files
}

/// The entry of each client works when it is started as the client would; a second write changes nothing; and a removal
/// restores all files.
#[tokio::test]
async fn a_written_entry_works_and_can_be_removed() {
    let world = World::new().await;
    let url = world.upstream.url();
    for client in CLIENTS {
        let before = files(world.home.path());
        let desktop_file = world.home.path().join("desktop.json");
        // On Linux, that client has no default file.
        let file_option = ["--file", desktop_file.to_str().unwrap()];
        let own: &[&str] = if client == "claude-desktop" { &file_option } else { &[] };
        let write = [
            &["--client", client, "--write"],
            own,
            &serving(&url, &["--profile", "staging", "dev"]),
        ];
        let (good, output, errors) = run(config(&world, &write.concat())).await;
        assert!(good, "{client}: {output}{errors}");
        let after = files(world.home.path());
        let changed: Vec<_> = after.iter().filter(|it| !before.contains(it)).collect();
        assert_eq!(changed.len(), 1, "{client}: {changed:?}");
        assert!(output.contains(changed[0].0.to_str().unwrap()), "{output}");

        let (words, variables) = entry(client, std::str::from_utf8(&changed[0].1).unwrap());
        // Only the environment of the entry.
        let mut command = processes::command(Path::new(&words[0]));
        command.args(&words[1..]).envs(variables);
        let mut session = StdioClient::start(command);
        session.initialize().await;
        let called = session.call("whoami", r#"{"aws_profile":"dev"}"#).await;
        assert_eq!(text(&called), world.home.identity("dev"), "{client}");
        session.close().await;

        let (good, output, _) = run(config(&world, &write.concat())).await;
        assert!(good && output.contains("no change"), "{client}: {output}");
        assert_eq!(files(world.home.path()), after, "{client}");

        let remove = [&["--client", client, "--remove"], own].concat();
        for _ in 0..2 {
            let (good, output, errors) = run(config(&world, &remove)).await;
            assert!(good, "{client}: {output}{errors}");
            assert_eq!(files(world.home.path()), before, "{client}");
        }
    }
}

/// Other entries, comments and all else in a file are unchanged, byte for byte.
#[tokio::test]
async fn other_content_of_a_file_keeps_every_byte() {
    let world = World::new().await;
    let url = world.upstream.url();
    let zed = "{\r\n\t// my theme\r\n\t\"theme\": \"One\",\r\n\t\"context_servers\": {\r\n\t\t\"a\": {\"command\": \"a\", \"x\": 1.0,},\r\n\t},\r\n}";
    let codex = "# mine\nmodel = 'x'   # the model\n\n[mcp_servers.a]\ncommand = \"a\"";
    for (client, path, before) in
        [("zed", ".config/zed/settings.json", zed), ("codex", ".codex/config.toml", codex)]
    {
        let path = world.home.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, before).unwrap();
        let write =
            [&["--client", client, "--write"], &serving(&url, &["--profile", "dev"])[..]].concat();
        let (good, output, errors) = run(config(&world, &write)).await;
        assert!(good, "{output}{errors}");
        let after = fs::read_to_string(&path).unwrap();
        let rest: String = after.chars().filter(|c| !c.is_whitespace()).collect();
        let kept: String = before.chars().filter(|c| !c.is_whitespace()).collect();
        let ends = kept.trim_end_matches('}').trim_end_matches(',').trim_end_matches('}').len();
        assert!(rest.starts_with(&kept[..ends]), "{after}");
        let backup = path.with_file_name(format!(
            "{}.sigward-backup",
            path.file_name().unwrap().to_str().unwrap()
        ));
        assert_eq!(fs::read_to_string(&backup).unwrap(), before);
        let (good, ..) = run(config(&world, &["--client", client, "--remove"])).await;
        assert!(good);
        assert_eq!(fs::read_to_string(&path).unwrap(), before, "{client}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_edited_is_unchanged_and_reported() {
    let world = World::new().await;
    let url = world.upstream.url();
    for (before, word) in [
        ("{\"mcpServers\": []}", "isn't an object"),
        ("{\"mcpServers\": {\"aws\": {\"command\": \"other\"}}}", "--name"),
        ("{\"mcpServers\": {\"aws\": {}, \"aws\": {}}}", "twice"),
        ("{\"mcpServers\": ", "line 1"),
    ] {
        let path = world.directory.path().join("broken/mcp.json");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, before).unwrap();
        let file = ["--client", "cursor", "--write", "--file", path.to_str().unwrap()];
        let write = [&file, &serving(&url, &["--profile", "dev"])[..]].concat();
        let (good, _, errors) = run(config(&world, &write)).await;
        assert!(!good);
        assert_names(&errors, &[path.to_str().unwrap(), word, "nothing was written"]);
        assert_eq!(
            files(path.parent().unwrap()),
            [(path.clone(), before.into())],
            "no change and no backup"
        );
    }
}

/// A full disk, for which a limit on file sizes stands: the file stays whole, and no partial file is left.
#[tokio::test]
async fn a_full_disk_loses_no_data() {
    let world = World::new().await;
    let url = world.upstream.url();
    // A block is 512 or 1024 bytes, depending on the shell. The backup of the first file fits, and its new text
    // doesn't.
    for (length, is_backed_up, word) in [(400, true, "mcp.json: "), (4000, false, "no backup")] {
        let path = world.directory.path().join(format!("full-{length}/mcp.json"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let before = format!("{{\"note\": {:?}}}", "x".repeat(length));
        fs::write(&path, &before).unwrap();
        let names: Vec<String> = (0..100).map(|it| format!("profile-{it}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let words = serving(&url, &[&["--profile"], names.as_slice()].concat());
        let mut command = processes::command(Path::new("/bin/sh"));
        command.envs(world.home.environment()).env("XDG_RUNTIME_DIR", world.directory.path());
        command.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\""]);
        command.arg(&processes::binaries().proxy).args(["config", "--client", "cursor", "--write"]);
        command.arg("--file").arg(&path).args(words);
        let (good, _, errors) = run(command).await;
        assert!(!good);
        assert_names(&errors, &[path.to_str().unwrap(), word, "too large"]);
        let backup = path.with_file_name("mcp.json.sigward-backup");
        let mut expected = vec![(path.clone(), before.clone().into_bytes())];
        expected.extend(is_backed_up.then(|| (backup, before.into_bytes())));
        assert_eq!(files(path.parent().unwrap()), expected);
    }
}

/// Without `--write`, only the snippet is on standard output.
#[tokio::test]
async fn a_snippet_is_printed_and_nothing_is_written() {
    let world = World::new().await;
    let before = files(world.home.path());
    let url = world.upstream.url();
    for client in CLIENTS {
        let print = [&["--client", client], &serving(&url, &["--profile", "dev"])[..]].concat();
        let (good, output, errors) = run(config(&world, &print)).await;
        assert!(good, "{client}: {errors}");
        let (words, _) = entry(client, &output);
        assert_eq!(words[1..3], [url.as_str(), "--service"], "{client}");
    }
    assert_eq!(files(world.home.path()), before);
}

/// Profiles that aren't named are those of the AWS files, which the broker's program reads.
#[tokio::test]
async fn unnamed_profiles_are_taken_from_the_broker() {
    let mut home = AwsHome::new();
    home.static_keys("my own", &Key::user("own"));
    let world = World::at_home(home, |builder| builder).await;
    let url = world.upstream.url();
    let (good, output, errors) =
        run(config(&world, &[&["--client", "kiro"], &serving(&url, &[])[..]].concat())).await;
    assert!(good, "{errors}");
    let (words, _) = entry("kiro", &output);
    let at = words.iter().position(|word| word == "--profile").unwrap();
    assert_eq!(words[at + 1..], ["dev", "my own", "prod", "staging"]);

    // A running broker also knows the endpoint, and only names the permitted profiles.
    let socket = world.directory.path().join("sigward/broker.sock");
    fs::create_dir(socket.parent().unwrap()).unwrap();
    let rule = format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"staging\"]\nendpoints = [\"upstream\"]",
        own_uid()
    );
    let text = world.configuration(&rule);
    let text = text.replace(world.socket().to_str().unwrap(), socket.to_str().unwrap());
    let _broker = world.broker(&text).await;
    let (good, output, errors) = run(config(&world, &["--client", "kiro"])).await;
    assert!(good, "{errors}");
    assert_eq!(entry("kiro", &output).0[1..], [url.as_str(), "--profile", "staging"]);

    let named = format!("unix:{}", socket.display());
    let mut command = config(&world, &["--client", "kiro", &url]);
    command.env("SIGWARD_BROKER", &named);
    let (good, output, errors) = run(command).await;
    assert!(good, "{errors}");
    assert_eq!(entry("kiro", &output).0[1..], [&url, "--profile", "staging", "--broker", &named]);
}

#[tokio::test]
async fn unreadable_aws_files_are_reported() {
    let world = World::new().await;
    // It exists, and isn't a readable file.
    fs::remove_file(world.home.config_file()).unwrap();
    fs::create_dir(world.home.config_file()).unwrap();
    let url = world.upstream.url();
    let (good, output, errors) =
        run(config(&world, &[&["--client", "kiro"], &serving(&url, &[])[..]].concat())).await;
    assert!(!good && output.is_empty(), "{output}");
    assert_names(&errors, &[world.home.config_file().to_str().unwrap()]);
}

/// Keys in the environment of a shell are written to no file, with a warning.
#[tokio::test]
async fn keys_of_the_environment_are_never_written() {
    let world = World::new().await;
    let key = world.home.key("staging").clone();
    let url = world.upstream.url();
    let mut command = config(
        &world,
        &[&["--client", "cursor", "--write"], &serving(&url, &["--profile", "dev"])[..]].concat(),
    );
    command.env("AWS_ACCESS_KEY_ID", &key.access_key_id).env("AWS_SECRET_ACCESS_KEY", &key.secret);
    command.env("AWS_SESSION_TOKEN", key.session_token.as_ref().unwrap());
    let (good, _, errors) = run(command).await;
    assert!(good);
    assert_names(&errors, &["keys of this shell's environment"]);
    let written = fs::read_to_string(world.home.path().join(".cursor/mcp.json")).unwrap();
    processes::assert_no_canary("the client's file", &written);
    assert!(!written.contains(&key.access_key_id), "{written}");
    let (_, variables) = entry("cursor", &written);
    let config = ("AWS_CONFIG_FILE".to_owned(), world.home.config_file().display().to_string());
    assert!(variables.contains(&config), "{variables:?}");
}

/// The files of every client, of the user and of the project, with a dry run first.
#[tokio::test]
async fn entries_of_mcp_proxy_for_aws_are_rewritten_in_all_files() {
    let world = World::new().await;
    let url = "https://aws-mcp.us-east-1.api.aws/mcp";
    let (home, project) = (world.home.path().to_owned(), world.directory.path().join("project"));
    let entry = json!({"command": "uvx", "args": ["mcp-proxy-for-aws@latest", url, "--profile", "dev"], "autoApprove": ["x"]});
    let write = |path: PathBuf, text: String| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(home.join(".cursor/mcp.json"), json!({"mcpServers": {"aws": entry}}).to_string());
    write(
        home.join(".claude.json"),
        json!({"projects": {"/src": {"mcpServers": {"aws": entry}}}, "other": 1}).to_string(),
    );
    write(
        home.join(".codex/config.toml"),
        format!(
            "[mcp_servers.aws]\ncommand = \"uvx\"\nargs = [\"mcp-proxy-for-aws@1.1.6\", \"{url}\"]\n"
        ),
    );
    write(
        project.join(".vscode/mcp.json"),
        format!("{{ // ours\n  \"servers\": {{\"aws\": {entry}}}\n}}\n"),
    );
    write(
        home.join(".kiro/settings/mcp.json"),
        json!({"mcpServers": {"boxed": {"command": "docker", "args": ["run", "mcp-proxy-for-aws", url]}}}).to_string(),
    );
    let before = (files(&home), files(&project));
    let (good, output, errors) = run(config(&world, &["--from-mcp-proxy-for-aws"])).await;
    assert!(good, "{errors}");
    assert_names(
        &output,
        &[
            "Cursor",
            "Claude Code",
            "aws (of /src)",
            "Codex",
            "1.1.6",
            "VS Code",
            "Kiro",
            "boxed: not rewritten",
            "container",
            "4 entries would be rewritten",
        ],
    );
    assert_eq!((files(&home), files(&project)), before, "a dry run writes nothing");

    let (good, output, errors) =
        run(config(&world, &["--from-mcp-proxy-for-aws", "--write"])).await;
    assert!(good, "{errors}");
    assert_names(&output, &["4 entries rewritten", "sigward-backup"]);
    let text = |path: PathBuf| fs::read_to_string(path).unwrap();
    let cursor: Value = serde_json::from_str(&text(home.join(".cursor/mcp.json"))).unwrap();
    assert_eq!(cursor["mcpServers"]["aws"]["args"], json!([url, "--profile", "dev"]));
    assert_eq!(cursor["mcpServers"]["aws"]["autoApprove"], json!(["x"]));
    let own = processes::binaries().proxy.to_str().unwrap();
    assert_eq!(cursor["mcpServers"]["aws"]["command"], own);
    let vscode = text(project.join(".vscode/mcp.json"));
    assert!(vscode.starts_with("{ // ours\n") && vscode.contains("\"sigward-proxy\""), "{vscode}");
    assert!(text(home.join(".codex/config.toml")).contains(&format!("args = [\"{url}\"]")));

    let after = (files(&home), files(&project));
    let (good, output, _) = run(config(&world, &["--from-mcp-proxy-for-aws", "--write"])).await;
    assert!(good, "{output}");
    assert_eq!((files(&home), files(&project)), after, "a second run changes nothing");
}

/// A broken file is reported, and the others are rewritten.
#[tokio::test]
async fn a_broken_file_does_not_block_the_others() {
    let world = World::new().await;
    let home = world.home.path();
    let good = r#"{"mcpServers": {"aws": {"command": "mcp-proxy-for-aws", "args": ["https://aws-mcp.us-east-1.api.aws/mcp"]}}}"#;
    fs::create_dir(home.join(".cursor")).unwrap();
    fs::write(home.join(".cursor/mcp.json"), good).unwrap();
    fs::write(home.join(".claude.json"), format!("{good},")).unwrap();
    let (is_good, output, errors) =
        run(config(&world, &["--from-mcp-proxy-for-aws", "--write"])).await;
    assert!(!is_good);
    assert_names(&errors, &[".claude.json", "line 1"]);
    assert_names(&output, &["Cursor", "1 entry rewritten"]);
    assert_eq!(fs::read_to_string(home.join(".claude.json")).unwrap(), format!("{good},"));
}
