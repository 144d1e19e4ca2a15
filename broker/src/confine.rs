//! The files that a broker may open after its configuration was read: its own files, the AWS files
//! that the configuration names, and what the system needs for name resolution and trust. Even code
//! that takes over the process can't open the user's other files.
//!
//! The programs of a `credential_process` run outside of the confinement ([`process::outside`]),
//! because they open files of their own.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crate::config::{AuditTarget, Config};
use crate::process::{self, Access, Confinement};
use crate::profile::{self, Surroundings};

/// The time for finding the paths in the AWS files, after which the disk is assumed to hang.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The paths that every program of the system reads: names, certificate authorities, libraries,
/// processes.
const SYSTEM: [&str; 8] =
    ["/etc", "/usr", "/lib", "/lib64", "/proc", "/nix/store", "/dev/urandom", "/sys/fs/cgroup"];
/// Those that may be links to elsewhere, and are replaced now and then.
const LINKS: [&str; 5] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/certs/ca-bundle.crt",
];

/// Confines the calling thread and the threads that it starts. `socket` is the path that it will bind.
pub(crate) fn confine(
    config: &Config,
    file: Option<&Path>,
    socket: Option<&Path>,
    surroundings: &Surroundings,
) -> Confinement {
    process::confine(&access(config, file, socket, in_time(config, surroundings)))
}

/// Logs the result for the operator.
pub(crate) fn log(outcome: &Confinement) {
    match outcome {
        Confinement::Full => tracing::info!("confined to its own files by Landlock"),
        Confinement::Partial => {
            tracing::info!(
                "confined to its own files by Landlock, as far as this kernel supports it"
            );
        }
        Confinement::None(error) => {
            tracing::warn!(%error, "not confined: the broker can open the user's other files");
        }
    }
}

/// The paths that the AWS files and the environment name. If the disk hangs, they aren't known, and
/// can't be opened.
fn in_time(config: &Config, surroundings: &Surroundings) -> profile::Named {
    let (sender, named) = mpsc::channel();
    let profiles: Vec<_> = config.profiles.iter().map(|profile| profile.from.clone()).collect();
    let (files, surroundings) = (config.aws.clone(), surroundings.clone());
    // This thread was started before, and isn't confined: it ends after reading.
    let reading = move || {
        let mut named = profile::named(&files, &profiles, &surroundings);
        named.caches.retain(|cache| make(cache).is_ok());
        drop(sender.send(named));
    };
    let begun = std::thread::Builder::new().name("files".to_owned()).spawn(reading);
    let named = begun.ok().and_then(|_| named.recv_timeout(TIMEOUT).ok());
    named.unwrap_or_default()
}

fn access(
    config: &Config,
    file: Option<&Path>,
    socket: Option<&Path>,
    named: profile::Named,
) -> Access {
    let mut read: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    let tls = config.listen.tcp.iter().flat_map(|tcp| tcp.tls.paths());
    let files = named.reads.iter().map(PathBuf::as_path).chain(file).chain(tls);
    for file in files.chain(LINKS.iter().map(Path::new)) {
        read.extend(places(file));
    }
    let mut write = vec![PathBuf::from("/dev/null")];
    write.extend(named.caches);
    if let AuditTarget::File(file) = &config.audit.target {
        write.extend(places(file));
    }
    write.extend(socket.into_iter().flat_map(places));
    let root = Path::new("/");
    read.retain(|path| path != root);
    write.retain(|path| path != root);
    Access { read, write }
}

/// Creates a missing token cache: creating it later would need access to its parent directory,
/// which before the first sign-in is the whole home. If the home belongs to another user, tokens
/// are kept only in memory.
fn make(cache: &Path) -> io::Result<()> {
    if cache.is_dir() {
        return Ok(());
    }
    // A directory that root creates in a user's home couldn't be written by that user's programs.
    if nearest(cache).metadata()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(cache)
}

/// The directory of a file, in which it may be replaced, and the directory of the file behind a link.
fn places(file: &Path) -> impl Iterator<Item = PathBuf> {
    let directory = |file: &Path| {
        let directory = file.parent().unwrap_or(Path::new("/"));
        // The directory of a plain name is the current one.
        nearest(if directory.as_os_str().is_empty() { Path::new(".") } else { directory })
    };
    let target = file.canonicalize().ok().map(|file| directory(&file));
    [directory(file)].into_iter().chain(target)
}

/// The directory, or the nearest existing one above it.
fn nearest(directory: &Path) -> PathBuf {
    let there = directory.ancestors().find(|directory| directory.is_dir());
    there.unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests;
