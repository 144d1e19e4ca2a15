//! What holds for every token cache: the fuzz target `tokens` looks for one where it doesn't.

use serde::de::IgnoredAny;
use serde_json::Value;
use sigward_broker::fuzz;

/// Fails if something doesn't hold for `data`.
pub(crate) fn check(data: &[u8]) {
    let sso = fuzz::sso_token(data).is_some();
    let login = fuzz::login_token(data);
    // The content is secret: what is said of it is about its form.
    if let Err(why) = &login {
        assert!(why.len() < 300 && !why.contains("canary"), "{why}");
    }
    if !sso && login.is_err() {
        return;
    }
    let text = str::from_utf8(data).expect("a token is text");
    assert!(serde_json::from_str::<IgnoredAny>(text).is_ok(), "a token is JSON");
    // A number too large for a reader, or half of a surrogate pair, where nothing looks at it: RFC 8259 leaves both to the
    // reader.
    let Ok(json) = serde_json::from_str::<Value>(text) else { return };
    if sso {
        assert!(json["accessToken"].is_string() && json["expiresAt"].is_string());
    }
    if login.is_ok() {
        let keys = &json["accessToken"];
        assert!(keys["accessKeyId"].is_string() && keys["secretAccessKey"].is_string());
    }
}
