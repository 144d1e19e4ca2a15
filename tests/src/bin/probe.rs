//! Shows what a program can find that runs as the agent, in the agent's container.
//!
//! `probe wait` does nothing until SIGTERM. `probe reach HOST:PORT…` prints as JSON to which of these it can connect, and
//! why not to the others. `probe search NEEDLE…` (in hexadecimal, so that it doesn't find its own
//! arguments) looks for the needles in everything that it can read: files, its environment, other processes, all
//! listening ports and sockets of this network. It prints as JSON what it found and where it looked.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "test support: standard output is its only output"
)]

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::path::Path;
use std::time::Duration;

use memchr::memmem;
use serde_json::json;
use sigward_tests::memory;

/// The addresses of AWS's metadata services.
const METADATA: [&str; 5] = [
    "169.254.169.254:80",
    "169.254.170.2:80",
    "169.254.170.23:80",
    "[fd00:ec2::254]:80",
    "[fd00:ec2::23]:80",
];
/// Paths whose responses could contain secrets.
const PATHS: [&str; 6] =
    ["/", "/mcp", "/metrics", "/healthz", "/v1/credentials", "/latest/meta-data/iam/info"];
const PATIENCE: Duration = Duration::from_secs(1);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["wait"] => wait(),
        ["reach", ref hosts @ ..] => println!("{}", reach(hosts)),
        ["search", ref needles @ ..] => {
            let needles = needles.iter().map(|it| hex::decode(it).expect("hexadecimal")).collect();
            println!("{}", search(needles));
        }
        _ => panic!("wait, reach HOST:PORT…, or search NEEDLE…"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn wait() {
    use tokio::signal::unix::{SignalKind, signal};

    // The first process of a pid namespace gets no signal without a handler.
    signal(SignalKind::terminate()).expect("a handler").recv().await;
}

/// For each `HOST:PORT`, "open" or the error.
fn reach(hosts: &[&str]) -> serde_json::Value {
    let connected = |host: &str| -> io::Result<()> {
        let addresses = host.to_socket_addrs()?;
        let mut last = Err(io::ErrorKind::AddrNotAvailable.into());
        for address in addresses {
            last = TcpStream::connect_timeout(&address, PATIENCE).map(drop);
            if last.is_ok() {
                break;
            }
        }
        last
    };
    let outcome = |host| match connected(host) {
        Ok(()) => "open".to_owned(),
        Err(error) => error.to_string(),
    };
    hosts.iter().map(|host| (*host, outcome(host))).collect()
}

#[allow(clippy::disallowed_methods, reason = "it shows what its environment has")]
fn search(needles: Vec<Vec<u8>>) -> serde_json::Value {
    let mut search = Search { needles, ..Search::default() };
    for (name, value) in std::env::vars_os() {
        search.look(&format!("environment {}", name.display()), value.as_encoded_bytes());
    }
    search.directory(Path::new("/"));
    search.processes();
    search.ports();
    search.sockets();
    let metadata = METADATA.iter().filter(|address| {
        let address: SocketAddr = address.parse().expect("an address");
        TcpStream::connect_timeout(&address, PATIENCE).is_ok()
    });
    json!({
        "found": search.found,
        "files": search.files,
        "processes": search.processes,
        "ports": search.ports,
        "named_sockets": search.named,
        "open_sockets": search.open,
        "metadata": metadata.collect::<Vec<_>>(),
    })
}

#[derive(Default)]
struct Search {
    needles: Vec<Vec<u8>>,
    /// The places in which a needle was found.
    found: Vec<String>,
    /// The number of files that were read.
    files: usize,
    /// The command lines of other processes.
    processes: Vec<String>,
    /// The ports on which a program listens.
    ports: Vec<u16>,
    /// Unix sockets of this network, and those of them that accept a connection.
    named: Vec<String>,
    open: Vec<String>,
}

impl Search {
    fn look(&mut self, place: &str, bytes: &[u8]) {
        if self.needles.iter().any(|needle| memmem::find(bytes, needle).is_some()) {
            self.found.push(place.to_owned());
        }
    }

    /// Searches every regular file below `directory` that this user can read.
    fn directory(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && !["/proc", "/sys"].map(Path::new).contains(&path.as_path()) {
                self.directory(&path);
            } else if kind.is_file()
                && let Ok(bytes) = fs::read(&path)
            {
                self.files += 1;
                self.look(&path.display().to_string(), &bytes);
            }
        }
    }

    fn processes(&mut self) {
        let own = std::process::id();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            if pid == own {
                continue;
            }
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).trim_matches('\0').replace('\0', " ");
            self.look(&format!("command line {line}"), line.as_bytes());
            if let Ok(bytes) = fs::read(entry.path().join("environ")) {
                self.look(&format!("environment of {line}"), &bytes);
            }
            let needles: Vec<&[u8]> = self.needles.iter().map(Vec::as_slice).collect();
            if memory::count(pid, &needles).is_ok_and(|counts| counts.iter().any(|it| *it > 0)) {
                self.found.push(format!("memory of {line}"));
            }
            self.processes.push(line);
        }
    }

    fn ports(&mut self) {
        for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
            for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
                let fields: Vec<&str> = line.split_whitespace().collect();
                // Local address and port, in hexadecimal; 0A means listening.
                if let [_, local, _, "0A", ..] = fields[..]
                    && let Some(port) = local.rsplit(':').next()
                {
                    self.ports.push(u16::from_str_radix(port, 16).expect("a port"));
                }
            }
        }
        for port in self.ports.clone() {
            for path in PATHS {
                let bytes = get(port, path).unwrap_or_default();
                self.look(&format!("port {port} {path}"), &bytes);
            }
        }
    }

    fn sockets(&mut self) {
        let table = fs::read_to_string("/proc/self/net/unix").unwrap_or_default();
        for name in table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(7)) {
            let address = match name.strip_prefix('@') {
                Some(name) => UnixAddress::from_abstract_name(name),
                None => UnixAddress::from_pathname(name),
            };
            if address.is_ok_and(|address| UnixStream::connect_addr(&address).is_ok()) {
                self.open.push(name.to_owned());
            }
            self.named.push(name.to_owned());
        }
    }
}

/// The response of a port to a request without any secret.
fn get(port: u16, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Written at once: a server that hangs up after the first piece would reset its response.
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // What arrived before an error counts.
    let _ = stream.take(1 << 20).read_to_end(&mut answer);
    Ok(answer)
}
