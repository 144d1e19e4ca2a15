//! The world of one test: a home with keys, a server that knows them, and the two programs on demand.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sigward_proto::v1::SignRequest;
use sigward_tests::aws_home::AwsHome;
pub(crate) use sigward_tests::broker::connect;
use sigward_tests::processes::{self, Process, StdioClient};
use sigward_tests::upstream::{Builder, REGION, SERVICE, Upstream};
use tempfile::TempDir;
use tokio::process::Command;

/// The three profiles that most tests offer, the default first.
pub(crate) const THREE: [&str; 3] = ["dev", "staging", "prod"];

/// Everything that one test uses.
pub(crate) struct World {
    pub(crate) home: AwsHome,
    pub(crate) upstream: Upstream,
    /// `XDG_RUNTIME_DIR`, sockets and configurations.
    pub(crate) directory: TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    /// A world with another server than the usual one.
    pub(crate) async fn with(build: impl FnOnce(Builder) -> Builder) -> Self {
        Self::at_home(AwsHome::new(), build).await
    }

    /// A world with a prepared home.
    pub(crate) async fn at_home(home: AwsHome, build: impl FnOnce(Builder) -> Builder) -> Self {
        let upstream = build(Upstream::builder(home.keys())).start().await;
        let directory = tempfile::tempdir().unwrap();
        Self { home, upstream, directory }
    }

    /// The world after its server was restarted on the same port.
    pub(crate) async fn revived(home: AwsHome, directory: TempDir, port: u16) -> Self {
        let upstream = Upstream::builder(home.keys()).port(port).start().await;
        Self { home, upstream, directory }
    }

    /// `sigward-proxy URL --service … --region … ARGUMENTS`, with a user's environment.
    pub(crate) fn proxy(&self, arguments: &[&str]) -> Command {
        self.proxy_to(&self.upstream.url(), arguments)
    }

    /// The same for another server than the world's.
    pub(crate) fn proxy_to(&self, url: &str, arguments: &[&str]) -> Command {
        let mut command = processes::command(&processes::binaries().proxy);
        command.envs(self.home.environment());
        command.env("XDG_RUNTIME_DIR", self.directory.path());
        command.arg(url);
        command.args(["--service", SERVICE, "--region", REGION]).args(arguments);
        command
    }

    /// A proxy with a private broker that offers `profiles`.
    pub(crate) fn private_proxy(&self, profiles: &[&str], arguments: &[&str]) -> Command {
        let mut command = self.proxy(&["--broker", "private", "--profile"]);
        command.args(profiles).args(arguments);
        command
    }

    /// A session with a proxy that has a private broker.
    pub(crate) async fn client(&self, profiles: &[&str], arguments: &[&str]) -> StdioClient {
        let mut client = StdioClient::start(self.private_proxy(profiles, arguments));
        client.initialize().await;
        client
    }

    /// A session with a proxy that uses the broker at `socket`.
    pub(crate) async fn client_of(&self, socket: &Path, profiles: &[&str]) -> StdioClient {
        let socket = format!("unix:{}", socket.display());
        let mut command = self.proxy(&["--broker", &socket, "--profile"]);
        command.args(profiles);
        let mut client = StdioClient::start(command);
        client.initialize().await;
        client
    }

    /// A broker's configuration: socket, files, this endpoint, the three profiles, and `more`.
    pub(crate) fn configuration(&self, more: &str) -> String {
        format!(
            r#"
[listen]
unix = "{socket}"
mode = "0660"

[aws]
config_file = "{config}"
credentials_file = "{credentials}"

[[endpoint]]
name = "upstream"
url = "{url}"
service = "{SERVICE}"
region = "{REGION}"

[[profile]]
name = "dev"
description = "Development, everything goes"
endpoints = ["upstream"]

[[profile]]
name = "staging"
endpoints = ["upstream"]

[[profile]]
name = "prod"
description = "Production, be careful"
endpoints = ["upstream"]
{more}
"#,
            socket = self.socket().display(),
            config = self.home.config_file().display(),
            credentials = self.home.credentials_file().display(),
            url = self.upstream.url(),
        )
    }

    /// The socket in [`World::configuration`].
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("broker.sock")
    }

    /// Writes a file of the world, for example a configuration.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        // A token file that others can read is refused.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// `sigward-broker ARGUMENTS`, with the environment of the home.
    pub(crate) fn broker_command(&self, arguments: &[&str]) -> Command {
        let mut command = processes::command(&processes::binaries().broker);
        command.envs(self.home.environment());
        command.env("XDG_RUNTIME_DIR", self.directory.path());
        command.args(arguments);
        command
    }

    /// A broker with the configuration `text`, listening.
    pub(crate) async fn broker(&self, text: &str) -> Process {
        self.broker_with(text, &[]).await
    }

    /// The same, with `environment` in addition to that of the home.
    pub(crate) async fn broker_with(
        &self,
        text: &str,
        environment: &[(String, String)],
    ) -> Process {
        let config = self.write("broker.toml", text);
        let mut command = self.broker_command(&["serve", "--config", config.to_str().unwrap()]);
        command.envs(environment.iter().cloned());
        let broker = Process::start(command);
        broker.logged("listening").await;
        broker
    }
}

/// Runs its arguments as a service manager does, with a listening socket, which is its standard input: descriptors are
/// passed from 3 on, to the process that `LISTEN_PID` names.
pub(crate) const PASS_SOCKET: &str = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";

/// A listening proxy, started by `command` with `--listen 127.0.0.1:0` added, and the URL that it serves.
pub(crate) async fn listening(mut command: Command) -> (Process, String) {
    command.args(["--listen", "127.0.0.1:0"]);
    let proxy = Process::start(command);
    let line = proxy.logged("listening address=").await;
    let address = line.split("address=").nth(1).and_then(|rest| rest.split(' ').next());
    let url = format!("http://{}/mcp", address.unwrap());
    (proxy, url)
}

/// Copies a program by running `cp`: a file that this process writes could be inherited, for a moment, by a child that
/// another test starts, and a file that is open for writing can't be run.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg(from).arg(to).status();
    assert!(copied.expect("cp runs").success(), "{} isn't copied", from.display());
}

/// The uid of this process.
pub(crate) fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// A request for a signature that is permitted for any profile of the world.
pub(crate) fn ping(world: &World, profile: &str) -> SignRequest {
    let ping = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    sigward_tests::broker::post(&world.upstream.url(), profile, &[], ping.as_slice())
}

/// The first text of a tool's result, which must not be an error.
pub(crate) fn text(response: &Value) -> &str {
    assert_ne!(response["result"]["isError"], true, "the tool failed: {response}");
    first_text(response)
}

/// The text of a tool error: a result with `isError`, not a JSON-RPC error.
pub(crate) fn tool_error(response: &Value) -> &str {
    assert_eq!(response["result"]["isError"], true, "not a tool error: {response}");
    first_text(response)
}

fn first_text(response: &Value) -> &str {
    let text = response["result"]["content"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("no text content: {response}"))
}

/// Code and message of a JSON-RPC error.
pub(crate) fn rpc_error(response: &Value) -> (i64, &str) {
    let error = &response["error"];
    let parts = error["code"].as_i64().zip(error["message"].as_str());
    parts.unwrap_or_else(|| panic!("not a JSON-RPC error: {response}"))
}

/// The message of a tool error or of a JSON-RPC error: either is a clear answer.
pub(crate) fn failure(response: &Value) -> &str {
    if response["error"].is_object() { rpc_error(response).1 } else { tool_error(response) }
}

/// Fails unless `text` contains each of `words`.
pub(crate) fn assert_names(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

/// The parameters of a request of 2026-07-28: `params` (the text of an object) with the required `_meta`.
pub(crate) fn stateless(params: &str) -> String {
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"sigward-tests","version":"1.0"},"io.modelcontextprotocol/clientCapabilities":{}}"#;
    let rest = params.strip_prefix('{').expect("an object");
    if rest == "}" { format!("{{{meta}}}") } else { format!("{{{meta},{rest}") }
}
