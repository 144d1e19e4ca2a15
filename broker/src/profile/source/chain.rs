//! What a profile of the AWS files asks for, over all the profiles that it builds on.

use aws_config::profile::{Profile, ProfileSet};
use sigward_proto::v1::Reason;

use crate::error::Denial;

/// How the first credentials of a chain are had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    StaticKeys,
    WebIdentity,
    Sso,
    CredentialProcess,
    LoginSession,
    /// `credential_source`.
    Named,
}

/// A profile and those that it builds on.
pub(super) struct Chain {
    /// The profile's own region.
    pub(super) region: Option<String>,
    /// How the chain begins; none where the profile holds no credentials.
    pub(super) kind: Option<Kind>,
    exists: bool,
    assumes: bool,
    /// Settings that the SDK would ignore: the profile and the key.
    ignored: Vec<(String, &'static str)>,
    /// Profiles that assume a role without a session name.
    nameless: Vec<String>,
}

/// What the SDK reads over without a word.
const IGNORED: [&str; 4] = ["mfa_serial", "duration_seconds", "source_identity", "ca_bundle"];

impl Chain {
    /// Follows `source_profile` as the SDK does.
    pub(super) fn of(sections: &ProfileSet, name: &str) -> Self {
        let first = sections.get_profile(name);
        let mut chain = Self {
            region: first.and_then(|profile| profile.get("region")).map(str::to_owned),
            kind: None,
            exists: first.is_some(),
            assumes: false,
            ignored: Vec::new(),
            nameless: Vec::new(),
        };
        let mut visited = Vec::new();
        let mut next = first;
        while let Some(profile) = next.filter(|profile| !visited.contains(&profile.name())) {
            // From the second profile on, static keys come before a role.
            let stops = !visited.is_empty() && profile.get("aws_access_key_id").is_some();
            visited.push(profile.name());
            next = if stops { chain.base(profile) } else { chain.follow(sections, profile) };
        }
        chain
    }

    fn follow<'s>(
        &mut self,
        sections: &'s ProfileSet,
        profile: &'s Profile,
    ) -> Option<&'s Profile> {
        let role = profile.get("role_arn").is_some();
        let token = profile.get("web_identity_token_file").is_some();
        if role && profile.get("role_session_name").is_none() {
            self.nameless.push(profile.name().to_owned());
        }
        self.assumes |= role;
        let source = profile.get("source_profile").filter(|source| *source != profile.name());
        match source {
            Some(source) if role && !token => {
                self.look_for_ignored(profile);
                sections.get_profile(source)
            }
            _ => self.base(profile),
        }
    }

    fn base<'s>(&mut self, profile: &Profile) -> Option<&'s Profile> {
        self.look_for_ignored(profile);
        let has = |key| profile.get(key).is_some();
        self.kind = if has("credential_source") {
            Some(Kind::Named)
        } else if has("web_identity_token_file") {
            Some(Kind::WebIdentity)
        } else if has("sso_session") || has("sso_start_url") {
            Some(Kind::Sso)
        } else if has("login_session") {
            Some(Kind::LoginSession)
        } else if has("credential_process") {
            Some(Kind::CredentialProcess)
        } else if has("aws_access_key_id") {
            Some(Kind::StaticKeys)
        } else {
            None
        };
        None
    }

    fn look_for_ignored(&mut self, profile: &Profile) {
        let keys = IGNORED.into_iter().filter(|key| profile.get(key).is_some());
        self.ignored.extend(keys.map(|key| (profile.name().to_owned(), key)));
    }

    /// Refuses what the SDK would ignore. `must_exist` unless the default chain may do without files.
    pub(super) fn check(&self, name: &str, must_exist: bool) -> Result<(), Denial> {
        if must_exist && !self.exists {
            let detail = format!("there is no profile {name} in the AWS files");
            return Err(Denial::new(Reason::ProfileMisconfigured, detail));
        }
        if let Some((profile, key)) = self.ignored.first() {
            let reason = match *key {
                "mfa_serial" => Reason::MfaRequired,
                _ => Reason::UnsupportedProfileSetting,
            };
            return Err(Denial::new(reason, format!("{key} in the profile {profile}")));
        }
        if self.kind == Some(Kind::LoginSession) {
            let detail = format!("login_session in the profile {name}");
            return Err(Denial::new(Reason::UnsupportedProfileSetting, detail));
        }
        Ok(())
    }

    /// A config file that gives each nameless role of the chain its session name, to be read on top of
    /// the others. The names are of profiles that the SDK's parser took, so they can't break out.
    pub(super) fn session_names(&self, session_name: &str) -> String {
        let sections = self.nameless.iter().map(|profile| {
            let prefix = if profile == "default" { "" } else { "profile " };
            format!("[{prefix}{profile}]\nrole_session_name = {session_name}\n")
        });
        sections.collect()
    }

    /// Where the credentials come from, for people.
    pub(super) fn source(&self) -> &'static str {
        match self.kind {
            Some(Kind::WebIdentity) => "web identity",
            _ if self.assumes => "assume role",
            Some(Kind::StaticKeys) => "static keys",
            Some(Kind::Sso) => "sso",
            Some(Kind::CredentialProcess) => "credential process",
            Some(Kind::LoginSession) => "login session",
            Some(Kind::Named) => "credential source",
            None => "",
        }
    }
}
