//! What the trust policies of roles allow beside `sts:AssumeRole`, and what of a session stays in those that are assumed
//! with it.
//!
//! As AWS has it: session tags and a source identity need actions of their own in the trust policy; a source identity
//! stays over all roles that follow, each of which must allow it, and can't become another one; a tag stays only where it
//! is transitive.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html>
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_control-access_monitor.html>

use std::collections::{BTreeMap, BTreeSet};

use crate::keys::Key;

/// All roles allow `sts:AssumeRole`, and nothing else until it is allowed.
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

    /// Assumes a role for the first session, which makes the second. An error is AWS's message.
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
