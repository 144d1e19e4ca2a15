use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use super::*;
use crate::error::with_causes;

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).expect("a file").mode() & 0o777
}

fn bind(path: &Path) -> Result<Socket, Error> {
    Socket::bind(path, &Listen::default())
}

#[test]
fn the_socket_is_private_to_its_owner_and_removed_on_drop() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a/b/broker.sock");
    let socket = bind(&path).expect("a socket");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().expect("a directory")), 0o700);
    assert_eq!(mode(&directory.path().join("a")), 0o700);
    UnixStream::connect(&path).expect("it listens");
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn mode_and_group_are_the_configured_ones() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("broker.sock");
    let group = rustix::process::getgid().as_raw();
    let listen = Listen {
        mode: Some(0o660),
        group: Some(crate::config::Group(group)),
        unix: None,
        tcp: None,
    };
    let _socket = Socket::bind(&path, &listen).expect("a socket");
    assert_eq!(mode(&path), 0o660);
    assert_eq!(std::fs::symlink_metadata(&path).expect("a file").gid(), group);
}

#[test]
fn a_live_socket_is_kept_and_a_stale_one_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("broker.sock");
    let first = bind(&path).expect("a socket");
    let error = bind(&path).expect_err("it lives");
    assert!(error.to_string().contains("serves it already"), "{error}");
    assert!(error.to_string().contains(path.to_str().expect("a text")), "{error}");
    UnixStream::connect(&path).expect("the first one still listens");
    drop(first);

    // The state after a kill: the file exists, and no process listens.
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists());
    let _second = bind(&path).expect("the dead one is replaced");
    UnixStream::connect(&path).expect("it listens");
}

#[test]
fn a_live_socket_without_a_lock_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("broker.sock");
    let _foreign = UnixListener::bind(&path).expect("a socket");
    assert!(bind(&path).expect_err("it lives").to_string().contains("serves it already"));
}

#[test]
fn a_file_that_is_not_a_socket_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("broker.sock");
    std::fs::write(&path, "precious").expect("a file");
    let error = bind(&path).expect_err("not a socket");
    assert!(error.to_string().contains("isn't a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "precious");
}

#[test]
fn a_successors_socket_is_not_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("broker.sock");
    let first = bind(&path).expect("a socket");
    std::fs::remove_file(&path).expect("someone cleans up");
    let _second = UnixListener::bind(&path).expect("and another serves");
    drop(first);
    assert!(path.exists());
}

#[test]
fn a_directory_writable_by_all_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let open = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(directory.path(), mode).expect("permissions");
    };
    let path = directory.path().join("broker.sock");
    open(0o777);
    let why = with_causes(&bind(&path).expect_err("open"));
    assert!(why.contains(&format!("chmod o-w {}", directory.path().display())), "{why}");
    // Like /tmp: users can remove only their own files.
    open(0o1777);
    assert!(bind(&path).is_ok());
}

#[test]
fn an_inherited_socket_must_be_the_configured_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("broker.sock");
    let inherited = || UnixListener::bind(&path).expect("a socket");
    let listen = |unix: Option<&Path>, mode| Listen {
        unix: unix.map(Path::to_owned),
        mode,
        group: None,
        tcp: None,
    };
    assert!(Socket::inherited(inherited(), &listen(Some(&path), None)).is_ok());
    std::fs::remove_file(&path).expect("a file");
    let other = Some(Path::new("/other.sock"));
    let error = Socket::inherited(inherited(), &listen(other, None)).expect_err("another path");
    assert!(error.to_string().contains("another path"), "{error}");
    std::fs::remove_file(&path).expect("a file");
    let error = Socket::inherited(inherited(), &listen(None, Some(0o660))).expect_err("a mode");
    assert!(error.to_string().contains("SocketMode="), "{error}");
}

#[test]
fn a_link_in_place_of_the_lock_is_not_followed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("broker.sock");
    let elsewhere = directory.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, directory.path().join("broker.sock.lock"))
        .expect("a link");
    let error = bind(&path).expect_err("a link");
    assert!(error.to_string().contains("lock file"), "{error}");
    assert!(!elsewhere.exists() && !path.exists());
}
