//! What a profile of the AWS files asks for, over all the profiles that it builds on.
//!
//! Invariant: nothing that a profile says about its credentials is read over. What can't be done is a
//! refusal that names the key.

mod settings;

use std::collections::BTreeSet;
use std::path::PathBuf;

use aws_config::profile::{Profile, ProfileSet};
use aws_credential_types::Credentials;
use sha2::{Digest, Sha256};
use sigward_proto::v1::Reason;
use zeroize::Zeroizing;

use crate::error::Denial;
use crate::memory;
use crate::profile::token::Session;
use crate::secret::Secret;

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

/// The same, with what it takes.
#[derive(Debug)]
pub(super) enum Base {
    StaticKeys(Credentials),
    WebIdentity(WebIdentity),
    Sso(SsoRole),
    /// Its arguments may be secrets.
    CredentialProcess(Secret),
    LoginSession(String),
    Named(Named),
}

/// What `credential_source` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Environment,
    InstanceMetadata,
    Container,
}

/// A role that is assumed with a token in a file.
#[derive(Debug, Clone)]
pub(super) struct WebIdentity {
    pub(super) token_file: PathBuf,
    pub(super) role_arn: String,
    pub(super) session_name: Option<String>,
    pub(super) duration: Option<i32>,
}

/// A role of IAM Identity Center.
#[derive(Debug)]
pub(super) struct SsoRole {
    pub(super) session: Session,
    pub(super) account: String,
    pub(super) role: String,
}

/// A role that is assumed with the credentials before it.
#[derive(Debug, Default)]
pub(super) struct Hop {
    pub(super) role_arn: String,
    pub(super) session_name: Option<String>,
    pub(super) external_id: Option<String>,
    pub(super) source_identity: Option<String>,
    pub(super) duration: Option<i32>,
    pub(super) policy: Option<String>,
    pub(super) policy_arns: Vec<String>,
}

/// A profile and those that it builds on.
pub(super) struct Chain {
    /// The profile's own region.
    pub(super) region: Option<String>,
    /// In place of the machine's certificate authorities.
    pub(super) ca_bundle: Option<PathBuf>,
    /// Where the profile says that the machine's metadata service is, else where it always is.
    pub(super) metadata: String,
    /// How the chain begins; none where the profile holds no credentials.
    pub(super) kind: Option<Kind>,
    /// Whether the files have the profile at all.
    pub(super) exists: bool,
    /// Whether the profile itself is a role that is assumed with other credentials.
    assumes: bool,
    base: Option<Base>,
    /// In the order in which they are assumed.
    hops: Vec<Hop>,
    refusal: Option<Denial>,
    /// All that decides, as text; on the heap, where it is zeroed.
    deciding: Zeroizing<String>,
}

fn wrong(profile: &Profile, what: &str) -> Denial {
    let detail = format!("the profile {}: {what}", profile.name());
    Denial::new(Reason::ProfileMisconfigured, detail)
}

impl Chain {
    /// Follows `source_profile` as the SDK does.
    pub(super) fn of(sections: &ProfileSet, name: &str) -> Self {
        let first = sections.get_profile(name);
        let text = |key| first.and_then(|profile| profile.get(key)).map(str::to_owned);
        let mut chain = Self {
            region: text("region"),
            ca_bundle: text("ca_bundle").map(PathBuf::from),
            metadata: settings::metadata(first),
            kind: None,
            exists: first.is_some(),
            assumes: text("role_arn").is_some() && text("web_identity_token_file").is_none(),
            base: None,
            hops: Vec::new(),
            refusal: None,
            deciding: Zeroizing::default(),
        };
        if let Some(first) = first
            && let Err(denial) = chain.walk(sections, first)
        {
            chain.refusal = Some(denial);
        }
        chain.hops.reverse();
        chain
    }

    fn walk(&mut self, sections: &ProfileSet, first: &Profile) -> Result<(), Denial> {
        let mut visited = BTreeSet::new();
        let mut profile = first;
        self.deciding.push_str(&settings::of_services(sections, first));
        settings::of_calls(sections, first)?;
        loop {
            self.deciding.push_str(&settings::deciding(profile));
            if !visited.insert(profile.name()) {
                return Err(wrong(profile, "its source_profile leads back to itself"));
            }
            if profile.get("mfa_serial").is_some() {
                let detail = format!(
                    "mfa_serial in the profile {}: nobody is here to type a code; use a profile of IAM \
                     Identity Center, or one whose credential_process asks for the code",
                    profile.name()
                );
                return Err(Denial::new(Reason::MfaRequired, detail));
            }
            settings::of_roles(profile)?;
            // From the second profile on, static keys come before a role.
            if visited.len() > 1 && profile.get("aws_access_key_id").is_some() {
                return self.static_keys(profile);
            }
            let role = profile.get("role_arn");
            let role = role.filter(|_| profile.get("web_identity_token_file").is_none());
            let Some(role) = role else { return self.base(sections, profile) };
            self.hops.push(hop(profile, role)?);
            profile = match (profile.get("source_profile"), profile.get("credential_source")) {
                (Some(_), Some(_)) => {
                    return settings::only_one_of(profile, ["source_profile", "credential_source"]);
                }
                (None, None) => {
                    return Err(wrong(profile, "has role_arn, and no source_profile to assume it"));
                }
                (None, Some(_)) => return self.base(sections, profile),
                (Some(source), None) if source == profile.name() => {
                    return self.base(sections, profile);
                }
                (Some(source), None) => sections.get_profile(source).ok_or_else(|| {
                    wrong(profile, &format!("there is no source_profile {source}"))
                })?,
            };
        }
    }

    fn base(&mut self, sections: &ProfileSet, profile: &Profile) -> Result<(), Denial> {
        let get = |key| profile.get(key);
        // The SDK would take the one, and read over the role that the other is for.
        for other in ["credential_source", "source_profile"] {
            settings::only_one_of(profile, ["web_identity_token_file", other])?;
        }
        if let Some(source) = get("credential_source") {
            self.kind = Some(Kind::Named);
            self.base = Some(Base::Named(match source {
                "Environment" => Named::Environment,
                "Ec2InstanceMetadata" => Named::InstanceMetadata,
                "EcsContainer" => Named::Container,
                _ => {
                    let what = "credential_source must be Environment, Ec2InstanceMetadata or \
                                EcsContainer";
                    return Err(wrong(profile, what));
                }
            }));
        } else if let Some(token_file) = get("web_identity_token_file") {
            self.kind = Some(Kind::WebIdentity);
            let role_arn = get("role_arn")
                .ok_or_else(|| wrong(profile, "has web_identity_token_file, and no role_arn"))?;
            self.base = Some(Base::WebIdentity(WebIdentity {
                token_file: token_file.into(),
                role_arn: role_arn.to_owned(),
                session_name: get("role_session_name").map(str::to_owned),
                duration: duration(profile)?,
            }));
        } else if get("sso_session").is_some() || get("sso_start_url").is_some() {
            self.kind = Some(Kind::Sso);
            self.base = Some(Base::Sso(self.sso(sections, profile)?));
        } else if let Some(session) = get("login_session") {
            self.kind = Some(Kind::LoginSession);
            settings::only_one_of(profile, ["login_session", "aws_access_key_id"])?;
            settings::of_sign_ins(sections, profile)?;
            self.base = Some(Base::LoginSession(session.to_owned()));
        } else if let Some(command) = get("credential_process") {
            self.kind = Some(Kind::CredentialProcess);
            settings::only_one_of(profile, ["credential_process", "aws_access_key_id"])?;
            self.base = Some(Base::CredentialProcess(Secret::new(command.to_owned())));
        } else if get("aws_access_key_id").or(get("aws_secret_access_key")).is_some() {
            return self.static_keys(profile);
        } else if !self.hops.is_empty() {
            return Err(wrong(profile, "holds no credentials to assume a role with"));
        }
        Ok(())
    }

    fn sso(&mut self, sections: &ProfileSet, profile: &Profile) -> Result<SsoRole, Denial> {
        let needed = |value: Option<&str>, key: &str| {
            value.map(str::to_owned).ok_or_else(|| wrong(profile, &format!("has no {key}")))
        };
        let session = match profile.get("sso_session") {
            None => Session {
                name: None,
                start_url: needed(profile.get("sso_start_url"), "sso_start_url")?,
                region: needed(profile.get("sso_region"), "sso_region")?,
                scopes: Vec::new(),
            },
            Some(name) => {
                let section = sections.sso_session(name).ok_or_else(|| {
                    wrong(profile, &format!("there is no sso-session {name} in the AWS files"))
                })?;
                for key in ["sso_start_url", "sso_region"] {
                    // Two answers to one question; the SDK refuses that too.
                    if profile.get(key).is_some_and(|value| section.get(key) != Some(value)) {
                        let what = format!("its {key} isn't that of its sso_session: take it out");
                        return Err(wrong(profile, &what));
                    }
                }
                let scopes = section.get("sso_registration_scopes").unwrap_or("sso:account:access");
                Session {
                    name: Some(name.to_owned()),
                    start_url: needed(section.get("sso_start_url"), "sso_start_url")?,
                    region: needed(section.get("sso_region"), "sso_region")?,
                    scopes: scopes.split(',').map(|scope| scope.trim().to_owned()).collect(),
                }
            }
        };
        self.deciding.push_str(&format!("{session:?}"));
        let account = needed(profile.get("sso_account_id"), "sso_account_id")?;
        let role = needed(profile.get("sso_role_name"), "sso_role_name")?;
        Ok(SsoRole { session, account, role })
    }

    fn static_keys(&mut self, profile: &Profile) -> Result<(), Denial> {
        self.kind = Some(Kind::StaticKeys);
        let needed = |key| {
            let value = profile.get(key).filter(|value| !value.is_empty());
            value.ok_or_else(|| wrong(profile, &format!("has no {key}")))
        };
        let (id, secret) = (needed("aws_access_key_id")?, needed("aws_secret_access_key")?);
        let token = profile.get("aws_session_token").map(str::to_owned);
        let keys = Credentials::new(id, secret, token, None, "profile");
        self.base = Some(Base::StaticKeys(keys));
        Ok(())
    }

    /// How the credentials are had: nothing where the profile says nothing about it.
    ///
    /// # Errors
    /// What is wrong with the profile, or can't be done. It `must_exist` unless the default chain may
    /// do without files.
    pub(super) fn resolve(
        self,
        name: &str,
        must_exist: bool,
    ) -> Result<Option<(Base, Vec<Hop>)>, Denial> {
        match (self.refusal, self.base) {
            (Some(denial), _) => Err(denial),
            (None, Some(base)) => Ok(Some((base, self.hops))),
            (None, None) if must_exist => {
                let detail = if self.exists {
                    format!("the profile {name} holds no credentials")
                } else {
                    format!("there is no profile {name} in the AWS files")
                };
                Err(Denial::new(Reason::ProfileMisconfigured, detail))
            }
            (None, None) => Ok(None),
        }
    }

    /// The session of IAM Identity Center that the chain begins with.
    pub(super) fn session(&self) -> Option<&Session> {
        match &self.base {
            Some(Base::Sso(role)) => Some(&role.session),
            _ => None,
        }
    }

    /// The session of `aws login` that the chain begins with.
    pub(super) fn login_session(&self) -> Option<&str> {
        match &self.base {
            Some(Base::LoginSession(session)) => Some(session),
            _ => None,
        }
    }

    /// Tells whether two readings of the files mean the same credentials, with `more` that decides.
    /// Static keys and tokens are among what it is made of.
    pub(super) fn fingerprint(&self, more: &[u8]) -> [u8; 32] {
        memory::wiped(|| {
            Sha256::new_with_prefix(self.deciding.as_bytes()).chain_update(more).finalize().into()
        })
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

fn hop(profile: &Profile, role_arn: &str) -> Result<Hop, Denial> {
    let text = |key| profile.get(key).map(str::to_owned);
    Ok(Hop {
        role_arn: role_arn.to_owned(),
        session_name: text("role_session_name"),
        external_id: text("external_id"),
        source_identity: text("source_identity"),
        duration: duration(profile)?,
        ..Hop::default()
    })
}

/// `duration_seconds`, as STS allows it.
fn duration(profile: &Profile) -> Result<Option<i32>, Denial> {
    let Some(text) = profile.get("duration_seconds") else { return Ok(None) };
    let seconds = text.parse().ok().filter(|seconds| (900..=43_200).contains(seconds));
    let what = "duration_seconds must be a number from 900 to 43200";
    seconds.map(Some).ok_or_else(|| wrong(profile, what))
}

#[cfg(test)]
mod tests;
