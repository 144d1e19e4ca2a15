//! Another user of the machine who can write to a directory of the broker can change neither its configuration nor its
//! records, nor make it touch another file. When the tests run as root, another real user makes each attack; the allow
//! twin is the same broker after the repair that the error names.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use sigward_tests::processes::Process;

use crate::setup::{World, own_uid};

/// The other user, which needs no name.
const OTHER_UID: u32 = 54_321;

/// Runs a shell script as the other user, with `path` as `$1`.
fn attack(script: &str, path: &Path) {
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-ec", script, "sh"]).arg(path).uid(OTHER_UID).gid(OTHER_UID);
    assert!(shell.status().expect("a shell").success(), "the attack isn't possible: {script}");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A world whose broker has all of its files in one directory, which the other user can enter.
struct Scene {
    world: World,
    shared: PathBuf,
    config: PathBuf,
}

impl Scene {
    async fn new(mode: u32) -> Self {
        let world = World::new().await;
        set_mode(world.directory.path(), 0o755);
        let shared = world.directory.path().join("shared");
        fs::create_dir(&shared).unwrap();
        set_mode(&shared, mode);
        let config = world.configuration("[audit]\nfile = \"SHARED/audit.jsonl\"");
        let config = config.replace("SHARED", shared.to_str().unwrap()).replace(
            world.socket().to_str().unwrap(),
            shared.join("broker.sock").to_str().unwrap(),
        );
        let config = world.write("broker.toml", &config);
        Self { world, shared, config }
    }

    fn start(&self) -> Process {
        let arguments = ["serve", "--config", self.config.to_str().unwrap()];
        Process::start(self.world.broker_command(&arguments))
    }

    /// Fails unless the broker refuses to start with an error that contains all of `words`.
    async fn refused(&self, words: &[&str]) {
        let (status, errors) = self.start().ended().await;
        assert!(!status.success(), "it served: {errors}");
        for word in words {
            assert!(errors.contains(word), "{word:?} isn't in: {errors}");
        }
    }

    async fn serves(&self) {
        let mut broker = self.start();
        broker.logged("listening").await;
        // The next broker needs the audit log.
        broker.signal(Signal::TERM);
        broker.ended().await;
    }
}

#[tokio::test]
async fn a_directory_that_others_can_write_to_is_refused_for_each_file() {
    for mode in [0o777, 0o772] {
        let scene = Scene::new(mode).await;
        let shared = scene.shared.to_str().unwrap();
        let repair = format!("chmod o-w {shared}");
        scene.refused(&["audit.jsonl", &repair]).await;
        let without = fs::read_to_string(&scene.config).unwrap();
        let without = without.replace(&format!("{shared}/audit.jsonl"), "/dev/null");
        fs::write(&scene.config, without).unwrap();
        scene.refused(&["broker.sock", &repair]).await;
        set_mode(&scene.shared, 0o755);
        scene.serves().await;
    }
}

/// The attack, found in a review: the socket is replaced by a link before its mode is set. The attacker can write to
/// the directory through its group.
#[tokio::test]
async fn a_directory_that_a_group_can_write_to_is_refused() {
    let scene = Scene::new(0o775).await;
    if own_uid() != 0 {
        return;
    }
    std::os::unix::fs::chown(&scene.shared, None, Some(OTHER_UID)).unwrap();
    attack("touch \"$1/x\"", &scene.shared);
    scene.refused(&["group 54321", "chmod g-w"]).await;
    assert!(!scene.shared.join("broker.sock").exists());
    set_mode(&scene.shared, 0o755);
    scene.serves().await;
}

/// The attack: the other user writes a configuration with a rule of their own, in a place where the broker reads it.
#[tokio::test]
async fn a_configuration_of_another_user_is_refused() {
    if own_uid() != 0 {
        return;
    }
    let mut scene = Scene::new(0o1777).await;
    let own = scene.config.clone();
    scene.config = scene.shared.join("broker.toml");
    // A file or a link of the other user.
    attack("echo \"[[rule]]\" > \"$1/broker.toml\"", &scene.shared);
    scene.refused(&["broker.toml", "uid 54321", "chown 0"]).await;
    fs::remove_file(&scene.config).unwrap();
    attack("ln -s ../broker.toml \"$1/broker.toml\"", &scene.shared);
    scene.refused(&["broker.toml", "uid 54321", "rm "]).await;
    fs::remove_file(&scene.config).unwrap();
    // A file that anyone may write to.
    fs::copy(&own, &scene.config).unwrap();
    set_mode(&scene.config, 0o666);
    attack("echo \"# a rule\" >> \"$1/broker.toml\"", &scene.shared);
    scene.refused(&["broker.toml", "chmod o-w"]).await;
    set_mode(&scene.config, 0o644);
    scene.serves().await;
    // A link that no other user can replace, as in a Kubernetes volume.
    fs::remove_file(&scene.config).unwrap();
    std::os::unix::fs::symlink(&own, &scene.config).unwrap();
    scene.serves().await;
}

/// The attack: the other user replaces the configuration, and a running broker reloads it.
#[tokio::test]
async fn a_reload_rejects_a_configuration_of_another_user() {
    if own_uid() != 0 {
        return;
    }
    let scene = Scene::new(0o755).await;
    let broker = scene.start();
    broker.logged("listening").await;
    std::os::unix::fs::chown(&scene.config, Some(OTHER_UID), None).unwrap();
    attack("echo \"# a rule\" >> \"$1\"", &scene.config);
    let line = broker.logged("the new configuration is rejected").await;
    assert!(line.contains("uid 54321"), "{line}");
    std::os::unix::fs::chown(&scene.config, Some(0), None).unwrap();
    broker.logged("the configuration was reloaded").await;
}

/// The attack: links and files are planted under `/tmp` where root's broker creates its own.
#[tokio::test]
async fn files_planted_by_another_user_are_not_written_to() {
    if own_uid() != 0 {
        return;
    }
    let scene = Scene::new(0o1777).await;
    let victim = scene.world.directory.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    set_mode(&victim, 0o600);
    for name in ["audit.jsonl", "broker.sock.lock"] {
        for (plant, word) in
            [("ln -s ../victim", "rm "), ("touch", "chown 0"), ("mkfifo -m 666", "rm ")]
        {
            attack(&format!("{plant} \"$1/{name}\""), &scene.shared);
            scene.refused(&[name, "uid 54321", word]).await;
            fs::remove_file(scene.shared.join(name)).unwrap();
        }
    }
    // The other user's socket in place of the broker's: a proxy would connect to it.
    let theirs = "exec python3 -c 'import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' \"$1/broker.sock\"";
    attack(theirs, &scene.shared);
    scene.refused(&["broker.sock", "uid 54321", "rm "]).await;
    fs::remove_file(scene.shared.join("broker.sock")).unwrap();
    scene.serves().await;
    let victim = fs::metadata(&victim).unwrap();
    assert_eq!((victim.mode() & 0o777, victim.len()), (0o600, 8));
}
