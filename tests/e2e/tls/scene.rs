//! A broker over TLS, and the authority of its callers' certificates.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_tests::broker::{client_on, shake_hands};
use sigward_tests::deadline;
use sigward_tests::processes::{Process, StdioClient};
use sigward_tests::upstream::REGION;
use sigward_tests::workloads::{BROKER, Issued, Workloads};
use tokio::process::Command;
use tokio_rustls::rustls::ClientConfig;
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::setup::{World, ping};

pub(crate) const AGENT: &str = "spiffe://test.example/ns/dev/sa/agent";

pub(crate) const INITIALIZE: &str =
    r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;

/// A rule that permits `dev` to callers with this name.
pub(crate) fn rule(key: &str, name: &str) -> String {
    format!(
        "[[rule]]\nname = \"agents\"\npeer = {{ {key} = \"{name}\" }}\nprofiles = [\"dev\"]\nendpoints = [\"upstream\"]\n"
    )
}

/// The reason in an error that the broker itself has sent.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}")).reason
}

pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) authority: Workloads,
    pub(crate) broker: Process,
    pub(crate) address: SocketAddr,
    /// The broker's configuration.
    pub(crate) config: String,
    /// Lines of private keys, which must be in no log.
    secrets: Mutex<Vec<String>>,
}

impl Scene {
    /// A broker with `more` in its configuration.
    pub(crate) async fn new(more: &str) -> Self {
        Self::paced("", more).await
    }

    /// The same, whose endpoint has this `pace`.
    pub(crate) async fn paced(pace: &str, more: &str) -> Self {
        Self::in_world(World::new().await, pace, more, &[]).await
    }

    /// The same in a prepared world, with `environment`.
    pub(crate) async fn in_world(
        world: World,
        pace: &str,
        more: &str,
        environment: &[(String, String)],
    ) -> Self {
        let authority = Workloads::new();
        let directory = world.directory.path().join("tls");
        fs::create_dir(&directory).unwrap();
        let audit = world.directory.path().join("audit.jsonl");
        let tls = format!(
            "mode = \"0660\"\ntcp = \"127.0.0.1:0\"\ntls = {{ cert = {:?}, key = {:?}, client_ca = {:?} }}",
            directory.join("cert"),
            directory.join("key"),
            directory.join("client_ca"),
        );
        let audit = format!("[audit]\nfile = {audit:?}\n");
        let region = format!("region = \"{REGION}\"\n");
        let config = world.configuration(&(audit + more)).replace("mode = \"0660\"", &tls);
        let config = config.replacen(&region, &format!("{region}{pace}\n"), 1);
        let issued = authority.broker();
        for (name, text) in
            [("cert", &issued.cert), ("key", &issued.key), ("client_ca", &authority.pem())]
        {
            write(directory.join(name), text);
        }
        let broker = world.broker_with(&config, environment).await;
        let address = address(&broker).await;
        let secrets = Mutex::new(issued.secrets().map(str::to_owned).collect());
        Self { world, authority, broker, address, config, secrets }
    }

    /// Kills the broker, and starts it again at the same address.
    pub(crate) async fn restart(&mut self) {
        self.broker.signal(rustix::process::Signal::KILL);
        self.broker.ended().await;
        let config = self.config.replace("127.0.0.1:0\"\ntls", &format!("{}\"\ntls", self.address));
        self.broker = self.world.broker(&config).await;
        assert_eq!(address(&self.broker).await, self.address);
    }

    /// Waits for the end of the broker, and starts it again at any address.
    pub(crate) async fn start_again(&mut self) {
        self.broker.ended().await;
        self.broker = self.world.broker(&self.config).await;
        self.address = address(&self.broker).await;
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.world.directory.path().join("tls").join(name)
    }

    /// Replaces a TLS file atomically.
    pub(crate) fn write(&self, name: &str, text: &str) {
        write(self.path("new"), text);
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    /// Connects with a certificate.
    pub(crate) async fn client(&self, issued: &Issued) -> io::Result<BrokerClient<Channel>> {
        self.client_with(&Arc::new(self.authority.caller(Some(issued)))).await
    }

    pub(crate) async fn client_with(
        &self,
        config: &Arc<ClientConfig>,
    ) -> io::Result<BrokerClient<Channel>> {
        let stream = shake_hands(self.address, config).await?;
        client_on(stream).await.map_err(io::Error::other)
    }

    /// From now on, checks that no log shows the key of `issued`.
    pub(super) fn keep_secret(&self, issued: &Issued) {
        self.secrets.lock().unwrap().extend(issued.secrets().map(str::to_owned));
    }

    /// Asks for signatures until the broker no longer accepts the certificate.
    pub(super) async fn until_unknown(&self, client: &mut BrokerClient<Channel>) {
        let refused = async {
            loop {
                if let Err(refused) = client.sign(ping(&self.world, "dev")).await {
                    return refused;
                }
            }
        };
        let refused = deadline::within(refused, || "it signs forever".to_owned()).await;
        assert_eq!(reason(&refused), "PEER_UNKNOWN");
    }

    /// Then asks until the connection ends.
    pub(super) async fn until_closed(&self, client: &mut BrokerClient<Channel>) {
        let of_broker = |status: Status| status.get_details_error_info().is_some();
        let closed =
            async { while of_broker(client.sign(ping(&self.world, "dev")).await.unwrap_err()) {} };
        deadline::within(closed, || "the connection stays".to_owned()).await;
    }

    /// Writes the broker's certificate and key.
    pub(crate) fn write_broker(&self, issued: &Issued) {
        self.keep_secret(issued);
        self.write("key", &issued.key);
        self.write("cert", &issued.cert);
    }

    /// Writes the files of a proxy that presents `issued`.
    pub(crate) fn write_agent(&self, issued: &Issued) {
        self.keep_secret(issued);
        // The key first: a reader in between gets two files that don't match, and keeps the previous ones.
        self.write("agent.key", &issued.key);
        self.write("agent.cert", &issued.cert);
        self.write("agent.ca", &self.authority.pem());
    }

    /// A proxy that presents the written files.
    pub(crate) fn proxy(&self, profiles: &[&str], more: &[&str]) -> Command {
        self.proxy_of(self.address, profiles, more)
    }

    /// The same for a broker at another address.
    pub(crate) fn proxy_of(&self, broker: SocketAddr, profiles: &[&str], more: &[&str]) -> Command {
        let mut command = self.world.proxy(&[]);
        command.arg("--broker").arg(format!("https://{broker}"));
        for (option, name) in [
            ("--broker-cert", "agent.cert"),
            ("--broker-key", "agent.key"),
            ("--broker-ca", "agent.ca"),
        ] {
            command.arg(option).arg(self.path(name));
        }
        command.args(more).arg("--profile").args(profiles);
        command
    }

    /// A session with a proxy that presents `issued`, and identifies the broker by its SPIFFE id.
    pub(crate) async fn agent(&self, issued: &Issued, profiles: &[&str]) -> StdioClient {
        self.write_agent(issued);
        let mut client = StdioClient::start(self.proxy(profiles, &["--broker-name", BROKER]));
        client.initialize().await;
        client
    }

    /// The response to the first request.
    pub(crate) async fn initialize(&self, issued: &Issued, profiles: &[&str]) -> Value {
        self.write_agent(issued);
        let mut client = StdioClient::start(self.proxy(profiles, &[]));
        let answer = client.request("initialize", INITIALIZE).await;
        let (_, _, errors) = client.close().await;
        self.assert_no_secret(&errors);
        answer
    }

    pub(crate) fn audit(&self) -> Vec<Value> {
        let path = self.world.directory.path().join("audit.jsonl");
        let text = fs::read_to_string(path).unwrap();
        self.assert_no_secret(&text);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn assert_no_secret(&self, text: &str) {
        for line in self.secrets.lock().unwrap().iter() {
            assert!(!text.contains(line), "a line of a private key is in {text}");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_no_secret(&self.broker.errors());
        }
    }
}

async fn address(broker: &Process) -> SocketAddr {
    let line = broker.logged("serving over TLS").await;
    line.split("address=").nth(1).unwrap().trim().parse().unwrap()
}

fn write(path: PathBuf, text: &str) {
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}
