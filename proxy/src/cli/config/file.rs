//! A client's file on disk: read whole, written whole, with a backup beside it.
//!
//! A file is replaced, never written into: a client that reads meanwhile, or a machine that loses
//! power, sees the old text or the new one. A link stays a link, since what it leads to is replaced;
//! mode, owner, lists of access and other attributes stay, or nothing is written. What somebody else
//! wrote meanwhile isn't lost: the file is read again right before it is replaced.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, OFlags, access};

use super::attributes::Attributes;

/// No client's file is near that: `~/.claude.json` has some megabytes.
const MAX_FILE: u64 = 64 << 20;
/// What the name of a backup ends with; a number may follow.
const BACKUP: &str = ".sigward-backup";
/// Backups beside one file. Each has other contents than the others.
const MAX_BACKUPS: usize = 99;

/// A client's file as it was read.
#[derive(Debug)]
pub(super) struct ClientFile {
    /// As it was named.
    path: PathBuf,
    /// What a link leads to.
    target: PathBuf,
    /// Nothing, where the file doesn't exist.
    before: Option<Content>,
}

#[derive(Debug)]
struct Content {
    text: String,
    kept: Kept,
    /// The names of the file.
    links: u64,
}

/// What a file keeps when it is replaced.
#[derive(Debug)]
struct Kept {
    mode: u32,
    owner: (u32, u32),
    attributes: Attributes,
}

impl ClientFile {
    /// Reads the file at `path`, which may be missing.
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

    /// Its text; none where it doesn't exist.
    pub(super) fn text(&self) -> Option<&str> {
        self.before.as_ref().map(|content| content.text.as_str())
    }

    /// Replaces it by `text`, and answers where its backup is. `private`: nobody else may read a file
    /// that is new.
    pub(super) fn replace(&self, text: &str, private: bool) -> Result<Option<PathBuf>, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", self.path.display());
        self.still_the_same()?;
        let Some(before) = &self.before else {
            if let Some(directory) = self.target.parent() {
                fs::create_dir_all(directory).map_err(|error| wrong(&error))?;
            }
            let new = if private { As::Private } else { As::Public };
            put(&self.target, text, &new, false).map_err(|error| wrong(&error))?;
            return Ok(None);
        };
        self.may_be_replaced(before)?;
        let backup = self.back_up(before).map_err(|error| {
            format!(
                "no backup of {} can be made ({error}); nothing was written",
                self.path.display()
            )
        })?;
        self.still_the_same()?;
        put(&self.target, text, &As::Before(&before.kept), true).map_err(|error| wrong(&error))?;
        Ok(Some(backup))
    }

    /// Deletes it: it was made by this program, and holds nothing else.
    pub(super) fn delete(&self) -> Result<(), String> {
        self.still_the_same()?;
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

    /// A copy of the text as it was read, under the first free name; an older copy of the same text
    /// will do.
    fn back_up(&self, before: &Content) -> Result<PathBuf, String> {
        for number in 1..=MAX_BACKUPS {
            let path = self.backup(number);
            match content(&path) {
                Ok(known) if known.text == before.text => return Ok(path),
                Ok(_) => continue,
                Err(_) if path.symlink_metadata().is_ok() => continue,
                Err(_) => {}
            }
            return put(&path, &before.text, &As::Before(&before.kept), false).map(|()| path);
        }
        Err(format!("there are {MAX_BACKUPS} already; delete those that nobody needs"))
    }

    /// The name of a backup: beside what is replaced.
    fn backup(&self, number: usize) -> PathBuf {
        let mut name = self.target.file_name().unwrap_or_default().to_owned();
        name.push(BACKUP);
        if number > 1 {
            name.push(format!("-{number}"));
        }
        self.target.with_file_name(name)
    }

    /// A file can be replaced in a directory that takes new files, whatever its own mode says; but who
    /// made it read-only meant it.
    fn may_be_replaced(&self, before: &Content) -> Result<(), String> {
        let stays =
            |why: String| Err(format!("{} {why}; nothing was written", self.path.display()));
        if before.kept.mode & 0o222 == 0 {
            return stays("is read-only: allow its owner to write it (chmod u+w), if it is no other program's".to_owned());
        }
        if let Err(error) = access(&self.target, Access::WRITE_OK) {
            return stays(format!("can't be written: {error}"));
        }
        if before.links > 1 {
            return stays(format!(
                "is one of {} names of a file (hard links), of which the others would keep the old text: edit \
                 it by hand, or make this one a symbolic link",
                before.links
            ));
        }
        Ok(())
    }

    fn still_the_same(&self) -> Result<(), String> {
        let now = match content(&self.target) {
            Ok(now) => Some(now.text),
            Err(_) if self.target.symlink_metadata().is_err() => None,
            Err(why) => return Err(format!("{}: {why}", self.path.display())),
        };
        if now.as_deref() == self.text() {
            return Ok(());
        }
        Err(format!(
            "{} was changed by another program meanwhile; nothing was written, repeat the command",
            self.path.display()
        ))
    }
}

fn content(path: &Path) -> Result<Content, String> {
    // A pipe in its place would be waited for.
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

/// Whose a file is, and who may do what with it.
enum As<'a> {
    /// This user's, whom alone it concerns.
    Private,
    /// This user's, for whoever may read what this user makes.
    Public,
    /// That of a file that was there.
    Before(&'a Kept),
}

/// Writes a whole file beside its place, and moves it there. `replaces`: over what is there.
fn put(path: &Path, text: &str, new: &As<'_>, replaces: bool) -> Result<(), String> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    // Of a process of that number that was killed.
    let _ = fs::remove_file(&temporary);
    let written = filled(&temporary, text, new).and_then(|()| {
        let moved = if replaces {
            fs::rename(&temporary, path)
        } else {
            // Fails where there is one.
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

/// Makes a file with this text, which is on the disk then.
fn filled(path: &Path, text: &str, new: &As<'_>) -> Result<(), String> {
    let wrong = |error: io::Error| error.to_string();
    // Nobody else reads it before it has all that the one before it had.
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
