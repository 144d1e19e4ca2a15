//! The token files that the AWS CLI and the SDKs share, which are read and replaced outside of the
//! runtime's workers.
//!
//! Invariant: a file is used only if no other user can change it ([`Trusted`]); the attack is a
//! token of the attacker's account. It is replaced as a whole, with access only for its owner. A
//! hanging file system blocks one thread per file, and callers wait at most [`TIMEOUT`] for it.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::locks::Locks;
use crate::error::{Denial, Reason};
use crate::trusted::Trusted;

/// The timeout: a home on a network file system may hang.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest token file in bytes; no program writes larger ones.
const LONGEST: u64 = 1024 * 1024;

/// Access to cache files, one at a time for each file.
#[derive(Debug, Default)]
pub(super) struct CacheFiles(Locks<PathBuf>);

impl CacheFiles {
    /// Runs blocking work on the file. Once started it is completed, even if the caller is cancelled.
    ///
    /// # Errors
    /// The error of the work; `TimedOut` if the work, or earlier work on the same file, takes too long.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (lock, path) = (self.0.of(&path.to_owned()), path.to_owned());
        let done = async move {
            let alone = lock.lock_owned().await;
            let working = spawn_blocking(move || {
                let done = work(&path);
                drop(alone);
                done
            });
            working.await.map_err(io::Error::other).flatten()
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the file system doesn't answer");
        tokio::time::timeout(TIMEOUT, done).await.map_err(late).flatten()
    }
}

/// The content of the file.
///
/// # Errors
/// The file can't be read. Named pipes and devices are refused.
pub(super) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::default();
    // Opened without blocking: reading a pipe might never end.
    let file = Trusted::existing(path)?.open(File::options().read(true), OFlags::NONBLOCK)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    file.take(LONGEST + 1).read_to_end(&mut content)?;
    match content.len() as u64 > LONGEST {
        true => Err(io::Error::other("longer than any token")),
        false => Ok(content),
    }
}

/// The denial for a file that exists and can't be read: signing in wouldn't help.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Denial {
    let reason = match error.kind() {
        io::ErrorKind::TimedOut => Reason::CredentialsUnavailable,
        _ => Reason::ProfileMisconfigured,
    };
    Denial::new(reason, format!("{} can't be read: {error}", path.display()))
}

/// Replaces the content of the file, or creates it.
///
/// # Errors
/// The file can't be written, and is unchanged.
pub(super) fn replace(path: &Path, content: &str) -> io::Result<()> {
    let directory = Trusted::directory(path.parent().unwrap_or(Path::new(".")))?;
    let path = directory.path().join(path.file_name().unwrap_or_default());
    // The name isn't made from the process id, which can be the same in containers that share a home.
    let chance = RandomState::new().hash_one(());
    let temporary = path.with_extension(format!("{chance:016x}.tmp"));
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(content.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&temporary, &path));
    if written.is_err() {
        // A temporary file with a token must not be left behind.
        drop(std::fs::remove_file(&temporary));
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::deadline;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_private_to_its_owner() {
        let home = tempfile::tempdir().expect("a home");
        let path = home.path().join("a/b/token.json");
        replace(&path, "canary-1").expect("a directory is made");
        // The permissions set by another program aren't kept.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("permitted");
        let other = home.path().join("link");
        std::fs::hard_link(&path, &other).expect("a link");
        replace(&path, "canary-2").expect("a file");
        assert_eq!(read(&path).expect("a file").as_slice(), b"canary-2");
        assert_eq!(read(&other).expect("untouched").as_slice(), b"canary-1");
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode();
        assert_eq!(mode(&path) & 0o777, 0o600);
        assert_eq!(mode(path.parent().expect("a directory")) & 0o777, 0o700);
    }

    /// The attack: a token of the attacker's account, and a directory in which the attacker could
    /// read the broker's.
    #[test]
    fn files_that_others_can_change_are_neither_read_nor_written() {
        let home = tempfile::tempdir().expect("a home");
        let path = home.path().join("token.json");
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("permitted");
        };
        let refused = |error: io::Error, repair: &str| {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(error.to_string().contains(repair), "{error}");
        };
        replace(&path, "canary").expect("a file");
        set(&path, 0o622);
        refused(read(&path).expect_err("everyone writes it"), "chmod o-w");
        set(&path, 0o600);
        set(home.path(), 0o777);
        refused(read(&path).expect_err("everyone replaces it"), "chmod o-w");
        refused(replace(&path, "other").expect_err("everyone takes it"), "chmod o-w");
        set(home.path(), 0o700);
        let other = Some(rustix::process::Uid::from_raw(54_321));
        if rustix::process::geteuid().is_root() {
            rustix::fs::chown(&path, other, None).expect("root may");
            refused(read(&path).expect_err("another user's"), "chown 0");
            rustix::fs::chown(home.path(), other, None).expect("root may");
            refused(replace(&path, "other").expect_err("another user's"), "chown 0");
            rustix::fs::chown(home.path(), Some(rustix::process::geteuid()), None)
                .expect("permitted");
            rustix::fs::chown(&path, Some(rustix::process::geteuid()), None).expect("permitted");
        }
        assert_eq!(read(&path).expect("a file").as_slice(), b"canary");
    }

    #[test]
    fn a_failed_write_leaves_no_file_behind() {
        let home = tempfile::tempdir().expect("a home");
        let path = home.path().join("token.json");
        // The rename fails, because a non-empty directory is in its place.
        std::fs::create_dir_all(path.join("x")).expect("a directory");
        replace(&path, "canary").expect_err("it isn't written");
        assert_eq!(std::fs::read_dir(home.path()).expect("a directory").count(), 1);
        assert!(read(&path).is_err(), "a directory");
    }

    #[test]
    fn a_too_long_file_is_not_read() {
        let home = tempfile::tempdir().expect("a home");
        let path = home.path().join("token.json");
        let file = File::create(&path).expect("a file");
        for (length, readable) in [(LONGEST, true), (LONGEST + 1, false)] {
            file.set_len(length).expect("a sparse file");
            assert_eq!(read(&path).is_ok(), readable, "{length}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_is_refused_without_waiting() {
        let home = tempfile::tempdir().expect("a home");
        let path = home.path().join("token.json");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, pipe, mode, 0).expect("a pipe");
        assert!(read(&path).is_err());
    }

    /// The attack: a home on an unavailable server blocks one thread after the other, until no file
    /// can be read.
    #[tokio::test(start_paused = true)]
    async fn a_hanging_file_blocks_one_thread() {
        let home = tempfile::tempdir().expect("a home");
        let (hung, good) = (home.path().join("hung"), home.path().join("good"));
        std::fs::write(&good, "token").expect("a file");
        let files = Arc::new(CacheFiles::default());
        let begun = Arc::new(AtomicUsize::new(0));
        let (release, server) = std::sync::mpsc::channel::<()>();
        let server = Arc::new(Mutex::new(server));
        let asked: Vec<_> = (0..50)
            .map(|_| {
                let (files, path) = (Arc::clone(&files), hung.clone());
                let (begun, server) = (Arc::clone(&begun), Arc::clone(&server));
                tokio::spawn(async move {
                    let hang = move |_: &Path| {
                        begun.fetch_add(1, Ordering::SeqCst);
                        server.lock().expect("a lock").recv().map_err(io::Error::other)
                    };
                    files.with(&path, hang).await
                })
            })
            .collect();
        deadline::until(|| begun.load(Ordering::SeqCst) > 0).await;
        let content = files.with(&good, read).await.expect("other files are read");
        assert_eq!(content.as_slice(), b"token");
        tokio::time::advance(TIMEOUT).await;
        for asked in asked {
            let late = asked.await.expect("a task").expect_err("the file system hangs");
            assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        }
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        drop(release);
        // The thread and the file are available again.
        std::fs::write(&hung, "token").expect("a file");
        assert!(files.with(&hung, read).await.is_ok());
    }

    #[tokio::test]
    async fn a_panic_in_the_work_is_an_error() {
        let files = CacheFiles::default();
        let work = |_: &Path| -> io::Result<()> { panic!("a bug") };
        assert!(files.with(Path::new("/x"), work).await.is_err());
        assert!(files.with(Path::new("/x"), |_| Ok(())).await.is_ok(), "the lock is released");
    }
}
