//! What a program did in a case, and whether that is right.

use sigward_tests::known_aws::{Asked, KEYS};

use super::{Case, Outcome, Signs};

/// Secrets that no output may contain, besides those of [`KEYS`].
const SECRETS: [&str; 5] = ["rolesecret", "roletok", "ssosecret", "ssotok", "tok1"];

pub(super) struct Observed {
    pub(super) refused: bool,
    /// The text for the user: the output of `check`, or the error that the client got.
    pub(super) said: String,
    /// Standard error.
    pub(super) errors: String,
    /// Why the server rejected signatures.
    pub(super) rejected: String,
    /// The key of each request, and the region that a call passes on.
    pub(super) signed: Vec<(String, Option<String>)>,
    /// The requests to AWS.
    pub(super) asked: Vec<Asked>,
}

impl Observed {
    /// What is wrong, except in the message of a refusal.
    pub(super) fn wrong(&self, case: &Case, who: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let right = &case.right;
        let said = format!("{}\n{}\n{}", self.said, self.errors, self.rejected);
        if self.refused && right.outcome == Outcome::Same {
            wrong.push(format!("is refused:\n{said}"));
        }
        if !self.refused && right.outcome == Outcome::Refused {
            wrong.push(format!("isn't refused; it signs with {:?}", self.signed));
        }
        for (key, _) in &self.signed {
            if right.never_signs.iter().any(|never| *never == general(key)) {
                wrong.push(format!("{key} signs"));
            }
            // The server accepted a signature, and the client failed.
            if self.refused && !key.is_empty() && self.rejected.is_empty() && who != "check" {
                wrong.push(format!("{key} signs, but the client fails:\n{said}"));
            }
        }
        if let Some(signs) = right.signs.as_ref().filter(|_| !self.refused) {
            wrong.extend(self.wrong_identity(signs));
        }
        let own = KEYS.iter().flat_map(|(_, secret, token)| [Some(*secret), *token]).flatten();
        for secret in own.chain(SECRETS).filter(|secret| said.contains(secret)) {
            wrong.push(format!("{secret} is in:\n{said}"));
        }
        if said.contains("panicked") {
            wrong.push(format!("a panic:\n{said}"));
        }
        wrong.dedup();
        wrong.into_iter().map(|what| format!("{who}: {what}")).collect()
    }

    fn wrong_identity(&self, right: &Signs) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.signed.is_empty() {
            wrong.push("nothing was signed".to_owned());
        }
        let region = self.signed.iter().rev().find_map(|(_, region)| region.as_ref());
        if let (Some(region), Some(right)) = (region, &right.region)
            && region != right
        {
            wrong.push(format!("AWS_REGION is {region:?} instead of {right:?}"));
        }
        for (key, _) in &self.signed {
            if general(key) != right.key {
                wrong.push(format!("{key:?} signs instead of {}", right.key));
                continue;
            }
            let hop = self.asked.iter().find(|asked| asked.issued == *key);
            let Some(hop) = hop.filter(|_| right.key == "AKIDROLE") else {
                if right.role.is_some() {
                    wrong.push(format!("no request asked for the role of {key}"));
                }
                continue;
            };
            let differs = |what: &str, found: Option<&str>, right: &Option<String>| {
                let differs = right.is_some() && right.as_deref() != found;
                differs.then(|| format!("{what} is {found:?} instead of {right:?}"))
            };
            let region = Some(hop.region.as_str()).filter(|region| !region.is_empty());
            let token = hop.token.as_deref().map(general);
            wrong.extend(differs("the role", Some(&hop.role), &right.role));
            wrong.extend(differs("the key that asked for it", Some(general(&hop.key)), &right.by));
            wrong.extend(differs("the token of that key", token, &right.by_token));
            wrong.extend(differs("the region of STS", region, &right.sts_region));
        }
        wrong
    }
}

/// All keys of roles compare as `AKIDROLE`, and all their tokens as `roletok`.
pub(super) fn general(key: &str) -> &str {
    let kinds = ["AKIDROLE", "roletok"];
    kinds.into_iter().find(|kind| key.starts_with(kind)).unwrap_or(key)
}
