use std::time::{Duration, Instant};

use super::*;

mod readers;

fn target(text: &str) -> Result<String, Fault> {
    let call = read(text.as_bytes())?;
    Ok(format!("{:?} {:?}", call.method().unwrap_or("-"), call.target()?))
}

fn params(params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
}

#[test]
fn the_target_of_a_message() {
    let cases = [
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, r#""ping" None"#),
        (
            r#"{"params":{"arguments":{"name":"x"},"name":"a"},"method":"tools/call","id":1}"#,
            r#""tools/call" Tool("a")"#,
        ),
        (
            r#"{"id":"1","method":"resources/read","params":{"uri":"docs:\/\/x"}}"#,
            r#""resources/read" Resource("docs://x")"#,
        ),
        (
            r#"{"id":1,"method":"prompts\/get","params":{"name":"\u0061\ud83d\ude00é"}}"#,
            r#""prompts/get" Prompt("a😀é")"#,
        ),
        (
            r#"{"id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p"}}}"#,
            r#""completion/complete" Prompt("p")"#,
        ),
        (
            r#"{"id":1,"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"u"}}}"#,
            r#""completion/complete" Resource("u")"#,
        ),
        (r#"{"id":1,"method":"tasks/get","params":{"taskId":"t"}}"#, r#""tasks/get" Task("t")"#),
        (r#"{"id":1,"method":"tasks/list"}"#, r#""tasks/list" None"#),
        (r#"{"method":"notifications/x","params":[1]}"#, r#""notifications/x" None"#),
        (r#"{"id":1,"result":{"method":"tools/call","method":1}}"#, r#""-" None"#),
        (r#"{"id":1,"result":null,"error":{"code":-1}}"#, r#""-" None"#),
    ];
    for (text, expected) in cases {
        assert_eq!(target(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn the_kind_of_a_message() {
    let kind = |text: &str| read(text.as_bytes()).map(|call| call.kind());
    assert_eq!(kind(r#"{"method":"a","id":1}"#), Ok(Kind::Request));
    assert_eq!(kind(r#"{"method":"a"}"#), Ok(Kind::Notification));
    assert_eq!(kind(r#"{"id":1,"error":{}}"#), Ok(Kind::Response));
    for (text, fault) in [
        ("{}", Fault::NotMessage),
        (r#"{"id":1}"#, Fault::NotMessage),
        (r#"{"id":1,"method":"a","result":1}"#, Fault::NotMessage),
        (r#"{"id":1,"method":"a","jsonrpc":"1.0"}"#, Fault::NotMessage),
        (r#"{"id":{},"method":"a"}"#, Fault::WrongType("id".into())),
        (r#"{"id":true,"method":"a"}"#, Fault::WrongType("id".into())),
        (r#"{"id":1,"method":["a"]}"#, Fault::WrongType("method".into())),
    ] {
        assert_eq!(kind(text), Err(fault), "{text}");
    }
}

#[test]
fn keys_that_readers_may_confuse_are_refused() {
    let twice = |key: &str| Fault::Twice(key.into());
    let spelling = |key: &str| Fault::Spelling(key.into());
    let odd = |key: &str| Fault::OddKey(key.into());
    let cases = [
        (r#"{"name":"a","name":"b"}"#, twice("params.name")),
        (r#"{"name":"a","n\u0061me":"b"}"#, twice("params.name")),
        (r#"{"name":"a","name":null}"#, twice("params.name")),
        (r#"{"name":"a","Name":"b"}"#, spelling("params.name")),
        (r#"{"Name":"a"}"#, spelling("params.name")),
        (r#"{"name":"a","NAME":"b"}"#, spelling("params.name")),
        (r#"{"name":"a","argumentſ":"b"}"#, spelling("params.arguments")),
        (r#"{"name":"a","tas\u212aId":"b"}"#, spelling("params.taskId")),
        (r#"{"name":"a","name ":"b"}"#, spelling("params.name")),
        (r#"{"name":"a","na\u200bme":"b"}"#, spelling("params.name")),
        (r#"{"name":"a","name\n":"b"}"#, spelling("params.name")),
        (r#"{"name":"a","\ufeffname":"b"}"#, spelling("params.name")),
        (r#"{"name":"a","name\u0000":"b"}"#, odd("params.name")),
        (r#"{"name":"a","x\u0000y":"b"}"#, odd("params.name")),
        (r#"{"name":"a","\ud800":"b"}"#, odd("params.name")),
        (r#"{"name":"a","_meta":{},"_meta":{}}"#, twice("params._meta")),
        (r#"{"name":"a"},"params":{"name":"b"}"#, twice("params")),
        (r#"{"name":"a"},"Params":{"name":"b"}"#, spelling("params")),
        (r#"{"name":"a"},"method":"ping""#, twice("method")),
        (r#"{"name":"a"},"Method":"ping""#, spelling("method")),
        (r#"{"name":"a"},"method\u0000":"ping""#, odd("jsonrpc")),
        (r#"{"name":"a"},"ID":2"#, spelling("id")),
        (r#"{"name":"a"},"Result":2"#, spelling("result")),
    ];
    for (text, fault) in cases {
        assert_eq!(target(&params(text)), Err(fault), "{text}");
    }
    let long = format!(r#"{{"name":"a","name{}":"b"}}"#, "\u{200b}".repeat(2000));
    assert_eq!(target(&params(&long)), Err(odd("params.name")));
}

#[test]
fn keys_that_are_not_examined_may_be_anything() {
    for text in [
        r#"{"name":"a","arguments":{"x":1,"x":2,"X":3,"\u0000":4,"\ud800":5}}"#,
        r#"{"name":"a","other":1,"other":2,"namen":3,"nam":4}"#,
        r#"{"name":"a","x":[{"name":"b","name":"c","Name":"d"}]}"#,
        r#"{"name":"a"},"extra":{"method":"ping","method":"pong"}"#,
        r#"{"name":"a","ref":{"x":1,"x":2}}"#,
    ] {
        assert_eq!(target(&params(text)).as_deref(), Ok(r#""tools/call" Tool("a")"#), "{text}");
    }
}

#[test]
fn invalid_names_are_refused() {
    for (text, fault) in [
        (r#"{}"#, Fault::NoTarget("params.name".into())),
        (r#"["a"]"#, Fault::NoTarget("params.name".into())),
        (r#"null"#, Fault::NoTarget("params.name".into())),
        (r#"{"name":["a"]}"#, Fault::WrongType("params.name".into())),
        (r#"{"name":null}"#, Fault::WrongType("params.name".into())),
        (r#"{"name":"a\ud800"}"#, Fault::HalfPair("params.name".into())),
        (r#"{"name":"\udc00\ud800a"}"#, Fault::HalfPair("params.name".into())),
    ] {
        assert_eq!(target(&params(text)), Err(fault), "{text}");
    }
    let long = format!(r#"{{"name":"{}"}}"#, "a".repeat(MAX_TEXT + 1));
    assert_eq!(target(&params(&long)), Err(Fault::TooLong("params.name".into())));
    let just = format!(r#"{{"name":"{}"}}"#, "a".repeat(MAX_TEXT));
    assert!(target(&params(&just)).is_ok());
    for name in ["aws___run_script", "a", "A.b/c-9", &"x".repeat(128)] {
        assert!(is_name(name), "{name}");
    }
    for name in ["", "a ", " a", "a\u{200b}", "a\0", "é", "a*", "a:b", &"x".repeat(129)] {
        assert!(!is_name(name), "{name:?}");
    }
}

#[test]
fn texts_that_are_no_message_are_refused() {
    let syntax = [
        "",
        " ",
        "{",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        r#"{,}"#,
        r#"{"a":1 "b":2}"#,
        r#"{"a":01}"#,
        r#"{"a":1.}"#,
        r#"{"a":.1}"#,
        r#"{"a":+1}"#,
        r#"{"a":1e}"#,
        r#"{"a":1e+}"#,
        r#"{"a":-}"#,
        r#"{"a":0x1}"#,
        r#"{"a":NaN}"#,
        r#"{"a":nul}"#,
        r#"{"a":nulll}"#,
        r#"{"a":True}"#,
        r#"{'a':1}"#,
        r#"{a:1}"#,
        r#"{"a":[1,]}"#,
        r#"{"a":[,1]}"#,
        r#"{"a":[1}"#,
        r#"{"a":{]}"#,
        r#"{"a":"\x"}"#,
        r#"{"a":"\u12g4"}"#,
        r#"{"a":"\u12"}"#,
        "{\"a\":\"\n\"}",
        "{\"a\":\"\t\"}",
        r#"{"a":1}{"#,
        r#"{"a":1} x"#,
        r#"{"a":1},"#,
        "{\"a\":1}\0",
        "\u{feff}{\"method\":\"a\"}",
        r#"{"a":1}//"#,
        r#"/**/{"a":1}"#,
        r#"{"a":"b}"#,
        "{\"a\":\u{a0}1}",
    ];
    for text in syntax {
        let fault = read(text.as_bytes());
        assert!(matches!(fault, Err(Fault::NotJson(_))), "{text}: {fault:?}");
        assert!(serde_json::from_str::<serde_json::Value>(text).is_err(), "{text}");
    }
    assert_eq!(read(br#"[{"method":"a","id":1}]"#), Err(Fault::Batch));
    for text in ["1", "\"a\"", " null", "true", "-1"] {
        assert_eq!(read(text.as_bytes()), Err(Fault::NotObject), "{text}");
    }
    for bytes in
        [&b"\xff"[..], b"\xc0\xaf", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80"]
    {
        let text = [&br#"{"method":"a","x":""#[..], bytes, br#""}"#].concat();
        assert_eq!(read(&text), Err(Fault::NotUtf8), "{bytes:?}");
    }
    // Not before a string begins.
    assert_eq!(read(b"{\xff"), Err(Fault::NotJson(1)));
}

#[test]
fn depth_is_limited() {
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        format!(r#"{{"method":"a","x":{open}{close}}}"#)
    };
    assert!(read(nested(MAX_DEPTH - 1).as_bytes()).is_ok());
    assert_eq!(read(nested(MAX_DEPTH).as_bytes()), Err(Fault::TooDeep));
    let endless = "{\"a\":".repeat(1 << 20);
    assert_eq!(read(endless.as_bytes()), Err(Fault::TooDeep));
}

#[test]
fn arguments_are_checked_when_they_are_requested() {
    let mut want = Want::default();
    let region = want.look_at("/arguments/region").unwrap();
    let second = want.look_at("/arguments/list/1/a~1b").unwrap();
    assert_eq!(want.look_at("/arguments/region"), Ok(region));
    for bad in ["", "region", "/a~", "/a~2"] {
        assert_eq!(want.look_at(bad), Err(BadPointer), "{bad}");
    }
    let want = Arc::new(want);
    let value = |arguments: &str, place| {
        let text = params(&format!(r#"{{"name":"t","arguments":{arguments}}}"#));
        let call = read_with(text.as_bytes(), &want).unwrap();
        assert_eq!(call.target(), Ok(Target::Tool("t")));
        call.value(place).map(|value| value.cloned())
    };
    let text = |text: &str| Ok(Some(Value::Text(text.to_owned())));
    let key = || "params.arguments.region".into();
    for (arguments, expected) in [
        (r#"{"region":"eu-west-1"}"#, text("eu-west-1")),
        (r#"{"region":1.50e1}"#, Ok(Some(Value::Number("1.50e1".to_owned())))),
        (r#"{"region":null}"#, Ok(Some(Value::Null))),
        (r#"{"region":false}"#, Ok(Some(Value::Bool(false)))),
        (r#"{"region":["region"]}"#, Ok(Some(Value::Array))),
        (r#"{"region":{"region":1}}"#, Ok(Some(Value::Object))),
        (r#"{"other":{"region":1}}"#, Ok(None)),
        (r#"[]"#, Ok(None)),
        (r#"{"region":"a","region":"b"}"#, Err(Fault::Twice(key()))),
        (r#"{"Region":"b"}"#, Err(Fault::Spelling(key()))),
        (r#"{"\u0000":"b"}"#, Err(Fault::OddKey(key()))),
    ] {
        assert_eq!(value(arguments, region), expected, "{arguments}");
    }
    let long = format!(r#"{{"region":"{}"}}"#, "a".repeat(MAX_TEXT + 1));
    assert_eq!(value(&long, region), Err(Fault::TooLong(key())));
    for (arguments, expected) in [
        (r#"{"list":[{"a/b":"0"},{"a/b":"1"},{"a/b":"2"}]}"#, text("1")),
        (r#"{"list":[[],{"c":[1,{"a/b":"x"}],"a/b":"1"}]}"#, text("1")),
        (r#"{"list":{"1":{"a/b":"1"}}}"#, text("1")),
        (r#"{"list":[{"a/b":"0"}]}"#, Ok(None)),
        (
            r#"{"list":[1,{"a/b":"1"}],"List":[]}"#,
            Err(Fault::Spelling("params.arguments.list.1.a/b".into())),
        ),
    ] {
        let found = value(arguments, second);
        match (found, expected) {
            // The ambiguous key is named, not the one below it.
            (Err(Fault::Spelling(key)), Err(_)) => assert_eq!(&*key, "params.arguments.list"),
            (found, expected) => assert_eq!(found, expected, "{arguments}"),
        }
    }
}

#[test]
fn ranges_refer_to_the_text() {
    let mut want = Want::default();
    let profile = want.look_at("/arguments/aws_profile").unwrap();
    let meta = want.look_at("/_meta/sigward~1profile").unwrap();
    let text = r#" { "id" : 1.0 , "method":"tools/call",
        "params":{"_meta":{"sigward/profile":"p"},"name" : "é" ,"arguments":{"x":[1],"aws_\u0070rofile": "dev"}}}"#;
    let call = read_with(text.as_bytes(), &Arc::new(want)).unwrap();
    let at = |place| call.range(place).map(|range| &text[range]);
    assert_eq!(at(Place::ID), Some("1.0"));
    assert_eq!(at(Place::METHOD), Some("\"tools/call\""));
    assert_eq!(at(Place::NAME), Some("\"é\""));
    assert_eq!(at(Place::ARGUMENTS), Some(r#"{"x":[1],"aws_\u0070rofile": "dev"}"#));
    assert_eq!(at(Place::META), Some(r#"{"sigward/profile":"p"}"#));
    assert_eq!(at(profile), Some("\"dev\""));
    assert_eq!(at(meta), Some("\"p\""));
    assert_eq!(at(Place::RESULT), None);
    let member = call.member_range(profile).map(|range| &text[range]);
    assert_eq!(member, Some(r#""aws_\u0070rofile": "dev""#));
    assert!(text[call.range(Place::PARAMS).unwrap()].ends_with("}}"));
}

/// The attack: texts that make the reader work or store much. Time must be linear, and almost nothing is stored.
#[test]
fn amplifying_texts_take_linear_time_and_little_memory() {
    let fill = |piece: &str| piece.repeat((4 << 20) / piece.len());
    let numbers = format!(r#"{{"name":[{}0]}}"#, fill("0,"));
    let keys: String = (0..300_000).map(|n| format!(r#""{n:x}":0,"#)).collect();
    let distinct = format!(r#"{{{keys}"name":"a"}}"#);
    let objects = format!(r#"{{"name":"a","arguments":[{}0]}}"#, fill("{},"));
    let escapes = format!(r#"{{"name":"{}"}}"#, fill("\\u200b"));
    for text in [numbers, distinct, objects, escapes] {
        let text = params(&text);
        let start = Instant::now();
        let call = read(text.as_bytes()).unwrap();
        // Without optimisation; quadratic time would be minutes.
        assert!(start.elapsed() < Duration::from_secs(20));
        let kept: usize = call
            .found
            .iter()
            .map(|found| match &found.value {
                Some(Value::Text(text) | Value::Number(text)) => text.capacity(),
                _ => 0,
            })
            .sum();
        assert!(kept < 4096, "{kept}");
    }
}
