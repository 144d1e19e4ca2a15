//! Proofs of possession of a session's key, for renewing a session of `aws login`: DPoP (RFC 9449)
//! with ES256.
//!
//! Invariant: each proof is valid for one request (its `jti` is random), to one URL.

use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// The private key of a session, which the library zeroes.
pub(super) struct ProofKey(EcdsaKeyPair);

impl ProofKey {
    /// Parses a P-256 key in PEM form like botocore: SEC 1 (which `aws login` writes) or PKCS #8,
    /// whatever the label. Returns `None` if it isn't one.
    pub(super) fn of(pem: &str) -> Option<Self> {
        let lines = pem.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
        let mut text = Zeroizing::new(String::with_capacity(pem.len()));
        lines.for_each(|line| text.push_str(line));
        let der = Zeroizing::new(STANDARD.decode(text.as_bytes()).ok()?);
        EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).ok().map(Self)
    }

    /// The value of the header `DPoP` for a POST to `url` at `now`; `None` if the machine has no
    /// random numbers.
    pub(super) fn proof(&self, url: &str, now: SystemTime) -> Option<String> {
        // The uncompressed form: 4, then both coordinates.
        let (x, y) = self.0.public_key().as_ref().get(1..)?.split_at_checked(32)?;
        let header = serde_json::json!({
            "typ": "dpop+jwt",
            "alg": "ES256",
            "jwk": {
                "kty": "EC",
                "crv": "P-256",
                "x": URL_SAFE_NO_PAD.encode(x),
                "y": URL_SAFE_NO_PAD.encode(y),
            },
        });
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let claims = serde_json::json!({
            "htm": "POST",
            "htu": url,
            "iat": since_1970.as_secs(),
            "jti": unique()?,
        });
        let [header, claims] =
            [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProofKey(** redacted **)")
    }
}

/// A random UUID (RFC 9562, version 4), like the AWS CLI's.
fn unique() -> Option<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex::encode(bytes);
    let parts = [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]];
    Some(parts.join("-"))
}

/// For tests: keys, and the verifier.
#[cfg(test)]
pub(super) mod fake {
    use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der};
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use serde_json::Value;

    use super::*;

    /// A new key in the form of `aws login`, and its public half.
    pub(in crate::profile) fn key() -> (String, Vec<u8>) {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let der: EcPrivateKeyRfc5915Der<'_> = key.private_key().as_der().expect("a key");
        (pem("EC PRIVATE KEY", der.as_ref()), key.public_key().as_ref().to_vec())
    }

    pub(in crate::profile) fn pem(label: &str, der: &[u8]) -> String {
        let text = STANDARD.encode(der);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("it")).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    }

    /// The claims of a proof, after verifying its signature.
    pub(in crate::profile) fn verified(proof: &str, public: &[u8]) -> Value {
        let parts: Vec<&str> = proof.split('.').collect();
        let [header, claims, signature] = parts[..] else { panic!("{proof}") };
        let decoded = |part| URL_SAFE_NO_PAD.decode(part).expect("base64url");
        let json = |part| serde_json::from_slice::<Value>(&decoded(part)).expect("JSON");
        let key = json(header);
        assert_eq!((&key["typ"], &key["alg"]), (&"dpop+jwt".into(), &"ES256".into()));
        assert_eq!((&key["jwk"]["kty"], &key["jwk"]["crv"]), (&"EC".into(), &"P-256".into()));
        let point = ["x", "y"].map(|it| decoded(key["jwk"][it].as_str().expect("a coordinate")));
        assert_eq!([vec![4], point.concat()].concat(), public, "the key that the session has");
        let signed = format!("{header}.{claims}");
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public)
            .verify(signed.as_bytes(), &decoded(signature))
            .expect("a signature of the key");
        json(claims)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING;

    use super::*;

    const URL: &str = "https://us-east-1.signin.aws.amazon.com/v1/token";

    #[test]
    fn a_proof_names_the_request_and_is_signed() {
        let (pem, public) = fake::key();
        let key = ProofKey::of(&pem).expect("a key");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let claims = fake::verified(&key.proof(URL, now).expect("a proof"), &public);
        assert_eq!((&claims["htm"], &claims["htu"]), (&"POST".into(), &URL.into()));
        assert_eq!(claims["iat"], 1_800_000_000);
        let id = claims["jti"].as_str().expect("an id");
        assert_eq!((id.len(), &id[14..15]), (36, "4"), "{id}");
        assert!("89ab".contains(&id[19..20]), "{id}");
        let next = fake::verified(&key.proof(URL, now).expect("a proof"), &public);
        assert_ne!(next["jti"], claims["jti"], "a proof is good once");
        // The clock is before 1970.
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(fake::verified(&key.proof(URL, early).expect("a proof"), &public)["iat"], 0);
    }

    #[test]
    fn a_key_is_read_in_both_forms_and_never_shown() {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let der = key.to_pkcs8v1().expect("a key");
        let pem = fake::pem("PRIVATE KEY", der.as_ref());
        for pem in [pem.clone(), pem.replace('\n', "\r\n"), fake::key().0] {
            let read = ProofKey::of(&pem).expect("a key");
            assert_eq!(format!("{read:?}"), "ProofKey(** redacted **)");
        }
    }

    #[test]
    fn keys_of_other_curves_are_refused() {
        let other = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key");
        let der = other.to_pkcs8v1().expect("a key");
        let (good, _) = fake::key();
        let cut = &good[..100];
        for pem in ["", "canary", cut, &fake::pem("PRIVATE KEY", der.as_ref())] {
            assert!(ProofKey::of(pem).is_none(), "{pem}");
        }
    }
}
