//! What every measurement starts from: the programs, homes with profiles, and the server.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sigward_tests::aws_home::AwsHome;
use sigward_tests::keys::Key;
use sigward_tests::processes;

use crate::proxy::{Channel, Proxy};
use crate::server::Server;

/// The most profiles that are offered.
pub(crate) const PROFILES: usize = 1000;

/// The scene.
#[derive(Debug)]
pub(crate) struct Scene {
    home: AwsHome,
    /// With one profile alone.
    small_home: AwsHome,
    program: PathBuf,
    /// The server.
    pub(crate) server: Server,
}

impl Scene {
    /// Builds the programs and starts the server.
    pub(crate) fn new() -> Self {
        let program = processes::binaries().proxy.clone();
        let (home, small_home) = (self::home(PROFILES), self::home(1));
        Self { home, small_home, program, server: Server::start() }
    }

    /// The home directory of a user with one profile.
    pub(crate) fn small_home(&self) -> &Path {
        self.small_home.path()
    }

    /// The command of a proxy that offers so many profiles.
    pub(crate) fn command(&self, profiles: usize) -> Command {
        self.command_in(self.home.path(), profiles)
    }

    /// The command of a proxy of one profile, whose user has no other.
    pub(crate) fn small_command(&self) -> Command {
        self.command_in(self.small_home(), 1)
    }

    fn command_in(&self, home: &Path, profiles: usize) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.env("HOME", home).env("XDG_RUNTIME_DIR", home);
        command.arg(self.server.url()).args(["--service", "bench", "--region", "us-east-1"]);
        command.args(["--broker", "private", "--profile"]).args((0..profiles).map(profile));
        command.stderr(Stdio::null());
        command
    }

    /// A proxy of one profile that was started and has listed its tools.
    pub(crate) fn proxy(&self, channel: Channel) -> Proxy {
        Proxy::start(self.command(1), channel).0
    }
}

fn home(profiles: usize) -> AwsHome {
    let mut home = AwsHome::new();
    for number in 0..profiles {
        let name = profile(number);
        home.config(&format!("[profile {name}]\nregion = us-east-1\n"));
        home.static_keys(&name, &Key::user(&name));
    }
    home
}

/// The name of a profile.
pub(crate) fn profile(number: usize) -> String {
    format!("profile-{number}")
}
