//! The official conformance suite, the MCP server that it needs, and a bridge from the suite to stdio servers.
//!
//! The server has the suite's tools, prompts and resources, on rmcp. It speaks both versions on
//! `http://127.0.0.1:PORT/mcp` and passes the suite when it is tested directly, so failures behind a proxy are the
//! proxy's. Behind a proxy, it verifies every signature.

mod asking;
mod bridge;
mod contents;
mod server;
mod suite;
mod tools;

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http_body_util::{BodyExt as _, Full};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::sync::broadcast;

pub use self::bridge::Bridge;
use self::server::Suite;
pub use self::suite::{Report, Requirements, client, required, server};
use crate::keys::KeyTable;
use crate::loopback::Loopback;
use crate::sigv4::Verifier;
use crate::upstream::serve::verify;
use crate::upstream::{REGION, SERVICE, reply};

/// How many announcements a subscriber can have unread.
const ANNOUNCEMENTS: usize = 16;

/// A running server. Dropping it closes its socket and every connection.
#[derive(Debug)]
pub struct Server(Loopback);

impl Server {
    /// Binds `port` (0: any) and serves all requests, signed or not.
    ///
    /// # Panics
    /// If the port can't be bound.
    pub async fn start(port: u16) -> Self {
        Self::serve(port, None).await
    }

    /// A server on any port that answers 403 to requests that aren't signed with one of `keys`.
    pub async fn verifying(keys: KeyTable) -> Self {
        Self::serve(0, Some(Verifier::new(keys, SERVICE, REGION))).await
    }

    async fn serve(port: u16, verifier: Option<Verifier>) -> Self {
        let (announcements, _) = broadcast::channel(ANNOUNCEMENTS);
        let service = StreamableHttpService::new(
            move || Ok(Suite::new(announcements.clone())),
            Arc::new(LocalSessionManager::default()),
            StreamableHttpServerConfig::default(),
        );
        let verifier = verifier.map(Arc::new);
        let respond = move |head: Parts, body: Bytes| {
            let (service, verifier) = (service.clone(), verifier.clone());
            async move {
                if head.uri.path() != "/mcp" {
                    return Ok(reply::http(404, &[], ""));
                }
                if let Some(refusal) =
                    verifier.and_then(|verifier| refused(&verifier, &head, &body))
                {
                    return Ok(reply::http(403, &[], refusal));
                }
                let request = http::Request::from_parts(head, Full::new(body));
                let response = service.handle(request).await;
                Ok(response.map(|body| body.map_err(|never| match never {}).boxed()))
            }
        };
        Self(Loopback::start(port, respond).await)
    }

    /// `http://127.0.0.1:PORT/mcp`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.0.address)
    }
}

/// Why a request isn't signed correctly.
fn refused(verifier: &Verifier, head: &Parts, body: &[u8]) -> Option<String> {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let verified = verify(verifier, head.method.as_str(), target, &head.headers, body);
    verified.err().map(|refusal| refusal.to_string())
}
