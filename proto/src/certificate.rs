//! Reads whom a certificate is issued to, and its expiry.
//!
//! Invariant: a [`Leaf`] has exactly one [`Name`]. A certificate with a URI among its names must be an X.509-SVID: it
//! has no second URI, the URI is the SPIFFE id of a workload, and its key signs no other certificates (X509-SVID,
//! sections 2 to 5: <https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>); its other names are ignored.
//! A certificate without a URI is identified by its DNS names. The subject (its common name) is always ignored.
//!
//! The caller must verify the certificate: this module checks no signature.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectAltName};

use crate::spiffe::SpiffeId;

/// The most names of one certificate; real clients have fewer.
const MAX_NAMES: usize = 16;
/// The longest DNS name (RFC 1035, 2.3.4).
const MAX_DNS_NAME: usize = 253;

/// The properties of a certificate's holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The holder's name.
    pub name: Name,
    /// The last time at which the certificate is valid.
    pub not_after: SystemTime,
}

/// The name of a certificate's holder. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// A workload of a trust domain.
    SpiffeId(SpiffeId),
    /// A machine or service with all of its DNS names: at least one, in lower case, sorted, without duplicates.
    Dns(Arc<[String]>),
}

/// Why a certificate has no valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unnamed {
    /// It isn't X.509, or one of its extensions violates RFC 5280.
    #[error("it can't be read: {0}")]
    Malformed(String),
    /// It has a second URI, which would be another identity.
    #[error("it has {0} URIs among its names: an X.509-SVID has one")]
    Uris(usize),
    /// Its URI isn't the SPIFFE id of a workload.
    #[error("its URI is no SPIFFE id: it {0}")]
    Uri(crate::spiffe::Invalid),
    /// It belongs to a certificate authority.
    #[error("it may sign other certificates: it is no workload's")]
    Authority,
    /// One of its DNS names is invalid.
    #[error("one of its DNS names isn't one")]
    DnsName,
    /// It has too many names.
    #[error("it has more than {MAX_NAMES} names")]
    Names,
    /// It has neither a SPIFFE id nor a DNS name without wildcards.
    #[error("it has neither a SPIFFE id nor a DNS name (its common name doesn't count)")]
    None,
}

/// The last time at which a certificate in DER is valid; `None` if it can't be parsed.
#[must_use]
pub fn not_after(der: &[u8]) -> Option<SystemTime> {
    let certificate = Certificate::from_der(der).ok()?;
    Some(certificate.tbs_certificate().validity().not_after.to_system_time())
}

impl Leaf {
    /// Parses a certificate in DER.
    ///
    /// # Errors
    /// It has no valid name, or can't be parsed.
    pub fn read(der: &[u8]) -> Result<Self, Unnamed> {
        let malformed = |error: x509_cert::der::Error| Unnamed::Malformed(error.to_string());
        let certificate = Certificate::from_der(der).map_err(malformed)?;
        let content = certificate.tbs_certificate();
        // The attack: the certificate of an authority, whose key is protected differently, is used as that of a
        // workload.
        let constraints = content.get_extension::<BasicConstraints>().map_err(malformed)?;
        let usage = content.get_extension::<KeyUsage>().map_err(malformed)?;
        let signs = usage.is_some_and(|(_, usage)| usage.key_cert_sign() || usage.crl_sign());
        if signs || constraints.is_some_and(|(_, constraints)| constraints.ca) {
            return Err(Unnamed::Authority);
        }
        let names = content.get_extension::<SubjectAltName>().map_err(malformed)?;
        let names = names.map(|(_, names)| names.0).unwrap_or_default();
        if names.len() > MAX_NAMES {
            return Err(Unnamed::Names);
        }
        let not_after = content.validity().not_after.to_system_time();
        Ok(Self { name: Name::of(&names)?, not_after })
    }
}

impl Name {
    fn of(names: &[GeneralName]) -> Result<Self, Unnamed> {
        let uris: Vec<&str> = names
            .iter()
            .filter_map(|name| match name {
                GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str()),
                _ => None,
            })
            .collect();
        match uris.as_slice() {
            [] => {}
            [uri] => return SpiffeId::parse(uri).map(Self::SpiffeId).map_err(Unnamed::Uri),
            more => return Err(Unnamed::Uris(more.len())),
        }
        let mut dns = Vec::new();
        for name in names {
            let GeneralName::DnsName(name) = name else { continue };
            // A wildcard matches many machines, so that it names none.
            if name.as_str().starts_with("*.") {
                continue;
            }
            dns.push(dns_name(name.as_str()).ok_or(Unnamed::DnsName)?);
        }
        dns.sort_unstable();
        dns.dedup();
        if dns.is_empty() { Err(Unnamed::None) } else { Ok(Self::Dns(dns.into())) }
    }
}

/// A DNS name in lower case; `None` if a rule couldn't contain it.
#[must_use]
pub fn dns_name(text: &str) -> Option<String> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    let is_name = text.len() <= MAX_DNS_NAME && text.split('.').all(is_label);
    is_name.then(|| text.to_ascii_lowercase())
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SpiffeId(id) => id.fmt(f),
            Self::Dns(names) => write!(f, "dns:{}", names.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
    };

    use super::*;

    fn issue(edit: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "cn.example.org");
        edit(&mut parameters);
        let key = KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    fn named(names: Vec<SanType>) -> Result<Name, Unnamed> {
        Leaf::read(&issue(|it| it.subject_alt_names = names)).map(|leaf| leaf.name)
    }

    const ID: &str = "spiffe://example.org/agent";

    #[test]
    fn a_certificate_has_one_name() {
        let id = Name::SpiffeId(SpiffeId::parse(ID).unwrap());
        assert_eq!(named(vec![uri(ID)]), Ok(id.clone()));
        // An SVID's DNS names are ignored: only its id counts.
        assert_eq!(named(vec![dns("a.example.org"), uri(ID)]), Ok(id));
        let both = ["a.example.org".to_owned(), "b.example.org".to_owned()];
        let names = vec![
            dns("b.example.org"),
            dns("A.Example.org"),
            dns("a.example.org"),
            dns("*.example.org"),
        ];
        assert_eq!(named(names), Ok(Name::Dns(both.into())));
    }

    #[test]
    fn an_ambiguous_certificate_has_no_name() {
        assert_eq!(named(vec![uri(ID), uri(ID)]), Err(Unnamed::Uris(2)));
        assert_eq!(named(vec![uri(ID), uri("https://example.org/")]), Err(Unnamed::Uris(2)));
        assert!(matches!(
            named(vec![uri("https://x/"), dns("a.example.org")]),
            Err(Unnamed::Uri(_))
        ));
        assert!(matches!(named(vec![uri("spiffe://example.org")]), Err(Unnamed::Uri(_))));
        assert_eq!(named(vec![]), Err(Unnamed::None), "the common name doesn't count");
        assert_eq!(named(vec![dns("*.example.org")]), Err(Unnamed::None));
        assert_eq!(named(vec![dns("a..org")]), Err(Unnamed::DnsName));
        assert_eq!(named(vec![dns("a"); MAX_NAMES + 1]), Err(Unnamed::Names));
    }

    #[test]
    fn an_authority_is_not_a_workload() {
        let authority = |it: &mut CertificateParams| {
            it.subject_alt_names = vec![uri(ID)];
            it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        };
        assert_eq!(Leaf::read(&issue(authority)), Err(Unnamed::Authority));
        for purpose in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
            let signs = |it: &mut CertificateParams| {
                it.subject_alt_names = vec![uri(ID)];
                it.key_usages = vec![purpose];
            };
            assert_eq!(Leaf::read(&issue(signs)), Err(Unnamed::Authority));
        }
        let workload = |it: &mut CertificateParams| {
            it.subject_alt_names = vec![uri(ID)];
            it.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        };
        assert!(Leaf::read(&issue(workload)).is_ok());
    }

    #[test]
    fn the_expiry_of_a_certificate_is_read() {
        let der = issue(|it| {
            it.subject_alt_names = vec![uri(ID)];
            it.not_after = rcgen::date_time_ymd(2031, 2, 3);
        });
        let seconds = std::time::Duration::from_secs(1_927_843_200);
        assert_eq!(Leaf::read(&der).unwrap().not_after, SystemTime::UNIX_EPOCH + seconds);
    }

    #[test]
    fn a_truncated_certificate_is_refused() {
        let der = issue(|it| it.subject_alt_names = vec![uri(ID), dns("a.example.org")]);
        for length in 0..der.len() {
            assert!(matches!(Leaf::read(&der[..length]), Err(Unnamed::Malformed(_))), "{length}");
        }
    }

    proptest! {
        /// Neither noise nor a certificate with changed bytes causes a panic.
        #[test]
        fn garbage_is_refused(
            noise in prop::collection::vec(any::<u8>(), 0..200),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            static DER: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
                issue(|it| it.subject_alt_names = vec![uri(ID), dns("a.example.org")])
            });
            prop_assert!(Leaf::read(&noise).is_err());
            let mut der = DER.clone();
            for (at, byte) in changes {
                let at = at.index(der.len());
                der[at] = byte;
            }
            drop(Leaf::read(&der));
        }
    }
}
