//! AWS's metadata services that issue keys to the programs of an instance (IMDSv2) and of a container (ECS, and EKS Pod
//! Identity).
//!
//! Both require a token: an instance's token is requested first, a container's token is in a file.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::Method;
use http::request::Parts;

use crate::keys::{Key, KeyTable};
use crate::loopback::Loopback;
use crate::upstream::reply;

/// The `Authorization` that the container's service requires.
pub const CONTAINER_TOKEN: &str = "SgwCanaryToken/container";
/// The token that the instance's service returns for a PUT, and requires in its own header.
const INSTANCE_TOKEN: &str = "SgwCanaryToken/instance";
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
const ROLE: &str = "InstanceRole";
const CONTAINER: &str = "/v1/credentials";

/// Both services, on one port.
#[derive(Debug)]
pub struct Metadata {
    server: Loopback,
    given: Arc<Mutex<Vec<Key>>>,
}

impl Metadata {
    /// Starts both services. Every response has a new key, which is added to `keys`.
    pub async fn start(keys: KeyTable) -> Self {
        Self::answering(move |parts| answer(&keys, parts)).await
    }

    /// The services of an instance and a container without a role.
    pub async fn without_role() -> Self {
        Self::answering(|parts| match parts.uri.path() {
            "/latest/api/token" => (200, INSTANCE_TOKEN.to_owned(), None),
            _ => (404, String::new(), None),
        })
        .await
    }

    async fn answering(
        answer: impl Fn(&Parts) -> (u16, String, Option<Key>) + Send + Sync + 'static,
    ) -> Self {
        let given = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&given);
        let handler = move |parts: Parts, _: Bytes| {
            let (status, text, key) = answer(&parts);
            log.lock().unwrap_or_else(PoisonError::into_inner).extend(key);
            let mut headers = vec![("content-type", "application/json".to_owned())];
            if parts.method == Method::PUT {
                headers.push(("x-aws-ec2-metadata-token-ttl-seconds", "21600".to_owned()));
            }
            std::future::ready(Ok(reply::http(status, &headers, text)))
        };
        Self { server: Loopback::start(0, handler).await, given }
    }

    /// The variables with which a process uses this service as that of its machine.
    #[must_use]
    pub fn instance(&self) -> Vec<(String, String)> {
        let url = format!("http://{}/", self.server.address);
        [
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str()),
            ("AWS_EC2_METADATA_DISABLED", "false"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// The variables with which a process uses this service as that of its container.
    #[must_use]
    pub fn container(&self, token_file: &std::path::Path) -> Vec<(String, String)> {
        let url = format!("http://{}{CONTAINER}", self.server.address);
        let file = token_file.display().to_string();
        vec![
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI".to_owned(), url),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE".to_owned(), file),
        ]
    }

    /// The keys issued so far.
    #[must_use]
    pub fn given(&self) -> Vec<Key> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn answer(keys: &KeyTable, parts: &Parts) -> (u16, String, Option<Key>) {
    let has = |name: &str, value: &str| {
        parts.headers.get(name).is_some_and(|found| found.as_bytes() == value.as_bytes())
    };
    let instance = has("x-aws-ec2-metadata-token", INSTANCE_TOKEN);
    let role = match (&parts.method, parts.uri.path()) {
        (&Method::PUT, "/latest/api/token") => return (200, INSTANCE_TOKEN.to_owned(), None),
        (&Method::GET, ROLES) if instance => return (200, ROLE.to_owned(), None),
        (&Method::GET, path) if instance && path.strip_prefix(ROLES) == Some(ROLE) => ROLE,
        (&Method::GET, CONTAINER) if has("authorization", CONTAINER_TOKEN) => "TaskRole",
        _ => return (401, r#"{"code":"Unauthorized","message":"no token"}"#.to_owned(), None),
    };
    let key = Key::role(role, "i-0123456789");
    keys.insert(key.clone());
    let json = serde_json::json!({
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": key.access_key_id,
        "SecretAccessKey": key.secret,
        "Token": key.session_token,
        "Expiration": "2099-01-01T00:00:00Z",
        "LastUpdated": "2026-01-01T00:00:00Z",
    });
    (200, json.to_string(), Some(key))
}
