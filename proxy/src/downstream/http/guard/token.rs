//! The file with the bearer token: reads it, checks its permissions and follows its changes.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Shorter tokens can be guessed.
const MIN_TOKEN: usize = 16;
/// Longer tokens don't fit into a header everywhere.
const MAX_TOKEN: usize = 4096;
/// How long an old token may still be accepted after its file has changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A token that is reloaded when its file changes, so that rotating it needs no restart.
///
/// If the file is removed, or no longer holds a token, every request is refused: this is what
/// removing the file is meant to do.
pub(super) struct TokenFile {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    token: Option<Zeroizing<Vec<u8>>>,
    version: Option<Version>,
    checked: Instant,
}

/// Identifies the contents of a file, even if another file is renamed over it, as in Kubernetes.
#[derive(PartialEq, Eq)]
struct Version {
    file: (u64, u64),
    length: u64,
    changed: (i64, i64),
    mode: u32,
}

impl std::fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl TokenFile {
    /// Reads the token for the first time.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let (token, version) = read(&path)?;
        let loaded = Loaded { token: Some(token), version: Some(version), checked: Instant::now() };
        Ok(Self { path, loaded: Mutex::new(loaded) })
    }

    /// Whether `shown` is the token.
    pub(super) fn is(&self, shown: &[u8]) -> bool {
        self.is_at(shown, Instant::now())
    }

    fn is_at(&self, shown: &[u8], now: Instant) -> bool {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(loaded.checked) >= CHECK_INTERVAL {
            loaded.checked = now;
            self.reload(&mut loaded);
        }
        loaded.token.as_ref().is_some_and(|token| shown.ct_eq(token.as_slice()).into())
    }

    fn reload(&self, loaded: &mut Loaded) {
        let version = std::fs::metadata(&self.path).ok().map(|file| Version::of(&file));
        if version.is_some() && version == loaded.version {
            return;
        }
        let was_good = loaded.token.is_some();
        match read(&self.path) {
            Ok((token, version)) => {
                tracing::info!(file = %self.path.display(), "the token was reloaded");
                (loaded.token, loaded.version) = (Some(token), Some(version));
            }
            Err(error) => {
                if was_good || version != loaded.version {
                    let file = self.path.display();
                    tracing::error!(%file, %error, "no token: every request is refused");
                }
                (loaded.token, loaded.version) = (None, version);
            }
        }
    }
}

impl Version {
    fn of(file: &Metadata) -> Self {
        Self {
            file: (file.dev(), file.ino()),
            length: file.size(),
            // The ctime also changes with the permissions.
            changed: (file.ctime(), file.ctime_nsec()),
            mode: file.mode(),
        }
    }
}

/// Reads the token. Returns it with the version of the same open file, so that permissions and
/// contents belong together.
fn read(path: &PathBuf) -> io::Result<(Zeroizing<Vec<u8>>, Version)> {
    // A FIFO in place of the file must not block the only thread.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    check(&metadata)?;
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_TOKEN + 64));
    file.take(MAX_TOKEN as u64 + 64).read_to_end(&mut text)?;
    let token = text.trim_ascii();
    if !(MIN_TOKEN..=MAX_TOKEN).contains(&token.len()) || !token.iter().all(u8::is_ascii_graphic) {
        return Err(io::Error::other(format!(
            "it must hold one token of {MIN_TOKEN} to {MAX_TOKEN} visible ASCII characters, such as \
             `openssl rand -hex 32` makes"
        )));
    }
    Ok((Zeroizing::new(token.to_vec()), Version::of(&metadata)))
}

/// Stops a local user who could read the token, or replace it, and use the profiles with it.
fn check(file: &Metadata) -> io::Result<()> {
    let mode = file.mode() & 0o777;
    let wrong = |what: &str| {
        Err(io::Error::other(format!("{what} (its mode is {mode:04o}); `chmod 600` it, or 640")))
    };
    if !file.is_file() {
        return Err(io::Error::other("it isn't a regular file"));
    }
    if file.uid() != 0 && file.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("its owner is neither the user of this process nor root"));
    }
    if mode & 0o022 != 0 {
        return wrong("its group or other users can write it");
    }
    if mode & 0o004 != 0 {
        return wrong("every user of this machine can read it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const FIRST: &str = "0123456789abcdef";
    const SECOND: &str = "fedcba9876543210";

    fn write(path: &std::path::Path, text: &str, mode: u32) {
        let _ = std::fs::remove_file(path);
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_token_is_reloaded_and_without_one_every_request_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        write(&path, FIRST, 0o600);
        let token = TokenFile::open(path.clone()).unwrap();
        let mut now = Instant::now();
        let mut later = || {
            now += CHECK_INTERVAL;
            now
        };
        assert!(token.is_at(FIRST.as_bytes(), later()));
        write(&path, SECOND, 0o640);
        let at = later();
        assert!(token.is_at(SECOND.as_bytes(), at) && !token.is_at(FIRST.as_bytes(), at));
        for (text, mode) in [("short", 0o600), (SECOND, 0o644), (SECOND, 0o620)] {
            write(&path, text, mode);
            assert!(!token.is_at(SECOND.as_bytes(), later()), "{text} {mode:o}");
            assert!(!token.is_at(b"", later()));
            write(&path, SECOND, 0o600);
            assert!(token.is_at(SECOND.as_bytes(), later()));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(
            !token.is_at(SECOND.as_bytes(), later()),
            "removing the file refuses every request"
        );
        write(&path, FIRST, 0o600);
        assert!(token.is_at(FIRST.as_bytes(), later()));
    }

    #[test]
    fn a_token_that_others_can_read_or_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        for (mode, expected) in [(0o644, "can read"), (0o604, "can read"), (0o660, "can write")] {
            write(&path, FIRST, mode);
            let error = TokenFile::open(path.clone()).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("chmod"), "{error}");
        }
        let error = TokenFile::open(directory.path().to_owned()).unwrap_err().to_string();
        assert!(error.contains("regular file"), "{error}");
    }
}
