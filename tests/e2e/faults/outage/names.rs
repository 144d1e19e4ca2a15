//! A name server for one test, on a loopback address of its own.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::AbortHandle;

/// The host name of STS in these tests.
pub(super) const OF_STS: &str = "sts.test";

static NUMBER: AtomicU8 = AtomicU8::new(1);

/// How the name server handles a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// It doesn't answer.
    Silent,
    /// It answers SERVFAIL.
    Fails,
    /// It answers 127.0.0.1 for every name.
    Answers,
}

/// A name server, which ends on drop.
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
        let socket = UdpSocket::bind((address, 53)).expect("root can bind port 53");
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

    /// Sets how questions are handled from now on.
    pub(super) fn serve(&self, server: Server) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = server;
    }

    /// The content of `/etc/resolv.conf`.
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

/// RFC 1035, 4.1: a header of 12 bytes, and the question: labels after their lengths, a type, a class.
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
    // The question is returned as a response (0x8180), without what newer resolvers put behind it.
    let mut answer = [question.get(..2)?, &[0x81, 0x80, 0, 1, 0, u8::from(wants_address)]].concat();
    answer.extend([0; 4]);
    answer.extend(question.get(12..end)?);
    if wants_address {
        // The name of the question, A, IN, TTL 0, 4 bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    Some((labels.join("."), answer))
}

/// The question as a SERVFAIL response.
fn failed(question: &[u8]) -> Vec<u8> {
    let mut reply = question.to_vec();
    reply[2..4].copy_from_slice(&[0x81, 0x82]);
    reply
}
