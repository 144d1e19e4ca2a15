//! Standard input and output of every kind that hosts provide, and their state afterwards.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::fs::{Mode, OFlags, fcntl_getfl};
use rustix::pipe::PipeFlags;
use sigward_tests::deadline;
use sigward_tests::processes::Process;

use crate::setup::World;

/// A request that the proxy answers itself.
const REFUSED: &str = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":5}\n";
const INITIALIZE: &str = "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"initialize\",\"params\":{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{},\"clientInfo\":{\"name\":\"t\",\"version\":\"1\"}}}\n";

/// The client's ends and those that the proxy inherits, for both directions. All are close-on-exec: in another process,
/// a client's end would keep the proxy from seeing it close.
struct Ends {
    ours: [OwnedFd; 2],
    theirs: [OwnedFd; 2],
}

fn pipes() -> Ends {
    let (input, to) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (from, output) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    Ends { ours: [to, from], theirs: [input, output] }
}

/// One pair for both directions. For a `stdio` of 'pipe', Node makes two such pairs.
fn socket_pair() -> Ends {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let copies = (ours.try_clone().unwrap(), theirs.try_clone().unwrap());
    Ends { ours: [ours.into(), copies.0.into()], theirs: [theirs.into(), copies.1.into()] }
}

fn terminal() -> Ends {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave =
        rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
            .unwrap();
    let mut settings = rustix::termios::tcgetattr(&slave).unwrap();
    settings.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &settings).unwrap();
    let copies = (master.try_clone().unwrap(), slave.try_clone().unwrap());
    Ends { ours: [master, copies.0], theirs: [slave, copies.1] }
}

#[tokio::test]
async fn requests_are_answered_over_pipes_socket_pairs_and_terminals() {
    let world = World::new().await;
    for (kind, Ends { ours: [to, from], theirs }) in
        [("pipes", pipes()), ("a socket pair", socket_pair()), ("a terminal", terminal())]
    {
        // The host keeps descriptors of the same open files that the proxy has.
        let [input, output] = theirs.each_ref().map(|fd| fd.try_clone().unwrap());
        let mut command = world.private_proxy(&["dev"], &[]);
        command.stdin(Stdio::from(theirs[0].try_clone().unwrap()));
        command.stdout(Stdio::from(theirs[1].try_clone().unwrap()));
        drop(theirs);
        let mut proxy = Process::start(command);
        let answered = tokio::task::spawn_blocking(move || {
            let (mut to, mut lines) = (File::from(to), BufReader::new(File::from(from)).lines());
            let mut answers = Vec::new();
            for request in [REFUSED, INITIALIZE, REFUSED] {
                to.write_all(request.as_bytes()).unwrap();
                answers.push(lines.next().unwrap().unwrap());
            }
            // The client stays until the flags are checked.
            (answers, to, lines)
        });
        let (answers, to, lines) =
            deadline::within(answered, || format!("no answers over {kind}")).await.unwrap();
        for (answer, expected) in answers.iter().zip(["\"error\"", "\"result\"", "\"error\""]) {
            assert!(answer.contains(expected), "{kind}: {answer}");
        }
        for shared in [&input, &output] {
            let flags = fcntl_getfl(shared).unwrap();
            assert!(!flags.contains(OFlags::NONBLOCK), "{kind}: the host's own flags changed");
        }
        drop((to, lines, input, output));
        let (status, log) = proxy.ended().await;
        assert!(status.success(), "{kind}: {status} {log}");
    }
}

#[tokio::test]
async fn files_are_read_to_their_end_and_written() {
    let world = World::new().await;
    let answers = world.write("answers", "");
    let requests = world.write("requests", &REFUSED.repeat(3));
    for (input, expected) in [(requests.as_path(), 3), (std::path::Path::new("/dev/null"), 0)] {
        let mut command = world.private_proxy(&["dev"], &[]);
        command.stdin(Stdio::from(File::open(input).unwrap()));
        command.stdout(Stdio::from(File::create(&answers).unwrap()));
        let (status, log) = Process::start(command).ended().await;
        assert!(status.success(), "{status} {log}");
        let written = std::fs::read_to_string(&answers).unwrap();
        assert_eq!(written.lines().count(), expected, "{written}");
    }
}
