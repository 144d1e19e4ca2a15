//! AWS Sign-In, which renews the sessions of `aws login`: it accepts each refresh token once, with a proof (DPoP,
//! RFC 9449) by the key of the session, and each proof once.
//!
//! [`Console::environment`] directs a process to this server.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::request::Parts;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::aws_home::AwsHome;
use crate::keys::{Key, KeyTable};
use crate::loopback::Loopback;
use crate::upstream::reply;

/// The `login_session` of [`Console::sign_in`].
const LOGIN_SESSION: &str = "arn:aws:iam::111122223333:user/console";

/// A running server with one session.
#[derive(Debug)]
pub struct Console {
    server: Loopback,
    session: Arc<Mutex<Session>>,
}

#[derive(Debug, Default)]
struct Session {
    public_key: Vec<u8>,
    refresh: String,
    /// The ids of used proofs.
    used: BTreeSet<String>,
    renewals: usize,
    key: Option<Key>,
}

impl Console {
    /// Starts the server; it adds the keys that it issues to `keys`.
    pub async fn start(keys: KeyTable) -> Self {
        let session = Arc::new(Mutex::new(Session::default()));
        let shared = Arc::clone(&session);
        let handler = move |parts: Parts, body: Bytes| {
            let mut session = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let (status, answer) = session.renew(&keys, &parts, &body);
            let header = [("content-type", "application/json".to_owned())];
            let answer = reply::http(status, &header, answer.to_string());
            async move { Ok(answer) }
        };
        Self { server: Loopback::start(0, handler).await, session }
    }

    /// The variable that directs the SDK of a process here.
    #[must_use]
    pub fn environment(&self) -> (String, String) {
        ("AWS_ENDPOINT_URL_SIGNIN".to_owned(), format!("http://{}", self.server.address))
    }

    /// Adds a profile to `home` for which `aws login` was run long ago: the keys have expired, but not the session.
    ///
    /// # Panics
    /// If the home isn't writable.
    pub fn sign_in(&self, home: &AwsHome, profile: &str) {
        home.config(&format!(
            "[profile {profile}]\nregion = eu-north-1\nlogin_session = {LOGIN_SESSION}\n"
        ));
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let der: EcPrivateKeyRfc5915Der<'_> = key.private_key().as_der().expect("a key");
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        session.public_key = key.public_key().as_ref().to_vec();
        session.refresh = "SgwCanaryToken/login-refresh-0".to_owned();
        let old = Key::role("Console", "person");
        let content = json!({
            "accessToken": {
                "accessKeyId": old.access_key_id,
                "secretAccessKey": old.secret,
                "sessionToken": old.session_token,
                "accountId": old.account,
                "expiresAt": "2020-01-01T00:00:00Z",
            },
            "tokenType": "aws_sigv4",
            "refreshToken": session.refresh,
            "idToken": "SgwCanaryToken/login-id",
            "clientId": "arn:aws:signin:::devtools/same-device",
            "dpopKey": format!(
                "-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n",
                STANDARD.encode(der.as_ref())
            ),
        });
        let file = Self::cache_file(&home.path().join(".aws/login/cache"));
        std::fs::create_dir_all(file.parent().expect("a directory")).expect("a writable home");
        std::fs::write(file, content.to_string()).expect("a writable home");
    }

    /// The session's file in a directory of sessions.
    #[must_use]
    pub fn cache_file(directory: &Path) -> PathBuf {
        directory.join(hex::encode(Sha256::digest(LOGIN_SESSION)) + ".json")
    }

    /// The number of renewals, and the key of the last one.
    #[must_use]
    pub fn renewals(&self) -> (usize, Option<Key>) {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        (session.renewals, session.key.clone())
    }
}

impl Session {
    fn renew(&mut self, keys: &KeyTable, parts: &Parts, body: &Bytes) -> (u16, Value) {
        let refused = |why: &str| {
            let body = json!({"__type": "AccessDeniedException", "error": "TOKEN_EXPIRED", "message": why});
            (403, body)
        };
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let field = |name: &str| body[name].as_str().unwrap_or_default();
        if parts.uri.path() != "/v1/token" || field("grantType") != "refresh_token" {
            return refused("not a renewal");
        }
        if field("refreshToken") != self.refresh {
            return refused("the refresh token was used before");
        }
        let host = parts.headers.get("host").and_then(|host| host.to_str().ok());
        let url = format!("http://{}/v1/token", host.unwrap_or_default());
        let proof = parts.headers.get("dpop").and_then(|proof| proof.to_str().ok());
        let id = proof.and_then(|proof| self.proven(proof, &url));
        if !id.is_some_and(|id| self.used.insert(id)) {
            return refused("no proof, or one that was used before");
        }
        self.renewals += 1;
        self.refresh = format!("SgwCanaryToken/login-refresh-{}", self.renewals);
        let key = Key::role("Console", "person");
        keys.insert(key.clone());
        let answer = json!({
            "accessToken": {
                "accessKeyId": key.access_key_id,
                "secretAccessKey": key.secret,
                "sessionToken": key.session_token,
            },
            "tokenType": "aws_sigv4", "expiresIn": 900, "refreshToken": self.refresh,
        });
        self.key = Some(key);
        (200, answer)
    }

    /// The id of a valid proof by the session's key for this URL.
    fn proven(&self, proof: &str, url: &str) -> Option<String> {
        let (signed, signature) = proof.rsplit_once('.')?;
        let (_, claims) = signed.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public_key)
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let names_the_call = claims["htm"] == "POST" && claims["htu"] == url;
        claims["jti"].as_str().filter(|_| names_the_call).map(str::to_owned)
    }
}
