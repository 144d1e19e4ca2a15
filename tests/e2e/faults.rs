//! Faults around the two programs: each gives a clear error or none, no call hangs, and nothing that may have been
//! executed is executed again.
//!
//! | fault | tests |
//! |---|---|
//! | the broker is killed | [`killed`]: private, behind a service manager's socket, over TLS; in the pod, [`pod`](crate::pod) |
//! | the disk of the audit log is full | [`disk`]; a record that is cut in the middle, [`audit`](crate::audit) |
//! | the clock steps | [`clock`]; by injected time, the unit tests of the broker's `profile::actor` and `sign` |
//! | names aren't resolved, AWS is unreachable | [`outage`]; keys that outlive one, unit tests of `profile::actor` |
//! | certificates expire under load | [`expired`]; without a replacement, [`tls`](crate::tls) |
//! | the server resets, stalls, is overloaded | [`server`]; cut streams, `answers`, `duties`; bad answers, `bad_input` |

mod clock;
mod disk;
mod expired;
mod killed;
mod outage;
mod relay;
mod server;

use serde_json::json;
use sigward_tests::processes::StdioClient;

use crate::setup::{World, own_uid, text};

/// A rule that permits these profiles to the current user.
fn rule(profiles: &[&str]) -> String {
    format!("[[rule]]\npeer = {{ uid = {} }}\nprofiles = {profiles:?}\n", own_uid())
}

/// The number of calls in flight.
const CALLS: usize = 32;

/// Calls that change something, each with a mark of its own.
struct Notes {
    round: usize,
    ids: Vec<serde_json::Value>,
}

impl Notes {
    /// Sends them, with `profiles` in turn. The proxy has read them all when this returns: it has answered the call
    /// after them, which it refuses by itself.
    async fn send(client: &mut StdioClient, profiles: &[&str], round: usize) -> Self {
        let mut ids = Vec::new();
        for (number, profile) in profiles.iter().cycle().take(CALLS).enumerate() {
            let note = format!("<{round}/{number}>");
            let call = json!({
                "name": "write_note", "arguments": { "aws_profile": profile, "note": note }
            });
            ids.push(client.start_request("tools/call", &call.to_string()).await);
        }
        let refused = client.call("write_note", r#"{"aws_profile":"nobody"}"#).await;
        crate::setup::tool_error(&refused);
        Self { round, ids }
    }

    /// Asserts that none has failed, and that each was executed once.
    async fn assert_written_once(self, client: &mut StdioClient, world: &World) {
        for (number, id) in self.ids.iter().enumerate() {
            let note = format!("<{}/{number}>", self.round);
            let written = client.response(id).await;
            assert!(text(&written).contains(&note), "{note}: {written}");
            let requests = world.upstream.requests();
            let sent = requests.iter().filter(|it| it.text().contains(&note));
            assert_eq!(sent.count(), 1, "how often {note} was sent");
        }
    }
}
