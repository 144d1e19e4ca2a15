//! The files that profiles name, to determine what the broker may open.

use std::path::PathBuf;

use super::base::Base;
use super::chain::Chain;
use crate::config::{AwsFiles, CredentialsFrom};
use crate::profile::home::{Home, Snapshot};
use crate::profile::surroundings::Surroundings;
use crate::profile::token::Tokens;

/// The files in addition to those of the broker's own configuration.
#[derive(Debug, Default)]
pub struct Named {
    /// Files that are read.
    pub reads: Vec<PathBuf>,
    /// Directories of token caches, which are read and written.
    pub caches: Vec<PathBuf>,
}

/// The files that the environment and the AWS files name now. It blocks.
#[must_use]
pub fn named(files: &AwsFiles, profiles: &[CredentialsFrom], surroundings: &Surroundings) -> Named {
    let home = Home::new(files, surroundings);
    let variables = [
        "AWS_CA_BUNDLE",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "SSL_CERT_FILE",
    ];
    let of_variables = variables.iter().filter_map(|name| surroundings.variable(name));
    let mut reads: Vec<PathBuf> = home.paths().cloned().collect();
    reads.extend(of_variables.map(PathBuf::from));
    // A directory; any file in it stands for it.
    reads.extend(surroundings.variable("SSL_CERT_DIR").map(|at| PathBuf::from(at).join("*")));
    let caches = Tokens::new(surroundings.home.as_deref()).directory().map(PathBuf::from);
    let caches = caches.into_iter().chain(surroundings.login_cache()).collect();
    let mut named = Named { reads, caches };
    // Unreadable files name no others.
    if let Ok(files) = Snapshot::of(&home).files() {
        for profile in profiles {
            let name = match profile {
                CredentialsFrom::AwsProfile(name) => name.as_str(),
                CredentialsFrom::DefaultChain => surroundings.aws_profile().unwrap_or("default"),
            };
            named.add(&Chain::of(files, name));
        }
    }
    named
}

impl Named {
    fn add(&mut self, chain: &Chain) {
        self.reads.extend(chain.ca_bundle.clone());
        if let Some(Base::WebIdentity(role)) = chain.begins_with() {
            self.reads.push(role.token_file.clone());
        }
    }
}
