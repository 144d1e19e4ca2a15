use sigward_proto::v1::{Endpoint, Profile};

use super::*;

const URL: &str = "https://aws-mcp.us-east-1.api.aws/mcp";

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The command of an entry, its environment, and the notes.
type BuiltEntry = (String, Vec<(String, String)>, Vec<String>);

/// The command line of an entry, with the notes, if a broker offers `offered`.
fn built(
    line: &str,
    variables: &[(&str, &str)],
    offered: &dyn Fn() -> Result<Offered, String>,
) -> Result<BuiltEntry, String> {
    built_for(Scope::User, line, variables, offered)
}

fn built_for(
    scope: Scope,
    line: &str,
    variables: &[(&str, &str)],
    offered: &dyn Fn() -> Result<Offered, String>,
) -> Result<BuiltEntry, String> {
    let environment = Environment::with(variables);
    let given = |words: &[String]| {
        let has = |option: &str| words.iter().any(|word| word == option);
        Ok(Given {
            has_endpoint: words.iter().any(|word| word.contains("://")),
            has_profiles: has("--profile"),
            broker: BrokerChoice::Any,
            is_broker_of_environment: !has("--broker")
                && environment.os("SIGWARD_BROKER").is_some(),
        })
    };
    let serving = |words: &[String]| {
        let all = std::iter::once("sigward-proxy").chain(words.iter().map(String::as_str));
        let parsed = crate::cli::parse(all.map(Into::into), &environment);
        let config = parsed.map_err(|error| error.to_string())?.config;
        let profiles = config.named_profiles().cloned().collect();
        Ok(Serving { endpoint: config.endpoint, profiles })
    };
    let offered = |_: &BrokerChoice| offered();
    let asked = Asked { given: &given, serving: &serving, offered: &offered };
    let (entry, notes) =
        Entry::new(words(line), vec![PROGRAM.to_owned()], scope, &environment, &asked)?;
    Ok((entry.words.join(" "), entry.env, notes))
}

fn no_lookup() -> Result<Offered, String> {
    panic!("no lookup is needed")
}

fn running(profiles: &[(&str, &str)]) -> Offered {
    let profile = |(name, url): &(&str, &str)| Profile {
        name: (*name).to_owned(),
        endpoints: vec![Endpoint { url: (*url).to_owned(), ..Endpoint::default() }],
        ..Profile::default()
    };
    let broker = "the broker at unix:/b".to_owned();
    Offered::Running { broker, profiles: profiles.iter().map(profile).collect() }
}

#[test]
fn given_options_are_kept() {
    let line = format!("{URL} --profile b a --read-only --timeout 5");
    let (words, env, notes) = built(&line, &[], &no_lookup).unwrap();
    assert_eq!((words, env, notes), (line, vec![], vec![]));
    let wrong = built(&format!("{URL} --profile a --timeout soon"), &[], &no_lookup).unwrap_err();
    assert!(wrong.contains("--timeout"), "{wrong}");
}

#[test]
fn missing_profiles_come_from_the_environment_or_a_broker() {
    let files = || Ok(Offered::Files(["b", "default", "z"].map(str::to_owned).to_vec()));
    let of = |variables: &[(&str, &str)]| built(URL, variables, &files).unwrap().0;
    assert_eq!(of(&[]), format!("{URL} --profile default b z"));
    assert_eq!(of(&[("AWS_PROFILE", "p")]), format!("{URL} --profile p"));
    assert_eq!(of(&[("AWS_MCP_PROXY_PROFILES", "x y")]), format!("{URL} --profile x y"));
    let none = || Ok(Offered::Files(vec![]));
    assert_eq!(built(URL, &[], &none).unwrap().0, URL, "the default chain");
    let with = built(&format!("--read-only -- {URL}"), &[], &files).unwrap().0;
    assert_eq!(with, format!("--read-only --profile default b z -- {URL}"));
    let dashed = || Ok(Offered::Files(vec!["-x".to_owned()]));
    assert_eq!(built(URL, &[], &dashed).unwrap().0, format!("{URL} --profile=-x"));
    let dashed = || Ok(Offered::Files(vec!["a".to_owned(), "-x".to_owned()]));
    assert!(built(URL, &[], &dashed).unwrap_err().contains("dash"));
}

#[test]
fn a_running_broker_provides_profiles_and_endpoint() {
    let other = "https://other.example/mcp";
    let two = || Ok(running(&[("b", URL), ("a", other), ("c", URL)]));
    assert_eq!(built(URL, &[], &two).unwrap().0, format!("{URL} --profile b c"));
    let why = built("", &[], &two).unwrap_err();
    assert!(why.contains(URL) && why.contains(other), "{why}");
    let one = || Ok(running(&[("b", URL), ("a", URL)]));
    assert_eq!(built("", &[], &one).unwrap().0, format!("{URL} --profile b a"));
    let why = built(other, &[], &one).unwrap_err();
    assert!(why.contains("unix:/b") && why.contains(other), "{why}");
    let files = || Ok(Offered::Files(vec!["a".to_owned()]));
    assert!(built("", &[], &files).unwrap_err().contains("endpoint is missing"));
}

#[test]
fn settings_of_the_shell_are_carried_over_and_keys_never() {
    let variables = [
        ("AWS_CONFIG_FILE", "/c"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_PROFILE", "p"),
        ("HTTPS_PROXY", "http://me:secret@proxy:1"),
        ("NO_PROXY", "localhost"),
        ("SIGWARD_BROKER", "unix:/b"),
        ("HOME", "/h"),
    ];
    let (words, env, notes) = built(&format!("{URL} --profile a"), &variables, &no_lookup).unwrap();
    assert_eq!(words, format!("{URL} --profile a --broker unix:/b"));
    let env: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        env,
        [("AWS_CONFIG_FILE", "/c"), ("AWS_REGION", "eu-west-1"), ("NO_PROXY", "localhost")]
    );
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(!notes.concat().contains("secret@") && !notes.concat().contains("AKID"));
    // A shared file.
    let line = format!("{URL} --profile a");
    let (words, env, notes) = built_for(Scope::Project, &line, &variables, &no_lookup).unwrap();
    assert_eq!((words, env), (line, vec![]));
    let notes = notes.concat();
    assert!(notes.contains("AWS_CONFIG_FILE") && notes.contains("SIGWARD_BROKER"), "{notes}");
}

#[test]
fn the_client_can_find_the_program() {
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("bin/sigward-proxy");
    std::fs::create_dir(own.parent().unwrap()).unwrap();
    std::fs::write(&own, "").unwrap();
    let path = OsString::from(own.parent().unwrap());
    let of = |executable: &Path, scope| program(executable, Some(&path), scope).join(" ");
    assert_eq!(of(&own, Scope::User), own.to_str().unwrap(), "not every program has that PATH");
    assert_eq!(of(&own, Scope::Project), "sigward-proxy");
    let cached = Path::new("/h/.cache/uv/archive-v0/x/bin/sigward-proxy");
    assert_eq!(of(cached, Scope::User), "uvx sigward-proxy");
    let cached = Path::new("/h/.npm/_npx/1/node_modules/x/sigward-proxy");
    assert_eq!(of(cached, Scope::User), "npx -y sigward-proxy");
}

#[test]
fn the_owner_of_an_entry_is_known_by_its_command() {
    let entry = |command: &str, args: &str| {
        let text = |text: &str| Node::Text(text.to_owned());
        let args = args.split_whitespace().map(text).collect();
        Node::Map(vec![
            ("command".to_owned(), text(command)),
            ("args".to_owned(), Node::List(args)),
        ])
    };
    for (command, args, expected) in [
        ("sigward-proxy", "x", Owner::Ours),
        ("/opt/bin/sigward-proxy", "x", Owner::Ours),
        ("uvx", "sigward-proxy x", Owner::Ours),
        ("uvx", "sigward-proxy@1.0 x", Owner::Ours),
        ("npx", "-y sigward-proxy x", Owner::Ours),
        ("uvx", "mcp-proxy-for-aws@latest x", Owner::Reference),
        ("docker", "run mcp-proxy-for-aws", Owner::Reference),
        ("npx", "-y other sigward-proxy", Owner::Other),
        ("other", "sigward-proxy", Owner::Other),
    ] {
        assert_eq!(owner(&entry(command, args)), expected, "{command} {args}");
    }
    assert_eq!(owner(&Node::Other("1".to_owned())), Owner::Other);
}
