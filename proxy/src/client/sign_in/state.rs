//! A sign-in across two requests of 2026-07-28 (Multi Round-Trip Requests).
//!
//! The answer to the first request is an input request and an opaque state. The second request
//! repeats the first, with the user's answer and the state in place of the values that the first
//! one may have carried for the server. The state contains these values, so that they can be
//! restored.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use crate::config::ProfileName;
use crate::wire::{self, Edits, Envelope, Object};

/// The key of the proxy's input request.
const KEY: &str = "sigward-sign-in";
/// The prefix of the proxy's states.
const PREFIX: &str = "sigward-sign-in:";
/// The members that a client adds when it repeats a request.
const MEMBERS: [&str; 2] = ["inputResponses", "requestState"];

/// The result that asks for the sign-in; `params` are those of `elicitation/create`, and `text` is
/// the request that needs the sign-in.
pub(super) fn input_required(text: &str, profile: &ProfileName, params: &str) -> String {
    let sent = Envelope::parse(text).ok().and_then(|envelope| envelope.params_object());
    let kept: Vec<String> = MEMBERS
        .into_iter()
        .filter_map(|name| {
            let value = sent.as_ref()?.find(name)?;
            Some(format!(r#""{name}":{value}"#))
        })
        .collect();
    let state = format!(
        r#"{{"profile":{},"params":{{{}}}}}"#,
        wire::quote(profile.as_str()),
        kept.join(",")
    );
    format!(
        r#"{{"resultType":"input_required","inputRequests":{{"{KEY}":{{"method":"elicitation/create","params":{params}}}}},"requestState":"{PREFIX}{}"}}"#,
        BASE64.encode(state)
    )
}

/// A request that answers the proxy's input request: the original text, the profile that needs the
/// sign-in, and whether the user accepted.
pub(in crate::client) struct Resumed {
    pub(in crate::client) text: String,
    pub(in crate::client) profile: String,
    pub(in crate::client) accepted: bool,
}

/// Reads the answer to [`input_required`], or `None` if the request carries no state of the proxy.
pub(in crate::client) fn resumed(text: &str) -> Option<Resumed> {
    // A fast path: nearly every request ends here.
    if !text.contains(PREFIX) {
        return None;
    }
    let envelope = Envelope::parse(text).ok()?;
    let params = envelope.params_object()?;
    let state = params.get("requestState").ok()??;
    let state = BASE64.decode(wire::string(state)?.strip_prefix(PREFIX)?).ok()?;
    let state = String::from_utf8(state).ok()?;
    // The decoded text has not been checked for depth yet.
    wire::check_depth(&state).ok()?;
    let state = Object::parse(&state).ok()?;
    let answer = params.find_object("inputResponses").and_then(|it| it.find_object(KEY));
    let action = answer.as_ref().and_then(|answer| answer.find_string("action"));
    let accepted = action.as_deref() == Some("accept");
    let kept = state.find_object("params")?;
    let add: Vec<(&str, &str)> =
        MEMBERS.into_iter().filter_map(|name| kept.find(name).map(|value| (name, value))).collect();
    let mut edits = Edits::new(text);
    edits.members(&params, |member| MEMBERS.contains(&member.name().as_ref()), &add);
    let profile = state.find_string("profile")?.into_owned();
    Some(Resumed { text: edits.apply().ok()?, profile, accepted })
}
