//! An AWS that refuses requests with errors that quote them: key, token, signature and canonical request.
//!
//! It serves STS, the portal and the token endpoint of IAM Identity Center, AWS Sign-In and a container endpoint, and
//! records the secrets of each request: none of them may be in a text for users.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::request::Parts;
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::keys::KeyTable;
use crate::loopback::Loopback;
use crate::upstream::reply;

/// How an error quotes the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Unchanged, over several lines.
    Plain,
    /// With URL escapes.
    OfUrls,
    /// With JSON escapes.
    OfJson,
    /// In colours, and with marks that change the direction of text.
    Coloured,
    /// After an ARN, without white space.
    BehindAnArn,
    /// Positioned so that a cut to a length limit hits it; 100 KB in all.
    Long,
    /// Instead of the error code.
    AsTheCode,
}

/// All styles.
pub const STYLES: [Style; 7] = [
    Style::Plain,
    Style::OfUrls,
    Style::OfJson,
    Style::Coloured,
    Style::BehindAnArn,
    Style::Long,
    Style::AsTheCode,
];

/// The step at which a sign-in by a device code fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignIn {
    /// No code is issued.
    NoCode,
    /// A code is issued, but no token.
    NoToken,
}

/// The running services.
#[derive(Debug)]
pub struct QuotingAws {
    server: Loopback,
    quoted: Arc<Mutex<BTreeSet<String>>>,
}

impl QuotingAws {
    /// Starts the services. The secrets of `keys` are quoted too.
    pub async fn start(keys: KeyTable, style: Style, sign_in: SignIn) -> Self {
        let quoted = Arc::new(Mutex::new(BTreeSet::new()));
        let shared = Arc::clone(&quoted);
        let handler = move |parts: Parts, body: Bytes| {
            let secrets = secrets(&keys, &parts, &body);
            let quote = quote(style, &parts, &body, &secrets);
            let code = match (style, secrets.first()) {
                (Style::AsTheCode, Some(secret)) => secret.clone(),
                _ => "AccessDenied".to_owned(),
            };
            shared.lock().unwrap_or_else(PoisonError::into_inner).extend(secrets);
            std::future::ready(Ok(answer(parts.uri.path(), sign_in, &code, &quote)))
        };
        Self { server: Loopback::start(0, handler).await, quoted }
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// The quoted secrets.
    #[must_use]
    pub fn quoted(&self) -> BTreeSet<String> {
        self.quoted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The secrets in a request, the most important first.
fn secrets(keys: &KeyTable, parts: &Parts, body: &Bytes) -> Vec<String> {
    let mut found = Vec::new();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let authorization = header("authorization").unwrap_or_default();
    if let Some((_, scope)) = authorization.split_once("Credential=") {
        let id = scope.split('/').next().unwrap_or_default();
        found.extend(keys.find(id).map(|key| key.secret));
        found.extend(authorization.rsplit("Signature=").next().map(str::to_owned));
        found.push(id.to_owned());
    } else {
        found.extend(Some(authorization.to_owned()).filter(|it| !it.is_empty()));
    }
    for name in ["x-amz-security-token", "x-amz-sso_bearer_token", "dpop"] {
        found.extend(header(name).map(str::to_owned));
    }
    let fields = form_urlencoded::parse(body).filter(|(name, _)| name == "WebIdentityToken");
    found.extend(fields.map(|(_, value)| value.trim().to_owned()));
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    for name in ["refreshToken", "clientSecret", "deviceCode"] {
        found.extend(json[name].as_str().map(str::to_owned));
    }
    found
}

fn quote(style: Style, parts: &Parts, body: &Bytes, secrets: &[String]) -> String {
    let headers = parts.headers.iter().map(|(name, value)| {
        format!("{name}:{}\n", String::from_utf8_lossy(value.as_bytes()).trim())
    });
    let request = format!(
        "The canonical string for this request should have been\n'{}\n{}\n{}\n{}'\r\n",
        parts.method,
        parts.uri,
        headers.collect::<String>(),
        String::from_utf8_lossy(body)
    );
    let each = |before: &str, after: &str| -> String {
        secrets.iter().map(|secret| format!("{before}{secret}{after}")).collect()
    };
    match style {
        Style::Plain | Style::AsTheCode => each("got ", ", \n") + &request,
        Style::OfUrls => secrets
            .iter()
            .map(|secret| form_urlencoded::byte_serialize(secret.as_bytes()).collect::<String>())
            .fold("got".to_owned(), |text, secret| format!("{text} {secret}")),
        Style::OfJson => (each("got \"", "\" ") + &request)
            .replace('/', "\\/")
            .replace('+', "\\u002B")
            .replace('=', "\\u003d"),
        Style::Coloured => each("\u{1b}[31mgot\u{202e}", "\u{1b}[0m\u{7}\n") + &request,
        Style::BehindAnArn => each("arn:aws:iam::123456789012:role/x,Signature=", ";"),
        Style::Long => {
            // The lengths that are shown, that the broker looked at once, and that it looks at now.
            let mut text = each(&" ".repeat(1_980), "\n");
            for length in [490, 500, 1_990, 65_516] {
                let rest: usize = length - text.len().min(length);
                text += &(" ".repeat(rest) + &each("", " "));
            }
            text + &request + &"x ".repeat(50_000)
        }
    }
}

fn answer(
    path: &str,
    sign_in: SignIn,
    code: &str,
    message: &str,
) -> http::Response<crate::loopback::Body> {
    let json = |status: u16, body: Value| {
        // A header can't contain all characters.
        let code: String = code.chars().filter(char::is_ascii_graphic).collect();
        let headers = [("content-type", "application/json".to_owned()), ("x-amzn-errortype", code)];
        reply::http(status, &headers, body.to_string())
    };
    match path {
        "/" => {
            let escaped = |text: &str| {
                let text = text.replace('&', "&amp;").replace('<', "&lt;");
                // XML can't contain other control characters, not even escaped.
                text.replace(|c: char| c.is_control() && !"\r\n\t".contains(c), "")
            };
            let text = format!(
                "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{}</Code><Message>{}</Message></Error></ErrorResponse>",
                escaped(code),
                escaped(message)
            );
            reply::http(403, &[("content-type", "text/xml".to_owned())], text)
        }
        "/client/register" => json(
            200,
            json!({
                "clientId": "client", "clientSecret": "SgwCanarySecret/oidc-client",
                "clientIdIssuedAt": 1, "clientSecretExpiresAt": 4_102_444_800_u64,
            }),
        ),
        "/device_authorization" if sign_in == SignIn::NoToken => json(
            200,
            json!({
                "deviceCode": "SgwCanarySecret/device", "userCode": "ABCD-EFGH",
                "verificationUri": "https://device.sigward.example/",
                "verificationUriComplete": "https://device.sigward.example/?user_code=ABCD-EFGH",
                "expiresIn": 600, "interval": 1,
            }),
        ),
        "/device_authorization" | "/token" | "/v1/token" => {
            let body = json!({"error": code, "error_description": message, "message": message});
            json(400, body)
        }
        "/federation/credentials" => json(403, json!({"message": message})),
        _ => json(400, json!({"code": code, "message": message})),
    }
}
