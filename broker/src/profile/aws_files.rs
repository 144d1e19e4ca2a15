//! Reads the AWS files like the AWS CLI: the section of each profile, and its settings.
//!
//! The reference is botocore (`configloader.py`, `session.full_config`). A different interpretation
//! is a different identity: a section that one parser skips may be the role that another one
//! assumes, while the keys beside it are used.
//!
//! Invariant: a profile is what botocore reads from these files, or it has an [`Error`] with file
//! and line. An error of a section concerns only the profiles that use it.

mod ini;
pub(super) mod words;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use self::ini::{Document, Section};
use crate::error::{Denial, Reason};

/// Both files. A missing file counts as empty.
#[derive(Debug, Default)]
pub(super) struct AwsFiles {
    config: File,
    credentials: File,
    /// The effective section of the config file, by profile name.
    profiles: HashMap<String, usize>,
    /// The sections that an effective one replaces, by its index: earlier ones, with other
    /// spellings of its name.
    superseded: HashMap<usize, Vec<usize>>,
    sso_sessions: HashMap<String, usize>,
    services: HashMap<String, usize>,
    /// The section of the credentials file, by profile name.
    keys: HashMap<String, usize>,
}

#[derive(Debug, Default)]
struct File {
    path: PathBuf,
    document: Document,
}

/// An error in a file, with its position. It contains no values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Error {
    path: PathBuf,
    line: usize,
    what: String,
}

/// A profile: a section of the config file, one of the credentials file, or both.
#[derive(Debug, Clone, Copy)]
pub(super) struct Profile<'f> {
    pub(super) name: &'f str,
    files: &'f AwsFiles,
    config: Option<&'f Section>,
    credentials: Option<&'f Section>,
}

/// Another section of the config file: an `sso-session`, or `services`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Other<'f> {
    files: &'f AwsFiles,
    index: usize,
    section: &'f Section,
}

/// A setting and its position.
#[derive(Clone, Copy)]
pub(super) struct Setting<'f> {
    path: &'f Path,
    setting: &'f ini::Setting,
}

impl AwsFiles {
    /// Parses the texts of the config and the credentials file.
    ///
    /// # Errors
    /// An error that concerns all profiles.
    pub(super) fn read(config: (&Path, &str), credentials: (&Path, &str)) -> Result<Self, Error> {
        let file = |(path, text): (&Path, &str)| {
            let error = |ini::Error { line, what }| Error { path: path.to_owned(), line, what };
            let document = ini::read(text).map_err(error)?;
            Ok(File { path: path.to_owned(), document })
        };
        let mut files =
            Self { config: file(config)?, credentials: file(credentials)?, ..Self::default() };
        for (index, section) in files.config.document.sections.iter().enumerate() {
            let header = section.header.as_str();
            // By its first letters, like botocore: `[profiles x]` is the profile x.
            let kind = if header.starts_with("profile") {
                &mut files.profiles
            } else if header.starts_with("sso-session") {
                &mut files.sso_sessions
            } else if header.starts_with("services") {
                &mut files.services
            } else {
                if header == "default" {
                    let earlier = files.profiles.insert(header.to_owned(), index);
                    supersede(&mut files.superseded, earlier, index);
                }
                continue;
            };
            if let Ok([_, name]) = words::split(header).as_deref() {
                // If a name has two spellings, only the later section is effective.
                let earlier = kind.insert(name.to_string(), index);
                supersede(&mut files.superseded, earlier, index);
            }
        }
        let keys = files.credentials.document.sections.iter().enumerate();
        files.keys = keys.map(|(index, section)| (section.header.clone(), index)).collect();
        Ok(files)
    }

    /// The error of an effective section of the config file, or of one that it replaces, which may
    /// have been intended to be effective.
    fn error(&self, index: usize) -> Option<Error> {
        let superseded = self.superseded.get(&index).into_iter().flatten();
        [&index].into_iter().chain(superseded).find_map(|index| {
            let section = self.config.document.sections.get(*index)?;
            self.config.of(section)
        })
    }

    /// The names of all profiles, without duplicates, in alphabetical order.
    pub(super) fn names(&self) -> BTreeSet<&str> {
        self.profiles.keys().chain(self.keys.keys()).map(String::as_str).collect()
    }

    /// The profile with this name.
    pub(super) fn profile<'f>(&'f self, name: &'f str) -> Option<Profile<'f>> {
        let of = |file: &'f File, index: &HashMap<String, usize>| {
            index.get(name).and_then(|index| file.document.sections.get(*index))
        };
        let config = of(&self.config, &self.profiles);
        let credentials = of(&self.credentials, &self.keys);
        config.or(credentials)?;
        Some(Profile { name, files: self, config, credentials })
    }

    pub(super) fn sso_session(&self, name: &str) -> Option<Other<'_>> {
        self.other(&self.sso_sessions, name)
    }

    pub(super) fn services(&self, name: &str) -> Option<Other<'_>> {
        self.other(&self.services, name)
    }

    fn other<'f>(&'f self, index: &HashMap<String, usize>, name: &str) -> Option<Other<'f>> {
        let index = *index.get(name)?;
        let section = self.config.document.sections.get(index)?;
        Some(Other { files: self, index, section })
    }

    /// The reason why the settings of a name are in doubt: a line that isn't a valid header may
    /// have been intended as one with further settings of the profile.
    pub(super) fn doubt(&self, name: &str) -> Option<Error> {
        [&self.config, &self.credentials].into_iter().find_map(|file| {
            let suspect = file.document.suspects.iter().find(|it| names(&it.text, name))?;
            let what = format!("{}, and may concern the profile {name}", suspect.what);
            Some(file.error(suspect.line, what))
        })
    }
}

/// Records that a section replaces another one, and those that that one replaced.
fn supersede(all: &mut HashMap<usize, Vec<usize>>, earlier: Option<usize>, later: usize) {
    let Some(earlier) = earlier else { return };
    let mut those = all.remove(&earlier).unwrap_or_default();
    those.push(earlier);
    all.insert(later, those);
}

impl File {
    fn error(&self, line: usize, what: String) -> Error {
        Error { path: self.path.clone(), line, what }
    }

    fn of(&self, section: &Section) -> Option<Error> {
        let error = section.error.as_ref()?;
        Some(self.error(error.line, error.what.clone()))
    }

    fn find<'f>(&'f self, section: Option<&'f Section>, key: &str) -> Option<Setting<'f>> {
        let setting = section?.settings.iter().find(|setting| setting.key == key)?;
        Some(Setting { path: &self.path, setting })
    }
}

impl<'f> Profile<'f> {
    /// The error of its sections.
    pub(super) fn error(&self) -> Option<Error> {
        let config = self.files.profiles.get(self.name);
        config
            .and_then(|index| self.files.error(*index))
            .or_else(|| self.credentials.and_then(|section| self.files.credentials.of(section)))
            .or_else(|| self.files.doubt(self.name))
    }

    /// A setting. The credentials file has priority.
    pub(super) fn get(&self, key: &str) -> Option<Setting<'f>> {
        self.in_credentials(key).or_else(|| self.in_config(key))
    }

    pub(super) fn in_config(&self, key: &str) -> Option<Setting<'f>> {
        self.files.config.find(self.config, key)
    }

    pub(super) fn in_credentials(&self, key: &str) -> Option<Setting<'f>> {
        self.files.credentials.find(self.credentials, key)
    }

    /// An error of the profile as a whole, at the header of its section.
    pub(super) fn wrong(&self, what: impl Into<String>) -> Error {
        let (file, section) = match (self.config, self.credentials) {
            (Some(section), _) => (&self.files.config, Some(section)),
            (None, section) => (&self.files.credentials, section),
        };
        file.error(section.map_or(1, |section| section.line), what.into())
    }

    /// The files of its sections, for messages about missing sections.
    pub(super) fn files(&self) -> &'f AwsFiles {
        self.files
    }
}

impl<'f> Other<'f> {
    pub(super) fn error(&self) -> Option<Error> {
        self.files.error(self.index)
    }

    pub(super) fn get(&self, key: &str) -> Option<Setting<'f>> {
        self.files.config.find(Some(self.section), key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'f str> + use<'f> {
        self.section.settings.iter().map(|setting| setting.key.as_str())
    }

    pub(super) fn wrong(&self, what: impl Into<String>) -> Error {
        self.files.config.error(self.section.line, what.into())
    }
}

impl<'f> Setting<'f> {
    /// The value; empty for a block of nested settings.
    ///
    /// # Errors
    /// The value continues on further lines.
    pub(super) fn text(&self) -> Result<&'f str, Error> {
        let value: &'f Zeroizing<String> = &self.setting.value;
        if value.starts_with('\n') {
            Err(self.wrong("is a block of settings, where a value is needed"))
        } else if value.contains('\n') {
            Err(self.wrong("continues in an indented line below, which the AWS CLI reads as a part of its value"))
        } else {
            Ok(value)
        }
    }

    /// The value, with all of its lines.
    pub(super) fn lines(&self) -> &'f str {
        let value: &'f Zeroizing<String> = &self.setting.value;
        value
    }

    /// A nested setting. If a name is repeated, the later one counts.
    ///
    /// # Errors
    /// It has no nested settings, or one of them isn't complete.
    pub(super) fn nested(&self, key: &str) -> Result<Option<&'f str>, Error> {
        let value: &'f Zeroizing<String> = &self.setting.value;
        if !value.starts_with('\n') {
            return Err(self.wrong("must be a block of indented settings"));
        }
        let mut found = None;
        for line in ini::nested(value) {
            let incomplete = || self.wrong("holds an indented line without '='");
            let (name, value) = line.split_once('=').ok_or_else(incomplete)?;
            if name.trim_matches(ini::is_space) == key {
                found = Some(value.trim_matches(ini::is_space));
            }
        }
        Ok(found)
    }

    /// An error of the setting.
    pub(super) fn wrong(&self, what: impl fmt::Display) -> Error {
        let what = format!("{} {what}", self.setting.key);
        Error { path: self.path.to_owned(), line: self.setting.line, what }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.what)
    }
}

/// The denial for an error of the files, which a person has to repair.
pub(super) fn misconfigured(error: &Error) -> Denial {
    Denial::new(Reason::ProfileMisconfigured, error.to_string())
}

/// Whether a line may refer to the name: it contains it, and not as a part of a longer word.
fn names(line: &str, name: &str) -> bool {
    // Quotes, escapes and white space can spell a name differently.
    let plain = |text: &str| -> Zeroizing<String> {
        let kept = |c: &char| !matches!(c, '"' | '\'' | '\\') && !ini::is_space(*c);
        let mut plain = Zeroizing::new(String::with_capacity(text.len()));
        plain.extend(text.chars().filter(kept));
        plain
    };
    let (squeezed, name_squeezed) = (plain(line), plain(name));
    let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let bounded = |line: &str, name: &str| {
        !name.is_empty()
            && line.match_indices(name).any(|(at, _)| {
                !word(line[..at].chars().next_back())
                    && !word(line[at + name.len()..].chars().next())
            })
    };
    // Without white space, the word `profile` precedes the name directly.
    bounded(line, name)
        || squeezed.match_indices(name_squeezed.as_str()).any(|(at, _)| {
            !name_squeezed.is_empty()
                && squeezed[..at].ends_with("profile")
                && !word(squeezed[at + name_squeezed.len()..].chars().next())
        })
}

#[cfg(test)]
mod tests;
