//! Puts the name of an agent into the session of its signatures.

use super::base::{Base, Hop};
use crate::config::{Agent, ProfileName};
use crate::error::Denial;
use crate::profile::traceable::Traceable;

/// Determines who names the session at the end of a chain.
pub(super) fn traceable(base: Option<&Base>, hops: &[Hop], narrowed: bool) -> Traceable {
    if narrowed || !hops.is_empty() {
        let set = hops.iter().find_map(|hop| hop.source_identity.clone());
        return Traceable::Role { source_identity: set };
    }
    match base {
        Some(Base::WebIdentity(_)) => Traceable::WebIdentity,
        Some(Base::Sso(_)) => Traceable::IdentityCenter,
        Some(
            Base::StaticKeys(_)
            | Base::CredentialProcess(_)
            | Base::LoginSession(_)
            | Base::Named(_),
        )
        | None => Traceable::Given,
    }
}

/// Sets the agent's name in the last assumed role: the others only lead to it. Its tag isn't
/// transitive, because a role assumed afterwards would have to permit that too. The source identity
/// is always transitive.
///
/// # Errors
/// PROFILE_MISCONFIGURED: the name can't be set.
pub(super) fn attribute(
    base: Option<&mut Base>,
    hops: &mut [Hop],
    agent: &Agent,
    profile: &ProfileName,
) -> Result<(), Denial> {
    traceable(base.as_deref(), hops, false).check(agent)?;
    let session_name = Some(agent.session_name(profile));
    match (hops.last_mut(), base) {
        (Some(hop), _) => {
            hop.session_name = session_name;
            hop.agent_tag = agent.is_tag().then(|| agent.name().to_owned());
            if agent.is_source_identity() {
                hop.source_identity = Some(agent.name().to_owned());
            }
        }
        (None, Some(Base::WebIdentity(role))) => role.session_name = session_name,
        // Refused above.
        (None, _) => {}
    }
    Ok(())
}
