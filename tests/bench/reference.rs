//! Sigward and mcp-proxy-for-aws 1.7.0, by the same driver against the same server, for a user with one
//! profile: the reference reads the AWS files for each request, and 1,000 profiles in them would take it
//! ten times as long.

use std::process::{Command, Stdio};
use std::time::Duration;

use sigward_tests::measure::median;
use sigward_tests::tools;

use crate::measure::{IN_FLIGHT, milliseconds};
use crate::proxy::{Channel, Proxy, call};
use crate::scene::{Scene, profile};

/// What was measured of one program.
#[derive(Debug)]
struct Measured {
    start: Duration,
    call: Duration,
    per_second: f64,
    bytes: u64,
}

/// Both of them.
#[derive(Debug)]
pub(crate) struct Compared {
    ours: Measured,
    theirs: Measured,
}

/// How much each of the two is asked for: enough for a steady median, and over in a minute.
struct Load {
    starts: usize,
    calls: usize,
    flood: usize,
}

impl Compared {
    /// Installs the reference where it isn't, and measures one after the other.
    pub(crate) fn measure(scene: &Scene) -> Self {
        let theirs = || {
            let mut command = Command::new(tools::reference_proxy());
            command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
            command.env("HOME", scene.small_home()).arg(scene.server.url());
            command.args(["--service", "bench", "--region", "us-east-1", "--profile"]);
            command.arg(profile(0)).stderr(Stdio::null());
            command
        };
        let load = Load { starts: 5, calls: 200, flood: 400 };
        let theirs = load.measure(theirs);
        let load = Load { starts: 15, calls: 1000, flood: 8000 };
        Self { ours: load.measure(|| scene.small_command()), theirs }
    }

    /// The rows, with the ratios that the README promises.
    pub(crate) fn table(&self) -> String {
        let Self { ours, theirs } = self;
        let ms = |time: Duration| format!("{:.2} ms", milliseconds(time));
        let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        let faster = |ours: Duration, theirs: Duration| theirs.as_secs_f64() / ours.as_secs_f64();
        let mut text = "| | sigward | mcp-proxy-for-aws 1.7.0 | ratio | to reach | |\n\
                        |---|---|---|---|---|---|\n"
            .to_owned();
        for (name, sigward, reference, ratio, reach) in [
            (
                "start to the first answer",
                ms(ours.start),
                ms(theirs.start),
                faster(ours.start, theirs.start),
                40.0,
            ),
            (
                "one call, median",
                ms(ours.call),
                ms(theirs.call),
                faster(ours.call, theirs.call),
                25.0,
            ),
            (
                "calls a second, 32 in flight",
                format!("{:.0}", ours.per_second),
                format!("{:.0}", theirs.per_second),
                ours.per_second / theirs.per_second,
                80.0,
            ),
            (
                "memory, all processes",
                megabytes(ours.bytes),
                megabytes(theirs.bytes),
                theirs.bytes as f64 / ours.bytes as f64,
                4.0,
            ),
        ] {
            let verdict = if ratio >= reach { "reached" } else { "**not reached**" };
            text += &format!(
                "| {name} | {sigward} | {reference} | {ratio:.1} | {reach:.0} | {verdict} |\n"
            );
        }
        text
    }
}

impl Load {
    fn measure(&self, command: impl Fn() -> Command) -> Measured {
        let start = |_| Proxy::start(command(), Channel::Pipes).1;
        let start = median(&(0..self.starts).map(start).collect::<Vec<_>>());
        let (mut proxy, _) = Proxy::start(command(), Channel::Pipes);
        // The first ones warm caches, connections and the Python interpreter.
        let calls = (0..self.calls + 20).map(|number| {
            let started = std::time::Instant::now();
            proxy.call(&call(number, ""));
            started.elapsed()
        });
        let call = median(&calls.skip(20).collect::<Vec<_>>());
        let per_second = proxy.flood(self.flood, IN_FLIGHT);
        Measured { start, call, per_second, bytes: proxy.memory().iter().sum() }
    }
}
