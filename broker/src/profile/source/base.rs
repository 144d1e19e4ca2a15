//! The ways to obtain credentials: a first source, and roles that are assumed one after the other.

use std::path::PathBuf;

use aws_credential_types::Credentials;

use crate::profile::token::Session;
use crate::secret::Secret;

/// The kind of the first credentials of a chain.
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

/// The first credentials of a chain, with their parameters.
#[derive(Debug)]
pub(super) enum Base {
    StaticKeys(Credentials),
    WebIdentity(WebIdentity),
    Sso(SsoRole),
    /// The command and its arguments, which may contain secrets.
    CredentialProcess(Vec<Secret>),
    LoginSession(String),
    Named(Named),
}

/// The values of `credential_source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Environment,
    InstanceMetadata,
    Container,
}

/// A role that is assumed with a token from a file.
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

/// A role that is assumed with the previous credentials.
#[derive(Debug, Default)]
pub(super) struct Hop {
    pub(super) role_arn: String,
    pub(super) session_name: Option<String>,
    pub(super) external_id: Option<String>,
    pub(super) source_identity: Option<String>,
    /// The agent's name for the session tag.
    pub(super) agent_tag: Option<String>,
    pub(super) duration: Option<i32>,
    pub(super) policy: Option<String>,
    pub(super) policy_arns: Vec<String>,
}

/// The endpoints in a profile for services that return credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Endpoints {
    pub(super) sts: Option<String>,
    pub(super) sso: Option<String>,
    pub(super) sso_oidc: Option<String>,
    /// Whether the endpoints of the environment and the files are ignored.
    pub(super) ignore: Option<bool>,
    pub(super) use_fips: Option<bool>,
    pub(super) use_dual_stack: Option<bool>,
}
