//! The scope of a signature: a service, and one region (SigV4) or a set of them (SigV4a).

use sigward_proto::host::HostScope;

/// The most names in a set. AWS has fewer than 50 regions.
const MAX_REGIONS: usize = 64;

/// A service's signing name, like `aws-mcp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service(String);

/// An AWS region, like `eu-west-1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region(String);

/// The regions of a SigV4a signature: `*`, or several names separated by commas.
///
/// Source: the header `X-Amz-Region-Set` in "AWS Signature Version 4A".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionSet(String);

/// The regions in which a signature is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Regions {
    /// One region: SigV4.
    One(Region),
    /// Each region of a set: SigV4a.
    Set(RegionSet),
}

/// The scope of a signature, without the date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The signing name.
    pub service: Service,
    /// The endpoint's regions, never the profile's.
    pub regions: Regions,
}

impl Service {
    /// Checks a signing name: letters, digits and `.-_`, and `:` for `::1`.
    ///
    /// # Errors
    /// The error. The name becomes part of the credential scope, in which a `/` would shift the parts.
    pub fn parse(text: &str) -> Result<Self, String> {
        scope_part(text, |b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
            .map(Self)
            .ok_or_else(|| "is not a signing name like \"aws-mcp\"".to_owned())
    }

    /// The text in the credential scope.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Region {
    /// Checks a region: lower case letters, digits and `-`.
    ///
    /// # Errors
    /// The error.
    pub fn parse(text: &str) -> Result<Self, String> {
        scope_part(text, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            .map(Self)
            .ok_or_else(|| "is not a region like \"us-east-1\"".to_owned())
    }

    /// The text in the credential scope.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RegionSet {
    /// All regions.
    #[must_use]
    pub fn all() -> Self {
        Self("*".to_owned())
    }

    /// The regions of a list.
    ///
    /// # Errors
    /// The error.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut regions: Vec<&str> = Vec::new();
        for name in names {
            if name != "*" {
                Region::parse(name).map_err(|why| format!("{name:?} {why}"))?;
            }
            if regions.contains(&name) {
                return Err(format!("names {name:?} twice"));
            }
            regions.push(name);
        }
        match regions.as_slice() {
            [] => Err("is empty: name a region, or all of them with \"*\"".to_owned()),
            [_, ..] if regions.len() > 1 && regions.contains(&"*") => {
                Err("has \"*\" beside other names: that means all regions by itself".to_owned())
            }
            _ if regions.len() > MAX_REGIONS => {
                Err(format!("names more than {MAX_REGIONS} regions: write \"*\""))
            }
            _ => Ok(Self(regions.join(","))),
        }
    }

    /// The value of `X-Amz-Region-Set`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Regions {
    /// Parses a text: a region, `*`, or several separated by commas.
    ///
    /// # Errors
    /// The error.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" || text.contains(',') {
            return RegionSet::of(text.split(',').map(str::trim)).map(Self::Set);
        }
        Region::parse(text).map(Self::One)
    }

    /// The text form, which [`Self::parse`] reads.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::One(region) => region.as_str(),
            Self::Set(set) => set.as_str(),
        }
    }

    /// The first named region, where AWS is asked for credentials if no other region is given.
    #[must_use]
    pub fn first(&self) -> Option<&str> {
        let first = self.as_str().split(',').next()?;
        (first != "*").then_some(first)
    }
}

fn scope_part(text: &str, allowed: impl Fn(u8) -> bool) -> Option<String> {
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(allowed);
    fits.then(|| text.to_owned())
}

/// The service and regions of an AWS host, by the forms that AWS documents.
#[must_use]
pub fn scope_of_host(host: &str) -> Option<Scope> {
    let known = HostScope::of(host)?;
    let service = Service::parse(known.service).ok()?;
    Some(Scope { service, regions: Regions::parse(known.regions).ok()? })
}
