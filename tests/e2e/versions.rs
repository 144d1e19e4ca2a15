//! Programs of different versions work together, or the error says which of them to update.
//!
//! The broker of another version is a relay before a real one, which answers `ListProfiles` as that version would.

use std::path::{Path, PathBuf};
use std::pin::Pin;

use futures_util::{Stream, StreamExt as _, stream};
use sigward_proto::v1;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_proto::v1::broker_server::{Broker, BrokerServer};
use sigward_proto::version::PROTOCOL;
use sigward_tests::processes::{self, Process, StdioClient};
use tokio::net::UnixListener;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::setup::{World, assert_names, connect, failure, text};

/// How a broker of another version differs from ours.
#[derive(Clone)]
enum Other {
    /// It says this of itself.
    Says(Option<v1::Version>),
    /// It has no `ListProfiles`.
    LacksTheCall,
    /// It refuses signatures for a reason that only it knows.
    RefusesFor(&'static str),
}

struct Relay {
    broker: BrokerClient<Channel>,
    other: Other,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Broker for Relay {
    async fn sign(
        &self,
        request: Request<v1::SignRequest>,
    ) -> Result<Response<v1::SignResponse>, Status> {
        if let Other::RefusesFor(reason) = self.other {
            let details = ErrorDetails::with_error_info(reason, "sigward", []);
            return Err(Status::with_error_details(Code::FailedPrecondition, "no", details));
        }
        self.broker.clone().sign(request.into_inner()).await
    }

    async fn list_profiles(
        &self,
        request: Request<v1::ListProfilesRequest>,
    ) -> Result<Response<v1::ListProfilesResponse>, Status> {
        let mut answer = self.broker.clone().list_profiles(request.into_inner()).await?;
        match &self.other {
            Other::Says(version) => answer.get_mut().version.clone_from(version),
            Other::LacksTheCall => return Err(Status::unimplemented("unknown method")),
            Other::RefusesFor(_) => {}
        }
        Ok(answer)
    }

    async fn overview(
        &self,
        request: Request<v1::OverviewRequest>,
    ) -> Result<Response<v1::OverviewResponse>, Status> {
        self.broker.clone().overview(request.into_inner()).await
    }

    type WatchProfilesStream = Answers<v1::WatchProfilesResponse>;

    async fn watch_profiles(
        &self,
        request: Request<v1::WatchProfilesRequest>,
    ) -> Result<Response<Self::WatchProfilesStream>, Status> {
        let answers = self.broker.clone().watch_profiles(request.into_inner()).await?;
        Ok(Response::new(answers.into_inner().boxed()))
    }

    type LoginStream = Answers<v1::LoginResponse>;

    async fn login(
        &self,
        request: Request<v1::LoginRequest>,
    ) -> Result<Response<Self::LoginStream>, Status> {
        let answers = self.broker.clone().login(request.into_inner()).await?;
        Ok(Response::new(answers.into_inner().boxed()))
    }

    async fn report_rejection(
        &self,
        request: Request<v1::ReportRejectionRequest>,
    ) -> Result<Response<v1::ReportRejectionResponse>, Status> {
        self.broker.clone().report_rejection(request.into_inner()).await
    }

    async fn report_exchange(
        &self,
        request: Request<v1::ReportExchangeRequest>,
    ) -> Result<Response<v1::ReportExchangeResponse>, Status> {
        self.broker.clone().report_exchange(request.into_inner()).await
    }
}

/// Another version of the broker at `socket`, and where that listens.
async fn relay(world: &World, socket: &Path, other: Other) -> PathBuf {
    let path = world.directory.path().join("other.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let incoming = stream::unfold(listener, |listener| async move {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    });
    let service = BrokerServer::new(Relay { broker: connect(socket).await, other });
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    path
}

/// A proxy's client, with a broker of another version.
struct Client {
    client: StdioClient,
    _broker: Process,
}

impl Client {
    async fn of(world: &World, other: Other) -> Self {
        let broker = world.broker(&world.configuration("")).await;
        let socket = relay(world, &world.socket(), other).await;
        let address = format!("unix:{}", socket.display());
        let command = world.proxy(&["--broker", &address, "--profile", "dev", "staging"]);
        Self { client: StdioClient::start(command), _broker: broker }
    }

    /// Why nothing works.
    async fn failure(mut self) -> String {
        let response = self.client.request("initialize", INITIALIZE).await;
        failure(&response).to_owned()
    }
}

const INITIALIZE: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"sigward-tests","version":"1.0"}}"#;

fn version(protocol: u32, oldest_protocol: u32) -> v1::Version {
    v1::Version { program: "7.8.9 (of\nanother)".to_owned(), protocol, oldest_protocol }
}

#[tokio::test]
async fn a_broker_that_is_older_or_newer_and_understands_this_proxy_is_used() {
    let newer = version(PROTOCOL + 3, PROTOCOL);
    // One of before there were versions says nothing.
    for says in [None, Some(newer), Some(version(0, 0))] {
        let world = World::new().await;
        let Client { mut client, _broker } = Client::of(&world, Other::Says(says)).await;
        client.initialize().await;
        let response = client.call("whoami", r#"{"aws_profile":"staging"}"#).await;
        assert_names(text(&response), &[world.home.identity("staging")]);
    }
}

#[tokio::test]
async fn a_broker_that_no_longer_understands_this_proxy_is_told_and_nothing_is_sent() {
    let world = World::new().await;
    let newer = version(PROTOCOL + 3, PROTOCOL + 1);
    let client = Client::of(&world, Other::Says(Some(newer))).await;
    let why = client.failure().await;
    let ours = env!("CARGO_PKG_VERSION");
    assert_names(&why, &["7.8.9 (of another)", ours, "update sigward-proxy", "other.sock"]);
    assert!(!why.contains("sigward-broker;"), "{why}");
    assert!(world.upstream.requests().is_empty(), "nothing may be sent");
}

#[tokio::test]
async fn a_broker_that_lacks_a_call_is_to_be_updated() {
    let world = World::new().await;
    let client = Client::of(&world, Other::LacksTheCall).await;
    assert_names(&client.failure().await, &["other.sock", "update sigward-broker"]);
    assert!(world.upstream.requests().is_empty(), "nothing may be sent");
}

#[tokio::test]
async fn for_a_refusal_that_only_a_newer_broker_knows_the_proxy_is_to_be_updated() {
    let world = World::new().await;
    let client = Client::of(&world, Other::RefusesFor("MOON_TOO_FULL")).await;
    assert_names(&client.failure().await, &["other.sock", "update sigward-proxy"]);
    assert!(world.upstream.requests().is_empty(), "nothing may be sent");
}

/// `0.1.0 (e8ccdae1f2a3 2026-11-26)`: what a report of a bug has to name.
#[tokio::test]
async fn each_program_says_its_version_with_commit_and_date() {
    let world = World::new().await;
    for (name, command) in [
        ("sigward-broker", world.broker_command(&["--version"])),
        ("sigward-proxy", {
            let mut command = processes::command(&processes::binaries().proxy);
            command.arg("--version");
            command
        }),
    ] {
        let mut command = command;
        let output = command.output().await.unwrap();
        assert!(output.status.success());
        let said = String::from_utf8(output.stdout).unwrap();
        if !is_in_git() {
            // As from an archive of the sources: nobody knows the commit, and nothing is made up.
            assert_eq!(said.trim_end(), format!("{name} {}", env!("CARGO_PKG_VERSION")));
            continue;
        }
        let (program, details) = said.trim_end().split_once(" (").expect(&said);
        assert_eq!(program, format!("{name} {}", env!("CARGO_PKG_VERSION")));
        let (commit, date) = details.strip_suffix(')').unwrap().split_once(' ').expect(&said);
        let commit = commit.strip_suffix("+changes").unwrap_or(commit);
        assert!(commit.len() == 12 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{said}");
        let is_date = |(at, c): (usize, char)| match at {
            4 | 7 => c == '-',
            _ => c.is_ascii_digit(),
        };
        assert!(date.len() == 10 && date.chars().enumerate().all(is_date), "{said}");
    }
}

/// Whether git knows the sources, as their build script asks it.
fn is_in_git() -> bool {
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "--error-unmatch", "broker/build.rs"]);
    git.current_dir(processes::workspace()).output().is_ok_and(|output| output.status.success())
}
