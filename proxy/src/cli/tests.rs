use super::*;

const URL: &str = "https://aws-mcp.us-east-1.api.aws/mcp";

fn invoke(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Invocation, String> {
    let all = ["sigward-proxy"].iter().chain(arguments).map(|&argument| argument.into());
    parse(all, &Environment::with(environment)).map_err(|error| error.to_string())
}

fn profiles(arguments: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
    let config = invoke(arguments, environment).unwrap().config;
    assert_eq!(config.endpoint.as_str(), URL);
    config.named_profiles().map(ToString::to_string).collect()
}

#[test]
fn the_endpoint_may_be_before_or_after_the_profiles() {
    assert_eq!(profiles(&[URL, "--profile", "a", "b"], &[]), ["a", "b"]);
    assert_eq!(profiles(&["--profile", "a", "b", URL], &[]), ["a", "b"]);
    assert_eq!(profiles(&["--profile", "a", "b", "a", URL, "--read-only"], &[]), ["a", "b"]);
    assert_eq!(profiles(&["--profile", "a", "--meta", "k=v", "--", URL], &[]), ["a"]);
}

#[test]
fn the_environment_names_profiles_as_it_does_for_the_reference_proxy() {
    assert_eq!(profiles(&[URL], &[("AWS_PROFILE", "p")]), ["p"]);
    assert_eq!(profiles(&[URL, "--profile", "a"], &[("AWS_PROFILE", "p")]), ["a"]);
    let both = [("AWS_PROFILE", "p"), ("AWS_MCP_PROXY_PROFILES", "x  y")];
    assert_eq!(profiles(&[URL, "--profile", "a"], &both), ["x", "y"]);
    assert_eq!(profiles(&[URL], &[("AWS_PROFILE", "")]), [""; 0]);
    let config = invoke(&[URL], &[]).unwrap().config;
    assert_eq!(config.profiles.default().as_str(), "default");
}

#[test]
fn every_option_of_the_reference_proxy_is_accepted() {
    let all = [
        URL,
        "--service",
        "s",
        "--region",
        "r",
        "--metadata",
        "A=1",
        "B=2=3",
        "--header",
        "x-a=1",
        "--header",
        "X-B=2",
        "--read-only",
        "--retries",
        "10",
        "--log-level",
        "CRITICAL",
        "--timeout",
        "1.5",
        "--connect-timeout",
        "2",
        "--read-timeout",
        "3",
        "--write-timeout",
        "4",
        "--tool-timeout",
        "0",
        "--skip-auth",
        "--disable-telemetry",
    ];
    let Invocation { config, log_level, broker } = invoke(&all, &[]).unwrap();
    assert_eq!(config.metadata, [("A".into(), "1".into()), ("B".into(), "2=3".into())]);
    assert_eq!(config.headers.len(), 2);
    assert_eq!(config.timeouts.request, Duration::from_millis(1500));
    assert_eq!(config.timeouts.tool, Duration::ZERO);
    assert!(config.skip_auth && !config.telemetry && config.tools.read_only);
    assert_eq!((config.retries, log_level.as_str(), broker), (10, "CRITICAL", BrokerChoice::Any));

    let config = invoke(&[URL], &[]).unwrap().config;
    let waits = config.timeouts;
    let seconds = [waits.request, waits.connect, waits.read, waits.write, waits.tool];
    assert_eq!(seconds.map(|wait| wait.as_secs()), [180, 60, 120, 180, 300]);
}

#[test]
fn an_error_names_the_wrong_option() {
    for (arguments, expected) in [
        (vec![], "the endpoint is missing"),
        (vec!["--profile", "a"], "the endpoint is missing"),
        (vec!["aws-mcp"], "isn't a URL"),
        (vec!["http://example.com/mcp"], "https://"),
        (vec!["ftp://example.com/mcp"], "uses ftp://"),
        (vec!["https://me:secret@example.com/mcp"], "user name or password"),
        (vec!["https://example.com/mcp#x"], "fragment"),
        (vec![URL, "--metadata", "novalue"], "--metadata"),
        (vec![URL, "--header", "Authorization=x"], "set by the proxy or by the signature"),
        (vec![URL, "--header", "host=evil"], "set by the proxy or by the signature"),
        (vec![URL, "--header", "a b=x"], "isn't a header name"),
        (vec![URL, "--header", "a=x\ny"], "characters"),
        (vec![URL, "--retries", "11"], "--retries"),
        (vec![URL, "--timeout", "-1"], "--timeout"),
        (vec![URL, "--timeout", "soon"], "must be a number of seconds"),
        (vec![URL, "--timeout", "nan"], "0 seconds or more"),
        (vec![URL, URL], "unexpected argument"),
        (vec![URL, "--t", "1"], "--t"),
        (vec![URL, "--log-level", "LOUD"], "WARNING"),
        (vec![URL, "--broker", "tcp:1"], "unix:PATH, https://HOST:PORT or private"),
        (vec![URL, "--broker", "http://b:1"], "clear text"),
        (vec![URL, "--broker", "https://b:1"], "needs --broker-cert"),
        (vec![URL, "--broker", "https://b:1", "--broker-cert", "c"], "needs --broker-key"),
        (vec![URL, "--broker-ca", "c"], "add --broker https://HOST:PORT"),
        (vec![URL, "--broker", "private", "--broker-name", "b"], "--broker-name is for"),
        (vec![URL, "--broker", "unix:relative"], "absolute"),
        (vec![URL, "--profile-argument", "a b"], "--profile-argument"),
        (vec![URL, "--nonsense"], "--nonsense"),
    ] {
        let error = invoke(&arguments, &[]).expect_err(&arguments.join(" "));
        assert!(error.contains(expected), "{arguments:?}: {error}");
        assert!(!error.contains("secret") || arguments[0].contains("secret"), "{error}");
    }
    for url in ["http://localhost:1/mcp", "http://127.0.0.1/mcp", "http://[::1]:8/mcp", URL] {
        assert!(invoke(&[url], &[]).is_ok(), "{url}");
    }
}

/// Wrapper scripts append the options that they change.
#[test]
fn the_last_value_of_a_repeated_option_counts() {
    let repeated = [
        "--log-level",
        "INFO",
        "--log-level",
        "DEBUG",
        "--service",
        "a",
        "--service",
        "b",
        "--read-only",
        "--read-only",
        "--skip-auth",
        "--skip-auth",
        "--retries",
        "1",
        "--retries=2",
        "--timeout",
        "1",
        "--timeout",
        "2",
        "--broker",
        "private",
        "--broker",
        "unix:/x",
        "--metadata",
        "k=1",
        "j=1",
        "--metadata",
        "k=2",
        "--header",
        "X-A=1",
        "--header",
        "x-a=2",
        "--tools-deny",
        "a",
        "--tools-deny",
        "b",
    ];
    let arguments: Vec<_> = [URL].into_iter().chain(repeated).collect();
    let Invocation { config, log_level, broker } = invoke(&arguments, &[]).unwrap();
    assert_eq!((log_level.as_str(), config.service.as_deref()), ("DEBUG", Some("b")));
    assert_eq!((config.retries, config.timeouts.request.as_secs()), (2, 2));
    assert_eq!(broker, BrokerChoice::Unix("/x".into()));
    assert!(config.tools.read_only && config.skip_auth);
    assert_eq!(config.metadata, [("k".into(), "2".into()), ("j".into(), "1".into())]);
    assert_eq!(config.headers.len(), 1);
    assert_eq!(config.headers[0].1, "2");
    // Not an option of that proxy: dropping the first value would allow what should be refused.
    assert!(config.tools.deny.matches("a") && config.tools.deny.matches("b"));
    assert_eq!(profiles(&["--profile", "a", "b", "--profile", "c", URL], &[]), ["c"]);
    assert_eq!(profiles(&[URL, "--profile", "a", "--profile", "b"], &[]), ["b"]);
}

/// Every abbreviation that argparse accepts for an option of mcp-proxy-for-aws means that option,
/// even if additional options of this proxy begin with it.
#[test]
fn abbreviations_of_the_reference_proxy_s_options_keep_their_meaning() {
    let options = [
        ("service", "x"),
        ("profile", "x"),
        ("region", "x"),
        ("metadata", "k=v"),
        ("header", "k=v"),
        ("read-only", ""),
        ("log-level", "INFO"),
        ("retries", "1"),
        ("timeout", "1"),
        ("connect-timeout", "1"),
        ("read-timeout", "1"),
        ("write-timeout", "1"),
        ("tool-timeout", "1"),
        ("disable-telemetry", ""),
        ("skip-auth", ""),
        ("help", "-"),
    ];
    let command = Options::command();
    for (option, value) in options.into_iter().filter(|(option, _)| *option != "help") {
        let expected = command.get_arguments().find(|it| it.get_long() == Some(option)).unwrap();
        for end in 1..=option.len() {
            let short = &option[..end];
            let fits = options.iter().filter(|(other, _)| other.starts_with(short));
            if short != option && fits.count() != 1 {
                continue;
            }
            let given = match value {
                "" => vec!["sigward-proxy".to_owned(), URL.to_owned(), format!("--{short}")],
                _ => vec!["sigward-proxy".to_owned(), URL.to_owned(), format!("--{short}={value}")],
            };
            let matches = command.clone().try_get_matches_from(given);
            let matches = matches.unwrap_or_else(|error| panic!("--{short}: {error}"));
            let source = matches.value_source(expected.get_id().as_str());
            assert_eq!(source, Some(clap::parser::ValueSource::CommandLine), "--{short}");
        }
    }
}

#[test]
fn headers_without_effect_are_accepted_and_not_sent() {
    let config =
        invoke(&[URL, "--header", "User-Agent=x", "--header", "x-a=1"], &[]).unwrap().config;
    assert_eq!((config.headers.len(), config.headers_without_effect.len()), (1, 1));
    let many: Vec<_> = (0..33).map(|at| format!("--header=x-{at}=1")).collect();
    let many: Vec<_> = [URL].into_iter().chain(many.iter().map(String::as_str)).collect();
    assert!(invoke(&many, &[]).unwrap_err().contains("--header"));
}

#[test]
fn the_command_line_is_consistent() {
    Options::command().debug_assert();
}

#[test]
fn check_is_a_command_only_as_the_first_word() {
    let checked = |words: &[&str]| {
        let all = ["sigward-proxy"].iter().chain(words).map(|&word| word.into());
        check(all, &Environment::with(&[])).map(|it| it.map_err(|error| error.to_string()))
    };
    let (invocation, json) = checked(&["check", "--profile", "a", URL, "--json"]).unwrap().unwrap();
    assert!(json && invocation.config.asks_identity && !invocation.config.sign_in);
    assert_eq!(invocation.config.profiles.default().as_str(), "a");
    let listening = ["check", URL, "--listen", "8080", "--retries", "2"];
    let (invocation, json) = checked(&listening).unwrap().unwrap();
    assert!(!json && invocation.config.listen.is_none(), "a check doesn't listen");
    for wrong in [&["check"][..], &["check", "http://example.com/"], &["check", URL, "--no-such"]] {
        assert!(checked(wrong).unwrap().is_err(), "{wrong:?}");
    }
    for other in [&[URL][..], &["--profile", "check", URL], &[], &["checks", URL]] {
        assert!(checked(other).is_none(), "{other:?}");
    }
    assert!(
        !invoke(&[URL], &[]).unwrap().config.asks_identity,
        "serving asks AWS for nothing more"
    );
}

#[test]
fn settings_of_an_entry_and_of_the_environment_are_distinguished() {
    let given = |line: &str| {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        given(&words).map_err(|error| error.to_string())
    };
    let all = given(&format!("--profile a b {URL} --broker private")).unwrap();
    assert!(all.has_endpoint && all.has_profiles && !all.is_broker_of_environment);
    assert_eq!(all.broker, BrokerChoice::Private);
    let none = given("--read-only").unwrap();
    assert!(!none.has_endpoint && !none.has_profiles);
    assert!(given("--no-such").unwrap_err().contains("--no-such"));
}
