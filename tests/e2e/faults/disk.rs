//! The disk of the audit log is full: no record, no signature, and the client gets the reason. Once there is room,
//! signatures are given again without a restart.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use sigward_tests::processes::{self, Process};
use tokio::process::Command;

use super::rule;
use crate::setup::{World, assert_names, failure, own_uid, text};

/// A broker with a small file system at `directory`, which ends with the broker.
fn broker(world: &World, config: &Path, directory: &Path) -> Command {
    let mut command = processes::command("unshare".as_ref());
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(world.home.environment());
    let script = "mount -t tmpfs -o size=64k,mode=0700 none \"$1\"; shift; exec \"$@\"";
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"]).arg(directory);
    command.arg(&processes::binaries().broker).arg("serve").arg("--config").arg(config);
    command
}

#[tokio::test]
async fn a_full_audit_disk_is_reported_and_needs_no_restart() {
    if own_uid() != 0 {
        return; // Only root can mount a file system.
    }
    let world = World::new().await;
    let directory = world.directory.path().join("audit");
    fs::create_dir(&directory).unwrap();
    let log = directory.join("audit.jsonl");
    let audit = format!("[audit]\nfile = {log:?}\n{}", rule(&["dev"]));
    let config = world.write("broker.toml", &world.configuration(&audit));
    let broker = Process::start(broker(&world, &config, &directory));
    broker.logged("listening").await;
    // The mount is only visible in the broker's namespace.
    let in_namespace =
        |path: &Path| PathBuf::from(format!("/proc/{}/root{}", broker.pid(), path.display()));
    let mut client = world.client_of(&world.socket(), &["dev"]).await;
    assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));

    let filler = in_namespace(&directory.join("filler"));
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[0; 256]).is_ok() {}
    drop(file);
    // The last page of the log may have room left.
    let mut refused = client.call("write_note", "{}").await;
    for _ in 0..40 {
        if refused["error"].is_object() || refused["result"]["isError"] == true {
            break;
        }
        refused = client.call("write_note", "{}").await;
    }
    for _ in 0..3 {
        assert_names(failure(&refused), &["audit"]);
        let sent = world.upstream.requests().len();
        refused = client.call("write_note", "{}").await;
        assert_eq!(world.upstream.requests().len(), sent, "nothing is sent without a record");
    }
    broker.logged("No space left on device").await;

    fs::remove_file(filler).unwrap();
    for _ in 0..3 {
        assert_eq!(text(&client.call("whoami", "{}").await), world.home.identity("dev"));
    }
    let log = in_namespace(&log);
    let mut verify = world.broker_command(&["audit", "verify", log.to_str().unwrap()]);
    let verified = verify.output().await.unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}
