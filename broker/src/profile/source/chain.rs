//! What a profile of the AWS files asks for, over all the profiles that it builds on.
//!
//! Which of several settings counts is botocore's decision (`credentials.py`: `AssumeRoleProvider`, then the providers
//! of `ProfileProviderBuilder` in their order).
//!
//! Invariant: no setting about credentials is ignored silently. What can't be done is a refusal that names file, line
//! and setting.

mod settings;

use std::collections::BTreeSet;
use std::path::PathBuf;

use aws_credential_types::Credentials;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::attribution;
use super::base::{Base, Endpoints, Hop, Kind, SsoRole, WebIdentity};
use crate::error::{Denial, Reason};
use crate::memory;
use crate::profile::aws_files::{AwsFiles, Other, Profile, Setting, misconfigured, words};
use crate::profile::identity;
use crate::profile::token::Session;
use crate::profile::traceable::Traceable;
use crate::secret::Secret;

/// A profile and those that it builds on.
pub(super) struct Chain {
    /// The profile's own region.
    pub(super) region: Option<String>,
    /// In place of the machine's certificate authorities.
    pub(super) ca_bundle: Option<PathBuf>,
    /// Where the profile says that the machine's metadata service is, else where it always is.
    pub(super) metadata: String,
    /// Where the profile says that AWS is asked for credentials.
    pub(super) endpoints: Endpoints,
    /// `role_session_name` of the profile, for a role that the environment names.
    pub(super) session_name: Option<String>,
    /// How the chain begins; none where the profile holds no credentials.
    pub(super) kind: Option<Kind>,
    /// Whether the files have the profile at all.
    pub(super) exists: bool,
    /// Whether the profile itself is a role that is assumed with other credentials.
    pub(super) assumes: bool,
    /// What is wrong with the profile's own sections, whatever its credentials are made of.
    error: Option<Denial>,
    base: Option<Base>,
    /// In the order in which they are assumed.
    hops: Vec<Hop>,
    refusal: Option<Denial>,
    /// All that decides, as text; on the heap, where it is zeroed.
    deciding: Zeroizing<String>,
}

fn wrong(profile: &Profile<'_>, what: &str) -> Denial {
    misconfigured(&profile.wrong(format!("the profile {} {what}", profile.name)))
}

impl Chain {
    /// Follows `source_profile` as botocore does.
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
            assumes: first.as_ref().is_some_and(assumes),
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
            // It concerns every client that is made for the profile, whatever the credentials come from.
            Err(denial) => drop(self.error.get_or_insert(denial.clone())),
        }
        loop {
            self.deciding.push_str(&settings::deciding(&profile));
            if let Some(error) = profile.error() {
                return Err(misconfigured(&error));
            }
            settings::sound(&profile)?;
            if let Some(named) = profile.get("sso_session") {
                if visited.is_empty() {
                    // botocore looks into it for every client that it makes, whatever the credentials come from.
                    let wrong = |denial: &Denial| {
                        self.kind = Some(Kind::Sso);
                        self.error.get_or_insert(denial.clone());
                    };
                    sso_session(&profile, named).map(drop).inspect_err(wrong)?;
                } else {
                    // Into that of a source it doesn't; but what is wrong with the section may concern the source.
                    let name = named.text().ok();
                    let section = name.and_then(|name| profile.files().sso_session(name));
                    if let Some(error) = section.and_then(|section| section.error()) {
                        return Err(misconfigured(&error));
                    }
                }
            }
            if !visited.insert(profile.name) {
                return Err(wrong(&profile, "leads back to itself by its source_profile"));
            }
            settings::of_roles(&profile)?;
            // From the second profile on, static keys come before a role.
            let keys = ["aws_access_key_id", "aws_secret_access_key"];
            let holds_keys = keys.iter().any(|key| profile.get(key).is_some());
            let role = profile.get("role_arn").filter(|_| assumes(&profile));
            let Some(role) = role.filter(|_| visited.len() == 1 || !holds_keys) else {
                break;
            };
            if let Some(mfa) = profile.get("mfa_serial") {
                let why = "nobody is here to type a code; use a profile of IAM Identity Center, or one whose \
                           credential_process asks for the code";
                let detail =
                    mfa.wrong(format!("in the profile {}: {why}", profile.name)).to_string();
                return Err(Denial::new(Reason::MfaRequired, detail));
            }
            self.hops.push(hop(&profile, role)?);
            let source = match (profile.get("source_profile"), profile.get("credential_source")) {
                (Some(_), Some(_)) => {
                    return settings::only_one_of(
                        &profile,
                        ["source_profile", "credential_source"],
                    );
                }
                (None, None) => {
                    return Err(wrong(
                        &profile,
                        "has role_arn, and no source_profile to assume it",
                    ));
                }
                (None, Some(named)) => {
                    self.kind = Some(Kind::Named);
                    self.base = Some(Base::Named(settings::named(named)?));
                    return calls.map(drop);
                }
                (Some(source), None) => source,
            };
            let name = settings::text(source)?;
            if name == profile.name {
                if !holds_keys {
                    return Err(wrong(&profile, "leads back to itself by its source_profile"));
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

    /// The credentials that a profile holds itself, by the first of botocore's providers that finds some.
    fn base(&mut self, profile: &Profile<'_>) -> Result<(), Denial> {
        // The AWS CLI would take the one, and ignore the role that the other is for.
        for other in ["credential_source", "source_profile"] {
            settings::only_one_of(profile, ["web_identity_token_file", other])?;
        }
        let get = |key| profile.get(key);
        if let Some(token_file) = get("web_identity_token_file") {
            self.kind = Some(Kind::WebIdentity);
            let role_arn = get("role_arn")
                .ok_or_else(|| wrong(profile, "has web_identity_token_file, and no role_arn"))?;
            self.base = Some(Base::WebIdentity(WebIdentity {
                token_file: settings::text(token_file)?.into(),
                role_arn: settings::arn(role_arn)?.to_owned(),
                session_name: text(get("role_session_name"))?,
                duration: duration(profile)?,
            }));
        } else if get("sso_role_name").or(get("sso_account_id")).is_some() {
            self.kind = Some(Kind::Sso);
            self.base = Some(Base::Sso(self.sso(profile)?));
        } else if profile.in_credentials("aws_access_key_id").is_some() {
            for other in ["login_session", "credential_process"] {
                settings::only_one_of(profile, [other, "aws_access_key_id"])?;
            }
            self.static_keys(profile, |key| profile.in_credentials(key))?;
        } else if let Some(session) = get("login_session") {
            self.kind = Some(Kind::LoginSession);
            settings::only_one_of(profile, ["login_session", "aws_access_key_id"])?;
            settings::of_sign_ins(profile)?;
            self.base = Some(Base::LoginSession(settings::text(session)?.to_owned()));
        } else if let Some(command) = get("credential_process") {
            self.kind = Some(Kind::CredentialProcess);
            settings::only_one_of(profile, ["credential_process", "aws_access_key_id"])?;
            let words = words::split(command.lines())
                .map_err(|error| misconfigured(&command.wrong(error)))?;
            if words.is_empty() {
                return Err(misconfigured(&command.wrong("is empty")));
            }
            self.base =
                Some(Base::CredentialProcess(words.into_iter().map(Secret::from).collect()));
        } else if profile.in_config("aws_access_key_id").is_some() {
            self.static_keys(profile, |key| profile.in_config(key))?;
        } else if get("aws_secret_access_key").is_some() {
            return Err(wrong(profile, "has no aws_access_key_id"));
        } else if get("sso_session").or(get("sso_start_url")).is_some() {
            // Half of what it takes: its own words say what is missing.
            self.kind = Some(Kind::Sso);
            self.sso(profile)?;
        } else if let Some(named) = get("credential_source") {
            let why = "says who assumes a role, and the profile has no role_arn";
            return Err(misconfigured(&named.wrong(why)));
        } else if !self.hops.is_empty() {
            return Err(wrong(profile, "holds no credentials to assume a role with"));
        }
        Ok(())
    }

    fn sso(&mut self, profile: &Profile<'_>) -> Result<SsoRole, Denial> {
        let needed = |setting: Option<Setting<'_>>, key: &str| match setting {
            Some(setting) => settings::text(setting).map(str::to_owned),
            None => Err(wrong(profile, &format!("has no {key}"))),
        };
        let region = |setting, key| {
            needed(setting, key).map(|region| settings::without_comment(&region).to_owned())
        };
        let lacks: Vec<&str> = match profile.get("sso_session") {
            None => ["sso_start_url", "sso_region", "sso_account_id", "sso_role_name"]
                .into_iter()
                .filter(|key| profile.get(key).is_none())
                .collect(),
            Some(_) => Vec::new(),
        };
        if !lacks.is_empty() {
            return Err(wrong(profile, &format!("has no {}", lacks.join(", no "))));
        }
        let session = match profile.get("sso_session") {
            None => Session {
                name: None,
                start_url: needed(profile.get("sso_start_url"), "sso_start_url")?,
                region: region(profile.get("sso_region"), "sso_region")?,
                scopes: Vec::new(),
            },
            Some(named) => {
                let section = sso_session(profile, named)?;
                let of_session = |key| needed(section.get(key), key);
                // Two answers to one question.
                let other = section.keys().filter_map(|key| profile.get(key).zip(section.get(key)));
                if let Some((own, _)) =
                    other.into_iter().find(|(own, it)| own.lines() != it.lines())
                {
                    return Err(misconfigured(
                        &own.wrong("isn't that of its sso_session: take it out"),
                    ));
                }
                let scopes = match section.get("sso_registration_scopes") {
                    Some(scopes) => settings::text(scopes)?,
                    None => "sso:account:access",
                };
                Session {
                    name: Some(settings::text(named)?.to_owned()),
                    start_url: of_session("sso_start_url")?,
                    region: settings::without_comment(&of_session("sso_region")?).to_owned(),
                    scopes: scopes.split(',').map(|scope| scope.trim().to_owned()).collect(),
                }
            }
        };
        self.deciding.push_str(&format!("{session:?}"));
        // The section may have what all of its profiles share.
        let shared = session.name.as_deref().and_then(|name| profile.files().sso_session(name));
        let either = |key| profile.get(key).or_else(|| shared.and_then(|section| section.get(key)));
        let account = needed(either("sso_account_id"), "sso_account_id")?;
        let role = needed(either("sso_role_name"), "sso_role_name")?;
        Ok(SsoRole { session, account, role })
    }

    /// Keys of one of the files: botocore makes none of two halves.
    fn static_keys<'f>(
        &mut self,
        profile: &Profile<'f>,
        get: impl Fn(&str) -> Option<Setting<'f>>,
    ) -> Result<(), Denial> {
        self.kind = Some(Kind::StaticKeys);
        let needed = |key: &str| match get(key) {
            Some(setting) => settings::key(setting),
            None => Err(wrong(profile, &format!("has no {key}"))),
        };
        let (id, secret) = (needed("aws_access_key_id")?, needed("aws_secret_access_key")?);
        // botocore takes the older name first; where the names disagree, nobody can say what was meant.
        let token = |key| match get(key) {
            Some(setting) if setting.text() == Ok("") => Ok(Some((setting, ""))),
            Some(setting) => settings::key(setting).map(|text| Some((setting, text))),
            None => Ok(None),
        };
        let (older, token) = (token("aws_security_token")?, token("aws_session_token")?);
        if let (Some((setting, older)), Some((_, token))) = (&older, &token)
            && older != token
        {
            let what = "and aws_session_token differ: keep aws_session_token, or take both out";
            return Err(misconfigured(&setting.wrong(what)));
        }
        let token = older.or(token).map(|(_, text)| text).filter(|text| !text.is_empty());
        let keys = Credentials::new(id, secret, token.map(str::to_owned), None, "profile");
        self.base = Some(Base::StaticKeys(keys));
        Ok(())
    }

    /// What is wrong with the profile's own sections, whatever its credentials are made of.
    pub(super) fn error(&self) -> Option<&Denial> {
        self.error.as_ref()
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
        match self.hindrance(name, must_exist) {
            Some(denial) => Err(denial),
            None => Ok(self.base.map(|base| (base, self.hops))),
        }
    }

    /// Why the profile can't sign, as far as the files tell.
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

    /// How the chain begins.
    pub(super) fn begins_with(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// The account and the role that the credentials are of, where a role is named: by the configuration, or else by the
    /// files.
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

    /// Who names the session that signatures are made with, where the configuration puts a role on top (`narrowed`) or
    /// doesn't.
    pub(super) fn traceable(&self, narrowed: bool) -> Option<Traceable> {
        let known = self.base.is_some() && self.refusal.is_none();
        known.then(|| attribution::traceable(self.base.as_ref(), &self.hops, narrowed))
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

/// The section of the config file that a profile's `sso_session` names.
fn sso_session<'f>(profile: &Profile<'f>, named: Setting<'f>) -> Result<Other<'f>, Denial> {
    let name = settings::text(named)?;
    let section = profile.files().sso_session(name).ok_or_else(|| {
        let missing = || {
            let what = format!("names {name:?}: there is no sso-session {name} in the config file");
            named.wrong(what)
        };
        misconfigured(&profile.files().doubt(name).unwrap_or_else(missing))
    })?;
    if let Some(error) = section.error() {
        return Err(misconfigured(&error));
    }
    for key in ["sso_start_url", "sso_region"] {
        if section.get(key).is_none() {
            return Err(misconfigured(&section.wrong(format!("the sso-session has no {key}"))));
        }
    }
    Ok(section)
}

/// Whether the profile is a role for the credentials of its source.
fn assumes(profile: &Profile<'_>) -> bool {
    profile.get("role_arn").is_some() && profile.get("web_identity_token_file").is_none()
}

fn text(setting: Option<Setting<'_>>) -> Result<Option<String>, Denial> {
    setting.map(|setting| settings::text(setting).map(str::to_owned)).transpose()
}

fn hop(profile: &Profile<'_>, role_arn: Setting<'_>) -> Result<Hop, Denial> {
    Ok(Hop {
        role_arn: settings::arn(role_arn)?.to_owned(),
        session_name: text(profile.get("role_session_name"))?,
        external_id: text(profile.get("external_id"))?,
        source_identity: text(profile.get("source_identity"))?,
        duration: duration(profile)?,
        ..Hop::default()
    })
}

/// `duration_seconds`, as STS allows it.
fn duration(profile: &Profile<'_>) -> Result<Option<i32>, Denial> {
    let Some(setting) = profile.get("duration_seconds") else { return Ok(None) };
    let seconds = settings::text(setting)?.parse().ok();
    let seconds = seconds.filter(|seconds| (900..=43_200).contains(seconds));
    let wrong = || misconfigured(&setting.wrong("must be a number from 900 to 43200"));
    seconds.map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests;
