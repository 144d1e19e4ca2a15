//! A workstation after `sigward-broker setup`: the user's agents work, and no program of the user finds a key.
//!
//! Tested with real users, in a mount namespace of its own, so that this machine keeps its users and its files.

mod machine;

use std::os::unix::fs::MetadataExt as _;
use std::time::Instant;

use rustix::process::Signal;
use sigward_tests::aws::{Aws, DEVICE_URL};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::deadline;
use sigward_tests::keys::{CANARY, TOKEN_CANARY};
use sigward_tests::processes::{Process, StdioClient, assert_no_canary};
use sigward_tests::upstream::{REGION, SERVICE, Upstream};

use self::machine::{Machine, User};
use crate::setup::{assert_names, failure, own_uid, text};
use crate::sign_in::end_session;

const ALICE: User = User { name: "sgw-alice", uid: 61_001 };
const BOB: User = User { name: "sgw-bob", uid: 61_002 };
const SOCKET: &str = "/run/sigward/61001/broker.sock";

/// A machine with two users, of whom one has keys, and a server that knows these.
struct Workstation {
    machine: Machine,
    home: AwsHome,
    aws: Aws,
    upstream: Upstream,
}

impl Workstation {
    async fn new() -> Self {
        let machine = Machine::new(&[ALICE, BOB]);
        let home = AwsHome::at(&machine.path("/home/sgw-alice"));
        Aws::sign_in(&home, "person", "Developer");
        machine.give("/home/sgw-alice/.aws", ALICE.uid);
        let upstream = Upstream::builder(home.keys()).start().await;
        let aws = Aws::start(home.keys()).await;
        Self { machine, home, aws, upstream }
    }

    fn setup(&self, more: &[&str]) -> (bool, String) {
        self.machine.run(
            User::ROOT,
            "sigward-broker",
            &[&["setup", "--for", ALICE.name], more].concat(),
        )
    }

    /// Changes the configuration to the server of the test, as an operator would.
    fn point_at_the_server(&self) {
        let path = self.machine.path("/etc/sigward/61001.toml");
        let config = std::fs::read_to_string(&path).unwrap();
        let url = "url = \"https://aws-mcp.us-east-1.api.aws/mcp\"\n";
        assert!(config.contains(url), "{config}");
        let own = format!(
            "url = \"{}\"\nservice = \"{SERVICE}\"\nregion = \"{REGION}\"\n",
            self.upstream.url()
        );
        std::fs::write(&path, config.replace(url, &own)).unwrap();
    }

    /// A user's proxy, without an option for the broker.
    fn proxy(&self, user: User, arguments: &[&str]) -> StdioClient {
        let url = self.upstream.url();
        let own = [&url, "--service", SERVICE, "--region", REGION];
        StdioClient::start(self.machine.command(user, "sigward-proxy", &[&own, arguments].concat()))
    }

    /// Where a user finds a secret: in files, or through the broker's process.
    fn found(&self, user: User, broker: Option<u32>) -> String {
        let pattern = format!("{CANARY}|{TOKEN_CANARY}");
        let mut script = format!("grep -rlsE '{pattern}' /home /etc /run /var /usr/local /dev/shm");
        if let Some(pid) = broker {
            // `mem` can only be read where it is mapped; `maps` needs the same permission, and is tested instead.
            script += &format!(
                "; for f in environ cmdline maps auxv; do grep -lsE '{pattern}' /proc/{pid}/$f; done; head -c 1 \
                 /proc/{pid}/maps 2>/dev/null | grep -q . && echo /proc/{pid}/mem"
            );
        }
        self.machine.run(user, "sh", &["-c", &script]).1
    }
}

#[tokio::test]
async fn a_user_s_agents_work_and_no_program_of_the_user_finds_a_key() {
    if own_uid() != 0 {
        return; // Only root sets up a machine.
    }
    let at = Workstation::new().await;
    let machine = &at.machine;
    // The control: before the setup, any program of Alice's reads her keys.
    let found = at.found(ALICE, None);
    assert_names(&found, &["/home/sgw-alice/.aws/credentials", "/home/sgw-alice/.aws/sso/cache"]);

    // Without --apply, the plan is shown, and nothing is changed.
    let (shown, printed) = at.setup(&[]);
    assert!(shown, "{printed}");
    assert_names(
        &printed,
        &["Nothing has been changed", "move /home/sgw-alice/.aws", "sigward-61001", "login = true"],
    );
    assert!(machine.path("/home/sgw-alice/.aws/credentials").exists());
    let (allowed, printed) =
        machine.run(ALICE, "sigward-broker", &["setup", "--for", ALICE.name, "--apply"]);
    assert!(!allowed && printed.contains("only root"), "{printed}");

    let (done, printed) = at.setup(&["--apply"]);
    assert!(done, "{printed}");
    let keys = std::fs::metadata(machine.path("/var/lib/sigward-61001/.aws/credentials")).unwrap();
    assert_eq!((keys.uid(), keys.mode() & 0o777), (machine.uid_of("sigward-61001"), 0o600));
    at.point_at_the_server();
    let socket = machine.socket(ALICE);
    let broker = machine.broker(&socket, &at.aws.environment()).await;

    // The proxy finds the broker by itself.
    let mut client = at.proxy(ALICE, &["--profile", "dev", "staging", "person"]);
    client.initialize().await;
    for profile in ["dev", "staging"] {
        let called = client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
        assert_eq!(text(&called), at.home.identity(profile));
    }
    let called = client.call("whoami", r#"{"aws_profile":"person"}"#).await;
    assert_names(text(&called), &["AWSReservedSSO_Developer"]);
    let (asked, printed) = machine.run(ALICE, "sigward-broker", &["status"]);
    assert!(asked, "{printed}");
    assert_names(&printed, &["dev", "static keys", "person", "fresh"]);
    // Root sees the other callers, Alice doesn't.
    assert!(!printed.contains("CALLER"), "{printed}");
    let asked = ["status", "--broker", &format!("unix:{SOCKET}")];
    let (asked, printed) = machine.run(User::ROOT, "sigward-broker", &asked);
    assert!(asked, "{printed}");
    assert_names(&printed, &["person", "CALLER", "uid:61001"]);

    // Another user can't even connect.
    let (asked, printed) =
        machine.run(BOB, "sigward-broker", &["status", "--broker", &format!("unix:{SOCKET}")]);
    assert!(!asked && printed.contains("Permission denied"), "{printed}");
    let mut stranger = at.proxy(BOB, &["--broker", &format!("unix:{SOCKET}"), "--profile", "dev"]);
    let refused = stranger.request("initialize", crate::broker::INITIALIZE).await;
    assert_names(failure(&refused), &["broker"]);

    // The control: root finds the keys where they are now. No other user does.
    let found = at.found(User::ROOT, None);
    assert_names(&found, &["/var/lib/sigward-61001/.aws/credentials"]);
    assert!(!found.contains("/home/") && !found.contains("/var/log/"), "{found}");
    assert_no_canary("what the journal gets", &broker.errors());
    for user in [ALICE, BOB] {
        assert_eq!(at.found(user, Some(broker.pid())), "", "{}", user.name);
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", broker.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    client.close().await;
}

/// The session with AWS has ended; the user signs in again, and still gets no token.
#[tokio::test]
async fn a_user_signs_in_through_the_broker_and_gets_no_token() {
    if own_uid() != 0 {
        return; // Only root sets up a machine.
    }
    let at = Workstation::new().await;
    let machine = &at.machine;
    let (done, printed) = at.setup(&["--apply"]);
    assert!(done, "{printed}");
    at.point_at_the_server();
    let socket = machine.socket(ALICE);
    let broker = machine.broker(&socket, &at.aws.environment()).await;
    let mut client = at.proxy(ALICE, &["--profile", "dev", "person"]);
    client.initialize().await;
    let as_person = r#"{"aws_profile":"person"}"#;
    assert_names(text(&client.call("whoami", as_person).await), &["AWSReservedSSO_Developer"]);
    let used = at.upstream.requests_of("tools/call").pop().unwrap().signature.unwrap().key;
    end_session(&at.home, &at.aws, &used.access_key_id);
    let refused = client.call("whoami", as_person).await;
    assert_names(failure(&refused), &["\"person\" needs a sign-in", "sigward-broker login"]);

    // Another user can't sign in for Alice.
    let login = ["login", "person", "--broker", &format!("unix:{SOCKET}")];
    let (let_in, printed) = machine.run(BOB, "sigward-broker", &login);
    assert!(!let_in && printed.contains("Permission denied"), "{printed}");
    assert_eq!(at.aws.sign_ins(), [""; 0]);

    at.aws.approve();
    // No option is needed: the command finds this user's broker.
    let mut login = machine.command(ALICE, "sigward-broker", &["login", "person"]);
    let output = deadline::within(login.output(), || broker.errors()).await.unwrap();
    let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{printed}");
    assert_names(&printed, &[DEVICE_URL, "ABCD-EFGH", "Signed in for person"]);
    assert_no_canary("what the person was shown", &printed);
    assert_names(text(&client.call("whoami", as_person).await), &["AWSReservedSSO_Developer"]);
    let now = at.upstream.requests_of("tools/call").pop().unwrap().signature.unwrap().key;
    assert_ne!(now.access_key_id, used.access_key_id, "keys of the new session");

    // The control: the new token is in the cache of the service's user, which no other user can read.
    let renewed = at.aws.token();
    let mut kept = Vec::new();
    for file in std::fs::read_dir(machine.path("/var/lib/sigward-61001/.aws/sso/cache")).unwrap() {
        let path = file.unwrap().path();
        if std::fs::read_to_string(&path).unwrap().contains(&renewed) {
            kept.push(std::fs::metadata(path).unwrap());
        }
    }
    let service = machine.uid_of("sigward-61001");
    assert!(!kept.is_empty(), "the new token isn't in a file");
    assert!(kept.iter().all(|file| (file.uid(), file.mode() & 0o777) == (service, 0o600)));
    let found = at.found(User::ROOT, None);
    assert!(found.contains("/var/lib/sigward-61001/") && !found.contains("/home/"), "{found}");
    for user in [ALICE, BOB] {
        assert_eq!(at.found(user, Some(broker.pid())), "", "{}", user.name);
    }
    let (_, files) = machine.run(User::ROOT, "find", &["/home/sgw-alice/.aws", "-type", "f"]);
    assert_eq!(files, "", "a file of AWS is in the home again");
    client.close().await;
}

/// Ends the broker with a signal, and starts it again through its socket, as systemd does.
async fn restart(
    at: &Workstation,
    mut broker: Process,
    signal: Signal,
    socket: &std::os::unix::net::UnixListener,
) -> Process {
    broker.signal(signal);
    broker.ended().await;
    at.machine.broker(socket, &at.aws.environment()).await
}

#[tokio::test]
async fn a_restart_of_the_broker_loses_no_call_and_undo_loses_no_file() {
    if own_uid() != 0 {
        return; // Only root sets up a machine.
    }
    let at = Workstation::new().await;
    let (done, printed) = at.setup(&["--profile", "dev", "staging", "--apply"]);
    assert!(done, "{printed}");
    let (again, printed) = at.setup(&["--profile", "dev", "staging", "--apply"]);
    assert!(again, "{printed}");
    at.point_at_the_server();
    let socket = at.machine.socket(ALICE);
    let mut broker = at.machine.broker(&socket, &[]).await;
    let mut client = at.proxy(ALICE, &["--profile", "dev", "staging"]);
    client.initialize().await;
    client.call("whoami", r#"{"aws_profile":"staging"}"#).await;
    let begun = Instant::now();
    for round in 0..3 {
        let mut calls = Vec::new();
        for number in 0..32 {
            let profile = if number % 2 == 0 { "dev" } else { "staging" };
            let call = format!(r#"{{"name":"whoami","arguments":{{"aws_profile":"{profile}"}}}}"#);
            calls.push((client.start_request("tools/call", &call).await, profile));
            if number == 16 {
                // SIGKILL, or SIGTERM as by `systemctl restart`.
                let signal = if round == 1 { Signal::TERM } else { Signal::KILL };
                broker = restart(&at, broker, signal, &socket).await;
            }
        }
        for (id, profile) in calls {
            let answer = client.response(&id).await;
            assert_eq!(text(&answer), at.home.identity(profile), "round {round}");
        }
    }
    eprintln!("three restarts under 96 calls: {:?}", begun.elapsed());
    client.close().await;
    drop(broker);

    let (done, printed) = at.setup(&["--undo", "--apply"]);
    assert!(done, "{printed}");
    let keys = std::fs::metadata(at.machine.path("/home/sgw-alice/.aws/credentials")).unwrap();
    assert_eq!((keys.uid(), keys.mode() & 0o777), (ALICE.uid, 0o600));
    assert!(at.machine.path("/home/sgw-alice/.aws/sso/cache").is_dir());
    let found = at.found(User::ROOT, None);
    assert!(!found.contains("/var/lib"), "{found}");
}

/// A program that the user can replace would get the keys.
#[tokio::test]
async fn a_program_that_the_user_can_replace_is_not_made_the_service() {
    if own_uid() != 0 {
        return; // Only root sets up a machine.
    }
    let at = Workstation::new().await;
    let own = "/home/sgw-alice/sigward-broker";
    at.machine.copy("/usr/local/bin/sigward-broker", own);
    at.machine.give(own, ALICE.uid);
    let (done, printed) =
        at.machine.run(User::ROOT, own, &["setup", "--for", ALICE.name, "--apply"]);
    assert!(!done, "{printed}");
    assert_names(&printed, &["isn't safe", "sudo install -m 0755"]);
    assert!(at.machine.path("/home/sgw-alice/.aws/credentials").exists(), "nothing was moved");
}
