//! SigV4a: the key pair that is derived from an access key, and its signatures.
//!
//! Source: "AWS Signature Version 4A", *Deriving a signing key*, which uses NIST SP 800-108 in counter mode and the
//! candidate test of FIPS 186-5, A.2.2.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use hmac::Mac as _;

use super::mac;
use crate::keys::Key;

/// The name of the algorithm, in the header and in the derivation of the key.
pub(super) const ALGORITHM: &str = "AWS4-ECDSA-P256-SHA256";

/// Two less than the order of P-256.
const ORDER_MINUS_2: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6,
    0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x4f,
];

/// The public key: `04`, then both coordinates.
pub(super) fn public_key(key: &Key) -> Vec<u8> {
    let private = PrivateKey::from_private_key(&ECDH_P256, &private_key(key));
    let private = private.expect("a number below the order");
    private.compute_public_key().expect("a point").as_ref().to_vec()
}

/// Whether `signature`, in DER, is valid for `text`.
pub(super) fn verifies(key: &Key, text: &str, signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_key(key))
        .verify(text.as_bytes(), signature)
        .is_ok()
}

fn private_key(key: &Key) -> [u8; 32] {
    let candidate = |counter: u8| -> [u8; 32] {
        let mut mac = mac(format!("AWS4A{}", key.secret).as_bytes());
        mac.update(&1_u32.to_be_bytes());
        mac.update(ALGORITHM.as_bytes());
        mac.update(&[0]);
        mac.update(key.access_key_id.as_bytes());
        mac.update(&[counter]);
        mac.update(&256_u32.to_be_bytes());
        mac.finalize().into_bytes().into()
    };
    let mut candidates = (1..=254).map(candidate);
    // Both are big-endian, so they compare as numbers.
    let mut number = candidates.find(|number| *number <= ORDER_MINUS_2).expect("one of 254");
    for byte in number.iter_mut().rev() {
        let (sum, carries) = byte.overflowing_add(1);
        *byte = sum;
        if !carries {
            break;
        }
    }
    number
}
