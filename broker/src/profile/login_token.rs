//! The sessions of `aws login`: the cache that the AWS CLI and the SDKs share, and sessions that
//! couldn't be written to it.
//!
//! A session is a file, named by the SHA-256 of the `login_session`. It contains keys that live for
//! 15 minutes, the refresh token for the next ones, and the private key for the proofs of renewals
//! (botocore `LoginCredentialFetcher`). The broker can't create one: people sign in with the AWS
//! CLI.
//!
//! Invariant: a renewal replaces the file that it started with, or an older one of the same
//! sign-in. It doesn't restore a session that was signed out in between, and doesn't overwrite
//! another sign-in. Unknown fields are kept.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};

use super::cache_file::{self, CacheFiles};
use super::locks::Locks;
use super::origins::{Mark, Origins, mark};
use super::time;
use crate::error::{Denial, Reason};
use crate::log;
use crate::secret::Secret;

/// A session: valid keys, and the data for renewing them.
#[derive(Clone)]
pub(super) struct LoginToken {
    pub(super) keys: Credentials,
    pub(super) expiry: SystemTime,
    pub(super) refresh: Secret,
    pub(super) client_id: String,
    account: String,
    /// In PEM form. Each sign-in has a new one.
    pub(super) dpop_key: Secret,
    /// The region of the sign-in, in which the session is renewed; older versions of the AWS CLI
    /// don't write it.
    pub(super) region: Option<String>,
    /// The text of the whole file.
    text: Secret,
    /// The mark of the file that it was read or renewed from.
    file: Mark,
}

/// All sessions of this process's home, by their cache files.
#[derive(Debug, Default)]
pub(super) struct LoginTokens {
    files: CacheFiles,
    /// Sessions that couldn't be written.
    kept: Mutex<HashMap<PathBuf, LoginToken>>,
    origins: Origins<PathBuf>,
    renewing: Locks<PathBuf>,
}

/// The content of a cache file.
enum Cached {
    Session(Box<LoginToken>),
    Missing,
    /// The reason why it isn't a session, without its content.
    Unreadable(String),
}

/// The result of storing a renewal.
enum Stored {
    Written(Mark),
    /// Another program has renewed it before.
    Theirs(Box<LoginToken>),
    SignedOut,
    NotWritten(io::Error),
}

impl LoginTokens {
    /// The cache file of a session.
    pub(super) fn path(directory: &Path, session: &str) -> PathBuf {
        directory.join(hex::encode(Sha256::digest(session)) + ".json")
    }

    /// The session in the cache, or in memory if that is newer.
    ///
    /// # Errors
    /// LOGIN_REQUIRED if there is none or it can't be parsed; PROFILE_MISCONFIGURED if the file
    /// can't be read. Both name the file.
    pub(super) async fn find(&self, path: &Path) -> Result<LoginToken, Denial> {
        let cached = self.files.with(path, look).await;
        let mut kept = self.kept();
        let denial = match cached {
            Ok(Cached::Session(cached)) => {
                let newer =
                    |it: &&LoginToken| it.is_of_sign_in(&cached) && it.expiry > cached.expiry;
                if let Some(token) = kept.get(path).filter(newer) {
                    return Ok(token.clone());
                }
                kept.remove(path);
                return Ok(*cached);
            }
            Ok(Cached::Missing) => {
                kept.remove(path);
                return Err(signed_out(path));
            }
            Ok(Cached::Unreadable(why)) => {
                let shown = path.display();
                let detail = format!("the login session in {shown} can't be used: {why}");
                Denial::new(Reason::LoginRequired, detail)
            }
            Err(error) => cache_file::unreadable(path, &error),
        };
        kept.get(path).cloned().ok_or(denial)
    }

    /// The lock for renewing a session: the server may accept each refresh token only once.
    pub(super) fn renewing(&self, path: &Path) -> Arc<tokio::sync::Mutex<()>> {
        self.renewing.of(&path.to_owned())
    }

    /// Stores a renewal of `before`. Returns the session to use: another program's, if that has
    /// renewed it before.
    ///
    /// # Errors
    /// LOGIN_REQUIRED if the person has signed out in between.
    pub(super) async fn store(
        &self,
        path: &Path,
        before: &LoginToken,
        mut renewed: LoginToken,
    ) -> Result<LoginToken, Denial> {
        let (origin, ours) = (before.file, renewed.clone());
        let write = move |path: &Path| Ok(write(path, origin, &ours));
        let stored = self.files.with(path, write).await;
        let mut kept = self.kept();
        match stored.unwrap_or_else(Stored::NotWritten) {
            Stored::Written(mark) => {
                kept.remove(path);
                self.origins.renewed(path.to_owned(), origin, mark);
                renewed.file = mark;
                Ok(renewed)
            }
            Stored::Theirs(token) => {
                kept.remove(path);
                Ok(*token)
            }
            Stored::SignedOut => {
                kept.remove(path);
                Err(signed_out(path))
            }
            Stored::NotWritten(error) => {
                let path = path.to_owned();
                tracing::warn!(
                    path = %path.display(), %error,
                    "the login session can't be written: it is kept in memory"
                );
                kept.insert(path, renewed.clone());
                Ok(renewed)
            }
        }
    }

    /// A mark that changes with each sign-in and with each renewal by another program, but not with
    /// the broker's own: keys from before such a renewal stay valid.
    pub(super) async fn mark(&self, path: &Path) -> Mark {
        let content = self.files.with(path, |path| cache_file::read(path).map(|it| mark(&it)));
        match content.await {
            Ok(mark) => self.origins.of(path, mark),
            Err(error) if error.kind() == io::ErrorKind::NotFound => [0; 32],
            Err(_) => [1; 32],
        }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<PathBuf, LoginToken>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoginToken {
    /// The same session with new keys: id, secret and session token. All other fields are kept.
    ///
    /// # Errors
    /// This can't fail, because the file's text has been parsed before.
    pub(super) fn renewed(
        &self,
        [id, secret, session_token]: [&str; 3],
        refresh: String,
        expiry: SystemTime,
    ) -> serde_json::Result<Self> {
        // Rounded as in the file, so that rereading it yields the same time.
        let since_1970 = expiry.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let expiry = SystemTime::UNIX_EPOCH + Duration::from_secs(since_1970.as_secs());
        let access = serde_json::json!({
            "accessKeyId": id,
            "secretAccessKey": secret,
            "sessionToken": session_token,
            "accountId": self.account,
            "expiresAt": log::timestamp(expiry, "T") + "Z",
        });
        let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(self.text.expose())?;
        fields.insert("accessToken".to_owned(), to_raw_value(&access)?);
        fields.insert("refreshToken".to_owned(), to_raw_value(&refresh)?);
        Ok(Self {
            keys: keys(id, secret, session_token, &self.account, expiry),
            expiry,
            refresh: Secret::new(refresh),
            text: Secret::new(serde_json::to_string(&fields)?),
            ..self.clone()
        })
    }

    /// Whether both come from the same `aws login`.
    fn is_of_sign_in(&self, other: &Self) -> bool {
        self.dpop_key == other.dpop_key
    }
}

/// It shows no key.
impl fmt::Debug for LoginToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginToken").field("expiry", &self.expiry).finish_non_exhaustive()
    }
}

fn signed_out(path: &Path) -> Denial {
    let detail = format!("no one has signed in with aws login: there is no {}", path.display());
    Denial::new(Reason::LoginRequired, detail)
}

fn look(path: &Path) -> io::Result<Cached> {
    let content = match cache_file::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Cached::Missing),
        Err(error) => return Err(error),
    };
    Ok(match parse(&content) {
        Ok(token) => Cached::Session(Box::new(token)),
        Err(why) => Cached::Unreadable(why),
    })
}

/// Writes the renewal of a session to its file, if the file is still the one that was renewed.
fn write(path: &Path, origin: Mark, ours: &LoginToken) -> Stored {
    match look(path) {
        Ok(Cached::Session(now))
            if now.file == origin || now.is_of_sign_in(ours) && now.expiry < ours.expiry =>
        {
            match cache_file::replace(path, ours.text.expose()) {
                Ok(()) => Stored::Written(mark(ours.text.expose().as_bytes())),
                Err(error) => Stored::NotWritten(error),
            }
        }
        Ok(Cached::Session(now)) => Stored::Theirs(now),
        Ok(Cached::Missing) => Stored::SignedOut,
        Ok(Cached::Unreadable(_)) => {
            Stored::NotWritten(io::Error::other("another program is writing it"))
        }
        Err(error) => Stored::NotWritten(error),
    }
}

/// Parses a cache file; the names are those of the AWS CLI. Fields that the AWS CLI requires are
/// required here too, because it would refuse the file otherwise.
///
/// # Errors
/// The error, without any of the content.
pub(super) fn parse(content: &[u8]) -> Result<LoginToken, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct File {
        access_token: Option<AccessToken>,
        refresh_token: Option<String>,
        client_id: Option<String>,
        dpop_key: Option<String>,
        sign_in_region: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct AccessToken {
        access_key_id: Option<String>,
        secret_access_key: Option<String>,
        session_token: Option<String>,
        account_id: Option<String>,
        expires_at: Option<String>,
    }
    // serde's messages quote unexpected content.
    let place = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        format!("it isn't what aws login writes, or was cut (line {line}, column {column})")
    };
    let file: File = serde_json::from_slice(content).map_err(place)?;
    let text = std::str::from_utf8(content).map_err(|_| "it isn't UTF-8".to_owned())?;
    let needed = |field: Option<String>, name: &str| {
        field.filter(|it| !it.is_empty()).ok_or_else(|| format!("it has no {name}"))
    };
    let access = file.access_token.ok_or("it has no accessToken")?;
    let id = needed(access.access_key_id, "accessKeyId")?;
    let secret = Secret::new(needed(access.secret_access_key, "secretAccessKey")?);
    let session_token = Secret::new(needed(access.session_token, "sessionToken")?);
    let account = needed(access.account_id, "accountId")?;
    let expiry = time::parse(&needed(access.expires_at, "expiresAt")?)
        .ok_or("its expiresAt isn't a time")?;
    let region = file.sign_in_region.filter(|region| !region.is_empty());
    // The region becomes a part of the host that gets the refresh token.
    let of_a_host = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if region.as_ref().is_some_and(|region| !region.chars().all(of_a_host)) {
        return Err("its signInRegion isn't a region".to_owned());
    }
    Ok(LoginToken {
        keys: keys(&id, secret.expose(), session_token.expose(), &account, expiry),
        expiry,
        refresh: Secret::new(needed(file.refresh_token, "refreshToken")?),
        client_id: needed(file.client_id, "clientId")?,
        account,
        dpop_key: Secret::new(needed(file.dpop_key, "dpopKey")?),
        region,
        text: Secret::new(text.to_owned()),
        file: mark(content),
    })
}

fn keys(
    id: &str,
    secret: &str,
    session_token: &str,
    account: &str,
    expiry: SystemTime,
) -> Credentials {
    Credentials::builder()
        .access_key_id(id)
        .secret_access_key(secret)
        .session_token(session_token)
        .account_id(account)
        .expiry(expiry)
        .provider_name("login")
        .build()
}

#[cfg(test)]
mod tests;
