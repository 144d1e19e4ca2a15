//! Other readers: for any text, each of them reads the same as the strict reader, or the message is
//! refused. Splitting the text into chunks changes nothing.

use std::fmt;

use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use super::*;

/// A value with all members of its objects, in their order.
#[derive(Debug, Clone, PartialEq)]
enum Tree {
    Object(Vec<(String, Tree)>),
    Text(String),
    Other,
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TreeVisitor;

        impl<'de> Visitor<'de> for TreeVisitor {
            type Value = Tree;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Tree::Object(members))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
                while seq.next_element::<Tree>()?.is_some() {}
                Ok(Tree::Other)
            }

            fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
                Ok(Tree::Text(text.to_owned()))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
                Ok(Tree::Other)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
                Ok(Tree::Other)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
                Ok(Tree::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
                Ok(Tree::Other)
            }

            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Other)
            }
        }
        deserializer.deserialize_any(TreeVisitor)
    }
}

/// How a reader compares a key with the one that is looked for, and which of several it uses.
#[derive(Debug, Clone, Copy)]
struct Habit {
    same: fn(&str, &str) -> bool,
    last: bool,
}

/// Go's `EqualFold`, with the two letters beyond ASCII that fold to ASCII.
fn folds(key: &str, wanted: &str) -> bool {
    key.replace('ſ', "s").replace('\u{212a}', "k").eq_ignore_ascii_case(wanted)
}

const HABITS: [Habit; 7] = [
    Habit { same: |key, wanted| key == wanted, last: true },
    Habit { same: |key, wanted| key == wanted, last: false },
    Habit { same: folds, last: true },
    Habit { same: folds, last: false },
    // A C string.
    Habit { same: |key, wanted| key.split('\0').next() == Some(wanted), last: true },
    Habit { same: |key, wanted| key.trim() == wanted, last: true },
    Habit { same: |key, wanted| key.replace('\u{200b}', "") == wanted, last: false },
];

impl Habit {
    fn member<'t>(self, tree: Option<&'t Tree>, wanted: &str) -> Option<&'t Tree> {
        let Some(Tree::Object(members)) = tree else { return None };
        let mut same = members.iter().filter(|(key, _)| (self.same)(key, wanted));
        let member = if self.last { same.next_back() } else { same.next() };
        member.map(|(_, value)| value)
    }

    fn text<'t>(self, tree: Option<&'t Tree>, wanted: &str) -> Option<&'t str> {
        match self.member(tree, wanted) {
            Some(Tree::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The method, its target, and an argument.
    fn meaning(self, tree: &Tree) -> [Option<String>; 3] {
        let method = self.text(Some(tree), "method");
        let params = self.member(Some(tree), "params");
        let target = match method {
            Some("tools/call" | "prompts/get") => self.text(params, "name"),
            Some("resources/read") => self.text(params, "uri"),
            _ => None,
        };
        let arguments = self.member(params, "arguments");
        [method, target, self.text(arguments, "task")].map(|text| text.map(str::to_owned))
    }
}

fn same_for_all(text: &[u8]) -> bool {
    let mut want = Want::default();
    let place = want.look_at("/arguments/task").unwrap();
    let Ok(call) = read_with(text, &Arc::new(want)) else { return false };
    let Ok(target) = call.target() else { return false };
    let target = match target {
        Target::None => None,
        Target::Tool(name) | Target::Resource(name) | Target::Prompt(name) | Target::Task(name) => {
            Some(name)
        }
    };
    let argument = call.value(place).map(|value| match value {
        Some(Value::Text(text)) => Some(text.clone()),
        _ => None,
    });
    let own = [call.method().map(str::to_owned), target.map(str::to_owned)];
    if let Ok(json) = serde_json::from_slice::<Json>(text) {
        assert_eq!(json.get("method").and_then(Json::as_str), own[0].as_deref());
    }
    // A message that another reader refuses isn't acted on.
    let Ok(tree) = serde_json::from_slice::<Tree>(text) else { return true };
    for habit in HABITS {
        let [method, target, other] = habit.meaning(&tree);
        assert_eq!([method, target], own, "{habit:?}");
        if let Ok(argument) = &argument {
            assert_eq!(other, *argument, "{habit:?}");
        }
    }
    true
}

/// Generates keys as they are written: mostly relevant ones, in all their spellings.
fn key() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "jsonrpc",
        "id",
        "method",
        "params",
        "name",
        "uri",
        "arguments",
        "task",
        "result",
        "x",
    ]);
    let change = prop::sample::select(vec![
        "", "", "", "", "", "", "", "", "upper", "escape", "nul", "space", "zero", "long s",
        "kelvin", "half",
    ]);
    (known, change).prop_map(|(known, change)| match change {
        "upper" => format!("{}{}", known[..1].to_uppercase(), &known[1..]),
        "escape" => format!("\\u{:04x}{}", u32::from(known.as_bytes()[0]), &known[1..]),
        "nul" => format!("{known}\\u0000x"),
        "space" => format!("{known} "),
        "zero" => format!("{known}\u{200b}"),
        "long s" => known.replace('s', "ſ"),
        "kelvin" => known.replace('k', "\\u212a"),
        "half" => format!("{known}\\ud800"),
        _ => known.to_owned(),
    })
}

fn scalar() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        r#""2.0""#,
        r#""tools/call""#,
        r#""tools\/call""#,
        r#""resources/read""#,
        r#""prompts/get""#,
        r#""ping""#,
        r#""a""#,
        r#""a\u0000""#,
        r#""é😀""#,
        r#""\ud83d\ude00""#,
        r#""\ud800""#,
        "1",
        "-0.5e3",
        "null",
        "true",
        "[]",
        r#"["a",{"name":"b"}]"#,
    ])
    .prop_map(str::to_owned)
}

fn object(members: Vec<(String, String)>) -> String {
    let members: Vec<String> =
        members.into_iter().map(|(key, value)| format!("\"{key}\" : {value}")).collect();
    format!("{{{}}}", members.join(" ,\n"))
}

/// Generates texts that are nearly messages.
fn message() -> impl Strategy<Value = String> {
    let inner = scalar().prop_recursive(3, 24, 5, |value| {
        prop::collection::vec((key(), value), 0..5).prop_map(object)
    });
    let odd = prop::collection::vec((key(), inner.clone()), 0..6).prop_map(object);
    let arguments = prop::collection::vec((key(), scalar()), 0..3).prop_map(object);
    let params = (key(), inner.clone(), arguments, any::<bool>()).prop_map(
        |(key, value, arguments, first)| {
            let own = format!(r#""name":"a","uri":"u","arguments":{arguments}"#);
            if first {
                format!(r#"{{"{key}":{value},{own}}}"#)
            } else {
                format!(r#"{{{own},"{key}":{value}}}"#)
            }
        },
    );
    let good = (params, key(), inner).prop_map(|(params, key, value)| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"tools/call","params":{params},"{key}":{value},"id":1}}"#
        )
    });
    prop_oneof![odd, good]
}

fn in_chunks(chunks: &[&[u8]], want: &Arc<Want>) -> Result<Call, Fault> {
    let mut reader = Reader::new(Arc::clone(want));
    for chunk in chunks {
        reader.push(chunk)?;
    }
    reader.finish()
}

fn same_however_cut(text: &[u8]) {
    let mut want = Want::default();
    want.look_at("/arguments/task").unwrap();
    let want = Arc::new(want);
    let whole = read_with(text, &want);
    let single: Vec<&[u8]> = text.chunks(1).collect();
    assert_eq!(in_chunks(&single, &want), whole);
    for at in 0..=text.len() {
        let (first, second) = text.split_at(at);
        assert_eq!(in_chunks(&[first, second], &want), whole, "cut at {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn all_readers_agree_or_the_message_is_refused(text in message()) {
        same_for_all(text.as_bytes());
    }

    #[test]
    fn all_readers_agree_after_replacing_a_byte(text in message(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = text.into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        same_for_all(&text);
        // A reader that accepts more than JSON accepts what is refused here.
        if read(&text).is_ok() {
            prop_assert!(std::str::from_utf8(&text).is_ok());
            prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn splitting_into_chunks_changes_nothing(text in message(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        same_however_cut(text.as_bytes());
        let mut text = text.into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        same_however_cut(&text);
    }
}

/// The generator must also produce messages that are accepted.
#[test]
fn some_generated_messages_are_accepted() {
    for text in [
        r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","arguments":{"task":"b"}},"id":1}"#,
        r#"{"id":1,"params":{"x":1,"x":2,"uri":"\ud83d\ude00"},"method":"resources/read"}"#,
    ] {
        assert!(same_for_all(text.as_bytes()), "{text}");
        same_however_cut(text.as_bytes());
    }
}
