//! What holds for every output of a `credential_process`: the fuzz target `process` looks for one where it doesn't.

use serde::de::IgnoredAny;
use serde_json::Value;
use sigward_broker::fuzz;

/// Fails if something doesn't hold for `data`.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok((key, expiry)) = fuzz::process_output(text) else { return };
    assert!(serde_json::from_str::<IgnoredAny>(text).is_ok(), "keys are JSON");
    assert!(!key.is_empty());
    // A number too large for a reader, or half of a surrogate pair, where nothing looks at it: RFC 8259 leaves both to the
    // reader.
    let Ok(json) = serde_json::from_str::<Value>(text) else { return };
    assert!(json["AccessKeyId"] == key);
    assert_eq!(json["Version"], 1);
    let given = json.get("Expiration").filter(|it| !it.is_null());
    assert_eq!(given.is_some(), expiry.is_some(), "an expiry that can't be read is none");
}
