//! The version with sessions, 2025-03-26 to 2025-11-25: a handshake, a session id, a stream for the server.
//!
//! As strict as real servers: a session belongs to the identity that opened it, requests must wait for
//! `notifications/initialized`, and the protocol version header must be the negotiated one.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::Response;
use tokio::sync::{mpsc, watch};

use super::message::Message;
use super::record::Received;
use super::reply;
use super::tools::{self, Tools};
use crate::loopback::Body;

/// The versions that the server can negotiate, newest first.
pub(super) const VERSIONS: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

/// All open sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    table: Mutex<Table>,
    streams: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<String, Session>,
    /// The number of ids so far, so that none is reused.
    minted: usize,
}

#[derive(Debug)]
struct Session {
    identity: String,
    version: String,
    initialized: bool,
    /// The sender of the GET stream, while there is one.
    stream: Option<mpsc::Sender<io::Result<Bytes>>>,
}

impl Sessions {
    /// The ids of the open sessions of an identity.
    pub(super) fn of(&self, identity: &str) -> Vec<String> {
        let table = self.table();
        let open = table.open.iter().filter(|(_, session)| session.identity == identity);
        open.map(|(id, _)| id.clone()).collect()
    }

    /// Forgets every session without notice, as a restarted server does.
    pub(super) fn forget(&self) {
        self.table().open.clear();
    }

    /// Forgets the sessions of an identity without notice.
    pub(super) fn forget_of(&self, identity: &str) {
        self.table().open.retain(|_, session| session.identity != identity);
    }

    /// The GET stream of a session, as soon as one is open.
    pub(super) async fn stream(&self, id: &str) -> mpsc::Sender<io::Result<Bytes>> {
        let mut opened = self.streams.subscribe();
        loop {
            let stream = self.table().open.get(id).and_then(|session| session.stream.clone());
            if let Some(stream) = stream.filter(|stream| !stream.is_closed()) {
                return stream;
            }
            // The sender is in `self`, so it can't be closed.
            let _ = opened.changed().await;
        }
    }

    /// The open GET streams.
    pub(super) fn streams(&self) -> Vec<mpsc::Sender<io::Result<Bytes>>> {
        self.table().open.values().filter_map(|session| session.stream.clone()).collect()
    }

    /// Ends the GET stream of a session, by the server.
    pub(super) fn end_stream(&self, id: &str) {
        if let Some(session) = self.table().open.get_mut(id) {
            session.stream = None;
        }
    }

    /// Answers `initialize` and opens a session.
    pub(super) fn initialize(&self, request: &Received, message: &Message) -> Response<Body> {
        let asked = message.param("/protocolVersion");
        let version = VERSIONS.into_iter().find(|version| asked == *version).unwrap_or(VERSIONS[0]);
        let mut table = self.table();
        table.minted += 1;
        let id = format!("session-{}", table.minted);
        let session = Session {
            identity: request.identity().to_owned(),
            version: version.to_owned(),
            initialized: false,
            stream: None,
        };
        table.open.insert(id.clone(), session);
        let result = format!(
            r#"{{"protocolVersion":"{version}","capabilities":{{"tools":{{"listChanged":true}},"resources":{{"subscribe":true}},"prompts":{{}},"logging":{{}},"completions":{{}},"experimental":{{"example.com/odd":{{"number":1.10}}}}}},"serverInfo":{{"name":"verifying-upstream","title":"Verifying upstream","version":"1.0"}},"instructions":"Ask whoami."}}"#
        );
        let headers = [("content-type", "application/json".to_owned()), ("mcp-session-id", id)];
        reply::http(200, &headers, message.result(&result))
    }

    /// Finds the session of a request other than `initialize`; otherwise returns the status and the text of the
    /// refusal.
    pub(super) fn check(&self, request: &Received) -> Result<String, (u16, String)> {
        let refuse = |status: u16, text: &str| {
            let nobody = Message { id: None, method: None, params: None };
            Err((status, nobody.error(-32600, text, None)))
        };
        let Some(id) = request.header("mcp-session-id") else {
            return refuse(400, "Mcp-Session-Id is missing");
        };
        let mut table = self.table();
        let Some(session) = table.open.get_mut(id) else {
            return refuse(404, "session not found");
        };
        if session.identity != request.identity() {
            return refuse(403, "the session belongs to another identity");
        }
        let version = request.header("mcp-protocol-version");
        if version.is_none() && session.version != "2025-03-26" {
            return refuse(400, "MCP-Protocol-Version is missing");
        }
        if version.is_some_and(|version| version != session.version) {
            return refuse(400, "MCP-Protocol-Version is not the negotiated one");
        }
        match request.method() {
            "notifications/initialized" => session.initialized = true,
            "ping" => {}
            _ if !session.initialized => {
                return refuse(400, "before notifications/initialized");
            }
            _ => {}
        }
        Ok(id.to_owned())
    }

    /// Opens the stream of a session for messages of the server.
    pub(super) fn open_stream(&self, id: &str) -> Response<Body> {
        let (sender, receiver) = mpsc::channel(64);
        if let Some(session) = self.table().open.get_mut(id) {
            session.stream = Some(sender);
        }
        self.streams.send_replace(());
        reply::event_stream(receiver)
    }

    /// Ends a session as the client requested.
    pub(super) fn delete(&self, id: &str) -> Response<Body> {
        self.table().open.remove(id);
        reply::http(200, &[], "")
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The response to a request within a session, as JSON text.
pub(super) async fn answer(tools: &Tools, request: &Received, message: &Message) -> String {
    let method = message.method.as_deref().unwrap_or_default();
    let result = match method {
        "tools/list" => tools.list(message, ""),
        "tools/call" => tools.call(message, request.identity(), "").await,
        other => tools::fixed(other, "")
            .ok_or_else(|| message.error(-32601, &format!("Method not found: {other}"), None)),
    };
    match result {
        Ok(result) => message.result(&result),
        Err(error) => error,
    }
}
