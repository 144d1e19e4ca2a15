//! The names under which the peers of a rule act in AWS: `agent` and `attribution`.
//!
//! Invariant: each pair of a profile and an agent has a unique role session name, so CloudTrail
//! tells them apart.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::model::ProfileName;
use super::reader::Table;

/// The key of the session tag.
pub const AGENT_TAG: &str = "sigward:agent";
/// The longest role session name that STS allows, in characters.
const MAX_SESSION_NAME: usize = 64;
/// The characters of the hash at the end of a role session name that was cut.
const HASH: usize = 8;

/// The identity of a rule's peers at AWS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Agent {
    name: Arc<str>,
    tag: bool,
    source_identity: bool,
}

impl Agent {
    /// Checks a name, which must be valid as part of a role session name, as a session tag and as a
    /// source identity.
    ///
    /// # Errors
    /// The error.
    pub fn parse(name: &str) -> Result<Self, String> {
        let fits = (2..=MAX_SESSION_NAME).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=.@-".contains(&b));
        fits.then(|| Self { name: name.into(), tag: false, source_identity: false })
            .ok_or_else(|| "must be 2 to 64 letters, digits or any of _+=.@-".to_owned())
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the name is also set as a session tag.
    #[must_use]
    pub fn is_tag(&self) -> bool {
        self.tag
    }

    /// Whether the name is also set as the source identity.
    #[must_use]
    pub fn is_source_identity(&self) -> bool {
        self.source_identity
    }

    /// The role session name of its credentials: `sigward-PROFILE-AGENT`, the same in each load.
    /// Characters that STS doesn't allow are replaced; a too long name is cut, with a hash at its
    /// end.
    #[must_use]
    pub fn session_name(&self, profile: &ProfileName) -> String {
        let (profile_part, name) = (session_characters(profile.as_str()), self.name());
        let whole = format!("sigward-{profile_part}-{name}");
        if whole.len() <= MAX_SESSION_NAME {
            return whole;
        }
        let hash = Sha256::new_with_prefix(profile.as_str()).chain_update([0]).chain_update(name);
        let hash = &hex::encode(hash.finalize())[..HASH];
        let room = MAX_SESSION_NAME - "sigward---".len() - HASH;
        // If both parts are too long, each gets half.
        let of_name = name.len().min(room - profile_part.len().min(room / 2));
        let of_profile = profile_part.len().min(room - of_name);
        format!("sigward-{}-{}-{hash}", &profile_part[..of_profile], &name[..of_name])
    }
}

/// A text with `-` in place of the characters that STS doesn't allow in a role session name.
#[must_use]
pub fn session_characters(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    text.chars().map(|c| if allowed(c) { c } else { '-' }).collect()
}

/// The agent in a rule's table.
pub(super) fn agent(table: &Table<'_>) -> Option<Agent> {
    let agent = table.text("agent").and_then(|text| text.parse(Agent::parse));
    let (mut tag, mut source_identity) = (false, false);
    if table.has("attribution") && !table.has("agent") {
        table.fault("attribution", "needs agent: it says how AWS learns the agent's name");
    }
    let words = table.texts("attribution");
    if words.as_ref().is_some_and(Vec::is_empty) {
        table.fault("attribution", "is empty: leave it out, the role session name is set anyway");
    }
    for word in words.unwrap_or_default() {
        let flag = match word.value {
            "tag" => &mut tag,
            "source-identity" => &mut source_identity,
            _ => {
                word.fault("must be \"tag\" or \"source-identity\"");
                continue;
            }
        };
        if std::mem::replace(flag, true) {
            word.fault(format!("\"{}\" is listed twice", word.value));
        }
    }
    Some(Agent { tag, source_identity, ..agent?.value })
}

/// The agents of the rules so far, to detect contradictions.
#[derive(Debug, Default)]
pub(super) struct Agents {
    /// Each agent, and the rule that named it first.
    by_name: HashMap<Arc<str>, (Agent, String)>,
    /// The profile and agent of each role session name.
    sessions: HashMap<String, (ProfileName, Agent)>,
}

impl Agents {
    /// Adds the agent of a rule for these profiles; the error describes a contradiction.
    pub(super) fn add<'p>(
        &mut self,
        agent: &Agent,
        rule: &str,
        profiles: impl Iterator<Item = &'p str>,
    ) -> Result<(), String> {
        let (known, first) = self
            .by_name
            .entry(Arc::clone(&agent.name))
            .or_insert_with(|| (agent.clone(), rule.to_owned()));
        if known != agent {
            return Err(format!(
                "is that of {first:?}, whose attribution is another one: an agent has one"
            ));
        }
        for profile in profiles.filter_map(|name| ProfileName::parse(name).ok()) {
            let session = agent.session_name(&profile);
            let mine = (profile, agent.clone());
            let holder = self.sessions.entry(session).or_insert_with(|| mine.clone());
            if *holder != mine {
                let ((profile, _), (other, other_agent)) = (&mine, &*holder);
                return Err(format!(
                    "makes the role session name {:?} for the profile {:?}, and so does {:?} for {:?}: CloudTrail \
                     couldn't tell them apart, so choose another name",
                    agent.session_name(profile),
                    profile.as_str(),
                    other_agent.name(),
                    other.as_str()
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(profile: &str, agent: &str) -> String {
        let profile = ProfileName::parse(profile).expect("a profile's name");
        Agent::parse(agent).expect("an agent's name").session_name(&profile)
    }

    #[test]
    fn a_session_is_named_after_the_profile_and_the_agent() {
        assert_eq!(session("dev", "build-bot"), "sigward-dev-build-bot");
        assert_eq!(session("my profile/é", "a.b@c"), "sigward-my-profile---a.b@c");
    }

    /// The name is allowed by STS, the same each time, and unique for each pair.
    #[test]
    fn a_session_name_that_would_be_too_long_is_cut_and_hashed() {
        let long = "p".repeat(256);
        let other = "p".repeat(255) + "q";
        let agent = "a".repeat(64);
        let pairs = [
            (long.as_str(), "bot"),
            (&other, "bot"),
            (&long, "bot2"),
            (&long, &agent),
            ("dev", &agent),
            ("dew", &agent),
        ];
        let names: Vec<_> = pairs.iter().map(|(profile, name)| session(profile, name)).collect();
        for name in &names {
            assert_eq!(name.len(), MAX_SESSION_NAME, "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{name}");
        }
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        assert!(names[0].starts_with("sigward-ppp") && names[0].contains("-bot-"), "{}", names[0]);
        assert!(names[4].starts_with("sigward-dev-aaa"), "{}", names[4]);
        assert_eq!(names[0], session(&long, "bot"));
    }

    #[test]
    fn a_name_is_valid_as_a_tag_and_as_a_source_identity() {
        for good in ["ab", "Build_Bot+1=2.3@4-5", &"x".repeat(64)] {
            assert!(Agent::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "a b", "a,b", "aws:x", "é", "a\nb", &"x".repeat(65)] {
            assert!(Agent::parse(bad).is_err(), "{bad}");
        }
    }
}
