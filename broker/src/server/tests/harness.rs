//! A broker with files of its own, over a real socket, in this process.

use std::io::Write;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use sigward_proto::v1;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_proto::v1::sign_request::Payload;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_types::StatusExt;

use crate::config;
use crate::deadline;
use crate::error::Error;
use crate::process::Supervisor;
use crate::profile::Surroundings;
use crate::server::{Reread, Sockets, serve};

pub(super) const SECRET: &str = "canarysecretcanarysecretcanarysecret1234";

/// A directory with AWS files and a configuration, and a broker that uses them.
pub(super) struct Broker {
    pub(super) directory: tempfile::TempDir,
    pub(super) serving: JoinHandle<Result<(), Error>>,
    pub(super) stop: tokio::sync::oneshot::Sender<()>,
}

impl Broker {
    pub(super) fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
        let path = directory.join(name);
        std::fs::File::create(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .expect(name);
        path
    }

    /// Starts a broker; `rules` is appended to the configuration.
    pub(super) fn start(rules: &str) -> Self {
        Self::start_while(rules, |_, _| {})
    }

    /// Starts a broker; `edit` gets the directory and the configuration, after it was parsed.
    pub(super) fn start_while(rules: &str, edit: impl FnOnce(&Path, &str)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = directory.path();
        Self::write(
            at,
            "credentials",
            &format!(
                "[dev]\naws_access_key_id = AKIDDEV\naws_secret_access_key = {SECRET}\naws_session_token = canarytoken\n"
            ),
        );
        Self::write(
            at,
            "config",
            "[profile dev]\nregion = eu-west-1\n[profile mfa]\nmfa_serial = x\nrole_arn = arn:aws:iam::1:role/X\nsource_profile = dev\n",
        );
        let text = format!(
            "[listen]\nunix = \"{0}/sub/broker.sock\"\n\
             [aws]\nconfig_file = \"{0}/config\"\ncredentials_file = \"{0}/credentials\"\n\
             [audit]\nfile = \"{0}/audit.jsonl\"\n\
             [[endpoint]]\nname = \"one\"\nurl = \"https://aws-mcp.us-east-1.api.aws/mcp\"\n\
             [[endpoint]]\nname = \"two\"\nurl = \"http://127.0.0.1:9/mcp\"\nservice = \"x\"\nregion = \"us-west-2\"\n\
             [[profile]]\nname = \"dev\"\ndescription = \"For tests\"\nendpoints = [\"one\"]\n\
             [[profile]]\nname = \"mfa\"\nendpoints = [\"one\"]\n\
             [[profile]]\nname = \"ghost\"\nendpoints = [\"one\", \"two\"]\n{rules}",
            at.display()
        );
        let path = Self::write(at, "broker.toml", &text);
        let parse = {
            let path = path.clone();
            move |text: &str| config::parse(text, &path, uid()).map_err(Error::Config)
        };
        let config = parse(&text).expect("valid");
        edit(at, &text);
        let reread = Reread { path, text: Some(text), parse: Box::new(parse) };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let serving = tokio::spawn(async move {
            let surroundings = Surroundings::default();
            let shutdown = async { stopped.await.unwrap_or_default() };
            let sockets = Sockets { inherited: None, default: "/nowhere".into() };
            serve(config, &surroundings, Some(reread), sockets, Supervisor::default(), shutdown)
                .await
        });
        Self { directory, serving, stop }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("sub/broker.sock")
    }

    pub(super) async fn client(&self) -> BrokerClient<Channel> {
        BrokerClient::new(self.channel().await)
    }

    pub(super) async fn channel(&self) -> Channel {
        self.channel_of(&Endpoint::from_static("http://broker")).await
    }

    /// A connection with other settings.
    pub(super) async fn channel_of(&self, endpoint: &Endpoint) -> Channel {
        let path = self.socket();
        deadline::until(|| {
            assert!(!self.serving.is_finished(), "the broker has ended");
            path.exists()
        })
        .await;
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        endpoint.connect_with_connector(connector).await.expect("a connection")
    }

    /// The records of decisions.
    pub(super) fn audit(&self) -> Vec<serde_json::Value> {
        let mut records = self.records();
        records.retain(|record| record["action"] != "load");
        records
    }

    pub(super) fn records(&self) -> Vec<serde_json::Value> {
        let text =
            std::fs::read_to_string(self.directory.path().join("audit.jsonl")).expect("a log");
        text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
    }
}

pub(super) fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

pub(super) fn request(profile: &str) -> v1::SignRequest {
    let header = |name: &str, value: &str| v1::Header {
        name: name.to_owned(),
        value: value.to_owned().into_bytes().into(),
    };
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"aws___call"}}"#;
    v1::SignRequest {
        profile: profile.to_owned(),
        method: "POST".to_owned(),
        uri: "https://aws-mcp.us-east-1.api.aws/mcp".to_owned(),
        headers: vec![
            header("accept", "application/json, text/event-stream"),
            header("content-type", "application/json"),
        ],
        payload: Some(Payload::Body(body.as_slice().into())),
    }
}

pub(super) fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().expect("an ErrorInfo");
    assert_eq!(info.domain, "sigward");
    info.reason.clone()
}
