use super::*;

fn read(text: &str) -> Result<Request, Fault> {
    match Incoming::read(text.to_owned().into()) {
        Ok(Incoming::Request(request)) => Ok(request),
        Ok(Incoming::Other(..)) => Err(Fault::NotMessage("no request")),
        Err((fault, _)) => Err(fault),
    }
}

fn finished(text: &str, cut: Option<&str>, metadata: &[(&str, &str)]) -> String {
    let request = read(text).unwrap();
    let cut = cut.map(|member| {
        let start = text.find(member).unwrap();
        start..start + member.len()
    });
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let metadata: Vec<_> = metadata.iter().map(own).collect();
    String::from_utf8(request.finish(cut, &metadata).unwrap().to_vec()).unwrap()
}

#[test]
fn a_request_has_its_members() {
    let text = r#" {"jsonrpc":"2.0","id":1.0,"method":"tools/call","params":{"name":"t","arguments":{"a":1},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}} "#;
    let request = read(text).unwrap();
    assert_eq!((request.id().token(), request.method()), ("1.0", "tools/call"));
    assert_eq!((request.tool(), request.text()), (Some("t"), text));
    assert_eq!(request.arguments().unwrap().0, r#"{"a":1}"#);
    assert!(request.is_stateless() && !request.begins_session());
    assert_eq!(request.bytes(), text);
}

#[test]
fn every_place_has_a_pointer() {
    for place in [PLACES.version, PLACES.client, PLACES.capabilities, PLACES.profile] {
        assert_ne!(place, Place::META);
    }
}

/// Go's decoders ignore the case of keys, and others use the first of two: a rule applied to one reading could be
/// bypassed by another.
#[test]
fn ambiguous_messages_are_refused() {
    for text in [
        r#"{"id":1,"method":"tools/call","params":{"name":"echo","Name":"danger"}}"#,
        r#"{"id":1,"method":"ping","Method":"tools/call","params":{"name":"danger"}}"#,
        r#"{"id":1,"method":"tools/call","Params":{"name":"danger"},"params":{"name":"echo"}}"#,
        r#"{"id":1,"method":"tools/call","Params":{"name":"danger"}}"#,
        r#"{"id":1,"method":"tools/call","params":{"name":"echo","n\u0061me":"danger"}}"#,
        r#"{"id":1,"id":2,"method":"ping"}"#,
        r#"{"id":1,"method":"tools/call","params":{"name":"t","arguments":{},"arguments":{}}}"#,
        r#"{"id":1,"method":"tools/call","params":{"name":"t","_meta":{},"_meta":{}}}"#,
        r#"{"id":1,"method":"tools/call","params":{"name":"t","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/protocolVersion":"2025-11-25"}}}"#,
    ] {
        let fault = read(text).unwrap_err();
        assert!(matches!(fault, Fault::DuplicateKey(_) | Fault::Ambiguous(_)), "{text}: {fault}");
    }
    // Duplicates elsewhere concern only the tool.
    read(r#"{"id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1,"A":2,"a":3}}}"#)
        .unwrap();
}

#[test]
fn a_text_that_is_no_message_is_refused() {
    for (text, is_parse_error) in [
        ("{", true),
        ("nonsense", true),
        ("7", false),
        (r#"{"id":{},"method":"ping"}"#, false),
        (r#"{"id":1,"method":7}"#, false),
        (r#"{"id":1}"#, false),
        (r#"{"method":"tools/call","params":{"name":"t"}}"#, false),
    ] {
        let fault = read(text).unwrap_err();
        assert_eq!(fault.is_parse_error(), is_parse_error, "{text}: {fault}");
    }
}

#[test]
fn cutting_and_adding_is_one_edit() {
    const REGION: &[(&str, &str)] = &[("AWS_REGION", "\"eu\"")];
    for (before, cut, after) in [
        (
            r#"{"id":1,"method":"m"}"#,
            None,
            r#"{"id":1,"method":"m","params":{"_meta":{"AWS_REGION":"eu"}}}"#,
        ),
        (
            r#"{"id":1,"method":"m","params":{ } }"#,
            None,
            r#"{"id":1,"method":"m","params":{"_meta":{"AWS_REGION":"eu"} } }"#,
        ),
        (
            r#"{"id":1,"method":"m","params":{"a":1,"_meta":{"b":1.10 }}}"#,
            None,
            r#"{"id":1,"method":"m","params":{"a":1,"_meta":{"b":1.10,"AWS_REGION":"eu" }}}"#,
        ),
        (
            r#"{"id":1,"method":"m","params":{"_meta":{"AWS_REGION":"us"}}}"#,
            None,
            r#"{"id":1,"method":"m","params":{"_meta":{"AWS_REGION":"us"}}}"#,
        ),
        (r#"{"id":1,"method":"m","params":[1]}"#, None, r#"{"id":1,"method":"m","params":[1]}"#),
        (
            r#"{"id":1,"method":"m","params":{"_meta":{"sigward/profile":"p"}}}"#,
            Some(r#""sigward/profile":"p""#),
            r#"{"id":1,"method":"m","params":{"_meta":{"AWS_REGION":"eu"}}}"#,
        ),
        (
            r#"{"id":1,"method":"m","params":{"_meta":{"a":1 , "sigward/profile":"p" }}}"#,
            Some(r#""sigward/profile":"p""#),
            r#"{"id":1,"method":"m","params":{"_meta":{"a":1,"AWS_REGION":"eu" }}}"#,
        ),
        (
            r#"{"id":1,"method":"tools/call","params":{"name":"t","arguments":{"p":1, "a":2}}}"#,
            Some(r#""p":1"#),
            r#"{"id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":2},"_meta":{"AWS_REGION":"eu"}}}"#,
        ),
    ] {
        assert_eq!(finished(before, cut, REGION), after);
    }
    let untouched = r#"{"id":1,"method":"m","params":{"a":1}}"#;
    assert_eq!(finished(untouched, None, &[]), untouched);
}

/// Any text takes linear time: two sizes are compared, one sixteen times the other.
#[test]
fn reading_takes_linear_time() {
    const SIZE: usize = 1 << 20;
    let started = std::time::Instant::now();
    for filler in ["[", "{\"a\":", "0,", "\"\\u0061\",", "\"a\":1,", "{},", "\\", " "] {
        let body = filler.repeat(SIZE / filler.len());
        for text in [
            format!(r#"{{"id":1,"method":"tools/call","params":{{"name":"t","arguments":{body}"#),
            format!(r#"{{"id":1,"method":"m","params":{{"_meta":{{{body}"b":1}}}}}}"#),
            format!(r#"{{"id":1,"method":"m","params":{{"a":[{body}0]}}}}"#),
        ] {
            if let Ok(request) = read(&text) {
                request.finish(None, &[("k".to_owned(), "1".to_owned())]).unwrap();
            }
        }
    }
    // Quadratic time for a mebibyte would be hours.
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

/// In a release build the limit is 0.3 s; here only quadratic time is excluded.
#[test]
fn sixteen_mebibytes_are_read_and_cut_at_once() {
    const SIZE: usize = 16 << 20;
    for filler in ["\"a\":1,", "\"a\":{},", "\"\\u0061\":\"\\\"\",", "\"a\":[[[[0]]]],"] {
        let members = filler.repeat(SIZE / filler.len());
        let text = format!(
            r#"{{"id":1,"method":"tools/call","params":{{"name":"t","arguments":{{{members}"p":"dev"}}}}}}"#
        );
        let started = std::time::Instant::now();
        let length = finished(&text, Some(r#""p":"dev""#), &[("k", "1")]).len();
        let took = started.elapsed();
        assert!(length.abs_diff(text.len()) < 100);
        assert!(took.as_secs() < 15, "{filler}: {took:?}");
    }
}
