use sigward_proto::v1::Header;

use super::*;
use crate::endpoint::{EndpointUrl, Region, Scope, Service};

fn endpoint(name: &str, url: &str) -> Arc<Endpoint> {
    let url = EndpointUrl::parse(url).expect(url);
    let service = Service::parse("aws-mcp").expect("a service");
    let region = Region::parse("us-east-1").expect("a region");
    Arc::new(Endpoint { name: name.to_owned(), url, scope: Scope { service, region } })
}

fn endpoints() -> Vec<Arc<Endpoint>> {
    vec![
        endpoint("mcp", "https://h.example/mcp"),
        endpoint("admin", "https://h.example/mcp/admin"),
        endpoint("port", "https://h.example:8443/mcp"),
        endpoint("local", "http://127.0.0.1:8080/"),
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
    CheckedRequest::parse(request, &endpoints()).map_err(|denial| denial.reason())
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
        assert_eq!(request.endpoint().name, name, "{uri}");
        assert_eq!(request.path_and_query(), path_and_query, "{uri}");
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
        assert_eq!(parse(with(method)).expect(method).method().as_str(), method);
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
    let headers: Vec<(&str, &str)> =
        request.headers().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
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
fn headers_that_read_in_two_ways_are_refused() {
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

fn tool(body: &[u8], headers: &[(&str, &str)]) -> Tool {
    let mut request = post("https://h.example/mcp");
    request.payload = Some(Payload::Body(body.to_vec().into()));
    request.headers = headers.iter().map(|(name, value)| header(name, value.as_bytes())).collect();
    parse(request).expect("valid").tool().clone()
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

#[test]
fn the_tool_of_a_call_is_read() {
    let named = |name: &str| Tool::Named(name.to_owned());
    for (body, expected) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#, named("t")),
        (
            r#"{"params":{"arguments":{"name":"x","name":"y"},"name":"t"},"method":"tools/call"}"#,
            named("t"),
        ),
        (r#"{"met\u0068od":"tools/call","params":{"n\u0061me":"t\u006f"}}"#, named("to")),
        (r#" {"method":"tools/call","params":{"name":"a b\n"}} "#, named("a b\n")),
        (r#"{"method":"tools/list"}"#, Tool::None),
        (r#"{"method":"prompts/get","params":{"name":"t"}}"#, Tool::None),
        (r#"{"method":"x","params":{"name":[1]}}"#, Tool::None),
        (r#"{"method":"x","params":[1,2]}"#, Tool::None),
        (r#"{"method":"x","params":null}"#, Tool::None),
        (r#"{"id":1,"result":{"method":"tools/call"}}"#, Tool::None),
    ] {
        assert_eq!(tool(body.as_bytes(), JSON), expected, "{body}");
    }
    let with_charset = [("Content-Type", "application/json; charset=UTF-8")];
    assert_eq!(tool(br#"{"method":"tools/list"}"#, &with_charset), Tool::None);
}

#[test]
fn what_two_parsers_read_differently_is_ambiguous() {
    for body in [
        // the last one wins here, the first one there
        r#"{"method":"ping","method":"tools/call","params":{"name":"t"}}"#,
        r#"{"method":"tools/call","params":{"name":"a","name":"b"}}"#,
        r#"{"method":"tools/call","params":{"name":"a","n\u0061me":"b"}}"#,
        r#"{"method":"tools/call","params":{"name":"a"},"params":{"name":"b"}}"#,
        r#"{"id":1,"id":2,"method":"ping"}"#,
        // keys that some parsers match in any case
        r#"{"Method":"tools/call","params":{"name":"t"}}"#,
        r#"{"method":"ping","METHOD":"tools/call"}"#,
        r#"{"method":"tools/call","params":{"name":"a","NAME":"b"}}"#,
        "{\"method\":\"ping\",\"param\u{17f}\":{\"name\":\"b\"}}",
        // a batch, more than one message, none
        r#"[{"method":"tools/call","params":{"name":"t"}}]"#,
        r#"{"method":"ping"}{"method":"tools/call","params":{"name":"t"}}"#,
        "{\"method\":\"ping\"}\n{}",
        "",
        "null",
        "\"tools/call\"",
        "\u{feff}{\"method\":\"ping\"}",
        // not quite JSON
        r#"{"method":"ping",}"#,
        r#"{'method':'ping'}"#,
        r#"{"method":"ping"/**/}"#,
        r#"{"method":1}"#,
        // calls that name nothing
        r#"{"method":"tools/call"}"#,
        r#"{"method":"tools/call","params":{}}"#,
        r#"{"method":"tools/call","params":{"name":1}}"#,
        r#"{"method":"tools/call","params":["t"]}"#,
        r#"{"method":"tools/call","params":null}"#,
    ] {
        assert!(matches!(tool(body.as_bytes(), JSON), Tool::Ambiguous(_)), "{body}");
    }
    let deep = format!("{{\"method\":\"ping\",\"params\":{}{}}}", "[".repeat(200), "]".repeat(200));
    assert!(matches!(tool(deep.as_bytes(), JSON), Tool::Ambiguous(_) | Tool::None));
    let invalid = b"{\"method\":\"ping\",\"params\":{\"x\":\"\xff\"}}";
    assert!(matches!(tool(invalid, JSON), Tool::Ambiguous(_)));
    let utf16: Vec<u8> = r#"{"method":"ping"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(matches!(tool(&utf16, JSON), Tool::Ambiguous(_)));
}

#[test]
fn a_body_that_the_server_decodes_first_is_ambiguous() {
    let body = br#"{"method":"ping"}"#;
    for headers in [
        &[][..],
        &[("content-type", "application/json"), ("content-encoding", "gzip")],
        &[("content-type", "application/json"), ("Content-Encoding", "identity")],
        &[("content-type", "application/json; charset=utf-7")],
        &[("content-type", "application/json; charset=utf-16")],
        &[("content-type", "text/plain")],
        &[("content-type", "application/json"), ("content-type", "application/json")],
    ] {
        assert!(matches!(tool(body, headers), Tool::Ambiguous(_)), "{headers:?}");
    }
}
