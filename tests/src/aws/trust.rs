//! What the trust policies of roles allow in addition to `sts:AssumeRole`, and which properties of a session are kept
//! by the roles that are assumed with it.
//!
//! As in AWS: session tags and a source identity need actions of their own in the trust policy; all following roles
//! keep a source identity, each of them must allow it, and it can't change; a tag is only kept if it is transitive.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html>
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_monitor.html>

use std::collections::{BTreeMap, BTreeSet};

use crate::keys::Key;

/// All roles allow `sts:AssumeRole`, and other actions only after [`Trust::allow`].
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// Roles and actions.
    allowed: BTreeSet<(String, String)>,
    /// The source identities of sessions, by access key id.
    identities: BTreeMap<String, String>,
}

impl Trust {
    pub(super) fn allow(&mut self, role: &str, action: &str) {
        self.allowed.insert((role.to_owned(), action.to_owned()));
    }

    /// Assumes a role with the first session, which creates the second. An error is AWS's message.
    pub(super) fn assume(
        &mut self,
        (caller, session): (&Key, &Key),
        role: &str,
        parameters: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let inherited = self.identities.get(&caller.access_key_id);
        let asked = parameters.get("SourceIdentity");
        if let (Some(inherited), Some(asked)) = (inherited, asked)
            && inherited != asked
        {
            return Err("You cannot change the source identity of a session".to_owned());
        }
        let identity = inherited.or(asked).cloned();
        let is_tagged = parameters.keys().any(|name| name.starts_with("Tags."));
        let needed = [
            is_tagged.then_some("sts:TagSession"),
            identity.is_some().then_some("sts:SetSourceIdentity"),
        ];
        for action in needed.into_iter().flatten() {
            if !self.allowed.contains(&(role.to_owned(), action.to_owned())) {
                return Err(format!(
                    "User: {} is not authorized to perform: {action} on resource: {role}",
                    caller.identity
                ));
            }
        }
        if let Some(identity) = identity {
            self.identities.insert(session.access_key_id.clone(), identity);
        }
        Ok(())
    }
}
