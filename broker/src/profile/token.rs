//! The tokens of IAM Identity Center: the cache that the AWS CLI and the SDKs share, and tokens
//! that couldn't be written to it.
//!
//! Invariant: if the cache can't be written, only the sharing is lost: the token is kept in memory.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Deserialize;
use sha1::{Digest, Sha1};

use super::cache_file::{self, CacheFiles};
use super::locks::Locks;
use super::login_token::LoginTokens;
use super::origins::{Mark, Origins, mark};
use super::time;
use crate::error::{Denial, Reason};
use crate::log;
use crate::secret::Secret;

/// A sign-in session, which a token is valid for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    /// The name of the `sso-session` section; `None` for profiles without one.
    pub(super) name: Option<String>,
    pub(super) start_url: String,
    pub(super) region: String,
    pub(super) scopes: Vec<String>,
}

/// A token, and the data for renewing it.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) access: Secret,
    pub(super) expiry: SystemTime,
    pub(super) renewal: Option<Renewal>,
}

/// The refresh token, and its registration.
#[derive(Debug, Clone)]
pub(super) struct Renewal {
    pub(super) refresh: Secret,
    pub(super) client_id: String,
    pub(super) client_secret: Secret,
    pub(super) registration_expiry: SystemTime,
}

/// All tokens of this process's home.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    directory: Option<PathBuf>,
    files: CacheFiles,
    /// Tokens that couldn't be written, by the key of the session.
    kept: Mutex<HashMap<String, Token>>,
    /// The locks for renewals, by the key of the session.
    renewing: Locks<String>,
    /// The origins of renewed tokens, by the key of the session.
    origins: Origins<String>,
    /// The sessions of `aws login`.
    pub(super) login: Arc<LoginTokens>,
}

impl Token {
    /// The data for renewing the token, if it can be renewed.
    pub(super) fn renewable(&self, now: SystemTime) -> Option<&Renewal> {
        self.renewal.as_ref().filter(|renewal| now < renewal.registration_expiry)
    }
}

impl Session {
    /// The text that the name of the cache file is the hash of.
    pub(super) fn key(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.start_url)
    }
}

impl Tokens {
    pub(super) fn new(home: Option<&Path>) -> Self {
        let directory = home.map(|home| home.join(".aws/sso/cache"));
        Self { directory, ..Self::default() }
    }

    /// The directory of the cache.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// The session's cache file.
    pub(super) fn path(&self, session: &Session) -> Option<PathBuf> {
        let name = hex::encode(Sha1::digest(session.key())) + ".json";
        self.directory.as_ref().map(|directory| directory.join(name))
    }

    /// The token with the latest expiry, in the cache or in memory.
    ///
    /// # Errors
    /// LOGIN_REQUIRED if there is none or it can't be parsed; PROFILE_MISCONFIGURED, with the name
    /// of the file, if the file can't be read.
    pub(super) async fn find(&self, session: &Session) -> Result<Token, Denial> {
        let missing = || Denial::new(Reason::LoginRequired, "no one has signed in");
        let cached = match self.path(session) {
            Some(path) => {
                let read = |path: &Path| cache_file::read(path).map(|json| parse(&json));
                match self.files.with(&path, read).await {
                    Ok(Some(token)) => Ok(token),
                    Ok(None) => {
                        let what = "isn't valid, or was cut";
                        let detail = format!("the token in {} {what}", path.display());
                        Err(Denial::new(Reason::LoginRequired, detail))
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
                    Err(error) => Err(cache_file::unreadable(&path, &error)),
                }
            }
            None => Err(missing()),
        };
        let mut kept = self.kept();
        match (cached, kept.get(session.key())) {
            (Ok(cached), Some(token)) if cached.expiry <= token.expiry => Ok(token.clone()),
            (Err(_), Some(token)) => Ok(token.clone()),
            (Err(denial), None) => Err(denial),
            (Ok(cached), _) => {
                // A person has signed in since, with another program.
                kept.remove(session.key());
                Ok(cached)
            }
        }
    }

    /// The lock for renewing a session's token: the server accepts each refresh token only once.
    pub(super) fn renewing(&self, session: &Session) -> Arc<tokio::sync::Mutex<()>> {
        self.renewing.of(&session.key().to_owned())
    }

    /// Stores a new token. Returns whether it is kept only in memory.
    pub(super) async fn store(&self, session: &Session, token: Token) -> bool {
        let written = match self.path(session) {
            Some(path) => {
                let json = Secret::new(json(session, &token).to_string());
                let replace = move |path: &Path| cache_file::replace(path, json.expose());
                self.files.with(&path, replace).await
            }
            None => Err(io::Error::other("there is no home directory")),
        };
        let Err(error) = written else {
            self.kept().remove(session.key());
            return false;
        };
        tracing::warn!(%error, "the SSO cache can't be written: the token is kept in memory");
        self.kept().insert(session.key().to_owned(), token);
        true
    }

    /// Stores the token from a renewal of `before`.
    pub(super) async fn store_renewed(&self, session: &Session, before: &Token, token: Token) {
        // This comes first: other readers of the file must know that it isn't a new sign-in.
        let [before, now] = [before, &token].map(|token| mark(token.access.expose().as_bytes()));
        self.origins.renewed(session.key().to_owned(), before, now);
        self.store(session, token).await;
    }

    /// A mark that changes with each sign-in and with each renewal by another program, but not with
    /// the broker's own: credentials for the previous token stay valid.
    pub(super) fn mark(&self, session: &Session, token: &Token) -> Mark {
        self.origins.of(session.key(), mark(token.access.expose().as_bytes()))
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, Token>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The text of a cache file. The names are those of the AWS CLI (botocore `SSOTokenLoader`).
fn json(session: &Session, token: &Token) -> serde_json::Value {
    let time = |time| log::timestamp(time, "T") + "Z";
    let mut json = serde_json::json!({
        "startUrl": session.start_url,
        "region": session.region,
        "accessToken": token.access.expose(),
        "expiresAt": time(token.expiry),
    });
    if let (Some(renewal), Some(fields)) = (&token.renewal, json.as_object_mut()) {
        fields.insert("clientId".to_owned(), renewal.client_id.as_str().into());
        fields.insert("clientSecret".to_owned(), renewal.client_secret.expose().into());
        let expiry = time(renewal.registration_expiry);
        fields.insert("registrationExpiresAt".to_owned(), expiry.into());
        fields.insert("refreshToken".to_owned(), renewal.refresh.expose().into());
    }
    json
}

pub(super) fn parse(json: &[u8]) -> Option<Token> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Cached {
        access_token: String,
        expires_at: String,
        client_id: Option<String>,
        client_secret: Option<String>,
        registration_expires_at: Option<String>,
        refresh_token: Option<String>,
    }
    // The whole text must be UTF-8, including unused fields.
    let json = std::str::from_utf8(json).ok()?;
    let cached: Cached = serde_json::from_str(json).ok()?;
    let registration_expiry = cached.registration_expires_at.as_deref().and_then(time::parse);
    let renewal =
        match (cached.refresh_token, cached.client_id, cached.client_secret, registration_expiry) {
            (Some(refresh), Some(client_id), Some(client_secret), Some(registration_expiry)) => {
                Some(Renewal {
                    refresh: Secret::new(refresh),
                    client_id,
                    client_secret: Secret::new(client_secret),
                    registration_expiry,
                })
            }
            _ => None,
        };
    let expiry = time::parse(&cached.expires_at)?;
    Some(Token { access: Secret::new(cached.access_token), expiry, renewal })
}

#[cfg(test)]
mod tests;
