//! For tests: an HTTP server with scripted responses, in place of AWS.

use std::sync::{Arc, Mutex};

use aws_config::{BehaviorVersion, SdkConfig};
use aws_types::region::Region;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// A request: its time, its path and its body (null if it isn't JSON).
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) at: Instant,
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) body: Value,
}

pub(crate) struct Fake {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// A status and a body. `__type` of a JSON body is sent as the header `x-amzn-errortype` instead.
pub(crate) type Answer = (u16, String);

impl Fake {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move { serve(stream, &log, answer.as_ref()).await });
            }
        });
        Self { url, asked }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("a lock").clone()
    }

    /// The requests to one path.
    pub(crate) fn asked_of(&self, path: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.path == path).collect()
    }

    /// A configuration that uses this server for every service.
    pub(crate) async fn config(&self) -> SdkConfig {
        let loader = aws_config::defaults(BehaviorVersion::latest()).no_credentials();
        loader.region(Region::new("us-east-1")).endpoint_url(&self.url).load().await
    }
}

async fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Asked>>,
    answer: &(impl Fn(&Asked) -> Answer + Send + Sync),
) {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        if stream.read_buf(&mut bytes).await.expect("a request") == 0 {
            return;
        }
        let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        bytes.drain(..end + 4);
        break (head, length.unwrap_or(0_usize));
    };
    while bytes.len() < length {
        stream.read_buf(&mut bytes).await.expect("a body");
    }
    let target = head.split(' ').nth(1).unwrap_or_default();
    let asked = Asked {
        at: Instant::now(),
        path: target.split('?').next().unwrap_or_default().to_owned(),
        text: format!("{head}\r\n\r\n{}", String::from_utf8_lossy(&bytes)),
        body: serde_json::from_slice(&bytes).unwrap_or_default(),
    };
    let (status, body) = answer(&asked);
    log.lock().expect("a lock").push(asked);
    let mut json: Value = serde_json::from_str(&body).unwrap_or_default();
    let kind = json.as_object_mut().and_then(|json| json.remove("__type"));
    let (header, body) = match kind.as_ref().and_then(Value::as_str) {
        Some(kind) => (format!("x-amzn-errortype: {kind}\r\n"), json.to_string()),
        None => (String::new(), body),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n{header}\r\n",
        body.len()
    );
    drop(stream.write_all(format!("{head}{body}").as_bytes()).await);
}
