//! What a signature is scoped to: a service, and one region (SigV4) or a set of them (SigV4a).

use sigward_proto::host::HostScope;

/// So many names are in a set at most. AWS has fewer than 50 regions.
const MAX_REGIONS: usize = 64;

/// A service's signing name: `aws-mcp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service(String);

/// An AWS region: `eu-west-1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region(String);

/// The regions of a SigV4a signature: `*`, or several names with commas between them.
///
/// Source: the header `X-Amz-Region-Set` of "AWS Signature Version 4A".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionSet(String);

/// Where a signature is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Regions {
    /// In one region: SigV4.
    One(Region),
    /// In each of a set: SigV4a.
    Set(RegionSet),
}

/// What a signature is valid for, beside the day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The signing name.
    pub service: Service,
    /// The endpoint's, never the profile's.
    pub regions: Regions,
}

impl Service {
    /// Checks a signing name: letters, digits and `.-_`, and `:` for `::1`.
    ///
    /// # Errors
    /// What is wrong with it. It ends in the credential scope, where a `/` would move the borders.
    pub fn parse(text: &str) -> Result<Self, String> {
        scope_part(text, |b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
            .map(Self)
            .ok_or_else(|| "is not a signing name like \"aws-mcp\"".to_owned())
    }

    /// As it stands in the credential scope.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Region {
    /// Checks a region: lower case letters, digits and `-`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        scope_part(text, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            .map(Self)
            .ok_or_else(|| "is not a region like \"us-east-1\"".to_owned())
    }

    /// As it stands in the credential scope.
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
    /// What is wrong with it.
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
            [] => Err("is empty: name a region, or all of them by \"*\"".to_owned()),
            [_, ..] if regions.len() > 1 && regions.contains(&"*") => {
                Err("has \"*\" beside other names: that means all regions by itself".to_owned())
            }
            _ if regions.len() > MAX_REGIONS => {
                Err(format!("names more than {MAX_REGIONS} regions: write \"*\""))
            }
            _ => Ok(Self(regions.join(","))),
        }
    }

    /// As it stands in `X-Amz-Region-Set`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Regions {
    /// Reads one text: a region, `*`, or several with commas between them.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" || text.contains(',') {
            return RegionSet::of(text.split(',').map(str::trim)).map(Self::Set);
        }
        Region::parse(text).map(Self::One)
    }

    /// As it is shown, and as [`Self::parse`] reads it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::One(region) => region.as_str(),
            Self::Set(set) => set.as_str(),
        }
    }

    /// The first region that has a name: where AWS is asked for credentials when nobody says where.
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

/// Service and regions of an AWS host, by the forms that AWS documents.
#[must_use]
pub fn scope_of_host(host: &str) -> Option<Scope> {
    let known = HostScope::of(host)?;
    let service = Service::parse(known.service).ok()?;
    Some(Scope { service, regions: Regions::parse(known.regions).ok()? })
}
