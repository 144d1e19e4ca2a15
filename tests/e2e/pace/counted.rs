//! A server that never throttles is never slowed down: a call takes one request to the broker, and no wait.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, stream};
use sigward_proto::v1;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_proto::v1::broker_server::{Broker, BrokerServer};
use sigward_tests::upstream::Reply;
use tokio::net::UnixListener;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use crate::setup::{World, connect, text};

/// Forwards everything to a broker, and counts.
#[derive(Clone)]
struct Counting {
    broker: BrokerClient<Channel>,
    counts: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Counting {
    fn count(&self, what: &'static str) -> BrokerClient<Channel> {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
        self.broker.clone()
    }
}

type Never<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Broker for Counting {
    async fn sign(
        &self,
        request: Request<v1::SignRequest>,
    ) -> Result<Response<v1::SignResponse>, Status> {
        // The request with its headers.
        self.count("Sign").sign(request).await
    }

    async fn list_profiles(
        &self,
        request: Request<v1::ListProfilesRequest>,
    ) -> Result<Response<v1::ListProfilesResponse>, Status> {
        self.count("ListProfiles").list_profiles(request.into_inner()).await
    }

    type WatchProfilesStream = Never<v1::WatchProfilesResponse>;

    async fn watch_profiles(
        &self,
        _: Request<v1::WatchProfilesRequest>,
    ) -> Result<Response<Self::WatchProfilesStream>, Status> {
        self.count("WatchProfiles");
        Err(Status::unimplemented("nobody watches"))
    }

    async fn overview(
        &self,
        request: Request<v1::OverviewRequest>,
    ) -> Result<Response<v1::OverviewResponse>, Status> {
        self.count("Overview").overview(request.into_inner()).await
    }

    async fn report_rejection(
        &self,
        request: Request<v1::ReportRejectionRequest>,
    ) -> Result<Response<v1::ReportRejectionResponse>, Status> {
        self.count("ReportRejection").report_rejection(request.into_inner()).await
    }

    async fn report_exchange(
        &self,
        request: Request<v1::ReportExchangeRequest>,
    ) -> Result<Response<v1::ReportExchangeResponse>, Status> {
        self.count("ReportExchange").report_exchange(request.into_inner()).await
    }

    type LoginStream = Never<v1::LoginResponse>;

    async fn login(
        &self,
        _: Request<v1::LoginRequest>,
    ) -> Result<Response<Self::LoginStream>, Status> {
        self.count("Login");
        Err(Status::unimplemented("nobody signs in"))
    }
}

#[tokio::test]
async fn a_call_takes_one_broker_request_unless_the_server_throttles() {
    let world = World::new().await;
    let _broker = world.broker(&world.configuration("")).await;
    let counting = Counting { broker: connect(&world.socket()).await, counts: Arc::default() };
    let socket = world.directory.path().join("counting.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let incoming = stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let service = BrokerServer::new(counting.clone());
    let server = tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    let counts = || counting.counts.lock().unwrap().clone();

    let mut client = world.client_of(&socket, &["dev"]).await;
    world.upstream.expect("the GET stream", |it| it.http_method == "GET").await;
    text(&client.call("whoami", "{}").await);
    let before = counts();
    // As many calls as need no report in a slow start.
    for _ in 0..8 {
        text(&client.call("whoami", "{}").await);
    }
    let mut expected = before.clone();
    *expected.get_mut("Sign").unwrap() += 8;
    assert_eq!(counts(), expected, "one request for each call, and nothing else");
    // The control: a throttled call is reported, and signed again.
    world.upstream.next("tools/call", Reply::Http(429, Vec::new(), String::new()));
    text(&client.call("whoami", "{}").await);
    *expected.get_mut("Sign").unwrap() += 2;
    expected.insert("ReportExchange", 1);
    assert_eq!(counts(), expected);
    server.abort();
}
