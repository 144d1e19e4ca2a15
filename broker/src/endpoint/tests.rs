use super::*;

#[test]
fn service_and_regions_follow_from_the_host() {
    let scope = scope_of_host("connect.aidevops.us-east-1.api.aws").expect("known");
    assert_eq!(scope.service.as_str(), "aidevops");
    assert_eq!(scope.regions, Regions::One(Region::parse("us-east-1").expect("a region")));
    let scope = scope_of_host("x.lambda-web.global.on.aws").expect("known");
    assert_eq!(scope.regions, Regions::Set(RegionSet::all()));
    assert_eq!(scope_of_host("example.com"), None);
}

#[test]
fn regions_are_one_or_a_set() {
    for (text, first) in
        [("us-east-1", Some("us-east-1")), ("*", None), ("us-east-1,eu-west-1", Some("us-east-1"))]
    {
        let regions = Regions::parse(text).expect(text);
        assert_eq!((regions.as_str(), regions.first()), (text, first));
        assert_eq!(matches!(regions, Regions::Set(_)), first != Some(text), "{text}");
    }
    assert_eq!(Regions::parse("a-1, b-2").expect("a set").as_str(), "a-1,b-2");
    // A list with one region is a set nevertheless: SigV4a signs.
    assert_eq!(RegionSet::of(["us-east-1"]).expect("a set").as_str(), "us-east-1");
    for (names, why) in [
        (&[][..], "empty"),
        (&["*", "us-east-1"], "beside other names"),
        (&["us-east-1", "us-east-1"], "twice"),
        (&["US"], "not a region"),
        (&["us-east-1\r\nx: y"], "not a region"),
        (&["a,b"], "not a region"),
        (&[""], "not a region"),
    ] {
        let error = RegionSet::of(names.iter().copied()).expect_err("wrong");
        assert!(error.contains(why), "{names:?}: {error}");
    }
    for text in ["", "us_east", "us-east-1,", "*,*", "us-*"] {
        assert!(Regions::parse(text).is_err(), "{text}");
    }
    let many: Vec<String> = (0..=MANY).map(|number| format!("r-{number}")).collect();
    assert!(RegionSet::of(many.iter().map(String::as_str)).is_err());
}

/// More regions than a set may have.
const MANY: usize = 64;

#[test]
fn a_url_is_accepted_unchanged_or_refused() {
    for (url, authority, path) in [
        ("https://aws-mcp.us-east-1.api.aws/mcp", "aws-mcp.us-east-1.api.aws", "/mcp"),
        ("https://h.example:443/mcp", "h.example", "/mcp"),
        ("https://h.example:8443", "h.example:8443", "/"),
        ("http://127.0.0.1:8080/mcp", "127.0.0.1:8080", "/mcp"),
        ("http://localhost/mcp", "localhost", "/mcp"),
        ("http://[::1]:9/mcp", "[::1]:9", "/mcp"),
        ("https://H.Example/mcp", "h.example", "/mcp"),
        (
            "https://h/runtimes/arn%3Aaws%3Ax%2Fy/invocations",
            "h",
            "/runtimes/arn%3Aaws%3Ax%2Fy/invocations",
        ),
    ] {
        let parsed = EndpointUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!((parsed.authority(), parsed.path()), (authority, path), "{url}");
    }
    for (url, why) in [
        ("http://example.com/mcp", "another machine"),
        ("http://127.0.0.1.example.com/mcp", "another machine"),
        ("ftp://h/mcp", "scheme"),
        ("https://user@h/mcp", "user info"),
        ("https://user:pass@h/mcp", "user info"),
        ("https://h/mcp?x=y", "query"),
        ("https://h/mcp#f", "fragment"),
        ("https://h./mcp", "dot at its end"),
        ("https://h/a/../mcp", "normal form"),
        ("https://h/a b", "normal form"),
        ("https://h//mcp", "empty"),
        ("https://h/%2e%2e/mcp", "normal form"),
        ("mcp", "not a URL"),
        ("https://", "not a URL"),
    ] {
        let error = EndpointUrl::parse(url).expect_err(url);
        assert!(error.contains(why), "{url}: {error}");
    }
}
