use sigward_proto::v1::sign_request::Payload;
use sigward_proto::v1::{Header, SignRequest};

use super::*;
use crate::endpoint::{EndpointUrl, Paths, Regions, Scope, Service};

fn endpoint(name: &str, url: &str) -> Arc<Endpoint> {
    endpoint_of(name, url, Paths::Prefix)
}

fn endpoint_of(name: &str, url: &str, paths: Paths) -> Arc<Endpoint> {
    let url = EndpointUrl::parse(url).expect(url);
    let service = Service::parse("aws-mcp").expect("a service");
    let regions = Regions::parse("us-east-1").expect("a region");
    Arc::new(Endpoint { name: name.to_owned(), url, paths, scope: Scope { service, regions } })
}

fn endpoints() -> Vec<Arc<Endpoint>> {
    vec![
        endpoint("mcp", "https://h.example/mcp"),
        endpoint("admin", "https://h.example/mcp/admin"),
        endpoint("port", "https://h.example:8443/mcp"),
        endpoint("local", "http://127.0.0.1:8080/"),
        endpoint_of("exact", "https://exact.example/mcp", Paths::Exact),
        endpoint("arn", "https://agents.example/runtimes/arn%3Aaws%3Ax%2Fy/invocations"),
    ]
}

fn header(name: &str, value: &[u8]) -> Header {
    Header { name: name.to_owned(), value: value.to_vec().into() }
}

fn post(uri: &str) -> SignRequest {
    SignRequest {
        profile: "dev".to_owned(),
        method: "POST".to_owned(),
        uri: uri.to_owned(),
        headers: vec![header("Content-Type", b"application/json")],
        payload: Some(Payload::Body(b"{}".as_slice().into())),
    }
}

fn parse(request: SignRequest) -> Result<CheckedRequest, Reason> {
    whole::check(request, &endpoints(), None).map_err(|denial| denial.reason())
}

fn reason(request: SignRequest) -> Option<Reason> {
    parse(request).err()
}

#[test]
fn a_uri_belongs_to_its_endpoint() {
    for (uri, name, path_and_query) in [
        ("https://h.example/mcp", "mcp", "/mcp"),
        ("https://h.example:443/mcp", "mcp", "/mcp"),
        ("https://h.example/mcp/", "mcp", "/mcp/"),
        ("https://h.example/mcp/a/b", "mcp", "/mcp/a/b"),
        ("https://h.example/mcp/a;v=1/b", "mcp", "/mcp/a;v=1/b"),
        ("https://exact.example/mcp", "exact", "/mcp"),
        ("https://exact.example/mcp?a=1", "exact", "/mcp?a=1"),
        ("https://h.example/mcp/admin", "admin", "/mcp/admin"),
        ("https://h.example/mcp/admin/x", "admin", "/mcp/admin/x"),
        ("https://h.example/mcp/administrator", "mcp", "/mcp/administrator"),
        ("https://h.example:8443/mcp", "port", "/mcp"),
        ("http://127.0.0.1:8080", "local", "/"),
        ("http://127.0.0.1:8080/any/thing", "local", "/any/thing"),
        ("https://h.example/mcp?a=1&b=%20x", "mcp", "/mcp?a=1&b=%20x"),
        (
            "https://agents.example/runtimes/arn%3Aaws%3Ax%2Fy/invocations?qualifier=DEFAULT",
            "arn",
            "/runtimes/arn%3Aaws%3Ax%2Fy/invocations?qualifier=DEFAULT",
        ),
    ] {
        let request = parse(post(uri)).unwrap_or_else(|reason| panic!("{uri}: {reason:?}"));
        assert_eq!(request.head().endpoint().name, name, "{uri}");
        assert_eq!(request.head().path_and_query(), path_and_query, "{uri}");
    }
}

#[test]
fn a_uri_of_no_endpoint_is_refused() {
    for uri in [
        "https://evil.example/mcp",
        "https://h.example.evil.example/mcp",
        "https://h.example:444/mcp",
        "http://h.example/mcp",
        "http://h.example:443/mcp",
        "https://h.example/",
        "https://h.example/mcpx",
        "https://h.example/MCP",
        "https://h.example/mcp%2Fx",
        "https://h.example/mc%70",
        "https://h.example/mcp/../other",
        "https://h.example/mcp/..",
        "https://h.example/mcp/./x",
        "https://h.example/mcp//x",
        "https://h.example/mcp/%2e%2e/other",
        "https://h.example/mcp/%2E./other",
        "https://h.example/mcp/x%2f..%2fother",
        "https://h.example/mcp/x%5c..",
        "https://h.example/mcp/%252e%252e/other",
        "https://h.example/mcp/x%00",
        // Tomcat and Spring remove the parameters of a segment before they resolve it.
        "https://h.example/mcp/..;/other",
        "https://h.example/mcp/..;a=b/other",
        "https://h.example/mcp/.;/x",
        "https://h.example/mcp/x/..;",
        "https://h.example/mcp/;/x",
        // An endpoint with exact paths has no paths below it.
        "https://exact.example/mcp/",
        "https://exact.example/mcp/x",
        "https://exact.example/",
        "https://agents.example/runtimes/arn:aws:x%2Fy/invocations",
        "https://agents.example/runtimes/arn%3Aaws%3Ax/y/invocations",
        "https://agents.example/runtimes/arn%3aaws%3ax%2fy/invocations",
        "http://127.0.0.1:8080//etc",
    ] {
        assert_eq!(reason(post(uri)), Some(Reason::EndpointNotAllowed), "{uri}");
    }
}

#[test]
fn a_uri_in_another_form_is_invalid() {
    for uri in [
        "/mcp",
        "",
        "h.example/mcp",
        "https://user@h.example/mcp",
        "https://user:pass@h.example/mcp",
        "https://h.example@evil.example/mcp",
        "https://h.example/mcp#fragment",
        "https://h.example/mcp?a=1#fragment",
        "https://h.example/mc p",
        "https://h.example/mcp\\..",
        "https://h.example/mcp/%",
        "https://h.example/mcp/%zz",
        "https://h.example/mcp/%4",
        "https://h.example/mcp/\"",
        "https://h.example/mcp/ü",
        "https://h.example/mcp\r\nhost: evil",
        "https://h.example:99999/mcp",
        "*",
    ] {
        assert_eq!(reason(post(uri)), Some(Reason::InvalidUri), "{uri:?}");
    }
    let long = format!("https://h.example/mcp/{}", "x".repeat(20_000));
    assert_eq!(reason(post(&long)), Some(Reason::InvalidUri));
}

#[test]
fn a_query_is_canonical_or_refused() {
    for query in
        ["a=1", "a=", "a=1&a=2", "a=1&b=2", "A=1&a=0", "a=%2F%3A", "a=~._-", "q=%C3%BC", "a=%2B"]
    {
        assert_eq!(reason(post(&format!("https://h.example/mcp?{query}"))), None, "{query}");
    }
    for query in [
        "",
        "a",
        "=1",
        "a=1&",
        "&a=1",
        "a=1&&b=2",
        "b=1&a=2",
        "a=2&a=1",
        "a=+",
        "a=%2f",
        "a=%41",
        "a=/",
        "a=:",
        "a=b=c",
        "a=%",
        "a=%2",
        "a=%FF",
        "a=1;b=2",
        "X-Amz-Signature=x",
        "x-amz-security-token=x",
    ] {
        let uri = format!("https://h.example/mcp?{query}");
        assert_eq!(reason(post(&uri)), Some(Reason::NonCanonicalQuery), "{query}");
    }
}

#[test]
fn methods_are_three() {
    let with = |method: &str| SignRequest {
        method: method.to_owned(),
        payload: (method == "POST").then(|| Payload::Body(b"{}".as_slice().into())),
        ..post("https://h.example/mcp")
    };
    for method in ["POST", "GET", "DELETE"] {
        assert_eq!(parse(with(method)).expect(method).head().method().as_str(), method);
    }
    for method in ["PUT", "post", "OPTIONS", "CONNECT", "X"] {
        assert_eq!(reason(with(method)), Some(Reason::MethodNotAllowed), "{method}");
    }
    for method in ["", "PO ST", "PO ST\nx", "POST\n", "POST\r\nhost:evil", "GÉT", "GET\0"] {
        assert_eq!(reason(with(method)), Some(Reason::InvalidMethod), "{method:?}");
    }
}

#[test]
fn headers_are_kept_in_order_and_in_lower_case() {
    let mut request = post("https://h.example/mcp");
    request.headers.push(header("X-B", b"2"));
    request.headers.push(header("x-a", b"1"));
    request.headers.push(header("X-b", b""));
    let request = parse(request).expect("valid");
    let headers: Vec<(&str, &str)> = request
        .head()
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        headers,
        [("content-type", "application/json"), ("x-b", "2"), ("x-a", "1"), ("x-b", "")]
    );
}

#[test]
fn reserved_headers_are_refused_in_any_case() {
    for name in [
        "Authorization",
        "date",
        "X-Amz-Date",
        "x-amz-security-token",
        "x-amz-content-sha256",
        "x-amz-anything",
        "HOST",
        "Forwarded",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
        "content-length",
        "accept-encoding",
        "user-agent",
        "x-amzn-trace-id",
        "proxy-authorization",
        "proxy-connection",
        "Proxy-Anything",
    ] {
        let mut request = post("https://h.example/mcp");
        request.headers.push(header(name, b"x"));
        assert_eq!(reason(request), Some(Reason::ReservedHeader), "{name}");
    }
}

#[test]
fn headers_that_canonicalisation_changes_are_refused() {
    for (name, value) in [
        ("", b"x".as_slice()),
        ("a b", b"x"),
        ("a:b", b"x"),
        ("a\n", b"x"),
        ("ä", b"x"),
        ("x", b" x"),
        ("x", b"x "),
        ("x", b"x  y"),
        ("x", b"x\ty"),
        ("x", b"x\r\nhost: evil"),
        ("x", b"x\ny"),
        ("x", b"x\0y"),
        ("x", b"\xff"),
        ("x", "ü".as_bytes()),
        ("x", b"\x7f"),
    ] {
        let mut request = post("https://h.example/mcp");
        request.headers.push(header(name, value));
        assert_eq!(reason(request), Some(Reason::InvalidHeader), "{name:?}: {value:?}");
    }
    let mut many = post("https://h.example/mcp");
    many.headers.extend((0..100).map(|n| header(&format!("x-{n}"), b"x")));
    assert_eq!(reason(many), Some(Reason::InvalidHeader));
    let mut long = post("https://h.example/mcp");
    long.headers.push(header("x", &[b'x'; 70_000]));
    assert_eq!(reason(long), Some(Reason::InvalidHeader));
}

#[test]
fn bodies_and_hashes() {
    let with = |method: &str, payload| SignRequest {
        method: method.to_owned(),
        payload,
        ..post("https://h.example/mcp")
    };
    let hash = |bytes: &[u8]| Some(Payload::BodySha256(bytes.to_vec().into()));
    let bytes = |bytes: &[u8]| Some(Payload::Body(bytes.to_vec().into()));
    let empty = hex::decode("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        .expect("hex");

    assert_eq!(parse(with("POST", hash(&[7; 32]))).expect("valid").body_sha256(), &[7; 32]);
    assert_eq!(parse(with("POST", bytes(b""))).expect("valid").body_sha256().as_slice(), empty);
    assert_eq!(parse(with("GET", None)).expect("valid").body_sha256().as_slice(), empty);
    assert_eq!(reason(with("GET", hash(&empty))), None);
    assert_eq!(reason(with("DELETE", bytes(b""))), None);

    assert_eq!(reason(with("POST", None)), Some(Reason::BodyRequired));
    for wrong in [&[7; 31][..], &[7; 33], b"", b"UNSIGNED-PAYLOAD"] {
        assert_eq!(reason(with("POST", hash(wrong))), Some(Reason::InvalidBodyHash));
    }
    assert_eq!(reason(with("GET", bytes(b"{}"))), Some(Reason::InvalidBodyHash));
    assert_eq!(reason(with("DELETE", hash(&[7; 32]))), Some(Reason::InvalidBodyHash));
}
