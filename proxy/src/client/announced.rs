//! What a server announced in a client's handshake. The proxy sends a kind of notification only where the server
//! announced it.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::wire::Object;

/// Log levels, the most severe last (RFC 5424).
const LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
/// The level of the proxy's own log messages.
const WARNING: u8 = 3;

/// The announced capabilities that matter to the proxy.
#[derive(Debug, Default)]
pub(super) struct Announced {
    lists_change: AtomicBool,
    logs: AtomicBool,
    /// The lowest level that the client wants to receive, as an index into [`LEVELS`].
    level: AtomicU8,
}

impl Announced {
    /// Stores the capabilities of a handshake's result.
    pub(super) fn learn(&self, result: &str) {
        let result = Object::parse(result).ok();
        let capabilities = result.and_then(|result| result.find_object("capabilities"));
        let tools = capabilities.as_ref().and_then(|it| it.find_object("tools"));
        let lists_change = tools.is_some_and(|tools| tools.find("listChanged") == Some("true"));
        let logs = capabilities.is_some_and(|it| it.find_object("logging").is_some());
        self.lists_change.store(lists_change, Ordering::Relaxed);
        self.logs.store(logs, Ordering::Relaxed);
        self.level.store(0, Ordering::Relaxed);
    }

    /// Stores the level that the client set: the `params` of `logging/setLevel`.
    pub(super) fn set_level(&self, params: &str) {
        let params = Object::parse(params).ok();
        let level = params.as_ref().and_then(|params| params.find_string("level"));
        let level = level.and_then(|level| LEVELS.iter().position(|it| *it == level));
        if let Some(level) = level.and_then(|level| u8::try_from(level).ok()) {
            self.level.store(level, Ordering::Relaxed);
        }
    }

    /// Whether the server announced changes of the list of tools.
    pub(super) fn lists_change(&self) -> bool {
        self.lists_change.load(Ordering::Relaxed)
    }

    /// Whether the client receives warnings.
    pub(super) fn logs_warnings(&self) -> bool {
        self.logs.load(Ordering::Relaxed) && self.level.load(Ordering::Relaxed) <= WARNING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_announced_notifications_are_sent() {
        let announced = Announced::default();
        assert!(!announced.lists_change() && !announced.logs_warnings());
        announced.learn(r#"{"capabilities":{"tools":{"listChanged":true},"logging":{}}}"#);
        assert!(announced.lists_change() && announced.logs_warnings());
        for (level, reads) in [("error", false), ("warning", true), ("emergency", false)] {
            announced.set_level(&format!(r#"{{"level":"{level}"}}"#));
            assert_eq!(announced.logs_warnings(), reads, "{level}");
        }
        announced.set_level(r#"{"level":"odd"}"#);
        assert!(!announced.logs_warnings(), "as before");
        announced.learn(r#"{"capabilities":{"tools":{"listChanged":false}}}"#);
        assert!(!announced.lists_change() && !announced.logs_warnings());
    }
}
