//! An AWS with predictable keys: `AKIDKEYS` with `keyssecret`, `AKIDROLE1` for the first role.
//!
//! The cases of `tests/cases` and the comparison with botocore use these names. It serves STS, the portal and the token
//! endpoint of IAM Identity Center, and a container endpoint; it records each request with its key and region.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use http::request::Parts;
use serde::Deserialize;
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::keys::{Key, KeyTable};
use crate::loopback::Loopback;
use crate::sigv4::{Request, Verifier};
use crate::upstream::reply;

/// The keys in files, environments and programs: id, secret and session token.
pub const KEYS: [(&str, &str, Option<&str>); 6] = [
    ("AKIDKEYS", "keyssecret", None),
    ("AKIDOTHER", "othersecret", None),
    ("AKIDPROC", "procsecret", None),
    ("AKIDENV", "envsecret", None),
    ("AKIDTOK", "toksecret", Some("toktok")),
    ("AKIDECS", "ecssecret", Some("ecstok")),
];

/// The expiry of all issued credentials.
const EXPIRY: &str = "2099-01-01T00:00:00Z";
/// The same in milliseconds since 1970.
const EXPIRY_MS: u64 = 4_070_908_800_000;

/// The first path segments of endpoints, to tell them apart in records: all of them are the same AWS.
const PLACES: [&str; 5] = ["all", "file", "loc", "sts", "sso"];

/// Responses that differ from the usual ones.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answers {
    /// The error of an action of STS.
    pub sts: BTreeMap<String, StsError>,
    /// The error of the portal.
    pub sso: Option<PortalError>,
    /// The error of the token endpoint.
    pub oidc: Option<PortalError>,
    /// The bearer tokens that the portal accepts; by default `tok1`.
    pub sso_tokens: Option<Vec<String>>,
    /// How the container endpoint behaves.
    pub container: Container,
}

/// An error in the format of STS.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the parts of an HTTP response")]
pub struct StsError {
    pub status: u16,
    pub code: String,
    pub message: String,
}

/// An error in the format of IAM Identity Center.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the parts of an HTTP response")]
pub struct PortalError {
    pub status: u16,
    #[serde(default)]
    pub r#type: Option<String>,
    pub body: Value,
}

/// How the container endpoint behaves.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Container {
    /// The `Authorization` that it requires.
    pub authorization: Option<String>,
    /// The credentials in its response, instead of `AKIDECS`.
    pub body: Option<Value>,
}

/// The signatures that are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// Signatures of a known key with its own secret and token, as in AWS.
    ItsKeys,
    /// Signatures of any key id with any known secret and any token, so that a test sees which ones were used.
    AnyPair,
}

/// One answered request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Its number, from 0. The ARN of GetCallerIdentity ends with it.
    pub number: usize,
    /// `AssumeRole`, `AssumeRoleWithWebIdentity`, `GetCallerIdentity`, `GetRoleCredentials`.
    pub action: String,
    /// The endpoint: the first part of its path, `all`, `file`, `loc`, `sts` or `sso`; otherwise empty.
    pub at: String,
    /// The key that signed; empty for requests without a signature.
    pub key: String,
    /// The secret of the signature.
    pub secret: String,
    /// The session token of the signature, or the bearer token for the portal.
    pub token: Option<String>,
    /// The region of the signature.
    pub region: String,
    /// The role's ARN; `ACCOUNT/ROLE` for the portal.
    pub role: String,
    /// The key that was issued.
    pub issued: String,
    /// The other parameters for STS, by name.
    pub parameters: BTreeMap<String, String>,
}

/// The running services.
#[derive(Debug)]
pub struct KnownAws {
    server: Loopback,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    keys: KeyTable,
    answers: Answers,
    accepts: Accepts,
    asked: Mutex<Vec<Asked>>,
    /// The number of requests.
    count: AtomicUsize,
    /// The number of issued keys of each [`Kind`].
    issued: [AtomicUsize; 2],
}

/// The purpose of an issued key.
#[derive(Clone, Copy)]
enum Kind {
    Role,
    Portal,
}

/// Status, content type, other headers and body.
struct Answer(u16, &'static str, Vec<(&'static str, String)>, String);

impl KnownAws {
    /// Starts the services. They know [`KEYS`]; all keys are added to `keys`.
    pub async fn start(keys: KeyTable, answers: Answers, accepts: Accepts) -> Self {
        for (id, secret, token) in KEYS {
            keys.insert(key(id, secret, token));
        }
        let shared = Arc::new(Shared {
            keys,
            answers,
            accepts,
            asked: Mutex::default(),
            count: AtomicUsize::default(),
            issued: Default::default(),
        });
        let answering = Arc::clone(&shared);
        let handler = move |parts: Parts, body: Bytes| {
            let Answer(status, kind, mut headers, text) = answering.answer(&parts, &body);
            headers.push(("content-type", kind.to_owned()));
            std::future::ready(Ok(reply::http(status, &headers, text)))
        };
        Self { server: Loopback::start(0, handler).await, shared }
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.address.port()
    }

    /// Every request answered so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked().clone()
    }

    /// The same, and clears the records. The numbers of keys continue.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.asked())
    }
}

impl Shared {
    fn asked(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, parts: &Parts, body: &Bytes) -> Answer {
        let (at, path) = place(parts.uri.path());
        match path {
            "/" => self.sts(at, parts, body),
            "/federation/credentials" => self.portal(at, parts),
            "/token" => self.oidc(body),
            _ if parts.method == "GET" => self.container(parts),
            _ => Answer(404, "text/plain", Vec::new(), "no such service".to_owned()),
        }
    }

    fn sts(&self, at: &str, parts: &Parts, body: &Bytes) -> Answer {
        let mut parameters: BTreeMap<String, String> =
            form_urlencoded::parse(body).into_owned().collect();
        parameters.remove("Version");
        let action = parameters.remove("Action").unwrap_or_default();
        if let Some(error) = self.answers.sts.get(&action) {
            return sts_error(error.status, &error.code, &error.message);
        }
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let mut asked = Asked { number, action, at: at.to_owned(), ..Asked::default() };
        if asked.action != "AssumeRoleWithWebIdentity" {
            match self.signer(parts, body) {
                Ok((key, region)) => {
                    (asked.key, asked.secret) = (key.access_key_id, key.secret);
                    (asked.token, asked.region) = (key.session_token, region);
                }
                Err(why) => return sts_error(403, "InvalidClientTokenId", &why),
            }
        }
        asked.role = parameters.remove("RoleArn").unwrap_or_default();
        asked.parameters = parameters;
        let (name, result) = match asked.action.as_str() {
            name @ ("AssumeRole" | "AssumeRoleWithWebIdentity") => {
                let key = self.issue(Kind::Role);
                asked.issued.clone_from(&key.access_key_id);
                let result = format!(
                    "<Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey><SessionToken>{}</SessionToken><Expiration>{EXPIRY}</Expiration></Credentials>",
                    key.access_key_id,
                    key.secret,
                    key.session_token.unwrap_or_default()
                );
                (name.to_owned(), result)
            }
            "GetCallerIdentity" => {
                let arn = format!("arn:aws:iam::123456789012:user/{}/{}", asked.key, asked.number);
                let result =
                    format!("<Arn>{arn}</Arn><UserId>A</UserId><Account>123456789012</Account>");
                ("GetCallerIdentity".to_owned(), result)
            }
            other => return sts_error(400, "InvalidAction", other),
        };
        self.asked().push(asked);
        let text = format!(
            "<{name}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{name}Result>{result}</{name}Result></{name}Response>"
        );
        Answer(200, "text/xml", Vec::new(), text)
    }

    /// The key and the region of the signature.
    fn signer(&self, parts: &Parts, body: &Bytes) -> Result<(Key, String), String> {
        let headers: Vec<_> =
            parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let request = Request { method: parts.method.as_str(), target, headers: &headers, body };
        let header = |name: &str| {
            let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned)
        };
        let authorization = header("authorization").ok_or("no signature")?;
        let scope = authorization.split_once("Credential=").map_or("", |(_, rest)| rest);
        let mut scope = scope.split('/');
        let id = scope.next().unwrap_or_default().to_owned();
        let region = scope.nth(1).unwrap_or_default().to_owned();
        let token = header("x-amz-security-token");
        let own = self.keys.find(&id);
        let secrets = own.iter().map(|key| key.secret.as_str());
        let secrets = secrets.chain(KEYS.iter().map(|(_, secret, _)| *secret));
        let mut why = "no secret".to_owned();
        for secret in secrets {
            let used = key(&id, secret, token.as_deref());
            let table = KeyTable::from_iter([used.clone()]);
            match Verifier::new(table, "sts", &region).verify(&request, now()) {
                Ok(_) if self.accepts == Accepts::ItsKeys && own.as_ref() != Some(&used) => {
                    return Err(format!("{id} with another secret or token than its own"));
                }
                Ok(_) => return Ok((used, region)),
                Err(refusal) => why = refusal.to_string(),
            }
        }
        Err(why)
    }

    fn portal(&self, at: &str, parts: &Parts) -> Answer {
        if let Some(error) = &self.answers.sso {
            return portal_error(error);
        }
        let token = parts.headers.get("x-amz-sso_bearer_token");
        let token = token.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let good = match &self.answers.sso_tokens {
            Some(tokens) => tokens.iter().any(|known| known == token),
            None => token == "tok1" || self.accepts == Accepts::AnyPair,
        };
        if !good {
            let error = PortalError {
                status: 401,
                r#type: Some("UnauthorizedException".to_owned()),
                body: json!({"message": "Session token not found or invalid"}),
            };
            return portal_error(&error);
        }
        let query = parts.uri.query().unwrap_or_default();
        let query: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let named = |name: &str| query.get(name).cloned().unwrap_or_default();
        let key = self.issue(Kind::Portal);
        self.asked().push(Asked {
            number: self.count.fetch_add(1, Ordering::Relaxed),
            action: "GetRoleCredentials".to_owned(),
            at: at.to_owned(),
            token: Some(token.to_owned()),
            role: format!("{}/{}", named("account_id"), named("role_name")),
            issued: key.access_key_id.clone(),
            ..Asked::default()
        });
        let body = json!({"roleCredentials": {
            "accessKeyId": key.access_key_id,
            "secretAccessKey": key.secret,
            "sessionToken": key.session_token,
            "expiration": EXPIRY_MS,
        }});
        Answer(200, "application/json", Vec::new(), body.to_string())
    }

    /// The token endpoint: refreshing `tok1` returns `tok2`.
    fn oidc(&self, body: &Bytes) -> Answer {
        if let Some(error) = &self.answers.oidc {
            return portal_error(error);
        }
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        if request["grantType"] != "refresh_token" {
            let error = PortalError {
                status: 400,
                r#type: Some("UnsupportedGrantTypeException".to_owned()),
                body: json!({"error": "unsupported_grant_type"}),
            };
            return portal_error(&error);
        }
        let token = json!({
            "accessToken": "tok2", "expiresIn": 28800, "tokenType": "Bearer", "refreshToken": "r2",
        });
        Answer(200, "application/json", Vec::new(), token.to_string())
    }

    fn container(&self, parts: &Parts) -> Answer {
        let authorization = parts.headers.get("authorization");
        let authorization = authorization.and_then(|value| value.to_str().ok());
        let Container { authorization: wanted, body } = &self.answers.container;
        if wanted.is_some() && wanted.as_deref() != authorization {
            let body = json!({"code": "Unauthorized", "message": "no such token"});
            return Answer(401, "application/json", Vec::new(), body.to_string());
        }
        let usual = json!({
            "AccessKeyId": "AKIDECS", "SecretAccessKey": "ecssecret", "Token": "ecstok",
            "Expiration": EXPIRY,
        });
        let body = body.clone().unwrap_or(usual);
        // A case may have a key without a token.
        if let (Some(id), Some(secret)) =
            (body["AccessKeyId"].as_str(), body["SecretAccessKey"].as_str())
        {
            let token = body["Token"].as_str().filter(|token| !token.is_empty());
            self.keys.insert(key(id, secret, token));
        }
        Answer(200, "application/json", Vec::new(), body.to_string())
    }

    /// The next key of a kind.
    fn issue(&self, kind: Kind) -> Key {
        let (id, secret, token) = match kind {
            Kind::Role => ("AKIDROLE", "rolesecret", "roletok"),
            Kind::Portal => ("AKIDSSO", "ssosecret", "ssotok"),
        };
        let number = 1 + self.issued[kind as usize].fetch_add(1, Ordering::Relaxed);
        let token = format!("{token}{number}");
        let key = key(&format!("{id}{number}"), &format!("{secret}{number}"), Some(&token));
        self.keys.insert(key.clone());
        key
    }
}

/// The endpoint, and the rest of the path.
fn place(path: &str) -> (&str, &str) {
    let rest = path.trim_start_matches('/');
    let (first, behind) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match PLACES.contains(&first) {
        true if behind.is_empty() => (first, "/"),
        true => (first, behind),
        false => ("", path),
    }
}

fn key(id: &str, secret: &str, token: Option<&str>) -> Key {
    Key {
        access_key_id: id.to_owned(),
        secret: secret.to_owned(),
        session_token: token.map(str::to_owned),
        identity: format!("arn:aws:iam::123456789012:user/{id}"),
        account: "123456789012".to_owned(),
    }
}

fn sts_error(status: u16, code: &str, message: &str) -> Answer {
    let message = message.replace('&', "&amp;").replace('<', "&lt;");
    let text = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    );
    Answer(status, "text/xml", Vec::new(), text)
}

fn portal_error(error: &PortalError) -> Answer {
    let kind = error.r#type.clone().map(|kind| ("x-amzn-ErrorType", kind));
    Answer(error.status, "application/json", kind.into_iter().collect(), error.body.to_string())
}

#[allow(clippy::disallowed_methods, reason = "the edge: a server reads the clock")]
fn now() -> SystemTime {
    SystemTime::now()
}
