//! Determines how the credentials of a profile in the AWS files are obtained, including the
//! profiles that it builds on.
//!
//! The priority of settings is botocore's (`credentials.py`: `AssumeRoleProvider`, then the
//! providers of `ProfileProviderBuilder` in order).
//!
//! Invariant: no setting about credentials is ignored silently. Unsupported settings are refused
//! with file, line and name.

mod keys;
mod role;
mod settings;
mod sso;

use std::collections::BTreeSet;
use std::path::PathBuf;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use self::role::AssumedWith;
use super::attribution;
use super::base::{Base, Endpoints, Hop, Kind, SsoRole};
use crate::error::{Denial, Reason};
use crate::memory;
use crate::profile::aws_files::{AwsFiles, Profile, Setting, misconfigured, words};
use crate::profile::identity;
use crate::profile::token::Session;
use crate::profile::traceable::Traceable;
use crate::secret::Secret;

/// A profile and those that it builds on.
pub(super) struct Chain {
    /// The profile's own region.
    pub(super) region: Option<String>,
    /// Replaces the machine's certificate authorities.
    pub(super) ca_bundle: Option<PathBuf>,
    /// The URL of the machine's metadata service, from the profile or the default.
    pub(super) metadata: String,
    /// The endpoints in the profile for services that return credentials.
    pub(super) endpoints: Endpoints,
    /// `role_session_name` of the profile, for a role from the environment.
    pub(super) session_name: Option<String>,
    /// The kind of the first credentials; `None` if the profile has none.
    pub(super) kind: Option<Kind>,
    /// Whether the profile exists in the files.
    pub(super) exists: bool,
    /// Whether the profile itself is a role that is assumed with other credentials.
    pub(super) assumes: bool,
    /// The error of the profile's own sections, which applies to all kinds of credentials.
    error: Option<Denial>,
    base: Option<Base>,
    /// The roles, in the order in which they are assumed.
    hops: Vec<Hop>,
    refusal: Option<Denial>,
    /// All settings that determine the credentials, as text; on the heap, where it is zeroed.
    deciding: Zeroizing<String>,
}

impl Chain {
    /// Follows `source_profile` like botocore.
    pub(super) fn of(files: &AwsFiles, name: &str) -> Self {
        let first = files.profile(name);
        let text = |key| settings::value(first.as_ref(), key).map(str::to_owned);
        let mut chain = Self {
            region: text("region").map(|region| settings::without_comment(&region).to_owned()),
            ca_bundle: text("ca_bundle").map(PathBuf::from),
            metadata: settings::metadata(first.as_ref()),
            endpoints: Endpoints::default(),
            session_name: text("role_session_name"),
            kind: None,
            exists: first.is_some(),
            assumes: first.as_ref().is_some_and(role::assumes),
            error: None,
            base: None,
            hops: Vec::new(),
            refusal: None,
            deciding: Zeroizing::default(),
        };
        let Some(first) = first else {
            chain.error = files.doubt(name).as_ref().map(misconfigured);
            return chain;
        };
        let error = first.error().as_ref().map(misconfigured);
        chain.error = error.or_else(|| settings::of_region(&first).err());
        chain.refusal = chain.walk(first).err();
        chain.hops.reverse();
        chain
    }

    fn walk(&mut self, first: Profile<'_>) -> Result<(), Denial> {
        let mut visited = BTreeSet::new();
        let mut profile = first;
        let calls = settings::of_calls(&first);
        match &calls {
            Ok(endpoints) => {
                self.endpoints = endpoints.clone();
                self.deciding.push_str(&format!("{endpoints:?}"));
            }
            // The error concerns every client of the profile, for all kinds of credentials.
            Err(denial) => drop(self.error.get_or_insert(denial.clone())),
        }
        loop {
            self.deciding.push_str(&settings::deciding(&profile));
            if let Some(error) = profile.error() {
                return Err(misconfigured(&error));
            }
            settings::check_values(&profile)?;
            self.check_sso_session(&profile, visited.is_empty())?;
            if !visited.insert(profile.name) {
                return Err(settings::wrong(
                    &profile,
                    "leads back to itself by its source_profile",
                ));
            }
            settings::of_roles(&profile)?;
            // From the second profile on, static keys have priority over a role.
            let keys = ["aws_access_key_id", "aws_secret_access_key"];
            let holds_keys = keys.iter().any(|key| profile.get(key).is_some());
            let role = profile.get("role_arn").filter(|_| role::assumes(&profile));
            let Some(role) = role.filter(|_| visited.len() == 1 || !holds_keys) else {
                break;
            };
            self.hops.push(role::hop(&profile, role)?);
            let source = match role::assumed_with(&profile)? {
                AssumedWith::Profile(source) => source,
                AssumedWith::Named(named) => {
                    self.kind = Some(Kind::Named);
                    self.base = Some(Base::Named(settings::named(named)?));
                    return calls.map(drop);
                }
            };
            let name = settings::text(source)?;
            if name == profile.name {
                if !holds_keys {
                    return Err(settings::wrong(
                        &profile,
                        "leads back to itself by its source_profile",
                    ));
                }
                break;
            }
            profile = profile.files().profile(name).ok_or_else(|| {
                let doubt = profile.files().doubt(name);
                let missing =
                    || source.wrong(format!("names {name:?}: there is no source_profile {name}"));
                misconfigured(&doubt.unwrap_or_else(missing))
            })?;
        }
        self.base(&profile)?;
        calls.map(drop)
    }

    /// Checks the section in `sso_session`, if botocore would read it.
    fn check_sso_session(&mut self, profile: &Profile<'_>, is_first: bool) -> Result<(), Denial> {
        let Some(named) = profile.get("sso_session") else { return Ok(()) };
        if is_first {
            // botocore reads it for every client, for all kinds of credentials.
            let wrong = |denial: &Denial| {
                self.kind = Some(Kind::Sso);
                self.error.get_or_insert(denial.clone());
            };
            return sso::section(profile, named).map(drop).inspect_err(wrong);
        }
        // botocore doesn't read the section of a source profile, but an error of the section may
        // concern the source.
        let section = named.text().ok().and_then(|name| profile.files().sso_session(name));
        match section.and_then(|section| section.error()) {
            Some(error) => Err(misconfigured(&error)),
            None => Ok(()),
        }
    }

    /// The profile's own credentials, from the first of botocore's providers that finds some.
    fn base(&mut self, profile: &Profile<'_>) -> Result<(), Denial> {
        // The AWS CLI would use these credentials, and ignore the role that the setting is for.
        for other in ["credential_source", "source_profile"] {
            settings::only_one_of(profile, ["web_identity_token_file", other])?;
        }
        let get = |key| profile.get(key);
        if let Some(token_file) = get("web_identity_token_file") {
            self.kind = Some(Kind::WebIdentity);
            self.base = Some(Base::WebIdentity(role::web_identity(profile, token_file)?));
        } else if get("sso_role_name").or(get("sso_account_id")).is_some() {
            self.kind = Some(Kind::Sso);
            self.base = Some(Base::Sso(self.sso(profile)?));
        } else if profile.in_credentials("aws_access_key_id").is_some() {
            for other in ["login_session", "credential_process"] {
                settings::only_one_of(profile, [other, "aws_access_key_id"])?;
            }
            self.kind = Some(Kind::StaticKeys);
            let keys = keys::keys(profile, |key| profile.in_credentials(key))?;
            self.base = Some(Base::StaticKeys(keys));
        } else if let Some(session) = get("login_session") {
            self.kind = Some(Kind::LoginSession);
            settings::only_one_of(profile, ["login_session", "aws_access_key_id"])?;
            settings::of_sign_ins(profile)?;
            self.base = Some(Base::LoginSession(settings::text(session)?.to_owned()));
        } else if let Some(command) = get("credential_process") {
            self.kind = Some(Kind::CredentialProcess);
            settings::only_one_of(profile, ["credential_process", "aws_access_key_id"])?;
            self.base = Some(Base::CredentialProcess(process(command)?));
        } else if profile.in_config("aws_access_key_id").is_some() {
            self.kind = Some(Kind::StaticKeys);
            let keys = keys::keys(profile, |key| profile.in_config(key))?;
            self.base = Some(Base::StaticKeys(keys));
        } else if get("aws_secret_access_key").is_some() {
            return Err(settings::wrong(profile, "has no aws_access_key_id"));
        } else if get("sso_session").or(get("sso_start_url")).is_some() {
            // The settings are incomplete; the error names the missing one.
            self.kind = Some(Kind::Sso);
            self.sso(profile)?;
        } else if let Some(named) = get("credential_source") {
            let why = "is for assuming a role, and the profile has no role_arn";
            return Err(misconfigured(&named.wrong(why)));
        } else if !self.hops.is_empty() {
            return Err(settings::wrong(profile, "holds no credentials to assume a role with"));
        }
        Ok(())
    }

    fn sso(&mut self, profile: &Profile<'_>) -> Result<SsoRole, Denial> {
        let session = sso::session(profile)?;
        self.deciding.push_str(&format!("{session:?}"));
        sso::role(profile, session)
    }

    /// The error of the profile's own sections, which applies to all kinds of credentials.
    pub(super) fn error(&self) -> Option<&Denial> {
        self.error.as_ref()
    }

    /// The first credentials and the roles to assume; `None` if the profile has no settings for
    /// credentials.
    ///
    /// # Errors
    /// The error of the profile, or an unsupported setting. With `must_exist`, a missing profile is
    /// an error; the default chain may work without files.
    pub(super) fn resolve(
        self,
        name: &str,
        must_exist: bool,
    ) -> Result<Option<(Base, Vec<Hop>)>, Denial> {
        match self.hindrance(name, must_exist) {
            Some(denial) => Err(denial),
            None => Ok(self.base.map(|base| (base, self.hops))),
        }
    }

    /// The reason why the profile can't sign, as far as it is known from the files.
    pub(super) fn hindrance(&self, name: &str, must_exist: bool) -> Option<Denial> {
        let found = self.error.as_ref().or(self.refusal.as_ref()).cloned();
        found.or_else(|| (must_exist && self.base.is_none()).then(|| self.nothing(name)))
    }

    fn nothing(&self, name: &str) -> Denial {
        if self.exists {
            return Denial::new(
                Reason::NoCredentials,
                format!("the profile {name} holds no credentials"),
            );
        }
        let detail = format!("there is no profile {name} in the AWS files");
        Denial::new(Reason::ProfileMisconfigured, detail)
    }

    /// The first credentials of the chain.
    pub(super) fn begins_with(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// The account and the role of the credentials, if a role is named by the configuration, or
    /// else by the files.
    pub(super) fn account_and_role(&self, configured: Option<&str>) -> (String, String) {
        let arn = match (configured, self.hops.last(), &self.base) {
            (Some(arn), ..) => arn,
            (None, Some(hop), _) => &hop.role_arn,
            (None, None, Some(Base::WebIdentity(role))) => &role.role_arn,
            (None, None, Some(Base::Sso(role))) => {
                return (role.account.clone(), role.role.clone());
            }
            (None, None, _) => "",
        };
        let (account, role) = identity::account_and_role(arn);
        (account.to_owned(), role.to_owned())
    }

    /// Determines who names the session of the signatures. `narrowed` is set if the configuration
    /// has a narrower role.
    pub(super) fn traceable(&self, narrowed: bool) -> Option<Traceable> {
        let known = self.base.is_some() && self.refusal.is_none();
        known.then(|| attribution::traceable(self.base.as_ref(), &self.hops, narrowed))
    }

    /// The IAM Identity Center session of the first credentials.
    pub(super) fn session(&self) -> Option<&Session> {
        match &self.base {
            Some(Base::Sso(role)) => Some(&role.session),
            _ => None,
        }
    }

    /// The `aws login` session of the first credentials.
    pub(super) fn login_session(&self) -> Option<&str> {
        match &self.base {
            Some(Base::LoginSession(session)) => Some(session),
            _ => None,
        }
    }

    /// The hash of all settings that determine the credentials, and of `more`, to compare readings
    /// of the files. The hashed text contains static keys and tokens.
    pub(super) fn fingerprint(&self, more: &[u8]) -> [u8; 32] {
        memory::wiped(|| {
            Sha256::new_with_prefix(self.deciding.as_bytes()).chain_update(more).finalize().into()
        })
    }

    /// The source of the credentials, for people.
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

/// The command of `credential_process`, split into words.
fn process(command: Setting<'_>) -> Result<Vec<Secret>, Denial> {
    let wrong = |error| misconfigured(&command.wrong(error));
    let words = words::split(command.lines()).map_err(wrong)?;
    if words.is_empty() {
        return Err(misconfigured(&command.wrong("is empty")));
    }
    Ok(words.into_iter().map(Secret::from).collect())
}

#[cfg(test)]
mod tests;
