use super::*;

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

fn read(body: &[u8], headers: &[(&str, &str)]) -> Content {
    let headers: Vec<(String, String)> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut reader = BodyReader::reading(Arc::default(), &headers);
    for piece in body.chunks(7) {
        reader.push(piece);
    }
    let body_read = reader.finish(&headers);
    let mut whole = BodyReader::hashing();
    whole.push(body);
    assert_eq!(body_read.sha256, whole.finish(&headers).sha256);
    body_read.content
}

fn target(body: &str, headers: &[(&str, &str)]) -> Option<(String, Option<String>)> {
    match read(body.as_bytes(), headers) {
        Content::Call(call) => {
            Some((call.method().to_owned(), call.target_name().map(str::to_owned)))
        }
        Content::Unread | Content::None | Content::Ambiguous(_) => None,
    }
}

#[test]
fn the_call_of_a_body_is_read() {
    for (body, method, name) in [
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#,
            "tools/call",
            Some("t"),
        ),
        (
            r#"{"id":1,"met\u0068od":"tools/call","params":{"n\u0061me":"t\u006f"}}"#,
            "tools/call",
            Some("to"),
        ),
        (r#"{"id":1,"method":"tools/list"}"#, "tools/list", None),
        (r#"{"id":1,"method":"prompts/get","params":{"name":"p"}}"#, "prompts/get", Some("p")),
        (r#"{"id":1,"method":"x","params":{"name":[1]}}"#, "x", None),
        (r#"{"id":1,"result":{"method":"tools/call"}}"#, "", None),
    ] {
        let expected = Some((method.to_owned(), name.map(str::to_owned)));
        assert_eq!(target(body, JSON), expected, "{body}");
    }
    let with_charset = [("content-type", "application/json; charset=UTF-8")];
    assert!(target(r#"{"id":1,"method":"ping"}"#, &with_charset).is_some());
}

#[test]
fn a_body_that_parsers_read_differently_is_ambiguous() {
    for body in [
        r#"{"method":"ping","method":"tools/call","params":{"name":"t"}}"#,
        r#"{"method":"tools/call","params":{"name":"a","NAME":"b"}}"#,
        "{\"method\":\"ping\",\"param\u{17f}\":{\"name\":\"b\"}}",
        r#"{"method":"ping","method\u0000":"tools/call"}"#,
        r#"[{"method":"tools/call","params":{"name":"t"}}]"#,
        r#"{"method":"ping"}{"method":"tools/call","params":{"name":"t"}}"#,
        "",
        r#"{"method":"tools/call"}"#,
        r#"{"method":"tools/call","params":{"name":1}}"#,
        r#"{"method":"tools/call","params":{"name":"t "}}"#,
        r#"{"method":"tools/call","params":{"name":"t\u200b"}}"#,
        r#"{"method":"tools/call ","params":{"name":"t"}}"#,
        r#"{"method":"prompts/get","params":{"name":"a b"}}"#,
        r#"{"method":"resources/read","params":{"uri":"docs://a/../b"}}"#,
        r#"{"method":"tasks/get","params":{"taskId":"a b"}}"#,
    ] {
        assert!(matches!(read(body.as_bytes(), JSON), Content::Ambiguous(_)), "{body}");
    }
    let utf16: Vec<u8> = r#"{"method":"ping"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(matches!(read(&utf16, JSON), Content::Ambiguous(_)));
}

#[test]
fn a_body_that_the_server_decodes_first_is_ambiguous() {
    let body = r#"{"id":1,"method":"ping"}"#;
    for headers in [
        &[][..],
        &[("content-type", "application/json"), ("content-encoding", "gzip")],
        &[("content-type", "application/json"), ("content-encoding", "identity")],
        &[("content-type", "application/json; charset=utf-7")],
        &[("content-type", "text/plain")],
        &[("content-type", "application/json"), ("content-type", "application/json")],
    ] {
        assert_eq!(target(body, headers), None, "{headers:?}");
    }
}

/// A gateway may route by these headers.
#[test]
fn mcp_headers_must_agree_with_the_body() {
    let body = r#"{"id":1,"method":"tools/call","params":{"name":"t"}}"#;
    let with =
        |more: &[(&'static str, &'static str)]| target(body, &[JSON, more].concat()).is_some();
    assert!(with(&[("mcp-method", "tools/call"), ("mcp-name", "t")]));
    assert!(with(&[("mcp-name", "=?base64?dA==?=")]));
    for wrong in [
        &[("mcp-method", "tools/list")][..],
        &[("mcp-method", "TOOLS/CALL")],
        &[("mcp-method", "tools/call"), ("mcp-method", "tools/call")],
        &[("mcp-name", "x")],
        &[("mcp-name", "=?base64?eA==?=")],
        &[("mcp-name", "=?base64?dA==")],
        &[("mcp-name", "=?base64?!?=")],
    ] {
        assert!(!with(wrong), "{wrong:?}");
    }
    let list = r#"{"id":1,"method":"tools/list"}"#;
    assert!(target(list, &[JSON, &[("mcp-name", "t")]].concat()).is_none());
}
