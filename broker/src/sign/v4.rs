//! SigV4 for one region, for requests that [`crate::request`] has checked.
//!
//! Invariant: the input is in canonical form, because the check lets nothing else through: the path
//! has no segments to resolve, the query is sorted and encoded, and values have no spaces to fold.
//! So the canonical request is built in one pass; a general signer would parse, decode, encode and
//! sort it once more. The tests compare it with AWS's own signer, request by request.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use aws_credential_types::Credentials;
use hmac::digest::InvalidLength;
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::memory;

/// The signed parts except the key: checked, and in canonical form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Canonical<'a> {
    pub(super) method: &'a str,
    /// The path as it is signed: [`encode`]d, except for S3.
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) host: &'a str,
    /// The headers, with names in lower case, in any order.
    pub(super) headers: &'a [(String, String)],
    /// The hash in hexadecimal digits.
    pub(super) body_sha256: &'a str,
    /// Whether the hash is sent as a header too.
    pub(super) body_header: bool,
}

/// The time and scope for which a signature is valid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validity<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    /// The time, like `20261123T224807Z`.
    pub(super) time: &'a str,
    /// The credential scope, like `20261123/us-east-1/aws-mcp/aws4_request`.
    pub(super) scope: &'a str,
}

/// The headers to add: the time, the signature, and the rest.
///
/// # Errors
/// This can't fail: HMAC takes keys of any length.
pub(super) fn headers(
    request: &Canonical<'_>,
    keys: &Credentials,
    validity: &Validity<'_>,
) -> Result<Vec<(&'static str, String)>, InvalidLength> {
    let mut added = vec![("x-amz-date", validity.time.to_owned())];
    added.extend(keys.session_token().map(|token| ("x-amz-security-token", token.to_owned())));
    if request.body_header {
        added.push(("x-amz-content-sha256", request.body_sha256.to_owned()));
    }
    let (canonical, signed) = canonical(request, &added);
    let Validity { time, scope, .. } = validity;
    let hash = hex::encode(Sha256::digest(canonical.as_bytes()));
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hash}");
    // The hash function leaves the secret and derived keys in its stack frames.
    let signature = memory::wiped(|| signature(keys.secret_access_key(), validity, &text))?;
    let key = keys.access_key_id();
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={signed}, Signature={signature}"
    );
    added.insert(1, ("authorization", authorization));
    Ok(added)
}

/// The canonical request, and the names of its signed headers.
fn canonical(request: &Canonical<'_>, added: &[(&'static str, String)]) -> (String, String) {
    let mut headers: Vec<(&str, &str)> = Vec::with_capacity(request.headers.len() + 4);
    headers.extend(request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    headers.push(("host", request.host));
    headers.extend(added.iter().map(|(name, value)| (*name, value.as_str())));
    // The sort is stable: values of one name stay in order.
    headers.sort_by_key(|(name, _)| *name);
    let length: usize = headers.iter().map(|(name, value)| name.len() * 2 + value.len() + 3).sum();
    let mut signed = String::with_capacity(length);
    let mut text = String::with_capacity(length + request.path.len() + request.query.len() + 80);
    text.push_str(request.method);
    text.push('\n');
    text.push_str(request.path);
    text.push('\n');
    text.push_str(request.query);
    let mut last = "";
    for (name, value) in headers {
        if name == last {
            text.push(',');
        } else {
            text.push('\n');
            text.push_str(name);
            text.push(':');
            if !signed.is_empty() {
                signed.push(';');
            }
            signed.push_str(name);
        }
        text.push_str(value);
        last = name;
    }
    text.push_str("\n\n");
    text.push_str(&signed);
    text.push('\n');
    text.push_str(request.body_sha256);
    (text, signed)
}

/// Encodes a path once more: all but the unreserved characters and the slash.
pub(super) fn encode(path: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push('%');
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    text
}

/// The signature in hexadecimal digits.
fn signature(secret: &str, validity: &Validity<'_>, text: &str) -> Result<String, InvalidLength> {
    let mut first = Zeroizing::new(Vec::with_capacity(4 + secret.len()));
    first.extend_from_slice(b"AWS4");
    first.extend_from_slice(secret.as_bytes());
    let day = validity.scope.get(..8).unwrap_or_default();
    let mut key = mac(&first, day)?;
    for part in [validity.region, validity.service, "aws4_request", text] {
        key = mac(&*key, part)?;
    }
    Ok(hex::encode(key.as_slice()))
}

fn mac(key: &[u8], text: &str) -> Result<Zeroizing<[u8; 32]>, InvalidLength> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)?;
    mac.update(text.as_bytes());
    Ok(Zeroizing::new(mac.finalize().into_bytes().into()))
}
