use super::state::resumed;
use super::*;

fn prompt() -> LoginPrompt {
    LoginPrompt {
        verification_uri: "https://device.sso.example/".to_owned(),
        verification_uri_complete: "https://device.sso.example/?user_code=ABCD-EFGH".to_owned(),
        user_code: "ABCD-EFGH".to_owned(),
        expiry: None,
    }
}

#[test]
fn a_resumed_request_is_the_original_request() {
    let profile = ProfileName::parse("dev").unwrap();
    for (before, members) in [
        (r#"{"id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1.10}}}"#, ""),
        (
            r#"{"id":1,"method":"tools/call","params":{"name":"t","inputResponses":{"q":{"action":"accept"}},"requestState":"theirs"}}"#,
            r#"{"q":{"action":"accept"}}"#,
        ),
    ] {
        let asked =
            state::input_required(before, &profile, &elicitation(&profile, &prompt(), None));
        let asked: serde_json::Value = serde_json::from_str(&asked).unwrap();
        assert_eq!(asked["resultType"], "input_required");
        let request = &asked["inputRequests"]["sigward-sign-in"];
        assert_eq!(request["method"], "elicitation/create");
        assert_eq!(request["params"]["mode"], "url");
        assert_eq!(request["params"]["url"], prompt().verification_uri_complete);

        let state = asked["requestState"].as_str().unwrap();
        let params = Envelope::parse(before).unwrap().params_object().unwrap();
        let mut edits = wire::Edits::new(before);
        let answers = r#"{"sigward-sign-in":{"action":"accept"}}"#;
        let gone = ["inputResponses", "requestState"];
        let state = wire::quote(state);
        edits.members(
            &params,
            |member| gone.contains(&member.name().as_ref()),
            &[("inputResponses", answers), ("requestState", &state)],
        );
        let repeated = edits.apply().unwrap();
        let resumed = resumed(&repeated).unwrap();
        assert_eq!((resumed.profile.as_str(), resumed.accepted), ("dev", true));
        assert_eq!(resumed.text, before);
        assert!(resumed.text.contains(members));
        let declined = repeated.replace("accept", "decline");
        assert!(!super::state::resumed(&declined).unwrap().accepted);
    }
}

#[test]
fn a_foreign_state_is_left_unchanged() {
    for text in [
        r#"{"id":1,"method":"tools/call","params":{"requestState":"theirs"}}"#,
        r#"{"id":1,"method":"tools/call","params":{"requestState":"sigward-sign-in:%%%"}}"#,
        r#"{"id":1,"method":"tools/call","params":{"a":"sigward-sign-in:"}}"#,
    ] {
        assert!(resumed(text).is_none(), "{text}");
    }
}

/// The depth check of a request sees only its text; this part is decoded from it later.
#[test]
fn a_state_that_is_too_deep_is_ignored() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let resumes = |depth: usize| {
        let deep = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let state = format!(r#"{{"profile":"dev","params":{{"inputResponses":{deep}}}}}"#);
        let state = URL_SAFE_NO_PAD.encode(state);
        let text = format!(
            r#"{{"id":1,"method":"tools/call","params":{{"requestState":"sigward-sign-in:{state}"}}}}"#
        );
        resumed(&text).is_some()
    };
    assert!(resumes(10));
    assert!(!resumes(3000));
}

#[test]
fn only_clients_that_open_urls_are_asked() {
    let capable = |text: &str| opens_urls(Object::parse(text).ok());
    assert!(capable(r#"{"elicitation":{"url":{}}}"#));
    assert!(!capable(r#"{"elicitation":{"form":{}}}"#));
    assert!(!capable(r#"{"elicitation":{}}"#));
    assert!(!capable("{}"));
}

#[test]
fn only_accept_counts_as_accepted() {
    let response = |action: &str| format!(r#"{{"id":1,"result":{{"action":"{action}"}}}}"#);
    assert!(is_accepted(&response("accept")));
    assert!(!is_accepted(&response("decline")) && !is_accepted(&response("cancel")));
    assert!(!is_accepted(r#"{"id":1,"error":{"code":-1,"message":"no"}}"#));
}
