//! Verifies AWS Signature Version 4 and 4A in the `Authorization` header, written only from the published descriptions.
//!
//! It is independent of the broker's signer: the two agree only if both are right. A request passes only if the key is
//! known, the date is near, the scope is the expected one, `host` and every `x-amz-*` header are signed, the session
//! token is the key's, and the signature covers the bytes of the body.
//!
//! Source: "AWS Signature Version 4 for API requests", *Create a signed AWS API request*.

mod asymmetric;
mod canonical;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::keys::{Key, KeyTable};

/// The largest difference between a request's date and the verifier's clock; AWS allows 5 minutes.
const MAX_SKEW: Duration = Duration::from_secs(300);

/// One HTTP/1.1 request, as received.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `POST`.
    pub method: &'a str,
    /// Path and query as in the request line: not decoded, not normalised.
    pub target: &'a str,
    /// Name and value of every header line.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The exact body.
    pub body: &'a [u8],
}

/// The settings of a verifier.
#[derive(Clone, Debug)]
pub struct Verifier {
    /// The keys whose signatures are accepted.
    pub keys: KeyTable,
    /// The service of the credential scope.
    pub service: String,
    /// The region of the credential scope; for SigV4a `*`, or several separated by commas.
    pub region: String,
    /// How the path is treated; services other than S3 remove dot segments, and encode everything once more.
    pub path: PathRule,
    /// Whether the session token may be unsigned, as in requests of old STS clients.
    pub unsigned_token: bool,
}

/// The treatment of a path before it is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathRule {
    /// Dot segments and empty segments are removed, then it is encoded again: `%3A` is hashed as `%253A`.
    Normalized,
    /// Nothing is removed, and it is encoded again, as a few of the published vectors require.
    Verbatim,
}

/// A valid signature.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The key of the signature.
    pub key: Key,
    /// The names of `SignedHeaders`, lower case, in order.
    pub signed_headers: Vec<String>,
    /// `X-Amz-Date`, as received.
    pub date: String,
}

/// Why a signature isn't valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Refusal {
    #[error("no Authorization header")]
    Missing,
    #[error("malformed: {0}")]
    Malformed(String),
    #[error("unknown access key {0}")]
    UnknownKey(String),
    #[error("dated {date}, {skew} s away from now")]
    Skewed { date: String, skew: u64 },
    #[error("scoped to {received}, not {expected}")]
    Scope { received: String, expected: String },
    #[error("header {0} is not signed")]
    Unsigned(String),
    #[error("header {0} is signed and absent")]
    Absent(String),
    #[error("session token missing, unexpected or another key's")]
    Token,
    #[error("X-Amz-Content-Sha256 is not the body's")]
    BodyHash,
    #[error("the signature does not match; canonical request:\n{canonical_request}")]
    Mismatch { canonical_request: String },
}

impl Verifier {
    /// A verifier for a service other than S3.
    #[must_use]
    pub fn new(keys: KeyTable, service: &str, region: &str) -> Self {
        Self {
            keys,
            service: service.to_owned(),
            region: region.to_owned(),
            path: PathRule::Normalized,
            unsigned_token: false,
        }
    }

    /// Verifies the signature of `request` at the time `now`.
    ///
    /// # Errors
    /// The first [`Refusal`] found, in the order of the checks.
    pub fn verify(&self, request: &Request<'_>, now: SystemTime) -> Result<Verified, Refusal> {
        let authorization = Authorization::parse(request)?;
        let date = only(request, "x-amz-date")?
            .ok_or_else(|| Refusal::Malformed("no X-Amz-Date".to_owned()))?;
        check_date(&date, now)?;

        let (day, region, service) = (&date[..8], &self.region, &self.service);
        let expected = match authorization.algorithm {
            Algorithm::Symmetric => format!("{day}/{region}/{service}/aws4_request"),
            Algorithm::Asymmetric => format!("{day}/{service}/aws4_request"),
        };
        if authorization.scope != expected {
            return Err(Refusal::Scope { received: authorization.scope, expected });
        }
        self.check_regions(request, authorization.algorithm)?;
        self.check_signed_headers(request, &authorization.signed_headers)?;

        let key = self.keys.find(&authorization.access_key_id);
        let key = key.ok_or_else(|| Refusal::UnknownKey(authorization.access_key_id.clone()))?;
        if only(request, "x-amz-security-token")? != key.session_token {
            return Err(Refusal::Token);
        }

        let body_hash = hex::encode(Sha256::digest(request.body));
        if only(request, "x-amz-content-sha256")?.is_some_and(|claimed| claimed != body_hash) {
            return Err(Refusal::BodyHash);
        }
        let canonical_request =
            canonical::request(request, self.path, &authorization.signed_headers, &body_hash)?;
        let string_to_sign = format!(
            "{}\n{date}\n{expected}\n{}",
            authorization.algorithm.name(),
            hex::encode(Sha256::digest(&canonical_request))
        );
        let signature = &authorization.signature;
        let verifies = match authorization.algorithm {
            Algorithm::Symmetric => {
                let mut mac = mac(&self.signing_key(&key, day));
                mac.update(string_to_sign.as_bytes());
                mac.verify_slice(signature).is_ok()
            }
            Algorithm::Asymmetric => asymmetric::verifies(&key, &string_to_sign, signature),
        };
        if !verifies {
            return Err(Refusal::Mismatch { canonical_request });
        }
        Ok(Verified { key, signed_headers: authorization.signed_headers, date })
    }

    /// A set of regions is in a header, and one region in the scope: each with its own algorithm.
    fn check_regions(&self, request: &Request<'_>, algorithm: Algorithm) -> Result<(), Refusal> {
        let is_set = self.region == "*" || self.region.contains(',');
        let received = only(request, "x-amz-region-set")?;
        let expected = (is_set || received.is_some()).then(|| self.region.clone());
        if received != expected || is_set && algorithm == Algorithm::Symmetric {
            let received = received.unwrap_or_default();
            return Err(Refusal::Scope { received, expected: self.region.clone() });
        }
        let has_its_header = expected.is_some() == (algorithm == Algorithm::Asymmetric);
        has_its_header
            .then_some(())
            .ok_or_else(|| Refusal::Malformed("X-Amz-Region-Set".to_owned()))
    }

    /// Headers that change the meaning of a request must be signed.
    fn check_signed_headers(
        &self,
        request: &Request<'_>,
        signed: &[String],
    ) -> Result<(), Refusal> {
        if !signed.is_sorted() {
            return Err(Refusal::Malformed("SignedHeaders is not sorted".to_owned()));
        }
        let required = request.headers.iter().map(|(name, _)| name.to_ascii_lowercase());
        for name in required.filter(|name| name == "host" || name.starts_with("x-amz-")) {
            let excused = self.unsigned_token && name == "x-amz-security-token";
            if !excused && !signed.contains(&name) {
                return Err(Refusal::Unsigned(name));
            }
        }
        if signed.iter().any(|name| name == "host") {
            Ok(())
        } else {
            Err(Refusal::Unsigned("host".to_owned()))
        }
    }

    fn signing_key(&self, key: &Key, day: &str) -> Vec<u8> {
        let first = format!("AWS4{}", key.secret).into_bytes();
        [day, &self.region, &self.service, "aws4_request"].iter().fold(first, |key, part| {
            let mut mac = mac(&key);
            mac.update(part.as_bytes());
            mac.finalize().into_bytes().to_vec()
        })
    }
}

/// The algorithm of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    /// SigV4.
    Symmetric,
    /// SigV4a.
    Asymmetric,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Symmetric => "AWS4-HMAC-SHA256",
            Self::Asymmetric => asymmetric::ALGORITHM,
        }
    }
}

/// The parts of `AWS4-HMAC-SHA256 Credential=ID/SCOPE, SignedHeaders=a;b, Signature=HEX`.
struct Authorization {
    algorithm: Algorithm,
    access_key_id: String,
    scope: String,
    signed_headers: Vec<String>,
    signature: Vec<u8>,
}

impl Authorization {
    fn parse(request: &Request<'_>) -> Result<Self, Refusal> {
        let malformed = |what: &str| Refusal::Malformed(what.to_owned());
        let header = only(request, "authorization")?.ok_or(Refusal::Missing)?;
        let (name, rest) = header.split_once(' ').ok_or_else(|| malformed("algorithm"))?;
        let mut known = [Algorithm::Symmetric, Algorithm::Asymmetric].into_iter();
        let algorithm = known.find(|algorithm| algorithm.name() == name);
        let algorithm = algorithm.ok_or_else(|| malformed("algorithm"))?;
        let mut fields = rest.split(',').map(str::trim);
        let mut field = |name: &str| {
            let value = fields.next().and_then(|field| field.strip_prefix(name));
            value.map(str::to_owned).ok_or_else(|| malformed(name))
        };
        let credential = field("Credential=")?;
        let signed_headers = field("SignedHeaders=")?;
        let signature = field("Signature=")?;
        if fields.next().is_some() {
            return Err(malformed("more than three fields"));
        }
        let (access_key_id, scope) =
            credential.split_once('/').ok_or_else(|| malformed("Credential"))?;
        Ok(Self {
            algorithm,
            access_key_id: access_key_id.to_owned(),
            scope: scope.to_owned(),
            signed_headers: signed_headers.split(';').map(str::to_owned).collect(),
            signature: hex::decode(signature).map_err(|_| malformed("Signature"))?,
        })
    }
}

/// The value of a header that may occur once at most.
fn only(request: &Request<'_>, name: &str) -> Result<Option<String>, Refusal> {
    let mut found = request.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
    let first = found.next();
    if found.next().is_some() {
        return Err(Refusal::Malformed(format!("{name} stands twice")));
    }
    let text = first.map(|(_, value)| std::str::from_utf8(value).map(str::to_owned)).transpose();
    text.map_err(|_| Refusal::Malformed(format!("{name} is not text")))
}

fn check_date(date: &str, now: SystemTime) -> Result<(), Refusal> {
    let dated =
        parse_date(date).ok_or_else(|| Refusal::Malformed(format!("X-Amz-Date {date:?}")))?;
    let skew = now.duration_since(dated).unwrap_or_else(|early| early.duration());
    if skew > MAX_SKEW {
        return Err(Refusal::Skewed { date: date.to_owned(), skew: skew.as_secs() });
    }
    Ok(())
}

/// `20261123T221530Z` as a time.
#[must_use]
pub fn parse_date(text: &str) -> Option<SystemTime> {
    let (day, time) = text.strip_suffix('Z')?.split_once('T')?;
    if day.len() != 8 || time.len() != 6 {
        return None;
    }
    let number = |text: &str| -> Option<u64> {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
    };
    let (year, month, day) = (number(&day[..4])?, number(&day[4..6])?, number(&day[6..])?);
    if !(1970..3000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970-01-01, counted in years that start in March so that a leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let (hour, minute, second) = (number(&time[..2])?, number(&time[2..4])?, number(&time[4..])?);
    let seconds = (days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(error) => unreachable!("HMAC takes keys of any length: {error}"),
    }
}
