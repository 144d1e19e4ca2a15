//! Lists the profiles in AWS files, for programs that write a configuration.

use std::path::{Path, PathBuf};

use super::base::Base;
use super::chain::Chain;
use crate::config;
use crate::error::Denial;
use crate::profile::aws_files::AwsFiles;
use crate::profile::home::{Home, Snapshot};
use crate::profile::surroundings::Surroundings;

/// A profile of the AWS files, without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name in the files.
    pub name: String,
    /// The source of its credentials, for people; empty if it has none.
    pub source: &'static str,
    /// The reason why it can't be used unchanged.
    pub fault: Option<String>,
    /// Whether its signatures need no call to AWS, because its keys are in the files.
    pub is_offline: bool,
    /// Whether a program returns its credentials.
    pub runs_program: bool,
    /// Other files that it needs.
    pub reads: Vec<PathBuf>,
}

/// The profiles of two files with these texts.
///
/// # Errors
/// The error of the files, with its line.
pub fn listed(config: (&Path, &str), credentials: (&Path, &str)) -> Result<Vec<Listed>, String> {
    let files = AwsFiles::read(config, credentials).map_err(|error| error.to_string())?;
    Ok(files.names().into_iter().map(|name| of(&files, name)).collect())
}

/// The names of the profiles in the AWS files of the environment, in alphabetical order. It blocks.
///
/// # Errors
/// The file that can't be read, and why.
pub fn names(surroundings: &Surroundings) -> Result<Vec<String>, Denial> {
    let snapshot = Snapshot::of(&Home::new(&config::AwsFiles::default(), surroundings));
    Ok(snapshot.files()?.names().into_iter().map(str::to_owned).collect())
}

fn of(files: &AwsFiles, name: &str) -> Listed {
    let chain = Chain::of(files, name);
    let base = chain.begins_with();
    let token = match base {
        Some(Base::WebIdentity(role)) => Some(role.token_file.clone()),
        _ => None,
    };
    Listed {
        name: name.to_owned(),
        source: chain.source(),
        fault: chain.hindrance(name, true).map(|denial| denial.detail().to_owned()),
        is_offline: chain.source() == "static keys",
        runs_program: matches!(base, Some(Base::CredentialProcess(_))),
        reads: chain.ca_bundle.iter().cloned().chain(token).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_profile_lists_its_requirements() {
        let config = "[default]\nregion = eu-west-1\n\
                      [profile role]\nrole_arn = arn:aws:iam::123456789012:role/R\nsource_profile = keys\n\
                      [profile tool]\ncredential_process = /home/alice/bin/keys --for me\n\
                      [profile web]\nrole_arn = arn:aws:iam::123456789012:role/R\nweb_identity_token_file = /home/alice/token\n\
                      [profile lost]\nsource_profile = nobody\nrole_arn = arn:aws:iam::123456789012:role/R\n";
        let credentials = "[keys]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = x\n";
        let at = Path::new;
        let listed =
            listed((at("config"), config), (at("credentials"), credentials)).expect("read");
        let names: Vec<_> = listed.iter().map(|it| (it.name.as_str(), it.source)).collect();
        let expected = [
            ("default", ""),
            ("keys", "static keys"),
            ("lost", "assume role"),
            ("role", "assume role"),
            ("tool", "credential process"),
            ("web", "web identity"),
        ];
        assert_eq!(names, expected);
        let of = |name| listed.iter().find(|it| it.name == name).expect("listed");
        assert!(of("keys").is_offline && !of("role").is_offline);
        assert!(of("tool").runs_program);
        assert_eq!(of("web").reads, [PathBuf::from("/home/alice/token")]);
        assert!(of("lost").fault.as_ref().is_some_and(|fault| fault.contains("nobody")));
        assert_eq!(of("role").fault, None);
    }

    #[test]
    fn an_unreadable_file_is_an_error() {
        let listed = listed((Path::new("/c"), "[open\n"), (Path::new("/k"), ""));
        assert!(listed.is_err_and(|why| why.starts_with("/c:1:")));
    }
}
