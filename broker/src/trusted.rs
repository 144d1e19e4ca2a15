//! Checks that only root and the broker's own user can change a path: of the configuration, audit
//! log, socket directory, lock file and token caches.
//!
//! The rule is that of sshd's `StrictModes`, for every directory from `/` on, every followed link,
//! and the file:
//!
//! - its owner is root or the broker's own user
//! - it isn't writable by others, nor by its group, unless that is the private group of its user:
//!   the group and the user have the same name, and the group has no other member
//! - a directory that others can write to must be sticky, like `/tmp`: others can't remove or
//!   rename files that aren't theirs, and the files that the broker uses in it must pass the same
//!   check
//! - a link is followed if its owner is trusted, but never if the broker creates the file
//! - in a directory that others can write to, the file has only one name: a second one would be
//!   another user's hard link
//!
//! Invariant: [`Trusted`] contains a path without links. Unless root acts, its target can't be
//! replaced between the check and the use. An owner that the user namespace doesn't map isn't
//! trusted.

mod group;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;

/// The limit of the kernel (path_resolution(7)).
const MAX_LINKS: u32 = 40;
const STICKY: u32 = 0o1000;
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;

/// A path that passed the check: absolute and without links. Its target may be missing.
#[derive(Debug)]
pub(crate) struct Trusted {
    path: PathBuf,
    found: Option<Metadata>,
}

/// The expected target of the path.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// A file to read, through links.
    Read,
    /// A file to create or replace, which must not be a link.
    Make,
    /// A directory, created if it is missing.
    Directory,
    /// A directory, which would be created if it is missing.
    DirectoryToBe,
}

impl Trusted {
    /// The path of a file to read.
    ///
    /// # Errors
    /// It is missing, or others can change it: `PermissionDenied`, with the command that repairs that.
    pub(crate) fn existing(path: &Path) -> io::Result<Self> {
        let trusted = walk(path, End::Read)?;
        let missing = || io::Error::from(rustix::io::Errno::NOENT);
        if trusted.found.is_some() { Ok(trusted) } else { Err(missing()) }
    }

    /// The path of a file that exists or will be created, in an existing directory.
    ///
    /// # Errors
    /// The directory is missing, others can change it or the file, or the file is a link.
    pub(crate) fn place(path: &Path) -> io::Result<Self> {
        walk(path, End::Make)
    }

    /// The path of a directory, which is created if it is missing, with access only for the
    /// broker's user.
    ///
    /// # Errors
    /// It can't be created, or others can change it.
    pub(crate) fn directory(path: &Path) -> io::Result<Self> {
        walk(path, End::Directory)
    }

    /// The path of a directory that exists or would be created.
    ///
    /// # Errors
    /// Others can change it.
    pub(crate) fn directory_to_be(path: &Path) -> io::Result<Self> {
        walk(path, End::DirectoryToBe)
    }

    /// Checks whether this process may write to the target, or create it if it is missing, without
    /// opening or creating anything.
    ///
    /// # Errors
    /// It may not; the error names the path that prevents it.
    pub(crate) fn check_writable(&self) -> io::Result<()> {
        use rustix::fs::{Access, AtFlags, CWD};

        let is_dir = self.found.as_ref().is_none_or(Metadata::is_dir);
        let above = self.path.ancestors().find(|path| path.symlink_metadata().is_ok());
        let place = above.unwrap_or(Path::new("/"));
        let wanted = if is_dir { Access::WRITE_OK | Access::EXEC_OK } else { Access::WRITE_OK };
        rustix::fs::accessat(CWD, place, wanted, AtFlags::EACCESS).map_err(|errno| {
            let error = io::Error::from(errno);
            io::Error::new(
                error.kind(),
                format!("{} can't be written to: {error}", place.display()),
            )
        })
    }

    /// The path, without links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata of the target, if it exists.
    pub(crate) fn found(&self) -> Option<&Metadata> {
        self.found.as_ref()
    }

    /// Opens the file, and checks the open file: in a sticky directory another user may have
    /// created it after the check.
    ///
    /// # Errors
    /// The error of opening it, or others can change it.
    pub(crate) fn open(&self, options: &mut OpenOptions, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW;
        let file = options.custom_flags(flags.bits().cast_signed()).open(&self.path)?;
        let found = file.metadata()?;
        check(&self.path, &found)?;
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        check_names(&self.path, &found, &std::fs::symlink_metadata(parent)?)?;
        Ok(file)
    }
}

/// Resolves a path like the kernel, and checks each step. A step is checked only after all
/// directories above it are known to be trusted, so it can't be replaced afterwards.
fn walk(path: &Path, end: End) -> io::Result<Trusted> {
    let mut real = PathBuf::from("/");
    let mut directory = std::fs::symlink_metadata(&real)?;
    check(&real, &directory)?;
    let mut steps = steps(&std::path::absolute(path)?);
    let mut links = 0;
    let mut found = Some(directory.clone());
    while let Some(step) = steps.pop_front() {
        if step == ".." {
            real.pop();
            directory = std::fs::symlink_metadata(&real)?;
            found = Some(directory.clone());
            continue;
        }
        let next = real.join(step);
        let last = steps.is_empty();
        let mut about = std::fs::symlink_metadata(&next);
        let is_missing = about.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if is_missing && end == End::Directory {
            match DirBuilder::new().mode(0o700).create(&next) {
                // Another broker that starts at the same time has created it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
            about = std::fs::symlink_metadata(&next);
        } else if is_missing && end == End::DirectoryToBe {
            let path = steps.iter().fold(next, |path, step| path.join(step));
            return Ok(Trusted { path, found: None });
        } else if is_missing && last {
            return Ok(Trusted { path: next, found: None });
        }
        let about = about?;
        check(&next, &about)?;
        check_names(&next, &about, &directory)?;
        if about.is_symlink() {
            links += 1;
            if links > MAX_LINKS || (last && end == End::Make) {
                return Err(rustix::io::Errno::LOOP.into());
            }
            let target = std::fs::read_link(&next)?;
            if target.is_absolute() {
                real = PathBuf::from("/");
                directory = std::fs::symlink_metadata(&real)?;
            }
            for step in self::steps(&target).into_iter().rev() {
                steps.push_front(step);
            }
            continue;
        }
        real = next;
        directory = about.clone();
        found = Some(about);
    }
    if matches!(end, End::Directory | End::DirectoryToBe) && !directory.is_dir() {
        return Err(rustix::io::Errno::NOTDIR.into());
    }
    Ok(Trusted { path: real, found })
}

fn steps(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|step| matches!(step, Component::Normal(_) | Component::ParentDir))
        .map(|step| step.as_os_str().to_owned())
        .collect()
}

/// Refuses files of other owners, and files that others can write to.
fn check(path: &Path, found: &Metadata) -> io::Result<()> {
    let user = rustix::process::geteuid().as_raw();
    let (mode, shown) = (found.mode(), path.display());
    if ![0, user].contains(&found.uid()) {
        let owner = found.uid();
        let repair = if found.is_file() || found.is_dir() {
            format!("chown {user} {shown}")
        } else {
            format!("rm {shown}")
        };
        let why =
            format!("its owner is uid {owner}, neither root nor the broker's own user {user}");
        return Err(refused(path, mode, &why, &repair));
    }
    // The mode of a link, a device or a socket doesn't determine who can change it.
    if !found.is_file() && !found.is_dir() && !found.file_type().is_fifo() {
        return Ok(());
    }
    if found.is_dir() && mode & STICKY != 0 {
        return Ok(());
    }
    let or_sticky = |repair: &str| {
        let sticky = if found.is_dir() { format!(" (or chmod +t {shown})") } else { String::new() };
        format!("chmod {repair} {shown}{sticky}")
    };
    if mode & OTHERS_WRITE != 0 {
        return Err(refused(path, mode, "every user can change it", &or_sticky("o-w")));
    }
    if mode & GROUP_WRITES != 0 && !group::is_private(found.gid(), path) {
        let why = format!("the members of group {} can change it", found.gid());
        return Err(refused(path, mode, &why, &or_sticky("g-w")));
    }
    Ok(())
}

/// The attack: in `/tmp`, a second name for another file of the broker's user, to which the broker
/// would then write.
fn check_names(path: &Path, found: &Metadata, directory: &Metadata) -> io::Result<()> {
    let shared = directory.mode() & (OTHERS_WRITE | GROUP_WRITES) != 0;
    if shared && !found.is_dir() && found.nlink() > 1 {
        let why = "it has other names, and others can write to its directory";
        return Err(refused(path, found.mode(), why, &format!("rm {}", path.display())));
    }
    Ok(())
}

fn refused(path: &Path, mode: u32, why: &str, repair: &str) -> io::Error {
    let (path, mode) = (path.display(), mode & 0o7777);
    let why = format!("{path} (mode {mode:04o}) isn't safe: {why}; repair it with: {repair}");
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests;
