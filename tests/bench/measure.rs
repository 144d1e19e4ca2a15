//! The measurements. What is compared alternates in rounds, and each figure is a median: the machine may have other
//! work.

use std::time::{Duration, Instant};

use sigward_tests::measure::median;

use crate::direct::Direct;
use crate::listening::Listening;
use crate::messages;
use crate::parts::{Part, Parts};
use crate::proxy::{Channel, Proxy, call};
use crate::scene::{PROFILES, Scene};

/// What the table shows: the parts that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Single calls, many at a time, and the memory after them.
    pub(crate) calls: Option<Calls>,
    /// From the start of the proxy to the answer to `initialize`, with one profile and with 1,000.
    pub(crate) start: Option<[Duration; 2]>,
    /// What an idle client over HTTP takes, in bytes.
    pub(crate) client: Option<u64>,
    /// Large requests and results.
    pub(crate) bodies: Option<Bodies>,
    /// The shape of a message of 16 MiB that takes longest to read and edit, and how long.
    pub(crate) message: Option<(&'static str, Duration)>,
}

/// What calls of the usual size take.
#[derive(Debug)]
pub(crate) struct Calls {
    /// A call straight to the server.
    pub(crate) direct: Duration,
    /// What a call takes beyond that, over pipes and over socket pairs.
    pub(crate) beyond: [Duration; 2],
    /// Calls a second, over pipes and over socket pairs.
    pub(crate) rate: [f64; 2],
    /// Processor time of a call in the proxy and in the broker, with 32 in flight.
    pub(crate) processor: [Duration; 2],
    /// Resident memory of the proxy and of the broker after the run, in bytes.
    pub(crate) memory: [u64; 2],
}

/// What large bodies take.
#[derive(Debug)]
pub(crate) struct Bodies {
    /// 10 MB up and down: straight to the server, and beyond that.
    pub(crate) both_ways: [Duration; 2],
    /// A result of 100 MB: straight to the server, and through the proxy.
    pub(crate) large: [Duration; 2],
}

/// How cost grows.
#[derive(Debug)]
pub(crate) struct Growth {
    /// Profiles that are offered, and the start in milliseconds.
    pub(crate) profiles: Vec<(f64, f64)>,
    /// Clients over HTTP, and the memory of both processes in megabytes.
    pub(crate) clients: Vec<(f64, f64)>,
    /// Calls in flight, and calls a second in thousands.
    pub(crate) in_flight: Vec<(f64, f64)>,
    /// Kilobytes of a result, and what it takes beyond direct in milliseconds.
    pub(crate) body: Vec<(f64, f64)>,
}

/// Calls in flight where many are.
pub(crate) const IN_FLIGHT: usize = 32;
/// Clients of which memory is measured.
const CLIENTS: usize = 200;
/// 10 MB, of JSON text that is one long string.
const LONG: usize = 10_000_000;
const ROUNDS: usize = 7;

/// Measures these parts.
pub(crate) fn figures(scene: &Scene, parts: &Parts) -> Figures {
    let mut figures = Figures::default();
    if parts.has(Part::Calls) {
        figures.calls = Some(calls(scene));
        eprintln!("  calls: measured");
    }
    if parts.has(Part::Start) {
        figures.start = Some([1, PROFILES].map(|profiles| start(scene, profiles, 9)));
        eprintln!("  starts: measured");
    }
    if parts.has(Part::Clients) {
        figures.client = Some(clients(scene, &[20, CLIENTS]).0);
        eprintln!("  clients over HTTP: measured");
    }
    if parts.has(Part::Bodies) {
        figures.bodies = Some(bodies(scene));
        eprintln!("  large bodies: measured");
    }
    if parts.has(Part::Shapes) {
        figures.message = Some(messages::slowest());
    }
    figures
}

fn calls(scene: &Scene) -> Calls {
    let mut proxies = [scene.proxy(Channel::Pipes), scene.proxy(Channel::Sockets)];
    let mut direct = Direct::new(&scene.server.address);
    let (direct, beyond) = latency(&mut direct, &mut proxies);
    let before = proxies[0].processor();
    let (mut rates, calls) = ([Vec::new(), Vec::new()], 8000);
    for _ in 0..ROUNDS {
        for (proxy, rates) in proxies.iter_mut().zip(&mut rates) {
            rates.push(proxy.flood(calls, IN_FLIGHT));
        }
    }
    let after = proxies[0].processor();
    let all_calls = u32::try_from(ROUNDS * calls).unwrap();
    let processor = [0, 1].map(|of| (after[of] - before[of]) / all_calls);
    let memory = proxies[0].memory();
    Calls { direct, beyond, rate: rates.map(|all| median(&all)), processor, memory }
}

/// Measures what the drawing shows.
pub(crate) fn growth(scene: &Scene) -> Growth {
    let at = |number: usize| number as f64;
    let profiles = [1, 10, 100, 300, 1000];
    let profiles = profiles.map(|count| (at(count), milliseconds(start(scene, count, 5))));
    let (_, clients) = clients(scene, &[1, 25, 50, 100, 200, 400]);
    let mut proxy = scene.proxy(Channel::Pipes);
    let in_flight = [1, 2, 4, 8, 16, 32, 64].map(|in_flight| {
        let rates: Vec<_> = (0..5).map(|_| proxy.flood(4000, in_flight)).collect();
        (at(in_flight), median(&rates) / 1000.0)
    });
    let mut direct = Direct::new(&scene.server.address);
    let body = [1, 10, 100, 1000, 10_000].map(|kilobytes| {
        let line = call(0, &format!(r#""size":{},"#, kilobytes * 1000));
        let rounds = if kilobytes > 500 { 9 } else { 101 };
        let [straight, through] = compared(&mut direct, &mut proxy, &line, rounds);
        (at(kilobytes), milliseconds(through.saturating_sub(straight)))
    });
    Growth {
        profiles: profiles.to_vec(),
        clients,
        in_flight: in_flight.to_vec(),
        body: body.to_vec(),
    }
}

fn latency(direct: &mut Direct, proxies: &mut [Proxy; 2]) -> (Duration, [Duration; 2]) {
    let [mut straight, mut pipes, mut sockets] = [const { Vec::new() }; 3];
    // The first round warms caches and connections.
    for round in 0..=ROUNDS {
        let once: [Vec<Duration>; 3] = [
            (0..500)
                .map(|number| timed(|| direct.call(call(number, "").trim()).unwrap()))
                .collect(),
            (0..500).map(|number| timed(|| proxies[0].call(&call(number, "")))).collect(),
            (0..500).map(|number| timed(|| proxies[1].call(&call(number, "")))).collect(),
        ];
        if round > 0 {
            let [a, b, c] = once;
            straight.extend(a);
            pipes.extend(b);
            sockets.extend(c);
        }
    }
    let straight = median(&straight);
    (straight, [pipes, sockets].map(|all| median(&all).saturating_sub(straight)))
}

fn start(scene: &Scene, profiles: usize, rounds: usize) -> Duration {
    let starts = (0..rounds).map(|_| Proxy::start(scene.command(profiles), Channel::Pipes).1);
    median(&starts.collect::<Vec<_>>())
}

/// What each client takes beyond the first of `counts`, and the memory at each.
fn clients(scene: &Scene, counts: &[usize]) -> (u64, Vec<(f64, f64)>) {
    let proxy = Listening::start(scene);
    let mut measured: Vec<(usize, u64)> = Vec::new();
    let mut open = 0;
    for count in counts {
        (open..*count).for_each(|_| proxy.client());
        open = *count;
        measured.push((open, proxy.memory()));
    }
    let ((fewest, first), (most, last)) = (measured[0], measured[measured.len() - 1]);
    let each = last.saturating_sub(first) / (most - fewest).max(1) as u64;
    (each, measured.iter().map(|(count, bytes)| (*count as f64, *bytes as f64 / 1e6)).collect())
}

fn bodies(scene: &Scene) -> Bodies {
    let mut proxy = scene.proxy(Channel::Pipes);
    let mut direct = Direct::new(&scene.server.address);
    let text = "x".repeat(LONG);
    let up_and_down = call(0, &format!(r#""size":{LONG},"long":"{text}","#));
    let [straight, through] = compared(&mut direct, &mut proxy, &up_and_down, 11);
    let down = call(0, &format!(r#""size":{},"#, 10 * LONG));
    let large = compared(&mut direct, &mut proxy, &down, 7);
    Bodies { both_ways: [straight, through.saturating_sub(straight)], large }
}

/// A call straight to the server and the same through the proxy, in turn.
fn compared(direct: &mut Direct, proxy: &mut Proxy, line: &str, rounds: usize) -> [Duration; 2] {
    let [mut straight, mut through] = [const { Vec::new() }; 2];
    for _ in 0..rounds {
        let mut lengths = [0, 0];
        straight.push(timed(|| lengths[0] = direct.call(line.trim()).unwrap().length));
        through.push(timed(|| lengths[1] = proxy.call(line)));
        assert_eq!(lengths[0] + 1, lengths[1], "the answer, and a line break");
    }
    [median(&straight), median(&through)]
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    std::hint::black_box(work());
    started.elapsed()
}

/// As a number to draw or to print.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
