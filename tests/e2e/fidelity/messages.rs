//! Valid JSON-RPC messages that typed parsers would change, as text, each with what the proxy may make of it.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

/// The entry that the proxy adds to `_meta` of every request.
const REGION: &str = r#""AWS_REGION":"us-west-2""#;

/// The kind of protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// 2025-11-25.
    Sessions,
    /// 2026-07-28: every request states the version, and only clients send requests.
    Stateless,
}

/// The entries in `_meta` of every request of 2026-07-28.
const ENTRIES: [(&str, &str); 3] = [
    (r#""io.modelcontextprotocol\/protocolVersion""#, r#""2026-07-28""#),
    (r#""io.modelcontextprotocol/clientInfo""#, r#"{"name":"c","version":"1.10"}"#),
    (r#""io.modelcontextprotocol/clientCapabilities""#, "{ }"),
];

/// A message of a client, and the expected results.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) method: String,
    /// The client's line.
    pub(crate) sent: String,
    /// What the server must receive.
    pub(crate) forwarded: String,
    /// `None` for a notification.
    pub(crate) answer: Option<Answer>,
}

/// The answer of the server.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// It may have several lines.
    pub(crate) response: String,
    pub(crate) as_events: bool,
    /// A notification before the response.
    pub(crate) notification: String,
    /// A request of the server before the response: the id's token and the params; and the client's result.
    pub(crate) question: Option<(String, String, String)>,
}

/// A member of an object: the text up to the end of its value, and the white space after it.
#[derive(Clone, Debug)]
struct Member(String, String);

#[derive(Clone, Debug)]
enum Params {
    Absent,
    /// By position, or invalid in JSON-RPC: no room for `_meta`.
    Other(String),
    Object(Vec<Member>, Meta),
}

#[derive(Clone, Debug)]
enum Meta {
    Absent,
    Object(Vec<Member>),
    /// With the client's own region, or not an object: it isn't changed.
    Other(String),
}

/// White space within one line.
fn gap() -> impl Strategy<Value = String> + Clone {
    prop_oneof![4 => Just(""), 1 => Just(" "), 1 => Just("\t  ")].prop_map(str::to_owned)
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "1.10",
            "1e400",
            "-0",
            "0.70",
            "1E+2",
            "-1.0e-7",
            "12345678901234567890123",
            "1.0",
        ])
        .prop_map(str::to_owned),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<u16>().prop_map(|number| format!("{number}.{number}00")),
    ]
}

fn string() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            r#""""#,
            r#""\ud800""#,
            r#""\udc00\ud800 x""#,
            r#""\u0061\/\"\\ {[,:""#,
            "\"\u{2028}\u{7f}é日\u{1f980}\"",
            r#""\u000a\r\n\t""#,
            r#""id aws_profile""#,
        ])
        .prop_map(str::to_owned),
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
    ]
}

/// The token of a key without a meaning for the proxy; some occur twice.
fn key() -> impl Strategy<Value = String> {
    let odd = vec![
        r#""a""#,
        r#""b""#,
        r#""k\u0065y""#,
        r#""\ud800""#,
        r#""é\/""#,
        r#""""#,
        r#""AWS_PROFILE""#,
    ];
    prop_oneof![
        prop::sample::select(odd).prop_map(str::to_owned),
        "[a-z]{3}".prop_map(|key| format!("\"x-{key}\"")),
    ]
}

/// A key next to those that determine what a message asks for. One that isn't Unicode is refused there, as some readers
/// would take it for one of those.
fn key_beside() -> impl Strategy<Value = String> {
    key().prop_filter("it is refused there", |key| key != r#""\ud800""#)
}

fn member(
    key: impl Strategy<Value = String>,
    value: BoxedStrategy<String>,
) -> impl Strategy<Value = Member> {
    (gap(), key, gap(), gap(), value, gap()).prop_map(|(before, key, one, other, value, after)| {
        Member(format!("{before}{key}{one}:{other}{value}"), after)
    })
}

fn value() -> BoxedStrategy<String> {
    let word = prop::sample::select(vec!["true", "false", "null", "[]", "{}", "{ }"]);
    let leaf = prop_oneof![word.prop_map(str::to_owned), number(), string()];
    let nested = leaf.prop_recursive(4, 24, 4, |inner| {
        let nested_key = prop_oneof![4 => key(), 1 => Just(r#""aws_profile""#.to_owned())];
        prop_oneof![
            vec((gap(), inner.clone()), 0..4).prop_map(|elements| {
                let elements: Vec<_> =
                    elements.iter().map(|(gap, text)| format!("{gap}{text}{gap}")).collect();
                format!("[{}]", elements.join(","))
            }),
            vec(member(nested_key, inner.boxed()), 0..4).prop_map(|it| braces(&it, "")),
        ]
    });
    let deep = (1..=120_usize).prop_map(|depth| {
        format!("{}1.10{}", "[{\"a\":".repeat(depth / 2), "}]".repeat(depth / 2))
    });
    prop_oneof![12 => nested, 1 => deep].boxed()
}

fn object() -> BoxedStrategy<String> {
    vec(member(key(), value()), 0..4).prop_map(|members| braces(&members, "")).boxed()
}

/// The object of `members`, with `added` after the last of them.
fn braces(members: &[Member], added: &str) -> String {
    let Some((Member(last, space), rest)) = members.split_last() else {
        return format!("{{{added}}}");
    };
    let rest: String = rest.iter().map(|Member(text, space)| format!("{text}{space},")).collect();
    let comma = if added.is_empty() { "" } else { "," };
    format!("{{{rest}{last}{comma}{added}{space}}}")
}

fn meta(protocol: Protocol) -> BoxedStrategy<Meta> {
    let members = vec(member(key_beside(), value()), 0..3);
    if protocol == Protocol::Stateless {
        let members = (members, any::<usize>(), gap()).prop_map(|(mut members, turn, gap)| {
            let entries = ENTRIES.map(|(key, value)| format!("{key}:{gap}{value}"));
            members.extend(entries.map(|text| Member(text, gap.clone())));
            let turn = turn % members.len();
            members.rotate_left(turn);
            members
        });
        let own = Member(r#""AWS\u005fREGION" : "sa-east-1""#.to_owned(), " ".to_owned());
        return (members, prop::bool::weighted(0.2))
            .prop_map(move |(mut members, has_own)| {
                if has_own {
                    members.insert(members.len() / 2, own.clone());
                    return Meta::Other(braces(&members, ""));
                }
                Meta::Object(members)
            })
            .boxed();
    }
    prop_oneof![
        2 => Just(Meta::Absent),
        2 => members.prop_map(Meta::Object),
        1 => prop_oneof![
            number(),
            Just("null".to_owned()),
            Just(r#"{"AWS_REGION":null}"#.to_owned()),
            Just(r#"{ "a":1.0,"AWS\u005fREGION" : "sa-east-1" }"#.to_owned()),
        ].prop_map(Meta::Other),
    ]
    .boxed()
}

fn params(is_call: bool, protocol: Protocol) -> BoxedStrategy<Params> {
    let members = vec(member(key_beside(), value()), 0..4);
    let meta = meta(protocol);
    if is_call {
        let call = (members, object(), meta).prop_map(|(mut members, arguments, meta)| {
            members.insert(0, Member(r#""name":"echo""#.to_owned(), String::new()));
            members.push(Member(format!(r#" "arguments": {arguments}"#), " ".to_owned()));
            Params::Object(members, meta)
        });
        return call.boxed();
    }
    let object = (members, meta).prop_map(|(members, meta)| Params::Object(members, meta));
    match protocol {
        Protocol::Stateless => object.boxed(),
        Protocol::Sessions => prop_oneof![
            1 => Just(Params::Absent),
            1 => vec(value(), 0..3).prop_map(|it| Params::Other(format!("[{}]", it.join(" , ")))),
            1 => number().prop_map(Params::Other),
            4 => object,
        ]
        .boxed(),
    }
}

/// The text of an object of params; `added` goes where the region belongs.
fn written(members: &[Member], meta: &Meta, added: &str) -> String {
    let mut members = members.to_vec();
    let meta = match meta {
        Meta::Absent if added.is_empty() => return braces(&members, ""),
        Meta::Absent => return braces(&members, &format!(r#""_meta":{{{added}}}"#)),
        Meta::Object(inner) => braces(inner, added),
        Meta::Other(text) => text.clone(),
    };
    members.insert(members.len() / 2, Member(format!(r#" "_meta" :{meta}"#), " ".to_owned()));
    braces(&members, "")
}

/// The token of an id that no other case has.
fn id() -> impl Strategy<Value = String> {
    (any::<u32>(), 0..8_usize).prop_map(|(number, form)| match form {
        0 => format!("{number}.0"),
        1 => format!("{number}e2"),
        2 => format!("\"{number}\""),
        3 => format!(r#""\u0061{number}""#),
        4 => format!("1234567890123{number:010}"),
        5 => format!("-{number}.50"),
        6 => format!(r#""\ud800{number}""#),
        _ => number.to_string(),
    })
}

/// An envelope in any order, with unknown members; `last` is the text of another one.
fn envelope(known: &[String], extra: &[Member], turn: usize, last: &str) -> String {
    let mut members: Vec<Member> =
        known.iter().map(|text| Member(text.clone(), String::new())).collect();
    members.extend(extra.iter().cloned());
    let turn = turn % members.len();
    members.rotate_left(turn);
    braces(&members, last)
}

/// Keys that other parsers can read: the test server finds the method with one.
fn extras() -> impl Strategy<Value = Vec<Member>> {
    vec(member("[a-z]{2}".prop_map(|key| format!("\"x-{key}\"")), value()), 0..3)
}

fn answer(id: String, protocol: Protocol) -> impl Strategy<Value = Answer> {
    // Lines may end between tokens, as in pretty-printed messages.
    let response = (value(), any::<bool>(), extras(), any::<usize>(), any::<bool>()).prop_map(
        move |(value, failed, extra, turn, pretty)| {
            let line = if pretty { "\n  " } else { "" };
            let outcome = if failed {
                format!(r#""error":{line}{{"code":-32050.0,"message":"no","data": {value}}}"#)
            } else {
                format!(r#""result" :{line}{value}"#)
            };
            let known =
                [r#""jsonrpc":"2.0""#.to_owned(), format!(r#"{line}"id":{id}{line}"#), outcome];
            envelope(&known, &extra, turn, "")
        },
    );
    let notification = (value(), extras(), any::<usize>()).prop_map(|(value, extra, turn)| {
        let params = format!(r#""params":{{"progressToken":"t","progress":1.10,"x":{value}}}"#);
        let known = [r#""jsonrpc":"2.0""#.to_owned(), r#""method":"x/said""#.to_owned(), params];
        envelope(&known, &extra, turn, "")
    });
    let question = match protocol {
        Protocol::Sessions => of((self::id(), object(), value())).boxed(),
        Protocol::Stateless => Just(None).boxed(),
    };
    (response, any::<bool>(), notification, question).prop_map(
        |(response, as_events, notification, question)| Answer {
            response,
            as_events,
            notification,
            question,
        },
    )
}

/// A message of a client, with its answer.
pub(crate) fn case(protocol: Protocol) -> impl Strategy<Value = Case> {
    let methods = vec![
        (r#""tools/call""#, "tools/call"),
        (r#""tools\/c\u0061ll""#, "tools/call"),
        (r#""example.com/odd é""#, "example.com/odd é"),
        (r#""resources/read""#, "resources/read"),
        (r#""tasks/list""#, "tasks/list"),
        (r#""""#, ""),
    ];
    let message = (prop::sample::select(methods), id(), 0..4_usize).prop_flat_map(
        move |((token, method), id, kind)| {
            let notified = kind == 0 && method.starts_with("example");
            let answer = if notified {
                Just(None).boxed()
            } else {
                answer(id.clone(), protocol).prop_map(Some).boxed()
            };
            (Just((token, method, id)), params(method == "tools/call", protocol), answer)
        },
    );
    (message, extras(), any::<usize>(), gap()).prop_map(
        |(((token, method, id), params, answer), extra, turn, space)| {
            let mut known = vec![r#""jsonrpc" : "2.0""#.to_owned(), format!(r#""method":{token}"#)];
            if answer.is_some() {
                known.push(format!(r#""id": {id}"#));
            }
            let with = |added: &str| {
                let (params, last) = match &params {
                    Params::Absent if added.is_empty() => (None, String::new()),
                    Params::Absent => (None, format!(r#""params":{{"_meta":{{{added}}}}}"#)),
                    Params::Other(text) => (Some(text.clone()), String::new()),
                    Params::Object(members, meta) => {
                        (Some(written(members, meta, added)), String::new())
                    }
                };
                let known: Vec<String> = known
                    .iter()
                    .cloned()
                    .chain(params.map(|params| format!(r#""params":{params}"#)))
                    .collect();
                format!("{space}{}{space}", envelope(&known, &extra, turn, &last))
            };
            // Messages that need no answer are forwarded unchanged.
            let forwarded = with(if answer.is_some() { REGION } else { "" });
            Case { method: method.to_owned(), sent: with(""), forwarded, answer }
        },
    )
}
