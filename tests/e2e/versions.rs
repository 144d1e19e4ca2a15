//! Programs of different versions work together, or the error says which of them to update.
//!
//! The broker of another version is a relay in front of a real one, which answers `ListProfiles` as that version would.

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
    /// It reports this version.
    Reports(Option<v1::Version>),
    /// It has no `ListProfiles`.
    LacksTheCall,
    /// It refuses signatures for a reason that this proxy doesn't know.
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
            Other::Reports(version) => answer.get_mut().version.clone_from(version),
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

/// Starts another version of the broker at `socket`, and returns the path of its own socket.
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

/// A client of a proxy that uses a broker of another version.
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

    /// The error of the first request.
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
async fn a_compatible_broker_of_another_version_is_used() {
    let newer = version(PROTOCOL + 3, PROTOCOL);
    // A broker from before there were versions reports none.
    for reported in [None, Some(newer), Some(version(0, 0))] {
        let world = World::new().await;
        let Client { mut client, _broker } = Client::of(&world, Other::Reports(reported)).await;
        client.initialize().await;
        let response = client.call("whoami", r#"{"aws_profile":"staging"}"#).await;
        assert_names(text(&response), &[world.home.identity("staging")]);
    }
}

#[tokio::test]
async fn a_broker_that_is_too_new_for_this_proxy_is_reported() {
    let world = World::new().await;
    let newer = version(PROTOCOL + 3, PROTOCOL + 1);
    let client = Client::of(&world, Other::Reports(Some(newer))).await;
    let why = client.failure().await;
    let ours = env!("CARGO_PKG_VERSION");
    assert_names(&why, &["7.8.9 (of another)", ours, "update sigward-proxy", "other.sock"]);
    assert!(!why.contains("sigward-broker;"), "{why}");
    assert!(world.upstream.requests().is_empty(), "nothing may be sent");
}

#[tokio::test]
async fn the_error_for_a_broker_without_a_call_says_to_update_the_broker() {
    let world = World::new().await;
    let client = Client::of(&world, Other::LacksTheCall).await;
    assert_names(&client.failure().await, &["other.sock", "update sigward-broker"]);
    assert!(world.upstream.requests().is_empty(), "nothing may be sent");
}

#[tokio::test]
async fn the_error_for_an_unknown_reason_says_to_update_the_proxy() {
    let world = World::new().await;
    let client = Client::of(&world, Other::RefusesFor("MOON_TOO_FULL")).await;
    assert_names(&client.failure().await, &["other.sock", "update sigward-proxy"]);
    assert!(world.upstream.requests().is_empty(), "nothing may be sent");
}

/// `0.1.0 (e8ccdae1f2a3 2026-11-26)`: a bug report has to name all of that.
#[tokio::test]
async fn each_program_prints_its_version_with_commit_and_date() {
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
        let printed = String::from_utf8(output.stdout).unwrap();
        if !is_in_git() {
            // As when built from a source archive: the commit is unknown, and none is made up.
            assert_eq!(printed.trim_end(), format!("{name} {}", env!("CARGO_PKG_VERSION")));
            continue;
        }
        let (program, details) = printed.trim_end().split_once(" (").expect(&printed);
        assert_eq!(program, format!("{name} {}", env!("CARGO_PKG_VERSION")));
        let (commit, date) = details.strip_suffix(')').unwrap().split_once(' ').expect(&printed);
        let commit = commit.strip_suffix("+changes").unwrap_or(commit);
        assert!(commit.len() == 12 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{printed}");
        let is_date = |(at, c): (usize, char)| match at {
            4 | 7 => c == '-',
            _ => c.is_ascii_digit(),
        };
        assert!(date.len() == 10 && date.chars().enumerate().all(is_date), "{printed}");
    }
}

/// Whether git tracks the sources; the build script asks it in the same way.
fn is_in_git() -> bool {
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "--error-unmatch", "broker/build.rs"]);
    git.current_dir(processes::workspace()).output().is_ok_and(|output| output.status.success())
}
