//! Each request gets its own answer exactly once, even if the server mixes up, cuts or delays its answers; and all
//! readers understand a message in the same way.

mod cut;
mod foreign;
mod model;
mod order;
mod read;
mod sent_once;
mod sessions;

use crate::agent::{SESSIONS, SIDES, STATELESS, Side};

/// Sides and profiles whose calls the proxy itself reads up to the response.
const FOLLOWED: [(Side, &str); 3] =
    [(Side::Stdio, "dev"), (Side::Stdio, "prod"), (Side::Listening, "prod")];

/// Both sides, both protocol versions, the default profile and another one.
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
