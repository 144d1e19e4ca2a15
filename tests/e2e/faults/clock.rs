//! The clock of the broker's machine steps by an hour, forward or back: its signatures are refused, the client gets the
//! reason, and once the clock is right signatures are accepted again without a restart.
//!
//! The clock of this machine is shared with other programs. So a preloaded library gives the broker another time: the
//! machine's, plus the seconds in a file.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use serde_json::Value;
use sigward_tests::aws::Aws;
use sigward_tests::aws_home::AwsHome;
use sigward_tests::deadline;
use sigward_tests::processes::{Process, StdioClient};

use super::rule;
use crate::setup::{World, assert_names, failure};

const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile long *step;

__attribute__((constructor)) static void map(void) {
    int file = open(getenv("CLOCK_STEP"), O_RDONLY);
    void *mapped = mmap(NULL, sizeof *step, PROT_READ, MAP_SHARED, file, 0);
    if (file < 0 || mapped == MAP_FAILED) abort();
    step = mapped;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME && step) now->tv_sec += *step;
    return failed;
}

time_t time(time_t *seconds) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (seconds) *seconds = now.tv_sec;
    return now.tv_sec;
}
"#;

/// A clock that a test can step.
struct Clock {
    library: PathBuf,
    step: PathBuf,
}

impl Clock {
    fn new(world: &World) -> Self {
        let (source, library) =
            (world.write("clock.c", LIBRARY), world.directory.path().join("clock.so"));
        let mut compiler = std::process::Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source);
        assert!(compiler.status().expect("a C compiler").success());
        let step = world.directory.path().join("step");
        fs::write(&step, 0_i64.to_ne_bytes()).unwrap();
        Self { library, step }
    }

    fn step(&self, seconds: i64) {
        let file = OpenOptions::new().write(true).open(&self.step).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

async fn call(client: &mut StdioClient, profile: &str) -> Value {
    client.call("write_note", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await
}

fn is_good(answer: &Value) -> bool {
    answer["result"].is_object() && answer["result"]["isError"] != true
}

#[tokio::test]
async fn a_clock_that_steps_by_an_hour_is_reported_and_needs_no_restart() {
    let home = AwsHome::new();
    home.role("role", "dev", "arn:aws:iam::123456789012:role/Clock");
    let aws = Aws::start(home.keys()).await;
    let world = World::at_home(home, |builder| builder).await;
    let clock = Clock::new(&world);
    let role = "[[profile]]\nname = \"role\"\nendpoints = [\"upstream\"]\n";
    let text = world.configuration(&format!("{role}{}", rule(&["dev", "role"])));
    let config = world.write("broker.toml", &text);
    let mut command = world.broker_command(&["serve", "--config", config.to_str().unwrap()]);
    command.envs(aws.environment()).env("LD_PRELOAD", &clock.library);
    command.env("CLOCK_STEP", &clock.step);
    let broker = Process::start(command);
    broker.logged("listening").await;
    let mut client = world.client_of(&world.socket(), &["dev", "role"]).await;

    for hour in [3600, -3600] {
        for profile in ["dev", "role"] {
            assert!(is_good(&call(&mut client, profile).await), "{profile} before the step");
        }
        clock.step(hour);
        let executed = || {
            let requests = world.upstream.requests();
            requests.iter().filter(|it| it.calls("write_note") && it.signature.is_ok()).count()
        };
        let before = executed();
        for profile in ["dev", "role"] {
            let refused = call(&mut client, profile).await;
            // STS is called again with its own time, which the SDK takes from the answer; keys that are valid for an
            // hour have expired for a clock that is an hour ahead. In all other cases the server reports the error.
            let expected = match (profile, hour) {
                ("role", 3600) => "have expired: is the clock right?",
                _ => " s away from now",
            };
            assert_names(failure(&refused), &[expected]);
        }
        assert_eq!(executed(), before, "control: the server accepts no such signature");
        clock.step(0);
        for profile in ["dev", "role"] {
            let back = async { while !is_good(&call(&mut client, profile).await) {} };
            deadline::within(back, || format!("{profile} after {hour}: {}", broker.errors())).await;
        }
    }
}
