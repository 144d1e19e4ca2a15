//! Paths that nobody but root and the broker's own user can change: its configuration, audit log, socket
//! directory, lock file and token caches.
//!
//! The rule is that of sshd's `StrictModes`, for every directory from `/` on, every link on the way, and the file:
//!
//! - its owner is root or the broker's own user
//! - it isn't writable by others, nor by its group, unless that is the private group of its user: the group and the
//!   user have one name, and nobody else is in it
//! - a directory that others write to must be sticky, as `/tmp` is: nobody there removes or renames what isn't theirs,
//!   and what the broker uses in it has to pass the same check
//! - a link is followed if its owner is trusted; where the broker makes the file, never
//! - in a directory that others write to, the file has no second name, which would be someone else's hard link
//!
//! Invariant: [`Trusted`] holds a path without links. As long as the machine has one root, what it leads to can't be
//! replaced between the check and the use. An owner that a user namespace doesn't map is nobody, and not trusted.

mod group;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;

/// As many as the kernel follows (path_resolution(7)).
const MAX_LINKS: u32 = 40;
const STICKY: u32 = 0o1000;
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;

/// A path that passed the check: absolute and without links. What it leads to may be missing.
#[derive(Debug)]
pub(crate) struct Trusted {
    path: PathBuf,
    found: Option<Metadata>,
}

/// What is done where the path ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// It is read, through links.
    Read,
    /// It is made or replaced, and is no link.
    Make,
    /// It is a directory, made where it is missing.
    Directory,
    /// It is a directory, which would be made where it is missing.
    DirectoryToBe,
}

impl Trusted {
    /// The way to a file that is read.
    ///
    /// # Errors
    /// It is missing, or others can change it: `PermissionDenied`, with the command that repairs that.
    pub(crate) fn existing(path: &Path) -> io::Result<Self> {
        let trusted = walk(path, End::Read)?;
        let missing = || io::Error::from(rustix::io::Errno::NOENT);
        if trusted.found.is_some() { Ok(trusted) } else { Err(missing()) }
    }

    /// The way to a file that is there, or will be made, in a directory that is there.
    ///
    /// # Errors
    /// The directory is missing, others can change it or the file, or the file is a link.
    pub(crate) fn place(path: &Path) -> io::Result<Self> {
        walk(path, End::Make)
    }

    /// The way to a directory, which is made for the broker's user alone where it is missing.
    ///
    /// # Errors
    /// It can't be made, or others can change it.
    pub(crate) fn directory(path: &Path) -> io::Result<Self> {
        walk(path, End::Directory)
    }

    /// The way to a directory that is there, or would be made.
    ///
    /// # Errors
    /// Others can change it.
    pub(crate) fn directory_to_be(path: &Path) -> io::Result<Self> {
        walk(path, End::DirectoryToBe)
    }

    /// Whether this process may write to what is there, or make what is missing. Nothing is opened or made.
    ///
    /// # Errors
    /// It may not, with the path that is in the way.
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

    /// What is there, if anything is.
    pub(crate) fn found(&self) -> Option<&Metadata> {
        self.found.as_ref()
    }

    /// Opens the file, and checks what was opened: in a sticky directory someone may have made it since.
    ///
    /// # Errors
    /// Those of opening it, or others can change it.
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

/// Resolves a path as the kernel does, and checks each step. A step is looked at when everything above it is known to
/// be out of reach of others, so it can't be replaced afterwards.
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
                // Another broker that starts at the same time.
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

/// Refuses what others own, and what they may write to.
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
    // The mode of a link, a device or a socket doesn't say who can change what it is.
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

/// The attack: in `/tmp`, a second name for another file of the broker's user, which would then be written to.
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
