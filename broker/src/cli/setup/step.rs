//! One change of the machine, which can be shown as a command, and carried out.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::home::AwsDirectory;

/// The directories of system programs. The attack: another `PATH`.
const PROGRAMS: &str = "/usr/bin:/usr/sbin:/bin:/sbin";

/// The owner of a file or directory.
#[derive(Debug, Clone)]
pub(super) enum Owner {
    /// The user and group ids.
    Ids(u32, u32),
    /// The user's name; the user may not exist yet.
    User(String),
}

/// One change of the machine.
#[derive(Debug)]
pub(super) enum Step {
    /// Write a file of root that all users can read; with `keep`, an existing one isn't replaced.
    Write { path: PathBuf, text: String, keep: bool },
    /// Create a directory.
    Directory { path: PathBuf, mode: u32, owner: Owner },
    /// Move everything in `.aws` of one home to that of another.
    Move { from: PathBuf, of: Owner, to: PathBuf, owner: Owner },
    /// Run a program of the system.
    Run { program: &'static str, arguments: Vec<String> },
    /// Remove a file, if it exists.
    Remove(PathBuf),
}

impl Step {
    pub(super) fn run(program: &'static str, arguments: &[&str]) -> Self {
        Self::Run { program, arguments: arguments.iter().map(|it| (*it).to_owned()).collect() }
    }

    /// The text that the step writes, if any.
    pub(super) fn content(&self) -> &str {
        match self {
            // The units are long, and in the packages.
            Self::Write { path, text, .. } if !path.starts_with("/etc/systemd") => text,
            _ => "",
        }
    }

    /// Carries out the step. It is idempotent.
    ///
    /// # Errors
    /// The error, as text for a person.
    pub(super) fn apply(&self) -> Result<Option<String>, String> {
        match self {
            Self::Write { path, text, keep } => write(path, text, *keep),
            Self::Directory { path, mode, owner } => directory(path, *mode, owner).map(|()| None),
            Self::Move { from, of, to, owner } => move_files(from, of, to, owner),
            Self::Run { program, arguments } => run(program, arguments),
            Self::Remove(path) => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, &error)),
                _ => Ok(None),
            },
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { path, .. } => write!(f, "write {}", path.display()),
            Self::Directory { path, mode, owner } => {
                write!(f, "install -d -m {mode:04o} -o {owner} {}", path.display())
            }
            Self::Move { from, to, owner, .. } => {
                write!(
                    f,
                    "move {0}/.aws/* to {1}/.aws, owner {owner}",
                    from.display(),
                    to.display()
                )
            }
            Self::Run { program, arguments } => write!(f, "{program} {}", arguments.join(" ")),
            Self::Remove(path) => write!(f, "rm -f {}", path.display()),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ids(0, _) => f.write_str("root"),
            Self::Ids(uid, _) => write!(f, "{uid}"),
            Self::User(name) => f.write_str(name),
        }
    }
}

impl Owner {
    fn ids(&self) -> Result<(u32, u32), String> {
        match self {
            Self::Ids(uid, gid) => Ok((*uid, *gid)),
            Self::User(name) => {
                let account = account(name)?.ok_or_else(|| format!("there is no user {name}"))?;
                Ok((account.uid, account.gid))
            }
        }
    }
}

/// A user of this machine.
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: PathBuf,
}

/// The user with this name, from the system's user database, which includes directory services.
pub(super) fn account(name: &str) -> Result<Option<Account>, String> {
    let output = command("getent").args(["passwd", "--", name]).output();
    let output = output.map_err(|error| format!("getent: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let fields: Vec<&str> = text.lines().next().unwrap_or_default().split(':').collect();
    let [_, _, uid, gid, _, home, ..] = fields.as_slice() else { return Ok(None) };
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => Ok(Some(Account { uid, gid, home: home.into() })),
        _ => Err(format!("the user {name} has no number as its uid, or as its gid")),
    }
}

/// Replaces a file as a whole; creates a missing directory.
fn write(path: &Path, text: &str, keep: bool) -> Result<Option<String>, String> {
    let failed = |error| failed(path, &error);
    match fs::read_to_string(path) {
        Ok(there) if there == text => return Ok(None),
        Ok(_) if keep => return Ok(Some("exists already, and stays as it is".to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    if !directory.exists() {
        self::directory(directory, 0o755, &Owner::Ids(0, 0))?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = directory.join(format!(".{name}.new"));
    // The file of an earlier run that was interrupted.
    fs::remove_file(&new).ok();
    let replace = || {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    replace().map_err(failed)?;
    Ok(None)
}

fn directory(path: &Path, mode: u32, owner: &Owner) -> Result<(), String> {
    let (uid, gid) = owner.ids()?;
    let make = || {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // No other user can write to its parent directory, so that no link can be in its place.
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    make().map_err(|error| failed(path, &error))
}

fn move_files(from: &Path, of: &Owner, to: &Path, owner: &Owner) -> Result<Option<String>, String> {
    let (uid, gid) = owner.ids()?;
    let Some(from) = AwsDirectory::open(from, of.ids()?.0)? else {
        return Ok(Some("there are no files".to_owned()));
    };
    let to = AwsDirectory::make(to, uid, gid)?;
    let moved = from.move_to(&to, uid, gid)?;
    Ok(Some(format!("{moved} files")))
}

fn run(program: &str, arguments: &[String]) -> Result<Option<String>, String> {
    if program == "systemctl" && !Path::new("/run/systemd/system").exists() {
        return Ok(Some("systemd isn't running: this takes effect at its next start".to_owned()));
    }
    let output = command(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", arguments.join(" "), said.trim()))
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    // The program is searched in this `PATH`, not in the caller's.
    let found =
        PROGRAMS.split(':').map(|at| Path::new(at).join(program)).find(|path| path.exists());
    if let Some(path) = found {
        command = Command::new(path);
    }
    command.env_clear().env("PATH", PROGRAMS).stdin(Stdio::null());
    command
}

fn failed(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}
