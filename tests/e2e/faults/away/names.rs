//! A name server of one test, on an address of loopback that is this test's alone.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::AbortHandle;

/// The name under which STS goes here.
pub(super) const OF_STS: &str = "sts.test";

static NUMBER: AtomicU8 = AtomicU8::new(1);

/// What it does with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// Nothing.
    Silent,
    /// It says that it has failed (SERVFAIL).
    Fails,
    /// Every name is 127.0.0.1.
    Answers,
}

/// It ends on drop.
pub(super) struct Names {
    address: Ipv4Addr,
    state: Arc<Mutex<(Server, Vec<String>)>>,
    task: AbortHandle,
}

impl Names {
    pub(super) async fn start() -> Self {
        let [high, low, ..] = std::process::id().to_le_bytes();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let address = Ipv4Addr::new(127, high.max(1), low, number);
        let socket = UdpSocket::bind((address, 53)).expect("root may take port 53");
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        let state = Arc::new(Mutex::new((Server::Silent, Vec::new())));
        let shared = Arc::clone(&state);
        let serving = async move {
            let mut question = [0; 512];
            loop {
                let Ok((length, from)) = socket.recv_from(&mut question).await else { continue };
                let Some((name, answer)) = answered(&question[..length]) else { continue };
                let server = {
                    let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    state.1.push(name);
                    state.0
                };
                let reply = match server {
                    Server::Silent => continue,
                    Server::Fails => failed(&question[..length]),
                    Server::Answers => answer,
                };
                let _ = socket.send_to(&reply, from).await;
            }
        };
        let task = tokio::spawn(serving).abort_handle();
        Self { address, state, task }
    }

    /// What it does from now on.
    pub(super) fn serve(&self, server: Server) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = server;
    }

    /// For `/etc/resolv.conf`.
    pub(super) fn resolv_conf(&self) -> String {
        format!("nameserver {}\noptions timeout:1 attempts:1\n", self.address)
    }

    pub(super) fn was_asked_for(&self, name: &str) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.iter().any(|asked| asked == name)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// RFC 1035, 4.1: a head of 12 bytes, and the question: labels, each behind its length, a type, a class.
fn answered(question: &[u8]) -> Option<(String, Vec<u8>)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8(question.get(at..at + length)?.to_vec()).ok()?);
        at += length;
    }
    let wants_address = question.get(at..at + 2)? == [0, 1];
    let end = at + 4;
    // The question comes back, as a response (0x8180), without what a newer resolver has put behind it.
    let mut answer = [question.get(..2)?, &[0x81, 0x80, 0, 1, 0, u8::from(wants_address)]].concat();
    answer.extend([0; 4]);
    answer.extend(question.get(12..end)?);
    if wants_address {
        // The name of the question, A, IN, for no time at all, 4 bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    Some((labels.join("."), answer))
}

/// The question with SERVFAIL.
fn failed(question: &[u8]) -> Vec<u8> {
    let mut reply = question.to_vec();
    reply[2..4].copy_from_slice(&[0x81, 0x82]);
    reply
}
