//! The configuration from the flags of `serve`: the broker's own user may use all profiles at all
//! endpoints.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::file::NO_USER;
use super::model::{Audit, AwsFiles, Config, CredentialsFrom, Listen, Profile, ProfileName, Rule};
use crate::endpoint::{
    Endpoint, EndpointUrl, Paths, Region, Regions, Scope, Service, scope_of_host,
};
use crate::error::Error;
use crate::peer;

/// The values of the command line and the environment.
#[derive(Debug, Default)]
pub struct Flags {
    /// `--profile`; empty for the SDK's default chain, under the name `default`.
    pub profiles: Vec<String>,
    /// `--endpoint`.
    pub endpoints: Vec<String>,
    /// `--service`, for all endpoints.
    pub service: Option<String>,
    /// `--region`, for all endpoints.
    pub region: Option<String>,
    /// `AWS_REGION`, if neither the flag nor the host names a region.
    pub aws_region: Option<String>,
    /// `--socket`.
    pub socket: Option<PathBuf>,
}

impl Flags {
    /// The configuration for the user `uid`.
    ///
    /// # Errors
    /// All errors, in one text.
    pub fn into_config(self, uid: u32) -> Result<Config, Error> {
        let mut faults = Vec::new();
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::new();
        for text in &self.endpoints {
            match self.endpoint(text) {
                Ok(endpoint) if endpoints.iter().any(|known| known.url == endpoint.url) => {
                    faults.push(format!("--endpoint {text}: is given twice"));
                }
                Ok(endpoint) => endpoints.push(Arc::new(endpoint)),
                Err(why) => faults.push(format!("--endpoint {text}: {why}")),
            }
        }
        if self.endpoints.is_empty() {
            faults.push("give --config FILE, or --endpoint URL".to_owned());
        }
        let names: Vec<String> = endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
        let mut profiles: Vec<Profile> = Vec::new();
        for text in &self.profiles {
            match ProfileName::parse(text) {
                Ok(name) if profiles.iter().any(|known| known.name == name) => {
                    faults.push(format!("--profile {text}: is given twice"));
                }
                Ok(name) => {
                    profiles.push(profile(name, CredentialsFrom::AwsProfile(text.clone()), &names));
                }
                Err(why) => faults.push(format!("--profile {text:?}: {why}")),
            }
        }
        if self.profiles.is_empty() {
            let name = ProfileName::default_chain();
            profiles.push(profile(name, CredentialsFrom::DefaultChain, &names));
        }
        if peer::is_unmapped_uid(uid) {
            faults.push(NO_USER.to_owned());
        }
        if !faults.is_empty() {
            return Err(Error::Usage(faults.join("\n")));
        }
        Ok(Config {
            metrics: None,
            listen: Listen { unix: self.socket, mode: None, group: None, tcp: None },
            aws: AwsFiles::default(),
            endpoints,
            paces: HashMap::new(),
            profiles,
            rules: vec![Rule::broker_user(uid)],
            audit: Audit::unconfigured(),
        })
    }

    fn endpoint(&self, text: &str) -> Result<Endpoint, String> {
        let url = EndpointUrl::parse(text)?;
        let known = scope_of_host(url.host());
        let service = match (&self.service, &known) {
            (Some(service), _) => {
                Service::parse(service).map_err(|why| format!("--service {why}"))?
            }
            (None, Some(scope)) => scope.service.clone(),
            (None, None) if url.is_foreign_address() => {
                return Err("its host doesn't tell the service: give --service".to_owned());
            }
            // Like mcp-proxy-for-aws for unknown hosts: `localhost`, `127`, `::1`.
            (None, None) => {
                let host = url.host().trim_matches(['[', ']']);
                Service::parse(host.split('.').next().unwrap_or_default())
                    .map_err(|_| "its host doesn't tell the service: give --service".to_owned())?
            }
        };
        let regions = match (&self.region, &known, &self.aws_region) {
            (Some(region), _, _) => {
                Regions::parse(region).map_err(|why| format!("--region {why}"))?
            }
            (None, Some(scope), _) => scope.regions.clone(),
            (None, None, Some(region)) => Region::parse(region)
                .map(Regions::One)
                .map_err(|why| format!("AWS_REGION {why}"))?,
            (None, None, None) => {
                return Err(
                    "its host doesn't tell the region: give --region, or set AWS_REGION".to_owned()
                );
            }
        };
        let scope = Scope { service, regions };
        Ok(Endpoint { name: url.to_string(), url, paths: Paths::Exact, scope })
    }
}

fn profile(name: ProfileName, from: CredentialsFrom, endpoints: &[String]) -> Profile {
    let endpoints = endpoints.to_vec();
    Profile {
        name,
        from,
        description: String::new(),
        endpoints,
        role: None,
        guard_rails: None,
        preload: false,
    }
}

#[cfg(test)]
mod tests;
