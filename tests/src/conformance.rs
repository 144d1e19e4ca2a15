//! The MCP server that the official conformance suite wants: its tools, prompts and resources, on rmcp.
//!
//! It speaks both generations on `http://127.0.0.1:PORT/mcp` and passes the suite when it is asked directly, so what
//! fails behind a proxy is the proxy's fault. It verifies no signature: [`crate::upstream`] does that.

mod asking;
mod contents;
mod server;
mod tools;

use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::sync::broadcast;

use self::server::Suite;
use crate::loopback::Loopback;

/// How many announcements a subscriber may leave unread.
const ANNOUNCEMENTS: usize = 16;

/// A running server. Dropping it closes its socket and every connection.
#[derive(Debug)]
pub struct Server(Loopback);

impl Server {
    /// Binds `port` (0: any) and serves.
    ///
    /// # Panics
    /// If the port can't be had.
    pub async fn start(port: u16) -> Self {
        let (announcements, _) = broadcast::channel(ANNOUNCEMENTS);
        let service = StreamableHttpService::new(
            move || Ok(Suite::new(announcements.clone())),
            Arc::new(LocalSessionManager::default()),
            StreamableHttpServerConfig::default(),
        );
        let respond = move |head: http::request::Parts, body| {
            let service = service.clone();
            async move {
                if head.uri.path() != "/mcp" {
                    return Ok(crate::upstream::reply::http(404, &[], ""));
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
