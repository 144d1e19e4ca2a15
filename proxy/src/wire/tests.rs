use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn edit(text: &str, cut: &[&str], add: &[(&str, &str)]) -> String {
    let object = Object::parse(text).unwrap();
    let mut edits = Edits::new(text);
    edits.members(&object, |member| cut.contains(&member.name().as_ref()), add);
    edits.apply().unwrap()
}

#[test]
fn cutting_a_member_keeps_every_other_byte() {
    let text = r#"{"b":1.10,"aws_profile":"x","a":123456789012345678901,"e":1e400}"#;
    assert_eq!(
        edit(text, &["aws_profile"], &[]),
        r#"{"b":1.10,"a":123456789012345678901,"e":1e400}"#
    );
    assert_eq!(edit(r#"{ "p" : 1 , "a" : 2 }"#, &["p"], &[]), r#"{ "a" : 2 }"#);
    assert_eq!(edit(r#"{ "a" : 2 , "p" : 1 }"#, &["p"], &[]), r#"{ "a" : 2 }"#);
    assert_eq!(edit(r#"{ "p" : 1 }"#, &["p"], &[]), "{  }");
    assert_eq!(edit(r#"{"p":1,"a":2,"p":3,"q":4}"#, &["p", "q"], &[]), r#"{"a":2}"#);
    assert_eq!(edit(r#"{"p":1,"q":2}"#, &["p", "q"], &[]), "{}");
    assert_eq!(edit(r#"{"\u0070":1,"a":"}\","}"#, &["p"], &[]), r#"{"a":"}\","}"#);
}

#[test]
fn members_are_added_after_the_remaining_ones() {
    assert_eq!(edit("{}", &[], &[("n", "1")]), r#"{"n":1}"#);
    assert_eq!(edit(r#"{"a":1 }"#, &[], &[("n", "1"), ("m", "2")]), r#"{"a":1,"n":1,"m":2 }"#);
    assert_eq!(edit(r#"{"p":1}"#, &["p"], &[("n", "2")]), r#"{"n":2}"#);
    assert_eq!(edit(r#"{"a":1,"p":2}"#, &["p"], &[("n", "3")]), r#"{"a":1,"n":3}"#);
}

#[test]
fn elements_are_cut_out_of_arrays() {
    let cut = |text: &str, gone: &[usize]| {
        let spans = elements(text).unwrap();
        let mut edits = Edits::new(text);
        edits.elements(&spans, |index| gone.contains(&index));
        edits.apply().unwrap()
    };
    assert_eq!(cut("[1, 2, 3]", &[1]), "[1, 3]");
    assert_eq!(cut("[1, 2, 3]", &[0, 2]), "[2]");
    assert_eq!(cut("[1, 2, 3]", &[1, 2]), "[1]");
    assert_eq!(cut("[ 1 ]", &[0]), "[  ]");
}

#[test]
fn envelopes_keep_the_tokens_of_ids() {
    for id in ["1", "1.0", "1e2", "\"1\"", "123456789012345678901234", "null", "-0"] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        let envelope = Envelope::parse(&text).unwrap();
        assert_eq!((envelope.kind, envelope.id), (Kind::Request, Some(id)));
    }
}

#[test]
fn a_text_that_is_no_message_is_refused() {
    for text in [
        "[]",
        "7",
        "{}",
        r#"{"id":1}"#,
        r#"{"id":1,"method":7}"#,
        r#"{"id":{},"method":"a"}"#,
        r#"{"id":1,"id":2,"method":"ping"}"#,
        r#"{"method":"a","m\u0065thod":"b"}"#,
    ] {
        let fault = Envelope::parse(text).expect_err(text);
        assert!(!fault.is_parse_error(), "{text}: {fault}");
    }
    for text in ["", "{", "hello", r#"{"id":1,}"#, "{\"a\":\"\u{1}\"}", r#"{"a":01}"#] {
        let fault = Envelope::parse(text).expect_err(text);
        assert!(fault.is_parse_error(), "{text}: {fault}");
    }
}

#[test]
fn depth_is_bounded_and_read_without_recursion() {
    let deep =
        |n: usize| format!(r#"{{"method":"m","params":{}{}}}"#, "[".repeat(n), "]".repeat(n));
    assert_eq!(check_depth(&deep(MAX_DEPTH - 1)), Ok(()));
    assert_eq!(check_depth(&deep(MAX_DEPTH)), Err(Fault::TooDeep(MAX_DEPTH)));
    assert_eq!(check_depth(r#"{"a":"[[[[\"[[[["}"#), Ok(()));
    Envelope::parse(&deep(1_000_000)).unwrap();
}

#[test]
fn duplicate_keys_count_escapes() {
    let object = Object::parse(r#"{"aws_profile":"a","aws\u005fprofile":"b"}"#).unwrap();
    assert_eq!(object.get("aws_profile"), Err(Fault::DuplicateKey("aws_profile".into())));
    let object = Object::parse(r#"{"aws\u005fprofile":"b","\ud800":1}"#).unwrap();
    assert_eq!(object.get("aws_profile"), Ok(Some("\"b\"")));
}

#[test]
fn line_breaks_between_tokens_are_removed() {
    let pretty = "{\r\n  \"a\": \"x\\ny\"\n}";
    assert_eq!(one_line(pretty.to_owned()), "{  \"a\": \"x\\ny\"}");
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Cutting and adding in the text is equivalent to removing and inserting values.
    #[test]
    fn edits_agree_with_values(
        members in prop::collection::vec((any::<String>(), json(), any::<bool>()), 0..8),
        added in json(),
        pretty in any::<bool>(),
    ) {
        let object: serde_json::Map<_, _> =
            members.iter().map(|(key, value, _)| (key.clone(), value.clone())).collect();
        let cut: Vec<&str> = members
            .iter()
            .filter(|(_, _, cut)| *cut)
            .map(|(key, _, _)| key.as_str())
            .collect();
        let value = Value::Object(object.clone());
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let edited = edit(&text.unwrap(), &cut, &[("\u{0}new", &added.to_string())]);
        let mut expected: serde_json::Map<_, _> =
            object.into_iter().filter(|(key, _)| !cut.contains(&key.as_str())).collect();
        expected.insert("\u{0}new".into(), serde_json::from_str(&added.to_string()).unwrap());
        let edited: Value = serde_json::from_str(&edited).unwrap();
        let expected: Value = serde_json::from_str(&Value::Object(expected).to_string()).unwrap();
        prop_assert_eq!(edited, expected);
    }

    /// For texts of any length, with any byte replaced.
    #[test]
    fn an_object_is_refused_where_another_parser_refuses_it_and_nowhere_else(
        value in json(),
        length in 0..300_usize,
        at in any::<prop::sample::Index>(),
        byte in prop::sample::select(b"{}[]\",:\\0-+.eEun \n\x01\x7f".to_vec()),
    ) {
        let object = serde_json::json!({ "a": value, "b": "x".repeat(length), "c": [1.5e7, null] });
        let mut text = object.to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        if let Ok(text) = std::str::from_utf8(&text) {
            let is_json = serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
            let is_object = is_json && text.trim_start().starts_with('{');
            prop_assert_eq!(Object::parse(text).is_ok(), is_object, "{}", text);
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = Envelope::parse(&text);
        let _ = check_depth(&text);
        let _ = batch(&text);
    }
}

#[test]
fn metadata_is_added_and_never_replaced() {
    let metadata =
        [("AWS_REGION".to_owned(), "\"eu-west-1\"".to_owned()), ("k".into(), "\"v\"".into())];
    for (text, expected) in [
        (
            r#"{"id":1,"method":"m"}"#,
            r#"{"id":1,"method":"m","params":{"_meta":{"AWS_REGION":"eu-west-1","k":"v"}}}"#,
        ),
        (
            r#"{"method":"m","params":{}}"#,
            r#"{"method":"m","params":{"_meta":{"AWS_REGION":"eu-west-1","k":"v"}}}"#,
        ),
        (
            r#"{"params":{"a":1.0},"method":"m"}"#,
            r#"{"params":{"a":1.0,"_meta":{"AWS_REGION":"eu-west-1","k":"v"}},"method":"m"}"#,
        ),
        (
            r#"{"method":"m","params":{"_meta":{"AWS_REGION":7}}}"#,
            r#"{"method":"m","params":{"_meta":{"AWS_REGION":7,"k":"v"}}}"#,
        ),
        (r#"{"method":"m","params":[1]}"#, r#"{"method":"m","params":[1]}"#),
        (r#"{"method":"m","params":{"_meta":null}}"#, r#"{"method":"m","params":{"_meta":null}}"#),
    ] {
        assert_eq!(with_metadata(text.to_owned(), &metadata), expected);
    }
}

/// Each span needs more memory than its shortest text.
#[test]
fn spans_are_bounded() {
    let members = |count: usize| format!("{{{}\"\":0}}", "\"\":0,".repeat(count - 1));
    assert_eq!(Object::parse(&members(1 << 20)).unwrap().members().len(), 1 << 20);
    let many = Object::parse(&members((1 << 20) + 1)).unwrap_err();
    assert_eq!(many, Fault::TooMany(1 << 20));
    let array = |count: usize| format!("[{}1]", "1,".repeat(count - 1));
    assert_eq!(elements(&array(1 << 20)).unwrap().len(), 1 << 20);
    assert_eq!(elements(&array((1 << 20) + 1)), Err(Fault::TooMany(1 << 20)));
    assert_eq!(batch(&array(MAX_BATCH)).unwrap().unwrap().len(), MAX_BATCH);
    assert_eq!(batch(&array(MAX_BATCH + 1)), Err(Fault::TooMany(MAX_BATCH)));
    // The rest is still parsed.
    assert!(elements(&format!("{}]", array(2000))).unwrap_err().is_parse_error());
    assert!(batch(&array(2000).replace(']', ",")).unwrap_err().is_parse_error());
}

/// A span of another text would drop or duplicate some of the text. The result must be an error, not a corrupted
/// message that is signed and sent.
#[test]
fn a_span_of_another_text_is_an_error() {
    let text = r#"{"a":1,"b":2}"#;
    let other = String::from(r#"{"a":1,"b":2}"#);
    let mut edits = Edits::new(text);
    edits.replace(&other[1..4], "x");
    edits.apply().unwrap_err();
    let mut edits = Edits::new(text);
    edits.cut_member(8..200);
    edits.apply().unwrap_err();
    let mut edits = Edits::new(text);
    edits.add_members(3..5, &[("c", "3")]);
    edits.apply().unwrap_err();
    let mut edits = Edits::new(text);
    // Two overlapping edits.
    edits.replace(&text[1..6], "x");
    edits.replace(&text[4..9], "y");
    edits.apply().unwrap_err();
}

/// A text of this size with many removed members takes linear time to edit.
#[test]
fn cuts_take_linear_time() {
    let started = std::time::Instant::now();
    let members: Vec<String> = (0..200_000).map(|n| format!(r#""a":{n}"#)).collect();
    let text = format!(r#"{{{},"b":1}}"#, members.join(","));
    let object = Object::parse(&text).unwrap();
    let mut edits = Edits::new(&text);
    edits.members(&object, |member| member.name() == "a", &[("c", "2")]);
    assert_eq!(edits.apply().unwrap(), r#"{"b":1,"c":2}"#);
    let list = format!("[{}1]", "0,".repeat(200_000));
    let spans = elements(&list).unwrap();
    let mut edits = Edits::new(&list);
    edits.elements(&spans, |at| at < 200_000);
    assert_eq!(edits.apply().unwrap(), "[1]");
    // Quadratic time would be minutes.
    assert!(started.elapsed().as_secs() < 20);
}
