//! Decides which peer may have which requests signed. Deny by default.
//!
//! Invariant: only [`Matched::decide`] makes a [`Grant`], and a profile's credentials and
//! signatures are accessible only with a grant: code that skips the policy doesn't compile.
//!
//! A request is decided in two steps. [`Policy::match_rules`] finds the rules that match its peer, profile and
//! endpoint, before the body is read, and whether any of them looks at the body. [`Matched::decide`] then applies them to
//! the call in the body.

mod rate;
mod rule;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use sigward_proto::call::{Target, Want};

pub use self::rate::Rates;
use self::rule::Rule;
pub use self::rule::{Matcher, Verdict};
use crate::call::{Call, Content};
use crate::config::{Agent, Config, ProfileName};
use crate::error::{Denial, Reason};
use crate::peer::{Peer, PeerId};
use crate::request::{CheckedRequest, Head};

/// The rules, compiled.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    /// The parts of a body that the rules look at.
    want: Arc<Want>,
    /// The endpoints that each profile may be used with.
    profiles: HashMap<ProfileName, Vec<String>>,
}

/// The permit to start a sign-in for a profile.
#[derive(Debug)]
pub struct LoginGrant {
    profile: ProfileName,
    rule: String,
}

impl LoginGrant {
    /// The profile to sign in.
    #[must_use]
    pub fn profile(&self) -> &ProfileName {
        &self.profile
    }

    /// The rule that permits it.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

/// The permit for one signature of one request with one profile.
#[derive(Debug)]
pub struct Grant<'r> {
    profile: ProfileName,
    agent: Option<Arc<Agent>>,
    request: &'r CheckedRequest,
}

impl<'r> Grant<'r> {
    /// The profile whose credentials the grant gives access to.
    #[must_use]
    pub fn profile(&self) -> &ProfileName {
        &self.profile
    }

    /// The peer's identity at AWS with these credentials; `None` if the rule names no agent.
    #[must_use]
    pub fn agent(&self) -> Option<&Agent> {
        self.agent.as_deref()
    }

    /// The request that may be signed.
    #[must_use]
    pub fn request(&self) -> &'r CheckedRequest {
        self.request
    }
}

/// The rules that match a request, before its body is read; at least one.
#[derive(Debug)]
pub struct Matched<'p> {
    policy: &'p Policy,
    profile: &'p ProfileName,
    rules: Vec<&'p Rule>,
    peer: PeerId,
}

/// The policy's decision about a request.
#[derive(Debug)]
pub struct Decision<'r> {
    /// The name of the deciding rule; `None` if no rule permits the request.
    pub rule: Option<String>,
    /// The peer's identity at AWS by that rule.
    pub agent: Option<Arc<Agent>>,
    /// The permit, or the reason of the denial.
    pub outcome: Result<Grant<'r>, Denial>,
}

/// The reason why a rule decides a request, or doesn't.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The rule has another peer.
    Peer,
    /// The rule lists other profiles.
    Profile,
    /// The rule lists other endpoints.
    Endpoint,
    /// The rule's verdict on the call.
    Call(Verdict),
    /// The rule has no conditions on the body.
    AnyCall,
}

impl Policy {
    /// Compiles the rules of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let (rules, want) = rule::rules(&config.rules);
        let profiles = config.profiles.iter();
        Self {
            rules,
            want,
            profiles: profiles.map(|p| (p.name.clone(), p.endpoints.clone())).collect(),
        }
    }

    /// The names of the rules, each with the name of its agent, which is empty if it has none.
    pub(crate) fn rules_with_agents(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rules
            .iter()
            .map(|rule| (rule.name.as_str(), rule.agent.as_deref().map_or("", Agent::name)))
    }

    /// Checks whether any rule matches the peer. Requests of other peers are refused before they
    /// are read.
    ///
    /// # Errors
    /// PEER_NOT_ALLOWED.
    pub fn admit(&self, peer: &Peer) -> Result<(), Denial> {
        self.rules_for(peer).next().map(drop).ok_or_else(|| {
            let detail = match peer {
                Peer::Unix(peer) => format!("no rule matches uid {} gid {}", peer.uid, peer.gid),
                Peer::Tls(peer) => format!("no rule matches {}", peer.name),
            };
            Denial::new(Reason::PeerNotAllowed, detail)
        })
    }

    /// The endpoints of a profile, for any peer.
    #[must_use]
    pub fn endpoints_configured(&self, profile: &ProfileName) -> &[String] {
        self.profiles.get(profile).map_or(&[], Vec::as_slice)
    }

    /// The endpoints at which the peer may use the profile; empty if it may not use the profile.
    #[must_use]
    pub fn endpoints_of(&self, peer: &Peer, profile: &ProfileName) -> Vec<&str> {
        let Some(endpoints) = self.profiles.get(profile) else { return Vec::new() };
        let rules: Vec<&Rule> = self.rules_about(peer, profile).collect();
        let allowed = endpoints
            .iter()
            .filter(|endpoint| rules.iter().any(|rule| rule.endpoints.contains(endpoint)));
        allowed.map(String::as_str).collect()
    }

    /// The agents that the peer may be with the profile, in the order of the rules; `None` stands
    /// for the profile's own credentials. Empty if the peer may not use the profile.
    #[must_use]
    pub fn agents_of(&self, peer: &Peer, profile: &ProfileName) -> Vec<Option<&Agent>> {
        let Some(endpoints) = self.profiles.get(profile) else { return Vec::new() };
        let mut agents = Vec::new();
        for rule in self.rules_about(peer, profile) {
            let agent = rule.agent.as_deref();
            let leads_somewhere = endpoints.iter().any(|it| rule.endpoints.contains(it));
            if leads_somewhere && !agents.contains(&agent) {
                agents.push(agent);
            }
        }
        agents
    }

    /// Whether a rule looks at the bodies of the peer's requests with the profile.
    #[must_use]
    pub fn needs_body(&self, peer: &Peer, profile: &ProfileName) -> bool {
        self.rules_about(peer, profile).any(Rule::reads_the_body)
    }

    /// The parts of a body that the rules look at.
    #[must_use]
    pub fn want(&self) -> &Arc<Want> {
        &self.want
    }

    /// Finds the rules that match a request.
    ///
    /// # Errors
    /// The reason of the denial. An unknown profile is refused with the same text as one that isn't
    /// allowed: the attack is to probe for names.
    pub fn match_rules(&self, peer: &Peer, head: &Head) -> Result<Matched<'_>, Denial> {
        self.admit(peer)?;
        let no_profile = || Denial::new(Reason::ProfileNotAllowed, "no rule allows the profile");
        let (profile, endpoints) =
            self.profiles.get_key_value(head.profile()).ok_or_else(no_profile)?;
        let mut rules: Vec<&Rule> = self.rules_about(peer, profile).collect();
        if rules.is_empty() {
            return Err(no_profile());
        }
        let endpoint = head.endpoint().name.as_str();
        rules.retain(|rule| rule.endpoints.contains(endpoint));
        if rules.is_empty() || !endpoints.iter().any(|allowed| allowed == endpoint) {
            let detail = format!("no rule allows the endpoint {endpoint}");
            return Err(Denial::new(Reason::EndpointNotAllowed, detail));
        }
        Ok(Matched { policy: self, profile, rules, peer: peer.id() })
    }

    /// Decides whether the peer may start a sign-in for a profile.
    ///
    /// The attack: a peer starts a sign-in, sends the code to a person who trusts AWS's page, and
    /// gets the profile signed in as that person.
    ///
    /// # Errors
    /// The reason of the denial. A profile that the peer can't use is refused like an unknown one.
    pub fn authorize_login(&self, peer: &Peer, profile: &str) -> Result<LoginGrant, Denial> {
        self.admit(peer)?;
        let no_profile = || Denial::new(Reason::ProfileNotAllowed, "no rule allows the profile");
        let profile = ProfileName::parse(profile).map_err(|_| no_profile())?;
        if self.endpoints_of(peer, &profile).is_empty() {
            return Err(no_profile());
        }
        let rule = self.rules_about(peer, &profile).find(|rule| rule.login).ok_or_else(|| {
            let detail = "no rule with login = true allows the profile";
            Denial::new(Reason::LoginNotAllowed, detail)
        })?;
        let rule = rule.name.clone();
        Ok(LoginGrant { profile, rule })
    }

    /// The verdict of each rule on a request, in order, for the author of the rules.
    #[must_use]
    pub fn explain(
        &self,
        peer: &Peer,
        profile: &str,
        endpoint: &str,
        call: Option<&Call>,
    ) -> Vec<(&str, Why)> {
        let why = |rule: &Rule| {
            if !rule.peer.matches(peer) {
                Why::Peer
            } else if !rule.profiles.contains(profile) {
                Why::Profile
            } else if !rule.endpoints.contains(endpoint) {
                Why::Endpoint
            } else {
                call.map_or(Why::AnyCall, |call| Why::Call(rule.judge(call)))
            }
        };
        self.rules.iter().map(|rule| (rule.name.as_str(), why(rule))).collect()
    }

    fn rules_for<'p, 'q>(&'p self, peer: &'q Peer) -> impl Iterator<Item = &'p Rule> + use<'p, 'q> {
        self.rules.iter().filter(|rule| rule.peer.matches(peer))
    }

    fn rules_about<'p, 'q>(
        &'p self,
        peer: &'q Peer,
        profile: &'q ProfileName,
    ) -> impl Iterator<Item = &'p Rule> + use<'p, 'q> {
        self.rules_for(peer).filter(|rule| rule.profiles.contains(profile.as_str()))
    }
}

impl Matched<'_> {
    /// The parts of the body to read, if a rule looks at it.
    #[must_use]
    pub fn want(&self) -> Option<&Arc<Want>> {
        let reads = self.rules.iter().any(|rule| rule.reads_the_body());
        reads.then_some(&self.policy.want)
    }

    /// Checks before the body is read whether any rule's rate leaves room for the request.
    ///
    /// # Errors
    /// RATE_LIMITED: the rates of all matching rules are used up.
    pub fn check_rate(&self, rates: &Rates, now: Instant) -> Result<(), Denial> {
        let mut shortest = None;
        for rule in &self.rules {
            let Some(rate) = rule.rate else { return Ok(()) };
            match rates.look(&rule.name, self.peer.clone(), rate, now) {
                Ok(()) => return Ok(()),
                Err(wait) => shortest = Some(shortest.map_or(wait, |known| wait.min(known))),
            }
        }
        let denial =
            Denial::new(Reason::RateLimited, "the rate limit of every matching rule is exceeded");
        Err(denial.retry_after(shortest.unwrap_or_default()))
    }

    /// Decides about the request, except its rate. A request that any matching rule denies is
    /// denied; otherwise the first rule that permits it decides.
    #[must_use]
    pub fn decide<'r>(&self, request: &'r CheckedRequest) -> Decision<'r> {
        let permit = |rule: &Rule| Decision {
            rule: Some(rule.name.clone()),
            agent: rule.agent.clone(),
            outcome: Ok(Grant {
                profile: self.profile.clone(),
                agent: rule.agent.clone(),
                request,
            }),
        };
        let refuse = |rule: Option<&Rule>, denial| Decision {
            rule: rule.map(|rule| rule.name.clone()),
            agent: rule.and_then(|rule| rule.agent.clone()),
            outcome: Err(denial),
        };
        let call = match request.content() {
            _ if self.want().is_none() => None,
            Content::None => None,
            Content::Call(call) if self.reads(call) => Some(call),
            // The rules were changed while the body was read, and look at other arguments now.
            Content::Call(_) => {
                let changed = "the rules were changed while the body was read";
                return refuse(None, Denial::new(Reason::BodyRequired, changed));
            }
            // A hash tells nothing about the call, and a caller's claim about it can't be trusted.
            Content::Unread => {
                return refuse(None, Denial::new(Reason::BodyRequired, "a rule looks at the body"));
            }
            Content::Ambiguous(why) => {
                return refuse(None, Denial::new(Reason::AmbiguousJson, why.clone()));
            }
        };
        let Some(call) = call else {
            return match self.rules.first() {
                Some(rule) => permit(rule),
                None => refuse(None, Denial::new(Reason::ProfileNotAllowed, "no rule matches")),
            };
        };
        let verdicts: Vec<(&Rule, Verdict)> =
            self.rules.iter().map(|rule| (*rule, rule.judge(call))).collect();
        let denying = verdicts.iter().find(|(_, verdict)| matches!(verdict, Verdict::Denies(_)));
        if let Some((rule, verdict)) = denying {
            return refuse(Some(rule), denial(call, rule, verdict));
        }
        if let Some((rule, _)) = verdicts.iter().find(|(_, it)| *it == Verdict::Permits) {
            return permit(rule);
        }
        let nearest = verdicts
            .iter()
            .find(|(_, verdict)| matches!(verdict, Verdict::Argument(_) | Verdict::Ambiguous(_)))
            .or(verdicts.first());
        match nearest {
            Some((rule, verdict)) => refuse(None, denial(call, rule, verdict)),
            None => refuse(None, Denial::new(Reason::ProfileNotAllowed, "no rule matches")),
        }
    }

    /// Whether the call was read for these rules: places are valid only for the rules that they
    /// were made for.
    fn reads(&self, call: &Call) -> bool {
        Arc::ptr_eq(call.want(), &self.policy.want) || **call.want() == *self.policy.want
    }

    /// Charges the rate of the rule that permits the request, or for a refused request, of the
    /// deciding or first rule.
    ///
    /// # Errors
    /// RATE_LIMITED.
    pub fn charge(
        &self,
        decision: &Decision<'_>,
        rates: &Rates,
        now: Instant,
    ) -> Result<(), Denial> {
        let deciding = decision.rule.as_deref();
        let rule = self.rules.iter().find(|rule| deciding.is_none_or(|name| rule.name == name));
        let Some((rule, rate)) = rule.and_then(|rule| Some((rule, rule.rate?))) else {
            return Ok(());
        };
        rates.take(&rule.name, self.peer.clone(), rate, now).map_err(|wait| {
            let detail = format!("the rate limit of {:?} is exceeded", rule.name);
            Denial::new(Reason::RateLimited, detail).retry_after(wait)
        })
    }
}

fn denial(call: &Call, rule: &Rule, verdict: &Verdict) -> Denial {
    let reason = match (verdict, call.target()) {
        (Verdict::Ambiguous(_), _) => Reason::AmbiguousJson,
        (_, Target::Tool(_)) => Reason::ToolNotAllowed,
        _ => Reason::MethodNotAllowed,
    };
    Denial::new(reason, format!("{:?} {verdict}", rule.name))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permits => f.write_str("permits it"),
            Self::Denies(matcher) => write!(f, "denies it ({matcher}.deny)"),
            Self::DoesNotPermit(matcher) => write!(f, "doesn't permit it ({matcher})"),
            Self::Argument(path) => write!(f, "has a condition on the argument {path}"),
            Self::Ambiguous(why) => write!(f, "looks at an argument that is ambiguous: {why}"),
        }
    }
}

#[cfg(test)]
mod tests;
