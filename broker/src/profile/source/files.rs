//! The AWS files: read here, as a whole, and once for all that a load does.
//!
//! Invariant: a file that is there counts, or nothing does. The SDK takes one that it can't read for an empty one; a
//! profile whose role stands in it would then sign with the keys that are only meant to assume that role.

use std::io;
use std::path::PathBuf;

use aws_config::profile::ProfileSet;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_types::os_shim_internal::{Env, Fs};
use sigward_proto::v1::Reason;
use zeroize::Zeroizing;

use crate::config::AwsFiles;
use crate::error::{Denial, in_words};
use crate::profile::surroundings::Surroundings;

/// Where they are.
#[derive(Debug)]
pub(super) struct Files(Vec<Place>);

#[derive(Debug, Clone)]
struct Place {
    kind: EnvConfigFileKind,
    path: PathBuf,
    /// By the broker's configuration: it has to be there.
    given: bool,
}

/// What they said when they were read.
#[derive(Debug)]
pub(super) struct Read {
    /// For the SDK.
    pub(super) files: EnvConfigFiles,
    /// The same in its parts.
    pub(super) sections: ProfileSet,
}

impl Files {
    pub(super) fn new(given: &AwsFiles, surroundings: &Surroundings) -> Self {
        let place = |kind, given: &Option<PathBuf>, usual: Option<PathBuf>| {
            let place = |path: PathBuf, given| Place { kind, path, given };
            let given = given.clone().map(|path| place(path, true));
            given.or_else(|| usual.map(|path| place(path, false)))
        };
        let [config, credentials] = surroundings.aws_files();
        let places = [
            place(EnvConfigFileKind::Config, &given.config, config),
            place(EnvConfigFileKind::Credentials, &given.credentials, credentials),
        ];
        Self(places.into_iter().flatten().collect())
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.iter().map(|place| &place.path)
    }

    /// Whether one that has to be there isn't.
    pub(super) fn taken_away(&self) -> bool {
        let gone = |place: &Place| {
            let found = std::fs::metadata(&place.path);
            place.given && found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        self.0.iter().any(gone)
    }

    /// Reads them, for the profile of that name.
    ///
    /// # Errors
    /// PROFILE_MISCONFIGURED where a person has to act, CREDENTIALS_UNAVAILABLE where the machine is in trouble.
    pub(super) async fn read(&self, profile: &str) -> Result<Read, Denial> {
        let places = self.0.clone();
        // On a file system of the network that may take a while.
        let reading = tokio::task::spawn_blocking(move || {
            places.into_iter().filter_map(|place| place.read().transpose()).collect()
        });
        let texts: Result<Vec<(Place, Zeroizing<String>)>, Denial> =
            reading.await.map_err(|_| {
                Denial::new(
                    Reason::CredentialsUnavailable,
                    "the AWS files: reading them was broken off",
                )
            })?;
        let texts = texts?;
        let files = together(texts.iter());
        match parse(&files, profile).await {
            Ok(sections) => Ok(Read { files, sections }),
            Err(why) => {
                // Which of them it is isn't in the error.
                for text in &texts {
                    if let Err(why) = parse(&together([text].into_iter()), profile).await {
                        return Err(misconfigured(&format!("{}: {why}", text.0.path.display())));
                    }
                }
                Err(misconfigured(&why))
            }
        }
    }
}

impl Place {
    /// The text; nothing where nothing has to be.
    fn read(self) -> Result<Option<(Self, Zeroizing<String>)>, Denial> {
        let shown = self.path.display();
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.given => {
                return Ok(None);
            }
            Err(error) => {
                let detail = format!("the AWS files: {shown} can't be read: {error}");
                let reason = match error.kind() {
                    io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::IsADirectory => Reason::ProfileMisconfigured,
                    // No file descriptors left, a disk that is gone.
                    _ => Reason::CredentialsUnavailable,
                };
                return Err(Denial::new(reason, detail));
            }
        };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some((self, Zeroizing::new(text)))),
            Err(error) => {
                drop(Zeroizing::new(error.into_bytes()));
                Err(misconfigured(&format!("{shown} isn't text in UTF-8")))
            }
        }
    }
}

/// What there is to read where nothing can be.
pub(super) fn none() -> EnvConfigFiles {
    together(std::iter::empty())
}

fn together<'t>(texts: impl Iterator<Item = &'t (Place, Zeroizing<String>)>) -> EnvConfigFiles {
    // The SDK wants at least one.
    let mut builder = EnvConfigFiles::builder().with_contents(EnvConfigFileKind::Config, "");
    for (place, text) in texts {
        builder = builder.with_contents(place.kind, text.as_str());
    }
    builder.build()
}

/// The error in words, which hold none of the text.
async fn parse(files: &EnvConfigFiles, profile: &str) -> Result<ProfileSet, String> {
    let profile = Some(profile.to_owned().into());
    let parsed = aws_config::profile::load(&Fs::real(), &Env::real(), files, profile).await;
    // It would name the file if it had read it.
    parsed.map_err(|error| in_words(&error).replace("error parsing  on ", "").replace(":\n ", ":"))
}

fn misconfigured(why: &str) -> Denial {
    Denial::new(Reason::ProfileMisconfigured, format!("the AWS files: {why}"))
}
