//! The ids of requests.

use super::text::string;

/// The id of a request, as the token that it was written as.
///
/// `1`, `1.0` and `"1"` are three ids: each is answered with the token that it came with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Id(Box<str>);

impl Id {
    /// The id that `token` spells.
    #[must_use]
    pub fn from_token(token: &str) -> Self {
        Self(token.into())
    }

    /// The JSON token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.0
    }

    /// Whether `token` spells the same id. Servers print numbers anew: `1.0` comes back as `1`, and
    /// numbers with more digits than theirs come back rounded. `1` and `"1"` are two ids.
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

    /// The id of answers to messages without a usable id.
    #[must_use]
    pub fn null() -> Self {
        Self("null".into())
    }
}

/// The number that a JSON token spells, as most programs read it.
fn number(token: &str) -> Option<f64> {
    // What Rust reads beyond JSON (`inf`) begins with none of these.
    let is_number = token.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    is_number.then(|| token.parse().ok()).flatten().filter(|number: &f64| number.is_finite())
}
