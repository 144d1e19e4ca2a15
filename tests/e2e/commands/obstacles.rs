//! `check` reports what would keep `serve` from starting, with the same message, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use sigward_tests::aws::Aws;
use tokio::process::Command;

use super::run;
use crate::setup::{World, assert_names, connect, copy_program, own_uid, ping};

/// A uid without a user on this machine.
const OTHER: u32 = 54_321;

fn command(world: &World, aws: &Aws, name: &str, config: &Path) -> Command {
    let mut command = world.broker_command(&[name, "--config", config.to_str().unwrap()]);
    command.envs(aws.environment());
    command
}

/// The mode, size and modification time of each entry of a directory.
fn state(directory: &Path) -> BTreeMap<String, (u32, u64, i64, i64)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let about = fs::symlink_metadata(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, (about.mode(), about.size(), about.mtime(), about.mtime_nsec()))
    });
    entries.collect()
}

#[tokio::test]
async fn check_reports_errors_of_serve_with_the_same_message() {
    let world = World::new().await;
    let aws = Aws::start(world.home.keys()).await;
    let at = world.directory.path();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap();
    // A program that isn't a broker listens there.
    std::thread::spawn(move || while taken.accept().is_ok() {});
    world.write("file", "");
    fs::create_dir(at.join("directory")).unwrap();
    fs::create_dir(at.join("open")).unwrap();
    fs::set_permissions(at.join("open"), fs::Permissions::from_mode(0o777)).unwrap();
    let place = |name: &str| at.join(name).to_str().unwrap().to_owned();
    let (audit, socket) = (Some("audit"), Some("socket"));
    for (kind, at_fault, words) in [
        (socket, place("file"), "isn't a socket"),
        (socket, place("file/broker.sock"), "the directory can't be used"),
        (socket, place("open/broker.sock"), "every user can change it"),
        (socket, place(&"long".repeat(40)), "the path"),
        (audit, place("missing/audit.jsonl"), "audit log"),
        (audit, place("directory"), "audit log"),
        (audit, place("open/audit.jsonl"), "every user can change it"),
        (None, port.to_string(), "metrics can't be served there"),
    ] {
        let mut text = match kind {
            Some("audit") => world.configuration(&format!("[audit]\nfile = \"{at_fault}\"\n")),
            Some(_) => world.configuration(""),
            None => world.configuration(&format!("[metrics]\nlisten = \"{at_fault}\"\n")),
        };
        if kind == socket {
            text = text.replace(world.socket().to_str().unwrap(), &at_fault);
        }
        let config = world.write("broker.toml", &text);
        let before = state(at);
        let (good, output, errors) = run(command(&world, &aws, "check", &config)).await;
        assert!(!good, "{at_fault}: {output}{errors}");
        assert_eq!(state(at), before, "{at_fault}");
        let report = output.lines().find_map(|line| line.strip_prefix("serve can't start: "));
        let report = report.unwrap_or_else(|| panic!("{at_fault}: {output}{errors}"));
        assert_names(report, &[words]);
        // The profiles are shown nevertheless.
        assert_names(&output, &[world.home.identity("dev")]);
        let (good, _, errors) = run(command(&world, &aws, "serve", &config)).await;
        assert!(!good);
        // The kernel has its own message for a path that is too long.
        let known = report.split(": ").next().unwrap();
        assert_names(&errors, &[if at_fault.contains("longlong") { known } else { report }]);
        fs::remove_file(world.socket().with_extension("sock.lock")).ok();
    }
}

/// Resources that the running broker holds are no problem, and `check` creates no missing files.
#[tokio::test]
async fn check_does_not_disturb_a_running_broker() {
    let world = World::new().await;
    let aws = Aws::start(world.home.keys()).await;
    let at = world.directory.path();
    let audit = at.join("audit.jsonl");
    let text = |address: &str| {
        world
            .configuration(&format!("[audit]\nfile = {audit:?}\n[metrics]\nlisten = {address:?}\n"))
    };
    let config = world.write("check.toml", &text("127.0.0.1:0"));
    let before = state(at);
    let (good, output, errors) = run(command(&world, &aws, "check", &config)).await;
    assert!(good, "{output}{errors}");
    assert_eq!(state(at), before);

    let broker = world.broker(&text("127.0.0.1:0")).await;
    let line = broker.logged("serving metrics").await;
    let address = line.split("address=").nth(1).unwrap().trim();
    let mut client = connect(&world.socket()).await;
    client.sign(ping(&world, "dev")).await.unwrap();
    let config = world.write("check.toml", &text(address));
    let before = state(at);
    let (good, output, errors) = run(command(&world, &aws, "check", &config)).await;
    assert!(good, "{output}{errors}");
    assert_eq!(state(at), before);
    client.sign(ping(&world, "dev")).await.unwrap();
    connect(&world.socket()).await.sign(ping(&world, "dev")).await.unwrap();
    assert_names(&crate::metrics::get(address, "/healthz").await, &["ok\n"]);
}

/// `check` assumes that the user who runs it would also serve.
#[tokio::test]
async fn missing_permissions_of_the_user_are_reported() {
    if own_uid() != 0 {
        return;
    }
    let world = World::new().await;
    let at = world.directory.path();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    let program = at.join("broker");
    copy_program(&sigward_tests::processes::binaries().broker, &program);
    let audit = at.join("audit.jsonl");
    fs::write(&audit, "").unwrap();
    let text = world.configuration(&format!("[audit]\nfile = {audit:?}\n"));
    let text = text.replace("\"0660\"", "\"0660\"\ngroup = \"0\"");
    let config = world.write("broker.toml", &text);
    for path in [&program, &config] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let check = |uid: u32| {
        let mut command = sigward_tests::processes::command(&program);
        command.envs(world.home.environment()).arg("check").arg("--config").arg(&config);
        command.uid(uid).gid(uid);
        command
    };
    let (_, own, _) = run(check(0)).await;
    assert!(!own.contains("serve can't start"), "{own}");
    let (good, output, errors) = run(check(OTHER)).await;
    assert!(!good);
    let denied = |path: &Path| format!("{} can't be written to", path.display());
    assert_names(&(output + &errors), &[&denied(at), &denied(&audit)]);
    // With the permission to write, the group is still one without this user.
    std::os::unix::fs::chown(at, Some(OTHER), Some(OTHER)).unwrap();
    let (_, output, errors) = run(check(OTHER)).await;
    assert_names(&(output + &errors), &["is the broker in it?"]);
}

#[tokio::test]
async fn an_unusable_default_socket_is_only_a_warning() {
    let world = World::new().await;
    let aws = Aws::start(world.home.keys()).await;
    let named = format!("unix = \"{}\"\n", world.socket().display());
    let text = world.configuration("").replace(&named, "");
    let config = world.write("broker.toml", &text);
    let file = world.write("file", "");
    for (runtime, warns) in [(world.directory.path(), false), (&*file, true)] {
        let mut check = command(&world, &aws, "check", &config);
        check.env("XDG_RUNTIME_DIR", runtime);
        let (good, output, errors) = run(check).await;
        assert!(good, "{output}{errors}");
        assert_eq!(output.contains("Warning: unless a broker has it already"), warns, "{output}");
    }
}
