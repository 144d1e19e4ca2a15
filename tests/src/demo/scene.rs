//! The parts of the demo: a home with three keys, the server, the broker, the proxy with its client.

use rmcp::service::RunningService;
use rmcp::transport::TokioChildProcess;
use rmcp::{RoleClient, ServiceExt as _};
use rustix::process::Signal;
use tempfile::TempDir;

use super::PROFILES;
use crate::aws_home::AwsHome;
use crate::processes::{self, Binaries, Process};
use crate::upstream::{REGION, SERVICE, Upstream};

/// All parts, running.
pub(super) struct Scene {
    pub(super) home: AwsHome,
    pub(super) upstream: Upstream,
    pub(super) client: RunningService<RoleClient, ()>,
    /// The process id of the proxy.
    pub(super) proxy: u32,
    broker: Process,
    _directory: TempDir,
}

impl Scene {
    pub(super) async fn start(binaries: &Binaries) -> Result<Self, String> {
        let home = AwsHome::new();
        let upstream = Upstream::start(home.keys()).await;
        let directory = tempfile::tempdir().map_err(|error| format!("no directory: {error}"))?;
        let socket = directory.path().join("broker.sock");
        let config = directory.path().join("broker.toml");
        let text = configuration(&home, &upstream.url(), &socket.display().to_string());
        std::fs::write(&config, text).map_err(|error| format!("no configuration: {error}"))?;

        let mut command = processes::command(&binaries.broker);
        command.env("HOME", home.path()).args(["serve", "--audit", "none", "--config"]).arg(config);
        let broker = Process::start(command);
        broker.logged("listening").await;

        // The agent's environment has nothing of AWS, not even the location of the files.
        let mut command = processes::command(&binaries.proxy);
        command.arg(upstream.url()).args(["--broker", &format!("unix:{}", socket.display())]);
        command.args(["--service", SERVICE, "--region", REGION, "--profile"]);
        command.args(PROFILES.map(|(name, _)| name));
        let transport =
            TokioChildProcess::new(command).map_err(|error| format!("the proxy: {error}"))?;
        let proxy = transport.id().ok_or("the proxy ended at once")?;
        let client = ().serve(transport).await;
        let client =
            client.map_err(|error| format!("the proxy doesn't open a session: {error}"))?;
        Ok(Self { home, upstream, client, proxy, broker, _directory: directory })
    }

    /// The process id of the broker.
    pub(super) fn broker(&self) -> u32 {
        self.broker.pid()
    }

    /// Ends everything in order.
    pub(super) async fn end(mut self) -> Result<(), String> {
        self.client.cancel().await.map_err(|error| format!("the proxy doesn't end: {error}"))?;
        self.broker.signal(Signal::TERM);
        let (status, errors) = self.broker.ended().await;
        if status.success() { Ok(()) } else { Err(format!("the broker failed:\n{errors}")) }
    }
}

fn configuration(home: &AwsHome, url: &str, socket: &str) -> String {
    let uid = rustix::process::getuid().as_raw();
    let mut text = format!(
        "[listen]\nunix = {socket:?}\n[aws]\nconfig_file = {:?}\ncredentials_file = {:?}\n\
         [[endpoint]]\nname = \"demo\"\nurl = {url:?}\nservice = {SERVICE:?}\nregion = {REGION:?}\n",
        home.config_file(),
        home.credentials_file()
    );
    for (name, description) in PROFILES {
        text.push_str(&format!(
            "[[profile]]\nname = {name:?}\ndescription = {description:?}\nendpoints = [\"demo\"]\n"
        ));
    }
    let names = PROFILES.map(|(name, _)| name);
    text + &format!(
        "[[rule]]\npeer = {{ uid = {uid} }}\nprofiles = {names:?}\nendpoints = [\"demo\"]\n"
    )
}
