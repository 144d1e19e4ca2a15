//! The tokens of IAM Identity Center: the cache that the AWS CLI and the SDKs share, and what is kept
//! in memory where that can't be written.
//!
//! Invariant: a cache file is replaced as a whole, and is for its owner alone. A cache that can't be
//! written costs nothing but the sharing: the token is then kept here.

use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use serde::Deserialize;
use sha1::{Digest, Sha1};

use crate::log;
use crate::secret::Secret;

/// Where people sign in: what one token is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    /// Of the `sso-session` section; none for the profiles of old.
    pub(super) name: Option<String>,
    pub(super) start_url: String,
    pub(super) region: String,
    pub(super) scopes: Vec<String>,
}

/// A token, and what it takes to get the next one.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) access: Secret,
    pub(super) expiry: SystemTime,
    pub(super) renewal: Option<Renewal>,
}

/// The refresh token, and the registration that it belongs to.
#[derive(Debug, Clone)]
pub(super) struct Renewal {
    pub(super) refresh: Secret,
    pub(super) client_id: String,
    pub(super) client_secret: Secret,
    pub(super) registration_expiry: SystemTime,
}

/// Whoever renews a session's token holds it: the server takes each refresh token once.
pub(super) type Renewing = Arc<tokio::sync::Mutex<()>>;

/// All tokens of this process's home.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    directory: Option<PathBuf>,
    /// By the key of the session. Only what couldn't be written.
    kept: Mutex<HashMap<String, Token>>,
    renewing: Mutex<HashMap<String, Renewing>>,
}

impl Token {
    /// What the next token can be had with, if anything.
    pub(super) fn renewable(&self, now: SystemTime) -> Option<&Renewal> {
        self.renewal.as_ref().filter(|renewal| now < renewal.registration_expiry)
    }
}

impl Session {
    /// What the name of the cache file is made of.
    pub(super) fn key(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.start_url)
    }
}

impl Tokens {
    pub(super) fn new(home: Option<&Path>) -> Self {
        let directory = home.map(|home| home.join(".aws/sso/cache"));
        Self { directory, ..Self::default() }
    }

    /// The session's cache file.
    pub(super) fn path(&self, session: &Session) -> Option<PathBuf> {
        let name = hex::encode(Sha1::digest(session.key())) + ".json";
        self.directory.as_ref().map(|directory| directory.join(name))
    }

    /// The token that lives longest, in the cache or in memory.
    pub(super) fn find(&self, session: &Session) -> Option<Token> {
        let cached = self.path(session).and_then(|path| std::fs::read(path).ok());
        let cached = cached.and_then(|json| parse(&json));
        let mut kept = self.kept();
        match (cached, kept.get(session.key())) {
            (Some(cached), Some(token)) if cached.expiry <= token.expiry => Some(token.clone()),
            (None, token) => token.cloned(),
            (cached, _) => {
                // Someone signed in since, with another program.
                kept.remove(session.key());
                cached
            }
        }
    }

    /// What keeps renewals of a session apart.
    pub(super) fn renewing(&self, session: &Session) -> Renewing {
        let mut renewing = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(renewing.entry(session.key().to_owned()).or_default())
    }

    /// Takes over a new token. Tells whether it is kept in memory alone.
    pub(super) fn store(&self, session: &Session, token: Token) -> bool {
        let written = match self.path(session) {
            Some(path) => self.write(&path, session, &token),
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

    fn write(&self, path: &Path, session: &Session, token: &Token) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        // Not by the process's id: in containers that share a home it is the same.
        let chance = RandomState::new().hash_one(());
        let temporary = path.with_extension(format!("{chance:016x}.tmp"));
        let json = Secret::new(json(session, token).to_string());
        let written = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| {
                file.write_all(json.expose().as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| std::fs::rename(&temporary, path));
        if written.is_err() {
            // A token doesn't stay behind under a name that nobody looks for.
            drop(std::fs::remove_file(&temporary));
        }
        written
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, Token>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cache file's text. The names are those of the AWS CLI (botocore `SSOTokenLoader`).
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
    let cached: Cached = serde_json::from_slice(json).ok()?;
    let registration_expiry = cached.registration_expires_at.as_deref().and_then(time);
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
    let expiry = time(&cached.expires_at)?;
    Some(Token { access: Secret::new(cached.access_token), expiry, renewal })
}

/// A time of the cache; old versions of the AWS CLI wrote `UTC` for `Z`.
fn time(text: &str) -> Option<SystemTime> {
    let text = text.replace("UTC", "Z");
    DateTime::from_str(&text, Format::DateTimeWithOffset).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests;
