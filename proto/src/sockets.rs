//! The default sockets of a broker, where it listens and clients search if no socket is configured.

use std::path::{Path, PathBuf};

/// The socket of the machine's shared broker.
pub const OF_THE_MACHINE: &str = "/run/sigward/broker.sock";

/// The socket of a user's own broker, in `XDG_RUNTIME_DIR`.
#[must_use]
pub fn of_user(runtime_directory: &Path) -> PathBuf {
    runtime_directory.join("sigward/broker.sock")
}

/// The socket of the broker that the machine runs for one user, who can't change its directory.
#[must_use]
pub fn kept_for(uid: u32) -> PathBuf {
    format!("/run/sigward/{uid}/broker.sock").into()
}
