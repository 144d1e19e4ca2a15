//! A bare tonic server with one unary call, on a Unix socket, to compare the broker's `Sign` with.
//!
//! It decodes a `SignRequest` and returns its contents: it decides, signs and records nothing. Its settings are the
//! library's defaults.

use std::path::Path;
use std::pin::Pin;

use futures_util::{Stream, stream};
use sigward_proto::v1;
use sigward_proto::v1::broker_server::{Broker, BrokerServer};
use sigward_proto::v1::sign_request::Payload;
use tokio::net::UnixListener;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Serves on `socket`, forever.
///
/// # Panics
/// If it can't listen there.
pub async fn serve(socket: &Path) {
    let listener = UnixListener::bind(socket).expect("a socket");
    let incoming = stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let service =
        BrokerServer::new(Echo).max_decoding_message_size(sigward_proto::MAX_MESSAGE_BYTES);
    Server::builder().add_service(service).serve_with_incoming(incoming).await.expect("it serves");
}

struct Echo;

#[tonic::async_trait]
impl Broker for Echo {
    async fn sign(
        &self,
        request: Request<v1::SignRequest>,
    ) -> Result<Response<v1::SignResponse>, Status> {
        let v1::SignRequest { profile, method, uri, mut headers, payload } = request.into_inner();
        let (Some(Payload::Body(value) | Payload::BodySha256(value)), name) =
            (payload, String::new())
        else {
            return Err(Status::invalid_argument("nothing to answer with"));
        };
        headers.push(v1::Header { name, value });
        Ok(Response::new(v1::SignResponse {
            headers,
            path_and_query: uri,
            access_key_id: profile,
            credential_scope: method,
            ..v1::SignResponse::default()
        }))
    }

    async fn list_profiles(
        &self,
        _: Request<v1::ListProfilesRequest>,
    ) -> Result<Response<v1::ListProfilesResponse>, Status> {
        Err(no_such_call())
    }

    type WatchProfilesStream = Never<v1::WatchProfilesResponse>;

    async fn watch_profiles(
        &self,
        _: Request<v1::WatchProfilesRequest>,
    ) -> Result<Response<Self::WatchProfilesStream>, Status> {
        Err(no_such_call())
    }

    async fn overview(
        &self,
        _: Request<v1::OverviewRequest>,
    ) -> Result<Response<v1::OverviewResponse>, Status> {
        Err(no_such_call())
    }

    type LoginStream = Never<v1::LoginResponse>;

    async fn login(
        &self,
        _: Request<v1::LoginRequest>,
    ) -> Result<Response<Self::LoginStream>, Status> {
        Err(no_such_call())
    }

    async fn report_rejection(
        &self,
        _: Request<v1::ReportRejectionRequest>,
    ) -> Result<Response<v1::ReportRejectionResponse>, Status> {
        Err(no_such_call())
    }

    async fn report_exchange(
        &self,
        _: Request<v1::ReportExchangeRequest>,
    ) -> Result<Response<v1::ReportExchangeResponse>, Status> {
        Err(no_such_call())
    }
}

type Never<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn no_such_call() -> Status {
    Status::unimplemented("it answers Sign alone")
}
