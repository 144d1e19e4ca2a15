//! A user's AWS home in a temporary directory: `.aws/config` and `.aws/credentials`, with keys that exist nowhere else.
//!
//! Every home has three profiles: `dev` and `prod` with long-lived keys, `staging` with a session token.
//! [`AwsHome::role`], [`AwsHome::process`], and [`Aws::sign_in`](crate::aws::Aws::sign_in) add others.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::keys::{Key, KeyTable};

/// The profiles of every home, and their regions.
pub const PROFILES: [(&str, &str); 3] =
    [("dev", "us-west-2"), ("staging", "eu-central-1"), ("prod", "ap-southeast-2")];

/// A directory for `$HOME`, deleted on drop unless it was given.
#[derive(Debug)]
pub struct AwsHome {
    path: PathBuf,
    _temporary: Option<TempDir>,
    keys: KeyTable,
    named: Vec<(String, Key)>,
}

impl AwsHome {
    /// A new home.
    ///
    /// # Panics
    /// If the files can't be written.
    #[must_use]
    pub fn new() -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        Self::write(temporary.path().to_owned(), Some(temporary))
    }

    /// A home in a directory that stays.
    ///
    /// # Panics
    /// If the files can't be written.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self::write(path.to_owned(), None)
    }

    fn write(path: PathBuf, temporary: Option<TempDir>) -> Self {
        fs::create_dir_all(path.join(".aws")).expect("a writable home");
        let mut home =
            Self { path, _temporary: temporary, keys: KeyTable::default(), named: Vec::new() };
        for file in [home.config_file(), home.credentials_file()] {
            fs::write(&file, "").expect("a writable home");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
        }
        for (name, region) in PROFILES {
            let key = match name {
                "staging" => Key::role("Staging", "session"),
                user => Key::user(user),
            };
            home.append(&home.config_file(), &format!("[profile {name}]\nregion = {region}\n"));
            home.static_keys(name, &key);
        }
        home
    }

    /// Adds `key` to the credentials file, for the profile `name`, and makes it known to the servers.
    pub fn static_keys(&mut self, name: &str, key: &Key) {
        let token = key.session_token.as_ref();
        let token = token.map(|token| format!("aws_session_token = {token}\n")).unwrap_or_default();
        let text = format!(
            "[{name}]\naws_access_key_id = {}\naws_secret_access_key = {}\n{token}",
            key.access_key_id, key.secret
        );
        self.append(&self.credentials_file(), &text);
        self.learn(name, key);
    }

    /// Adds a profile that assumes a role with the keys of `source`, at the tests' STS.
    pub fn role(&self, name: &str, source: &str, role_arn: &str) {
        let text = format!(
            "[profile {name}]\nregion = us-east-2\nrole_arn = {role_arn}\nsource_profile = {source}\nrole_session_name = sigward-tests\n"
        );
        self.append(&self.config_file(), &text);
    }

    /// Adds a profile whose keys a program prints.
    ///
    /// # Panics
    /// If the program can't be written.
    pub fn process(&mut self, name: &str, key: &Key) {
        let token = key.session_token.as_deref().unwrap_or_default();
        let answer = serde_json::json!({
            "Version": 1,
            "AccessKeyId": key.access_key_id,
            "SecretAccessKey": key.secret,
            "SessionToken": token,
            "Expiration": "2099-01-01T00:00:00Z",
        });
        let program = self.path.join(format!("{name}-credentials"));
        fs::write(&program, format!("#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("a mode");
        let program = program.display();
        let text =
            format!("[profile {name}]\nregion = us-west-1\ncredential_process = {program}\n");
        self.append(&self.config_file(), &text);
        self.learn(name, key);
    }

    /// Adds text to `.aws/config`.
    pub fn config(&self, text: &str) {
        self.append(&self.config_file(), text);
    }

    /// Makes `key` known to the servers of this home, under `name`.
    pub fn learn(&mut self, name: &str, key: &Key) {
        self.keys.insert(key.clone());
        self.named.push((name.to_owned(), key.clone()));
    }

    /// The key of a profile.
    ///
    /// # Panics
    /// If there is no such profile.
    #[must_use]
    pub fn key(&self, profile: &str) -> &Key {
        let found = self.named.iter().find(|(name, _)| name == profile);
        &found.unwrap_or_else(|| panic!("no key of {profile}")).1
    }

    /// The ARN that a server sees when the profile signs.
    #[must_use]
    pub fn identity(&self, profile: &str) -> &str {
        &self.key(profile).identity
    }

    /// Every key of this home, for the servers.
    #[must_use]
    pub fn keys(&self) -> KeyTable {
        self.keys.clone()
    }

    /// The path of the home.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `.aws/config`.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.path.join(".aws/config")
    }

    /// `.aws/credentials`.
    #[must_use]
    pub fn credentials_file(&self) -> PathBuf {
        self.path.join(".aws/credentials")
    }

    /// The environment of a user with this home.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let variable = |name: &str, path: &Path| (name.to_owned(), path.display().to_string());
        vec![
            variable("HOME", &self.path),
            variable("AWS_CONFIG_FILE", &self.config_file()),
            variable("AWS_SHARED_CREDENTIALS_FILE", &self.credentials_file()),
            ("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned()),
        ]
    }

    #[allow(clippy::unused_self, reason = "only a home writes into its files")]
    fn append(&self, file: &Path, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(file).expect("a file of the home");
        file.write_all(text.as_bytes()).expect("a file of the home");
    }
}

impl Default for AwsHome {
    fn default() -> Self {
        Self::new()
    }
}
