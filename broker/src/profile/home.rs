//! The two AWS files of this broker, which are read as a whole, and once for concurrent callers.
//!
//! Invariant: an existing file that can't be read is an error. Otherwise a profile whose role is in
//! such a file would sign with the keys that are only meant to assume that role.
//!
//! A [`Snapshot`] contains the keys of the files; nothing else keeps their content.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use zeroize::Zeroizing;

use super::aws_files::AwsFiles;
use super::mark::Mark;
use super::surroundings::Surroundings;
use crate::config;
use crate::error::{Denial, Reason};
use crate::process;

/// The largest file in bytes. A file with a thousand profiles has 250 KB.
const MAX_FILE: usize = 16 << 20;

/// The paths of the files.
#[derive(Debug)]
pub(super) struct Home {
    /// The config and the credentials file.
    places: [Option<Place>; 2],
    homeless: bool,
    /// The last snapshot, while anyone holds it, and the number of readings.
    shared: Arc<Mutex<(Weak<Snapshot>, u64)>>,
    /// Locked by the thread that reads: a hanging file system blocks one thread, for any number of
    /// callers.
    reading: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Clone)]
struct Place {
    path: PathBuf,
    /// Whether the broker's configuration names the file, which must then exist.
    given: bool,
}

/// The content of the files at one time.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// The files, or the reason why they can't be read.
    pub(super) files: Result<AwsFiles, Denial>,
    /// Whether a file that must exist is missing.
    pub(super) taken_away: bool,
    /// The number of the reading; each one begins after the previous one has ended.
    pub(super) version: u64,
    /// The marks from before the reading: an edit during the reading changes them.
    marks: [Option<Mark>; 2],
}

impl Home {
    pub(super) fn new(given: &config::AwsFiles, surroundings: &Surroundings) -> Self {
        let place = |given: &Option<PathBuf>, usual: Option<PathBuf>| {
            let place = |path: PathBuf, given| Place { path, given };
            let given = given.clone().map(|path| place(path, true));
            given.or_else(|| usual.map(|path| place(path, false)))
        };
        let [config, credentials] = surroundings.aws_files();
        let places = [place(&given.config, config), place(&given.credentials, credentials)];
        let homeless = surroundings.home.is_none();
        Self { places, homeless, shared: Arc::default(), reading: Arc::default() }
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.places.iter().flatten().map(|place| &place.path)
    }

    /// Whether one of the files has no path, because the user has no home.
    pub(super) fn is_nowhere(&self) -> bool {
        self.homeless && self.places.iter().any(Option::is_none)
    }

    /// The current content of the files.
    pub(super) async fn read(&self) -> Arc<Snapshot> {
        let alone = Arc::clone(&self.reading).lock_owned().await;
        let (places, shared) = (self.places.clone(), Arc::clone(&self.shared));
        let reading = tokio::task::spawn_blocking(move || {
            let _alone = alone;
            let marks = places.each_ref().map(|place| Mark::of(&place.as_ref()?.path));
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let (last, version) = &mut *shared;
            if let Some(known) = last.upgrade().filter(|known| known.marks == marks) {
                return known;
            }
            *version += 1;
            let read = Arc::new(Snapshot::read(&places, marks, *version));
            *last = Arc::downgrade(&read);
            read
        });
        reading.await.unwrap_or_else(|_| {
            let why = "the AWS files: reading them was interrupted";
            Arc::new(Snapshot::failed(Denial::new(Reason::CredentialsUnavailable, why)))
        })
    }
}

impl Snapshot {
    fn failed(denial: Denial) -> Self {
        Self { files: Err(denial), taken_away: false, version: 0, marks: [None, None] }
    }

    /// The current content of the files, not shared. It blocks.
    pub(super) fn of(home: &Home) -> Self {
        Self::read(&home.places, [None, None], 0)
    }

    fn read(places: &[Option<Place>; 2], marks: [Option<Mark>; 2], version: u64) -> Self {
        let gone = |place: &Place| {
            let found = std::fs::metadata(&place.path);
            place.given && found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        let taken_away = places.iter().flatten().any(gone);
        let read =
            |place: &Option<Place>| place.as_ref().map_or(Ok(Zeroizing::default()), Place::read);
        let path =
            |place: &'_ Option<Place>| place.as_ref().map_or(PathBuf::new(), |it| it.path.clone());
        let files = read(&places[0]).and_then(|config| {
            let credentials = read(&places[1])?;
            let (at_config, at_credentials) = (path(&places[0]), path(&places[1]));
            AwsFiles::read((&at_config, &config), (&at_credentials, &credentials)).map_err(
                |error| {
                    Denial::new(Reason::ProfileMisconfigured, format!("the AWS files: {error}"))
                },
            )
        });
        Self { files, taken_away, version, marks }
    }

    /// The files, if they could be read.
    ///
    /// # Errors
    /// The reason why they couldn't.
    pub(super) fn files(&self) -> Result<&AwsFiles, Denial> {
        self.files.as_ref().map_err(Clone::clone)
    }
}

impl Place {
    /// The text; empty for a missing file that needn't exist.
    fn read(&self) -> Result<Zeroizing<String>, Denial> {
        let shown = self.path.display();
        let bytes = match read_bounded(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.given => {
                return Ok(Zeroizing::default());
            }
            Err(error) => {
                let error = process::explained(error);
                let detail = format!("the AWS files: {shown} can't be read: {error}");
                let reason = match error.kind() {
                    io::ErrorKind::NotFound
                    | io::ErrorKind::FileTooLarge
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::IsADirectory => Reason::ProfileMisconfigured,
                    // No file descriptors left, or a disk error.
                    _ => Reason::CredentialsUnavailable,
                };
                return Err(Denial::new(reason, detail));
            }
        };
        String::from_utf8(bytes).map(Zeroizing::new).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let bytes = Zeroizing::new(error.into_bytes());
            let line = 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count();
            let detail = format!("the AWS files: {shown}:{line}: isn't text in UTF-8");
            Denial::new(Reason::ProfileMisconfigured, detail)
        })
    }
}

/// The whole file. `/dev/null` is an empty one, which people use to have none.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let found = std::fs::metadata(path)?;
    // Reading a pipe would wait for a writer, and consume data meant for others.
    if !found.is_file() && !found.is_dir() && !found.file_type().is_char_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(found.len()).unwrap_or(0).min(MAX_FILE));
    File::open(path)?.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_FILE {
        drop(Zeroizing::new(bytes));
        let why = format!("it has more than {} MiB", MAX_FILE >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}
