//! Each request gets its own answer, once: whatever a server mixes up, cuts or says too late; and each is one message
//! to all who read it.

mod cut;
mod foreign;
mod model;
mod order;
mod read;
mod sent_once;
mod sessions;

use crate::agent::{SESSIONS, SIDES, STATELESS, Side};

/// Whose calls the proxy reads up to the response itself.
const FOLLOWED: [(Side, &str); 3] =
    [(Side::Stdio, "dev"), (Side::Stdio, "prod"), (Side::Listening, "prod")];

/// Both sides, both generations, the default profile and another.
fn all() -> impl Iterator<Item = (Side, &'static str, &'static str)> {
    SIDES.into_iter().flat_map(|side| {
        [SESSIONS, STATELESS]
            .into_iter()
            .flat_map(move |version| ["dev", "prod"].map(|profile| (side, version, profile)))
    })
}

/// A result with one text.
fn result(id: &str, text: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"{text}"}}]}}}}"#
    )
}
