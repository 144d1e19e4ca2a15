//! Records what successful responses mean for later: log levels and subscriptions to replay, and the profiles of tasks.

use std::sync::Arc;

use super::sessions::Sessions;
use crate::request::Request;
use crate::session::{Context, Session};
use crate::tasks::Tasks;
use crate::wire::Envelope;

/// Records what the `response` to `call`, which was sent over `session` as `body`, means for later.
pub(super) fn learn(
    (context, sessions, tasks): (&Context, &Sessions, &Tasks),
    call: &Request,
    session: &Arc<Session>,
    body: &[u8],
    response: &str,
) {
    let result = || Envelope::parse(response).ok().and_then(|it| it.result).is_some();
    // The proxy replaces this session if it is lost.
    let renews = !session.is_default || context.ownership.is_proxy();
    match call.method() {
        "logging/setLevel" if result() => {
            if let Some(params) = call.params() {
                context.handshake.log_level(params);
                set_level(context, sessions, params);
            }
        }
        method @ ("resources/subscribe" | "resources/unsubscribe") if renews && result() => {
            if let Some(uri) = call.uri() {
                // The params as sent: without the profile argument.
                let sent = std::str::from_utf8(body).ok();
                let params = sent.and_then(|it| Envelope::parse(it).ok()?.params);
                let kept = params.filter(|_| method == "resources/subscribe");
                session.subscribed(uri, kept);
            }
        }
        "tools/call" => tasks.learn(&session.profile, response),
        method @ ("tasks/get" | "tasks/cancel" | "tasks/result") => {
            if let Some(task) = call.task() {
                let has_result = method == "tasks/result";
                tasks.on_response(&session.profile, task, response, has_result);
            }
        }
        _ => {}
    }
}

/// Sends the level to the open sessions of other profiles.
fn set_level(context: &Context, sessions: &Sessions, params: &str) {
    for session in sessions.others() {
        let params = params.to_owned();
        context.work.spawn(async move {
            if let Some(live) = session.current() {
                session.send_request(&live, "logging/setLevel", &params).await;
            }
        });
    }
}
