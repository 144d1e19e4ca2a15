//! Checks whether a listening proxy accepts requests, for container probes without a shell.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::config::ListenAddress;

/// Probes run every few seconds: a proxy that takes longer is unhealthy.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The `Host` that a proxy accepts if it listens only on this machine.
const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
const OK_PREFIX: &str = "HTTP/1.1 200 ";
/// The longest part of an answer that is read.
const MAX_HEAD: u64 = 4096;

/// Checks the proxy at `address`. The error is one line that tells why it is unhealthy.
pub(crate) async fn check(address: &ListenAddress) -> Result<(), String> {
    let asked = async {
        match address {
            ListenAddress::Tcp(address) => ask(TcpStream::connect(address).await?).await,
            ListenAddress::Unix(path) => ask(UnixStream::connect(path).await?).await,
        }
    };
    let line = match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(Ok(line)) => line,
        Ok(Err(error)) => return Err(format!("{address}: {error}")),
        Err(_) => return Err(format!("{address}: no answer within {} s", TIMEOUT.as_secs())),
    };
    if line.starts_with(OK_PREFIX) {
        return Ok(());
    }
    // Another program may listen there, and send any text.
    Err(format!("{address}: the answer is {:?}", line.chars().take(64).collect::<String>()))
}

/// The first line of the answer.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<String> {
    stream.write_all(REQUEST).await?;
    let mut head = Vec::new();
    stream.take(MAX_HEAD).read_to_end(&mut head).await?;
    let head = String::from_utf8_lossy(&head);
    Ok(head.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    /// Listens, and answers one connection with `answer`.
    async fn answering(answer: &'static str) -> ListenAddress {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; REQUEST.len()];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        ListenAddress::Tcp(address)
    }

    #[tokio::test]
    async fn only_a_200_is_healthy() {
        let well = answering("HTTP/1.1 200 OK\r\n\r\nok\n").await;
        assert_eq!(check(&well).await, Ok(()));
        for answer in
            ["HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP/1.1 2000 X\r\n", "SSH-2.0", ""]
        {
            let address = answering(answer).await;
            let why = check(&address).await.unwrap_err();
            let line = answer.lines().next().unwrap_or_default();
            assert_eq!(why, format!("{address}: the answer is {line:?}"));
        }
    }

    #[tokio::test]
    async fn an_address_without_a_proxy_is_unhealthy() {
        let directory = tempfile::tempdir().unwrap();
        let absent = ListenAddress::Unix(directory.path().join("absent"));
        let why = check(&absent).await.unwrap_err();
        assert_eq!(why, format!("{absent}: No such file or directory (os error 2)"));
    }

    /// For a proxy that is stopped or stuck, the kernel still accepts connections.
    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_never_answers_is_unhealthy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("silent");
        let _listener = UnixListener::bind(&path).unwrap();
        let address = ListenAddress::Unix(path);
        let why = check(&address).await.unwrap_err();
        assert_eq!(why, format!("{address}: no answer within 2 s"));
    }
}
