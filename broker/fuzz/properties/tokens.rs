//! What holds for every token cache: the fuzz target `tokens` looks for one where it doesn't.

use serde_json::Value;
use sigward_broker::fuzz;

/// Fails if something doesn't hold for `data`.
pub(crate) fn check(data: &[u8]) {
    let json = serde_json::from_slice::<Value>(data);
    if fuzz::sso_token(data).is_some() {
        let json = json.as_ref().expect("a token is JSON");
        assert!(json["accessToken"].is_string() && json["expiresAt"].is_string());
    }
    match fuzz::login_token(data) {
        Ok(_) => {
            let json = json.as_ref().expect("a token is JSON");
            let keys = &json["accessToken"];
            assert!(keys["accessKeyId"].is_string() && keys["secretAccessKey"].is_string());
        }
        // The content is secret: what is said of it is about its form.
        Err(why) => assert!(why.len() < 300 && !why.contains("canary"), "{why}"),
    }
}
