//! The ids of requests.

use super::text::string;

/// The id of a request, as its original token.
///
/// `1`, `1.0` and `"1"` are three ids: each is answered with its own token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Id(Box<str>);

impl Id {
    /// The id with this token.
    #[must_use]
    pub fn from_token(token: &str) -> Self {
        Self(token.into())
    }

    /// The JSON token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.0
    }

    /// Whether `token` is the same id, possibly in another spelling. Servers may print numbers
    /// anew: `1.0` comes back as `1`, and numbers with many digits come back rounded. `1` and `"1"`
    /// are different ids.
    #[must_use]
    pub fn is_spelt(&self, token: &str) -> bool {
        if *self.0 == *token {
            return true;
        }
        match (string(&self.0), string(token)) {
            (Some(own), Some(other)) => own == other,
            (None, None) => number(&self.0).is_some_and(|own| Some(own) == number(token)),
            _ => false,
        }
    }

    /// The id for answers to messages without a usable id.
    #[must_use]
    pub fn null() -> Self {
        Self("null".into())
    }
}

/// The value of a JSON number, as most programs parse it.
fn number(token: &str) -> Option<f64> {
    // Rust also parses texts that aren't JSON (`inf`); they begin with other characters.
    let is_number = token.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    is_number.then(|| token.parse().ok()).flatten().filter(|number: &f64| number.is_finite())
}
