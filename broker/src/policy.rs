//! Who may have what signed. Deny by default.
//!
//! Invariant: [`Policy::authorize`] is the only maker of a [`Grant`], and a grant is the only way to a
//! profile's credentials and to a signature: skipping the policy doesn't compile.

mod rate;

use std::collections::HashMap;
use std::time::Instant;

use sigward_proto::v1::Reason;
use wildmatch::WildMatch;

use self::rate::Bucket;
use crate::config::{self, Config, Names, ProfileName};
use crate::error::Denial;
use crate::peer::{Peer, PeerPattern};
use crate::request::{CheckedRequest, Tool};

/// The rules, ready to be asked.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    /// Which endpoints each profile may go to at all.
    profiles: HashMap<ProfileName, Vec<String>>,
}

#[derive(Debug)]
struct Rule {
    peer: PeerPattern,
    profiles: Names,
    endpoints: Names,
    tools: Option<Tools>,
    bucket: Option<Bucket>,
    login: bool,
}

#[derive(Debug)]
struct Tools {
    allow: Option<Vec<WildMatch>>,
    deny: Vec<WildMatch>,
}

/// The permit to sign a person in for a profile.
#[derive(Debug)]
pub struct LoginGrant {
    profile: ProfileName,
}

impl LoginGrant {
    /// Whose sign-in it is.
    #[must_use]
    pub fn profile(&self) -> &ProfileName {
        &self.profile
    }
}

/// The permit for one signature of one request with one profile.
#[derive(Debug)]
pub struct Grant<'r> {
    profile: ProfileName,
    request: &'r CheckedRequest,
}

impl<'r> Grant<'r> {
    /// Whose credentials it gives access to.
    #[must_use]
    pub fn profile(&self) -> &ProfileName {
        &self.profile
    }

    /// What may be signed with them.
    #[must_use]
    pub fn request(&self) -> &'r CheckedRequest {
        self.request
    }
}

impl Policy {
    /// The policy that a configuration means; `now` starts the rates.
    #[must_use]
    pub fn new(config: &Config, now: Instant) -> Self {
        let rules = config.rules.iter().map(|rule| Rule {
            peer: rule.peer.clone(),
            profiles: rule.profiles.clone(),
            endpoints: rule.endpoints.clone(),
            tools: rule.tools.as_ref().map(Tools::new),
            bucket: rule.rate.map(|rate| Bucket::new(rate, now)),
            login: rule.login,
        });
        let profiles = config.profiles.iter();
        Self {
            rules: rules.collect(),
            profiles: profiles.map(|p| (p.name.clone(), p.endpoints.clone())).collect(),
        }
    }

    /// Whether any rule looks at the peer's executable.
    #[must_use]
    pub fn asks_for_exe(&self) -> bool {
        self.rules.iter().any(|rule| rule.peer.exe.is_some())
    }

    /// Whether any rule is about this peer: others are turned away before their request is read.
    ///
    /// # Errors
    /// PEER_NOT_ALLOWED.
    pub fn admit(&self, peer: &Peer) -> Result<(), Denial> {
        self.rules_for(peer).next().map(drop).ok_or_else(|| {
            let detail = format!("no rule is about uid {} gid {}", peer.uid, peer.gid);
            Denial::new(Reason::PeerNotAllowed, detail)
        })
    }

    /// The endpoints at which the peer may use the profile; none means that it may not use it.
    #[must_use]
    pub fn endpoints_of(&self, peer: &Peer, profile: &ProfileName) -> Vec<&str> {
        let Some(endpoints) = self.profiles.get(profile) else { return Vec::new() };
        let rules: Vec<&Rule> =
            self.rules_for(peer).filter(|rule| rule.profiles.contain(profile.as_str())).collect();
        let allowed = endpoints
            .iter()
            .filter(|endpoint| rules.iter().any(|rule| rule.endpoints.contain(endpoint)));
        allowed.map(String::as_str).collect()
    }

    /// Decides about one request. The first rule that allows it decides, and pays for it from its
    /// rate; a tool that any matching rule denies is denied.
    ///
    /// # Errors
    /// The reason. A profile that doesn't exist is refused in the same words as one that isn't
    /// allowed: callers can't probe for names.
    pub fn authorize<'r>(
        &self,
        peer: &Peer,
        request: &'r CheckedRequest,
        now: Instant,
    ) -> Result<Grant<'r>, Denial> {
        self.admit(peer)?;
        let no_profile = || Denial::new(Reason::ProfileNotAllowed, "no rule allows the profile");
        let (profile, endpoints) = ProfileName::parse(request.profile())
            .ok()
            .and_then(|name| self.profiles.get_key_value(&name))
            .ok_or_else(no_profile)?;
        let mut rules: Vec<&Rule> =
            self.rules_for(peer).filter(|rule| rule.profiles.contain(profile.as_str())).collect();
        if rules.is_empty() {
            return Err(no_profile());
        }
        let endpoint = request.endpoint().name.as_str();
        rules.retain(|rule| rule.endpoints.contain(endpoint));
        if rules.is_empty() || !endpoints.iter().any(|allowed| allowed == endpoint) {
            let detail = format!("no rule allows the endpoint {endpoint}");
            return Err(Denial::new(Reason::EndpointNotAllowed, detail));
        }
        let rule = deciding_rule(&rules, request.tool())?;
        if rule.bucket.as_ref().is_some_and(|bucket| !bucket.take(now)) {
            return Err(Denial::new(Reason::RateLimited, "the rule's rate is used up"));
        }
        Ok(Grant { profile: profile.clone(), request })
    }

    /// Decides whether the peer may sign a person in for a profile.
    ///
    /// The attack: whoever can start a sign-in can send its code to a person who trusts the page of
    /// AWS, and gets the profile signed in as that person.
    ///
    /// # Errors
    /// The reason. A profile that the peer can't use is refused as one that doesn't exist.
    pub fn authorize_login(&self, peer: &Peer, profile: &str) -> Result<LoginGrant, Denial> {
        self.admit(peer)?;
        let no_profile = || Denial::new(Reason::ProfileNotAllowed, "no rule allows the profile");
        let profile = ProfileName::parse(profile).map_err(|_| no_profile())?;
        if self.endpoints_of(peer, &profile).is_empty() {
            return Err(no_profile());
        }
        let allows = |rule: &Rule| rule.login && rule.profiles.contain(profile.as_str());
        if !self.rules_for(peer).any(allows) {
            let detail = "no rule with login = true allows the profile";
            return Err(Denial::new(Reason::LoginNotAllowed, detail));
        }
        Ok(LoginGrant { profile })
    }

    fn rules_for<'p>(&'p self, peer: &'p Peer) -> impl Iterator<Item = &'p Rule> {
        self.rules.iter().filter(|rule| rule.peer.matches(peer))
    }
}

/// The rule that allows the tool.
fn deciding_rule<'p>(rules: &[&'p Rule], tool: &Tool) -> Result<&'p Rule, Denial> {
    let restricted = rules.iter().any(|rule| rule.tools.is_some());
    let name = match tool {
        _ if !restricted => None,
        Tool::None => None,
        Tool::Named(name) => Some(name.as_str()),
        // A hash says nothing about the tool, and the caller's word for it would be no check.
        Tool::Unread => {
            return Err(Denial::new(Reason::BodyRequired, "a rule looks at tools"));
        }
        Tool::Ambiguous(why) => return Err(Denial::new(Reason::AmbiguousJson, *why)),
    };
    let not_allowed = || Denial::new(Reason::ToolNotAllowed, "no rule allows the tool");
    let Some(name) = name else { return rules.first().copied().ok_or_else(not_allowed) };
    if rules.iter().any(|rule| rule.tools.as_ref().is_some_and(|tools| tools.deny(name))) {
        return Err(Denial::new(Reason::ToolNotAllowed, "a rule denies the tool"));
    }
    let allows = |rule: &&&Rule| rule.tools.as_ref().is_none_or(|tools| tools.allow(name));
    rules.iter().find(allows).copied().ok_or_else(not_allowed)
}

impl Tools {
    fn new(tools: &config::Tools) -> Self {
        let globs = |globs: &[String]| globs.iter().map(|glob| WildMatch::new(glob)).collect();
        Self { allow: tools.allow.as_deref().map(globs), deny: globs(&tools.deny) }
    }

    fn allow(&self, name: &str) -> bool {
        self.allow.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob.matches(name)))
    }

    fn deny(&self, name: &str) -> bool {
        self.deny.iter().any(|glob| glob.matches(name))
    }
}

#[cfg(test)]
mod tests;
