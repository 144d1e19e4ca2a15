//! The subscriptions of a session, for replay in a session that replaces it.

use std::collections::BTreeMap;

use super::handshake::MAX_KEPT;

/// The most subscriptions of a session.
const MAX_SUBSCRIPTIONS: usize = 256;

/// The params of each subscription, by URI.
#[derive(Debug, Default)]
pub(super) struct Subscriptions(BTreeMap<String, String>);

impl Subscriptions {
    /// Stores a subscription, or removes it if there are no params. Returns false if there is no
    /// room.
    pub(super) fn keep(&mut self, uri: &str, params: Option<&str>) -> bool {
        let Some(params) = params else {
            self.0.remove(uri);
            return true;
        };
        let is_new = !self.0.contains_key(uri);
        let has_room =
            uri.len() + params.len() <= MAX_KEPT && (!is_new || self.0.len() < MAX_SUBSCRIPTIONS);
        if has_room {
            self.0.insert(uri.to_owned(), params.to_owned());
        }
        has_room
    }

    /// The params of all subscriptions.
    pub(super) fn all(&self) -> Vec<String> {
        self.0.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_bounded() {
        let mut subscriptions = Subscriptions::default();
        assert!(!subscriptions.keep("large", Some(&"x".repeat(MAX_KEPT))));
        for number in 0..MAX_SUBSCRIPTIONS {
            assert!(subscriptions.keep(&number.to_string(), Some("{}")));
        }
        assert!(!subscriptions.keep("one more", Some("{}")));
        assert!(subscriptions.keep("7", Some("again")), "it is there already");
        assert!(subscriptions.keep("7", None));
        assert!(subscriptions.keep("one more", Some("{}")), "one has made room");
        assert_eq!(subscriptions.all().len(), MAX_SUBSCRIPTIONS);
    }
}
