//! Whether AWS can tell apart the agents that use a profile.
//!
//! Invariant: an agent signs only with credentials that carry its name.

use crate::config::Agent;
use crate::error::{Denial, Reason};

/// Determines the name of the session that a profile signs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Traceable {
    /// The broker sets it, because it assumes a role with other credentials.
    Role {
        /// The source identity that the AWS files set on the way to the role.
        source_identity: Option<String>,
    },
    /// The broker sets it, because it assumes a role with a token. The token determines the other
    /// properties of the session.
    WebIdentity,
    /// IAM Identity Center sets the name of its user.
    IdentityCenter,
    /// It is set elsewhere, or there is none.
    Given,
}

impl Traceable {
    /// Checks that the session carries the agent's name, as its rule requires.
    ///
    /// # Errors
    /// PROFILE_MISCONFIGURED: CloudTrail couldn't tell the agent from others.
    pub(super) fn check(&self, agent: &Agent) -> Result<(), Denial> {
        let why = match self {
            Self::Role { source_identity: Some(set) }
                if agent.is_source_identity() && set != agent.name() =>
            {
                format!(
                    "the AWS files set source_identity = {set}, which stays over all roles that follow, and AWS refuses \
                     another one: take it out of them, or \"source-identity\" out of attribution"
                )
            }
            Self::Role { .. } => return Ok(()),
            Self::WebIdentity if agent.is_tag() || agent.is_source_identity() => {
                "session tags and the source identity of a role that is assumed with a web identity come from its token \
                 alone: take attribution out of the rule, or add role_arn to the [[profile]], a role to assume after it"
                    .to_owned()
            }
            Self::WebIdentity => return Ok(()),
            Self::IdentityCenter => {
                "IAM Identity Center names the session after its user, so CloudTrail couldn't tell the agent: add \
                 role_arn to the [[profile]], a role that this one may assume"
                    .to_owned()
            }
            Self::Given => {
                "the broker assumes no role for the profile, so CloudTrail couldn't tell the agent: add role_arn to \
                 the [[profile]]"
                    .to_owned()
            }
        };
        let detail = format!("the rule's agent is {:?}, and {why}", agent.name());
        Err(Denial::new(Reason::ProfileMisconfigured, detail))
    }
}
