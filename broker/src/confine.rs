//! What a broker may open once its configuration has been read: its own files, those of AWS that it is told of, what the
//! system keeps for name resolution and trust, and nothing else. Whatever is made of the process later, the user's other
//! files stay closed to it.
//!
//! Not everybody can be confined. The programs of a `credential_process` open files of their own, and would inherit it;
//! and to a confined process the kernel doesn't show which program a peer runs, which a rule may ask. Then nothing is
//! restricted, and the log says so.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crate::config::{AuditTarget, Config};
use crate::process::{self, Access, Confinement};
use crate::profile::{self, Surroundings};

/// A disk that takes longer to say what the AWS files name is taken for one that hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// What every program of the system reads: names, certificate authorities, libraries, processes.
const SYSTEM: [&str; 8] =
    ["/etc", "/usr", "/lib", "/lib64", "/proc", "/nix/store", "/dev/urandom", "/sys/fs/cgroup"];
/// What of it may be a link to elsewhere, which is replaced now and then.
const LINKS: [&str; 5] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/certs/ca-bundle.crt",
];

/// What came of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// As far as the kernel can.
    Done(Confinement),
    /// It would break what the configuration asks for.
    Left(&'static str),
}

/// Confines the thread that calls it, and all that it starts. `socket` is what it will bind.
pub(crate) fn confine(
    config: &Config,
    file: Option<&Path>,
    socket: Option<&Path>,
    surroundings: &Surroundings,
) -> Outcome {
    if asks_for_programs(config) {
        return Outcome::Left("a rule asks for the program of its peer (exe)");
    }
    let named = in_time(config, surroundings);
    if named.runs_programs {
        return Outcome::Left("a profile has a credential_process");
    }
    Outcome::Done(process::confine(&access(config, file, socket, named)))
}

/// Whether a rule needs what a confined process can't see.
pub(crate) fn asks_for_programs(config: &Config) -> bool {
    config.rules.iter().any(|rule| rule.peer.exe.is_some())
}

impl Outcome {
    /// Says it to the operator.
    pub(crate) fn log(&self) {
        match self {
            Self::Done(Confinement::Full) => {
                tracing::info!("confined to its own files by Landlock")
            }
            Self::Done(Confinement::Partial) => {
                tracing::info!(
                    "confined to its own files by Landlock, as far as this kernel knows it"
                );
            }
            Self::Done(Confinement::None(error)) => {
                tracing::warn!(%error, "not confined: the user's other files are open to the broker");
            }
            Self::Left(why) => {
                tracing::info!(why, "not confined: the user's other files are open to the broker");
            }
        }
    }
}

/// What the AWS files and the environment name. Where they hang, what they name isn't known, and stays closed.
fn in_time(config: &Config, surroundings: &Surroundings) -> profile::Named {
    let (sender, named) = mpsc::channel();
    let profiles: Vec<_> = config.profiles.iter().map(|profile| profile.from.clone()).collect();
    let (files, surroundings) = (config.aws.clone(), surroundings.clone());
    // It is there from before, and isn't confined: it ends with the reading.
    let reading = move || drop(sender.send(profile::named(&files, &profiles, &surroundings)));
    let begun = std::thread::Builder::new().name("files".to_owned()).spawn(reading);
    let named = begun.ok().and_then(|_| named.recv_timeout(PATIENCE).ok());
    named.unwrap_or_default()
}

fn access(
    config: &Config,
    file: Option<&Path>,
    socket: Option<&Path>,
    named: profile::Named,
) -> Access {
    let mut read: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    let files = named.reads.iter().map(PathBuf::as_path).chain(file);
    for file in files.chain(LINKS.iter().map(Path::new)) {
        read.extend(places(file));
    }
    let mut write = vec![PathBuf::from("/dev/null")];
    write.extend(named.caches.iter().map(|directory| nearest(directory)));
    if let AuditTarget::File(file) = &config.audit.target {
        write.extend(places(file));
    }
    write.extend(socket.into_iter().flat_map(places));
    let root = Path::new("/");
    read.retain(|path| path != root);
    write.retain(|path| path != root);
    Access { read, write }
}

/// The directory of a file, in which it may be replaced, and that of the file behind a link.
fn places(file: &Path) -> impl Iterator<Item = PathBuf> {
    let directory = |file: &Path| {
        let directory = file.parent().unwrap_or(Path::new("/"));
        // That of a name alone is where we are.
        nearest(if directory.as_os_str().is_empty() { Path::new(".") } else { directory })
    };
    let target = file.canonicalize().ok().map(|file| directory(&file));
    [directory(file)].into_iter().chain(target)
}

/// The directory, or the one in which it will be made.
fn nearest(directory: &Path) -> PathBuf {
    let there = directory.ancestors().find(|directory| directory.is_dir());
    there.unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests;
