use super::*;

#[test]
fn service_and_region_follow_from_the_host() {
    let known = [
        ("aws-mcp.us-east-1.api.aws", "aws-mcp", "us-east-1"),
        ("aws-mcp-fips.us-gov-west-1.api.aws", "aws-mcp", "us-gov-west-1"),
        ("eks-mcp.eu-west-1.api.aws", "eks-mcp", "eu-west-1"),
        ("ecs-mcp.ap-southeast-2.api.aws", "ecs-mcp", "ap-southeast-2"),
        ("bedrock-agentcore.us-west-2.amazonaws.com", "bedrock-agentcore", "us-west-2"),
        ("bedrock-agentcore-fips.us-east-1.amazonaws.com", "bedrock-agentcore", "us-east-1"),
        ("bedrock-agentcore.cn-north-1.amazonaws.com.cn", "bedrock-agentcore", "cn-north-1"),
        (
            "gw-abc.gateway.bedrock-agentcore.eu-central-1.amazonaws.com",
            "bedrock-agentcore",
            "eu-central-1",
        ),
        (
            "gw-abc.gateway.bedrock-agentcore-fips.us-east-1.amazonaws.com",
            "bedrock-agentcore",
            "us-east-1",
        ),
        (
            "gw.gateway.bedrock-agentcore.cn-north-1.amazonaws.com.cn",
            "bedrock-agentcore",
            "cn-north-1",
        ),
        ("x1.execute-api.us-east-2.amazonaws.com", "execute-api", "us-east-2"),
        ("x1.execute-api-fips.us-east-2.amazonaws.com", "execute-api", "us-east-2"),
        ("x1.execute-api.cn-northwest-1.amazonaws.com.cn", "execute-api", "cn-northwest-1"),
        ("fn1.lambda-url.us-east-1.on.aws", "lambda", "us-east-1"),
    ];
    for (host, service, region) in known {
        let scope = scope_of_host(host).unwrap_or_else(|| panic!("{host}"));
        assert_eq!((scope.service.as_str(), scope.region.as_str()), (service, region), "{host}");
    }
}

#[test]
fn other_hosts_have_no_scope() {
    for host in [
        "example.com",
        "localhost",
        "127.0.0.1",
        "[::1]",
        "aws-mcp.us-east-1.api.aws.example.com",
        "evil-api.aws",
        "a.b.aws-mcp.us-east-1.api.aws",
        "aws-mcp.nowhere.api.aws",
        "aws-mcp.us-east-1.notapi.aws",
        "s3.us-east-1.amazonaws.com",
        "execute-api.us-east-1.amazonaws.com.example.com",
        "x.lambda-url.us-east-1.on.aws.example.com",
        "",
    ] {
        assert_eq!(scope_of_host(host), None, "{host}");
    }
}

#[test]
fn a_url_is_taken_as_written_or_refused() {
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
        assert_eq!((parsed.authority().as_str(), parsed.path()), (authority, path), "{url}");
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
