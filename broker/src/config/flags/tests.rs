use super::*;
use crate::peer::{PeerPattern, UnixPattern};

fn user(uid: u32) -> PeerPattern {
    PeerPattern::Unix(UnixPattern { uid: Some(uid), ..UnixPattern::default() })
}

fn flags(endpoints: &[&str]) -> Flags {
    let endpoints = endpoints.iter().map(|url| (*url).to_owned()).collect();
    Flags { endpoints, ..Flags::default() }
}

fn scope(flags: Flags) -> (String, String) {
    let config = flags.into_config(1000).expect("valid");
    let scope = &config.endpoints[0].scope;
    (scope.service.as_str().to_owned(), scope.regions.as_str().to_owned())
}

#[test]
fn flags_allow_only_the_own_user() {
    let mut given = flags(&["https://aws-mcp.us-east-1.api.aws/mcp"]);
    given.profiles = vec!["dev".to_owned(), "prod".to_owned()];
    let config = given.into_config(1000).expect("valid");
    assert_eq!(config.rules.len(), 1);
    assert_eq!(config.rules[0].peer, user(1000));
    let from = |name: &str| CredentialsFrom::AwsProfile(name.to_owned());
    assert_eq!(config.profiles[0].from, from("dev"));
    assert_eq!(config.profiles[1].from, from("prod"));
    let config = flags(&["https://aws-mcp.us-east-1.api.aws/mcp"]).into_config(0).expect("valid");
    assert_eq!(config.profiles[0].from, CredentialsFrom::DefaultChain);
    assert_eq!(config.profiles[0].name.as_str(), "default");
}

#[test]
fn flags_find_service_and_region() {
    let pair = |service: &str, region: &str| (service.to_owned(), region.to_owned());
    let known = || flags(&["https://aws-mcp.us-east-1.api.aws/mcp"]);
    let environment = Some("eu-west-1".to_owned());
    assert_eq!(scope(known()), pair("aws-mcp", "us-east-1"));
    // The host's region has priority over the environment's, and a flag over both.
    assert_eq!(
        scope(Flags { aws_region: environment.clone(), ..known() }),
        pair("aws-mcp", "us-east-1")
    );
    let region = Some("us-west-2".to_owned());
    assert_eq!(scope(Flags { region: region.clone(), ..known() }), pair("aws-mcp", "us-west-2"));
    let unknown = || flags(&["https://tools.example.com/mcp"]);
    assert_eq!(scope(Flags { aws_region: environment, ..unknown() }), pair("tools", "eu-west-1"));
    let service = Some("x".to_owned());
    assert_eq!(scope(Flags { region, service, ..unknown() }), pair("x", "us-west-2"));
}

/// Like mcp-proxy-for-aws: the first label of the host, whatever it is.
#[test]
fn an_endpoint_on_this_machine_needs_no_service() {
    for (url, service) in [
        ("http://localhost:8080/mcp", "localhost"),
        ("https://localhost/mcp", "localhost"),
        ("http://127.0.0.1:8080/mcp", "127"),
        ("http://127.1.2.3/mcp", "127"),
        ("http://[::1]:8080/mcp", "::1"),
    ] {
        let given = Flags { aws_region: Some("eu-west-1".to_owned()), ..flags(&[url]) };
        assert_eq!(scope(given), (service.to_owned(), "eu-west-1".to_owned()), "{url}");
    }
}

#[test]
fn incomplete_flags_are_reported_with_what_to_add() {
    let region = Some("us-west-2".to_owned());
    for (flags, why) in [
        (flags(&[]), "--endpoint URL"),
        (flags(&["https://tools.example.com/mcp"]), "give --region"),
        (flags(&["http://127.0.0.1:1/"]), "give --region, or set AWS_REGION"),
        (flags(&["http://localhost:1/"]), "give --region, or set AWS_REGION"),
        (Flags { region: region.clone(), ..flags(&["https://[2001:db8::1]/"]) }, "give --service"),
        (Flags { region: region.clone(), ..flags(&["https://10.0.0.1/"]) }, "give --service"),
        (Flags { region, ..flags(&["https://a.b/", "https://a.b:443/"]) }, "given twice"),
    ] {
        let shown = format!("{flags:?}");
        let error = flags.into_config(0).expect_err(&shown);
        assert!(matches!(&error, Error::Usage(text) if text.contains(why)), "{shown}: {error}");
    }
}
