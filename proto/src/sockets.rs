//! Where a broker listens and where its callers look for one, if nobody names a socket.

use std::path::{Path, PathBuf};

/// That of the machine, for all who may ask.
pub const OF_THE_MACHINE: &str = "/run/sigward/broker.sock";

/// That of a user's own broker, in `XDG_RUNTIME_DIR`.
#[must_use]
pub fn of_user(runtime_directory: &Path) -> PathBuf {
    runtime_directory.join("sigward/broker.sock")
}

/// That of the broker that the machine keeps for one user: the person can't change its directory.
#[must_use]
pub fn kept_for(uid: u32) -> PathBuf {
    format!("/run/sigward/{uid}/broker.sock").into()
}
