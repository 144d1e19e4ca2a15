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
fn the_endpoint_stands_before_or_after_the_profiles() {
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
fn every_option_of_the_reference_proxy_is_taken() {
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
fn what_is_wrong_is_named() {
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
        (vec![URL, "--log-level", "LOUD"], "WARNING"),
        (vec![URL, "--broker", "tcp:1"], "unix:PATH or private"),
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

#[test]
fn the_command_line_is_consistent() {
    Options::command().debug_assert();
}
