//! Opens a connection to the endpoint without sending anything, for `sigward-proxy check`: shows whether names, proxies
//! and certificates work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use url::Url;

use super::connector::{BoxError, Detour};

/// Closes each connection that is opened.
#[derive(Debug, Clone, Default)]
pub(super) struct Probe(Arc<AtomicBool>);

/// The error of the request whose connection was only probed.
#[derive(Debug, thiserror::Error)]
#[error("only probed")]
struct Probed;

impl Probe {
    /// Opens a connection with `client`, in whose connector this is a layer, and closes it.
    pub(super) async fn run(
        &self,
        client: &reqwest::Client,
        url: &Url,
    ) -> Result<(), reqwest::Error> {
        let request = reqwest::Request::new(http::Method::HEAD, url.clone());
        match client.execute(request).await {
            Err(error) if !self.0.load(Ordering::Acquire) => Err(error),
            // The connector never returns a connection, so there is no answer.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl Detour for Probe {
    fn connect<C: Send + 'static>(
        &self,
        connecting: impl Future<Output = Result<C, BoxError>> + Send + 'static,
    ) -> BoxFuture<'static, Result<C, BoxError>> {
        let probe = self.clone();
        Box::pin(async move {
            drop(connecting.await?);
            probe.0.store(true, Ordering::Release);
            Err(Probed.into())
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::upstream::connector::DetourLayer;

    async fn probed(url: &Url) -> Result<(), reqwest::Error> {
        let probe = Probe::default();
        let client =
            reqwest::Client::builder().no_proxy().connector_layer(DetourLayer(probe.clone()));
        probe.run(&client.build().unwrap(), url).await
    }

    #[tokio::test]
    async fn nothing_is_sent_on_a_probed_connection() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/mcp", server.local_addr().unwrap())).unwrap();
        let asking = tokio::spawn(async move { probed(&url).await });
        let (mut connection, _) = server.accept().await.unwrap();
        let mut received = Vec::new();
        connection.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"");
        asking.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_failed_connection_is_an_error() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/mcp", server.local_addr().unwrap())).unwrap();
        drop(server);
        assert!(probed(&url).await.unwrap_err().is_connect());
    }
}
