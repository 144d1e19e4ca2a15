//! What clients cost that come over HTTP: each with its own session, and one of another profile.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use sigward_tests::{memory, processes};

use crate::direct::Direct;
use crate::scene::{Scene, profile};

/// A listening proxy, ended on drop.
#[derive(Debug)]
pub(crate) struct Listening {
    child: Child,
    address: String,
}

impl Listening {
    /// Starts it with two profiles.
    pub(crate) fn start(scene: &Scene) -> Self {
        let mut command = scene.command(2);
        command.args(["--listen", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let ready = lines.find(|line| line.contains("listening address=")).unwrap();
        let address = ready.split("address=").nth(1).unwrap().split(' ').next().unwrap();
        let address = address.to_owned();
        // Nothing that it writes later may block it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// A client opens its session, lists the tools, calls one under the other profile, and hangs up.
    pub(crate) fn client(&self) {
        let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
        let opened = Direct::with_headers(&self.address, "").call(initialize).unwrap();
        let session = opened.header("mcp-session-id").expect("a session");
        let headers = format!("mcp-session-id: {session}\r\nmcp-protocol-version: 2025-11-25\r\n");
        let mut connection = Direct::with_headers(&self.address, &headers);
        let other = profile(1);
        for message in [
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#,
            &format!(
                r#"{{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{{"name":"echo","arguments":{{"aws_profile":"{other}","text":"x"}}}}}}"#
            ),
        ] {
            let answer = connection.call(message).unwrap();
            assert!(!answer.beginning.contains("\"isError\":true"), "{answer:?}");
        }
    }

    /// The resident memory of both processes, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let own = self.child.id();
        let all = std::iter::once(own).chain(processes::children(own));
        all.map(|pid| memory::resident(pid).unwrap()).sum()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
