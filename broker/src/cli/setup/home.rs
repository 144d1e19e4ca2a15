//! The directory `.aws` of a home that its owner can change while root reads it.
//!
//! Invariant: links aren't followed, and only regular files of the owner with a single name are
//! used. The attack: a link at `~/.aws/config` to a file that only root can read, which would be
//! handed to the broker, and from there to its caller.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode};
use rustix::io::Errno;
use zeroize::Zeroizing;

/// The largest file in bytes. A file with a thousand profiles has 250 KB.
const MAX_FILE: u64 = 16 << 20;
/// The deepest nesting; `sso/cache` and `cli/cache` have two levels.
const MAX_DEPTH: usize = 8;
const MAX_FILES: usize = 10_000;

/// An open directory, in which names are looked up.
#[derive(Debug)]
pub(super) struct AwsDirectory {
    directory: OwnedFd,
    path: PathBuf,
    owner: u32,
}

impl AwsDirectory {
    /// Opens `.aws` in `home`; `None` if it doesn't exist.
    pub(super) fn open(home: &Path, owner: u32) -> Result<Option<Self>, String> {
        let path = home.join(".aws");
        let opened = rustix::fs::open(home, directory_flags(), Mode::empty())
            .and_then(|home| open_directory(&home, Path::new(".aws")));
        match opened {
            Ok(directory) => {
                let found = rustix::fs::fstat(&directory).map_err(|error| failed(&path, error))?;
                if found.st_uid != owner {
                    return Err(format!(
                        "{}: its owner is uid {}, not {owner}",
                        path.display(),
                        found.st_uid
                    ));
                }
                Ok(Some(Self { directory, path, owner }))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => Err(format!(
                "{} is a link: put the directory itself there, and try again",
                path.display()
            )),
            Err(error) => Err(failed(&path, error)),
        }
    }

    /// Creates `.aws` in `home`, or opens it.
    pub(super) fn make(home: &Path, owner: u32, group: u32) -> Result<Self, String> {
        if let Some(there) = Self::open(home, owner)? {
            return Ok(there);
        }
        let path = home.join(".aws");
        let make = || {
            let home = rustix::fs::open(home, directory_flags(), Mode::empty())?;
            make_directory(&home, Path::new(".aws"), owner, group)
        };
        let directory = make().map_err(|error| failed(&path, error))?;
        Ok(Self { directory, path, owner })
    }

    /// The text of a file in the directory; `None` if the file doesn't exist.
    pub(super) fn read(&self, name: &Path) -> Result<Option<Zeroizing<String>>, String> {
        let Some(bytes) = self.bytes(&self.directory, name)? else { return Ok(None) };
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| format!("{}: isn't text", self.path.join(name).display()))?;
        Ok(Some(Zeroizing::new(text.to_owned())))
    }

    /// Moves all files to the same place in another directory; returns their number. Each file is
    /// written to disk before it is removed here.
    pub(super) fn move_to(&self, to: &Self, owner: u32, group: u32) -> Result<usize, String> {
        let mut moved = 0;
        self.move_directory(
            &self.directory,
            &to.directory,
            Path::new(""),
            (owner, group),
            &mut moved,
        )?;
        Ok(moved)
    }

    fn move_directory(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        at: &Path,
        owner: (u32, u32),
        moved: &mut usize,
    ) -> Result<(), String> {
        let shown = |name: &Path| self.path.join(at).join(name);
        if at.components().count() > MAX_DEPTH {
            return Err(format!("{}: is nested too deep", shown(Path::new("")).display()));
        }
        let entries = rustix::fs::Dir::read_from(from)
            .map_err(|error| failed(&shown(Path::new("")), error))?;
        for entry in entries {
            let entry = entry.map_err(|error| failed(&shown(Path::new("")), error))?;
            let name = PathBuf::from(OsStr::from_bytes(entry.file_name().to_bytes()));
            if name == Path::new(".") || name == Path::new("..") {
                continue;
            }
            let path = shown(&name);
            if *moved >= MAX_FILES {
                return Err(format!(
                    "{}: there are more than {MAX_FILES} files",
                    self.path.display()
                ));
            }
            let found = rustix::fs::statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| failed(&path, error))?;
            if FileType::from_raw_mode(found.st_mode as RawMode) == FileType::Directory {
                let inner = open_directory(from, &name).map_err(|error| failed(&path, error))?;
                let target = match open_directory(to, &name) {
                    Err(Errno::NOENT) => make_directory(to, &name, owner.0, owner.1),
                    opened => opened,
                };
                let target = target.map_err(|error| failed(&path, error))?;
                self.move_directory(&inner, &target, &at.join(&name), owner, moved)?;
                // A directory that isn't empty can't be removed, and stays.
                rustix::fs::unlinkat(from, &name, AtFlags::REMOVEDIR).ok();
                continue;
            }
            let Some(bytes) = self.bytes(from, &at.join(&name))? else { continue };
            write_file(to, &name, &bytes, owner).map_err(|error| failed(&path, error))?;
            rustix::fs::unlinkat(from, &name, AtFlags::empty())
                .map_err(|error| failed(&path, error))?;
            *moved += 1;
        }
        Ok(())
    }

    /// The content of a regular file of the owner, by its path below this directory; `directory` is
    /// the one that contains it.
    fn bytes(
        &self,
        directory: &OwnedFd,
        below: &Path,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
        let path = self.path.join(below);
        let name = Path::new(below.file_name().unwrap_or_default());
        // Without `NONBLOCK`, opening a pipe would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => {
                return Err(format!(
                    "{} is a link: put the file itself there, and try again",
                    path.display()
                ));
            }
            Err(error) => return Err(failed(&path, error)),
        };
        let found = rustix::fs::fstat(&file).map_err(|error| failed(&path, error))?;
        if FileType::from_raw_mode(found.st_mode as RawMode) != FileType::RegularFile {
            return Err(format!(
                "{} isn't a regular file: remove it, and try again",
                path.display()
            ));
        }
        if found.st_uid != self.owner || found.st_nlink != 1 {
            let why = "is owned by another user, or has a second hard link";
            return Err(format!("{} {why}: remove it, and try again", path.display()));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(
            usize::try_from(found.st_size).unwrap_or(0).min(1 << 20),
        ));
        let read = File::from(file).take(MAX_FILE + 1).read_to_end(&mut bytes);
        read.map_err(|error| format!("{}: {error}", path.display()))?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(format!("{}: is larger than {} MiB", path.display(), MAX_FILE >> 20));
        }
        Ok(Some(bytes))
    }
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn open_directory(parent: &OwnedFd, name: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(parent, name, directory_flags(), Mode::empty())
}

fn make_directory(
    parent: &OwnedFd,
    name: &Path,
    owner: u32,
    group: u32,
) -> rustix::io::Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    let made = open_directory(parent, name)?;
    chown(&made, (owner, group))?;
    Ok(made)
}

/// Writes a new file with access only for its owner. An existing file isn't replaced.
fn write_file(
    parent: &OwnedFd,
    name: &Path,
    bytes: &[u8],
    owner: (u32, u32),
) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?);
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    chown(&file, owner)
}

fn chown(file: impl std::os::fd::AsFd, (owner, group): (u32, u32)) -> rustix::io::Result<()> {
    use rustix::fs::{Gid, Uid};

    rustix::fs::fchown(file, Some(Uid::from_raw(owner)), Some(Gid::from_raw(group)))
}

fn failed(path: &Path, error: Errno) -> String {
    let hint = if error == Errno::EXIST {
        ": there is a file of that name already, which is kept"
    } else {
        ""
    };
    format!("{}: {}{hint}", path.display(), std::io::Error::from(error))
}

#[cfg(test)]
mod tests;
