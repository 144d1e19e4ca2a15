//! A client's file on disk: read as a whole, replaced as a whole, with a backup beside it.
//!
//! A file is replaced, never written in place: a client that reads at the same time, or a machine that loses power,
//! sees the old text or the new one. A symbolic link is kept, because its target is replaced. Mode, owner, access
//! control lists and other attributes are kept, or nothing is written. Concurrent changes of other programs aren't
//! lost: the file is read again directly before it is replaced.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, OFlags, access};

use super::attributes::Attributes;

/// The limit for a file. Real files are far smaller: `~/.claude.json` has some megabytes.
const MAX_FILE: u64 = 64 << 20;
/// The suffix of a backup's name; a number may follow.
const BACKUP: &str = ".sigward-backup";
/// The most backups of one file. Each has different contents.
const MAX_BACKUPS: usize = 99;

/// A client's file as it was read.
#[derive(Debug)]
pub(super) struct ClientFile {
    /// The path as it was given.
    path: PathBuf,
    /// The path after following symbolic links.
    target: PathBuf,
    /// `None` if the file doesn't exist.
    before: Option<Content>,
}

#[derive(Debug)]
struct Content {
    text: String,
    kept: Kept,
    /// The number of hard links.
    links: u64,
}

/// The properties of a file that are kept when it is replaced.
#[derive(Debug)]
struct Kept {
    mode: u32,
    owner: (u32, u32),
    attributes: Attributes,
}

impl ClientFile {
    /// Reads the file at `path`, which may not exist.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let target = match fs::canonicalize(path) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.is_symlink() {
                    return Err(wrong(
                        &"it is a link to a file that doesn't exist; make that file first",
                    ));
                }
                return Ok(Self { path: path.to_owned(), target: path.to_owned(), before: None });
            }
            Err(error) => return Err(wrong(&error)),
        };
        let before = Some(content(&target).map_err(|why| wrong(&why))?);
        Ok(Self { path: path.to_owned(), target, before })
    }

    /// Its text; `None` if it doesn't exist.
    pub(super) fn text(&self) -> Option<&str> {
        self.before.as_ref().map(|content| content.text.as_str())
    }

    /// Replaces the text, and returns the path of the backup. With `private`, a new file isn't readable for other
    /// users.
    pub(super) fn replace(&self, text: &str, private: bool) -> Result<Option<PathBuf>, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", self.path.display());
        self.check_unchanged()?;
        let Some(before) = &self.before else {
            if let Some(directory) = self.target.parent() {
                fs::create_dir_all(directory).map_err(|error| wrong(&error))?;
            }
            let new = if private { As::Private } else { As::Public };
            write_and_rename(&self.target, text, &new, false).map_err(|error| wrong(&error))?;
            return Ok(None);
        };
        self.may_be_replaced(before)?;
        let backup = self.back_up(before).map_err(|error| {
            format!(
                "no backup of {} can be made ({error}); nothing was written",
                self.path.display()
            )
        })?;
        self.check_unchanged()?;
        write_and_rename(&self.target, text, &As::Before(&before.kept), true)
            .map_err(|error| wrong(&error))?;
        Ok(Some(backup))
    }

    /// Deletes the file, which this program created and which contains nothing else.
    pub(super) fn delete(&self) -> Result<(), String> {
        self.check_unchanged()?;
        fs::remove_file(&self.target).map_err(|error| format!("{}: {error}", self.path.display()))
    }

    /// The texts of its backups, the newest first.
    pub(super) fn backups(&self) -> Vec<String> {
        let all = (1..=MAX_BACKUPS).map(|number| self.backup(number));
        let mut found: Vec<_> = all
            .filter_map(|path| {
                let changed = fs::symlink_metadata(&path).ok()?.modified().ok()?;
                Some((changed, content(&path).ok()?.text))
            })
            .collect();
        found.sort_by_key(|(changed, _)| std::cmp::Reverse(*changed));
        found.into_iter().map(|(_, text)| text).collect()
    }

    /// Copies the text as it was read to the first free name. An older backup with the same text is
    /// reused.
    fn back_up(&self, before: &Content) -> Result<PathBuf, String> {
        for number in 1..=MAX_BACKUPS {
            let path = self.backup(number);
            match content(&path) {
                Ok(known) if known.text == before.text => return Ok(path),
                Ok(_) => continue,
                Err(_) if path.symlink_metadata().is_ok() => continue,
                Err(_) => {}
            }
            return write_and_rename(&path, &before.text, &As::Before(&before.kept), false)
                .map(|()| path);
        }
        Err(format!("there are already {MAX_BACKUPS}; delete those that aren't needed"))
    }

    /// The path of a backup: beside the replaced file.
    fn backup(&self, number: usize) -> PathBuf {
        let mut name = self.target.file_name().unwrap_or_default().to_owned();
        name.push(BACKUP);
        if number > 1 {
            name.push(format!("-{number}"));
        }
        self.target.with_file_name(name)
    }

    /// A writable directory allows replacing a file whatever its mode. But a user who made the file read-only wants it
    /// to stay.
    fn may_be_replaced(&self, before: &Content) -> Result<(), String> {
        let refused =
            |why: String| Err(format!("{} {why}; nothing was written", self.path.display()));
        if before.kept.mode & 0o222 == 0 {
            return refused("is read-only: allow its owner to write it (chmod u+w), unless another program manages it".to_owned());
        }
        if let Err(error) = access(&self.target, Access::WRITE_OK) {
            return refused(format!("can't be written: {error}"));
        }
        if before.links > 1 {
            return refused(format!(
                "is one of {} names of a file (hard links), of which the others would keep the old text: edit \
                 it by hand, or make this one a symbolic link",
                before.links
            ));
        }
        Ok(())
    }

    fn check_unchanged(&self) -> Result<(), String> {
        let now = match content(&self.target) {
            Ok(now) => Some(now.text),
            Err(_) if self.target.symlink_metadata().is_err() => None,
            Err(why) => return Err(format!("{}: {why}", self.path.display())),
        };
        if now.as_deref() == self.text() {
            return Ok(());
        }
        Err(format!(
            "{} was changed by another program at the same time; nothing was written, repeat the command",
            self.path.display()
        ))
    }
}

fn content(path: &Path) -> Result<Content, String> {
    // A FIFO in its place must not block.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|error| error.to_string())?;
    let known = file.metadata().map_err(|error| error.to_string())?;
    if !known.is_file() {
        return Err("it isn't a file".to_owned());
    }
    let attributes = Attributes::of(&file)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("it is larger than {} MiB", MAX_FILE >> 20));
    }
    let text = String::from_utf8(bytes).map_err(|_| "it isn't UTF-8".to_owned())?;
    let kept = Kept { mode: known.mode() & 0o7777, owner: (known.uid(), known.gid()), attributes };
    Ok(Content { text, kept, links: known.nlink() })
}

/// Owner and permissions of a new file.
enum As<'a> {
    /// This user's, readable for nobody else.
    Private,
    /// This user's, with the default permissions.
    Public,
    /// Those of the file that is replaced.
    Before(&'a Kept),
}

/// Writes a file under a temporary name beside its path, and renames it. With `replaces`, an
/// existing file is replaced.
fn write_and_rename(path: &Path, text: &str, new: &As<'_>, replaces: bool) -> Result<(), String> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    // The file of a killed process with the same id.
    let _ = fs::remove_file(&temporary);
    let written = filled(&temporary, text, new).and_then(|()| {
        let moved = if replaces {
            fs::rename(&temporary, path)
        } else {
            // Fails if the file exists.
            fs::hard_link(&temporary, path).and_then(|()| fs::remove_file(&temporary))
        };
        let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let moved = moved.and_then(|()| File::open(directory)?.sync_all());
        moved.map_err(|error| error.to_string())
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Writes a file with this text, and syncs it to disk.
fn filled(path: &Path, text: &str, new: &As<'_>) -> Result<(), String> {
    let wrong = |error: io::Error| error.to_string();
    // Other users may not read it before it has all properties of the old file.
    let mode = match new {
        As::Private => 0o600,
        As::Public => 0o666,
        As::Before(kept) => kept.mode & 0o600,
    };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(wrong)?;
    if let As::Before(Kept { mode, owner, attributes }) = new {
        let own = file.metadata().map_err(wrong)?;
        if (own.uid(), own.gid()) != *owner {
            let (user, group) = *owner;
            std::os::unix::fs::fchown(&file, Some(user), Some(group)).map_err(|error| {
                format!("it belongs to user {user} and group {group}, and what replaces it can't: {error}")
            })?;
        }
        Attributes::clear_access(&file)?;
        file.set_permissions(Permissions::from_mode(*mode)).map_err(wrong)?;
        attributes.give(&file)?;
    }
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(wrong)
}

#[cfg(test)]
mod tests;
