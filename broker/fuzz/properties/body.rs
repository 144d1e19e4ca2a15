//! What holds for every body that a rule looks at: the fuzz target `body` looks for one where it doesn't.
//!
//! The first byte says how the rest is cut into chunks.

use std::sync::Arc;

use serde_json::Value;
use sigward_proto::call::{self, Call, Fault, Reader, Target, Want};

/// Fails if something doesn't hold for `data`.
pub(crate) fn check(data: &[u8]) {
    let Some((&size, body)) = data.split_first() else { return };
    let want = Arc::new(Want::default());
    let whole = call::read(body);
    for size in [usize::from(size).max(1), 1] {
        let mut reader = Reader::new(Arc::clone(&want));
        let pushed = body.chunks(size).try_for_each(|chunk| {
            let pushed = reader.push(chunk);
            assert!(reader.held() < 512 << 10, "it keeps {} bytes", reader.held());
            pushed
        });
        let cut = pushed.and_then(|()| reader.finish());
        assert_eq!(seen(&cut), seen(&whole), "the chunks make a difference");
    }
    // Whatever has a meaning has it for everybody.
    let Ok(read) = whole else { return };
    let value: Value = match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(error) => {
            // Nested deeper, or a number larger, than it holds; half of a surrogate pair, where nothing looks at it.
            // RFC 8259 leaves all of them to the reader.
            let why = error.to_string();
            let left = ["recursion limit", "number out of range", "hex escape", "surrogate"];
            assert!(left.iter().any(|it| why.contains(it)), "serde_json doesn't read it: {why}");
            return;
        }
    };
    assert_eq!(read.method(), value["method"].as_str());
    let named = |key: &str| value["params"][key].as_str();
    match read.target() {
        Ok(Target::Tool(name) | Target::Prompt(name)) => {
            assert!(named("name") == Some(name) || value["params"]["ref"]["name"] == name);
        }
        Ok(Target::Resource(uri)) => {
            assert!(named("uri") == Some(uri) || value["params"]["ref"]["uri"] == uri);
        }
        Ok(Target::Task(id)) => assert_eq!(named("taskId"), Some(id)),
        Ok(Target::None) | Err(_) => {}
    }
}

fn seen(read: &Result<Call, Fault>) -> Result<String, Fault> {
    let shown = |call: &Call| format!("{:?} {:?} {:?}", call.kind(), call.method(), call.target());
    read.as_ref().map(shown).map_err(Clone::clone)
}
