//! The table, as text for the terminal and for the README.

use crate::measure::{Bodies, Calls, Figures, IN_FLIGHT, milliseconds};
use crate::reference::Compared;

/// A row: what, how much, and what is to be reached.
struct Row {
    name: String,
    measured: String,
    reach: Option<(String, bool)>,
}

/// The table in Markdown.
pub(crate) fn table(figures: &Figures, compared: Option<&Compared>) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!(
        "Release build, {cores} cores; medians of alternating rounds; the proxy over stdio with its private broker, \
         against a server that costs next to nothing. \"Beyond direct\" is beyond the same call straight to that \
         server.\n\n| figure | measured | to reach | |\n|---|---|---|---|\n"
    );
    for Row { name, measured, reach } in rows(figures) {
        let (reach, verdict) = match reach {
            Some((reach, true)) => (reach, "reached"),
            Some((reach, false)) => (reach, "**not reached**"),
            None => (String::new(), ""),
        };
        text += &format!("| {name} | {measured} | {reach} | {verdict} |\n");
    }
    if let Some(compared) = compared {
        text += "\n";
        text += &compared.table();
    }
    text
}

fn rows(figures: &Figures) -> Vec<Row> {
    let calls = figures.calls.iter().flat_map(of_calls);
    let start = figures.start.map(|start| start.map(milliseconds)).into_iter();
    let start = start.flat_map(|[one, many]| {
        [
            plain("start to the first answer, 1 profile", format!("{one:.1} ms")),
            under("start to the first answer, 1,000 profiles", many, "ms", 60.0, 1),
        ]
    });
    let client = figures.client.map(|bytes| {
        let name = "an idle HTTP client with a session of another profile";
        under(name, bytes as f64 / 1e3, "KB", 40.0, 1)
    });
    let bodies = figures.bodies.iter().flat_map(of_bodies);
    let message = figures.message.map(|(shape, time)| {
        let name = format!("16 MiB of one message read and edited, the slowest shape ({shape})");
        under(&name, milliseconds(time), "ms", 300.0, 0)
    });
    calls.chain(start).chain(client).chain(bodies).chain(message).collect()
}

fn of_calls(calls: &Calls) -> Vec<Row> {
    let ms = milliseconds;
    let [proxy, broker] = calls.processor.map(|time| time.as_secs_f64() * 1e6);
    let [proxy_memory, broker_memory] = calls.memory.map(|bytes| bytes as f64 / 1e6);
    vec![
        plain("a call straight to the server, median", format!("{:.3} ms", ms(calls.direct))),
        under("a call over pipes, beyond direct", ms(calls.beyond[0]), "ms", 0.15, 3),
        under("a call over socket pairs, beyond direct", ms(calls.beyond[1]), "ms", 0.15, 3),
        rate("pipes", calls.rate[0], 22_000.0),
        rate("socket pairs", calls.rate[1], 20_000.0),
        plain(
            "processor time of such a call, proxy and broker",
            format!("{proxy:.0} µs + {broker:.0} µs"),
        ),
        under(
            &format!(
                "memory of both processes after the run ({proxy_memory:.1} and {broker_memory:.1} MB)"
            ),
            proxy_memory + broker_memory,
            "MB",
            18.0,
            1,
        ),
    ]
}

fn of_bodies(bodies: &Bodies) -> Vec<Row> {
    let [straight, beyond] = bodies.both_ways.map(milliseconds);
    let [large_straight, large] = bodies.large.map(milliseconds);
    vec![
        plain("10 MB up and down, straight to the server", format!("{straight:.1} ms")),
        under("10 MB up and down, beyond direct", beyond, "ms", 25.0, 1),
        plain("a result of 100 MB, straight to the server", format!("{large_straight:.0} ms")),
        under("a result of 100 MB, relative to direct", large / large_straight, "times", 1.4, 2),
    ]
}

fn plain(name: &str, measured: String) -> Row {
    Row { name: name.to_owned(), measured, reach: None }
}

/// A figure that must be at most `reach`.
fn under(name: &str, value: f64, unit: &str, reach: f64, digits: usize) -> Row {
    Row {
        name: name.to_owned(),
        measured: format!("{value:.digits$} {unit}"),
        reach: Some((format!("{reach} {unit}"), value <= reach)),
    }
}

/// Calls a second, which must be at least `reach`.
fn rate(name: &str, value: f64, reach: f64) -> Row {
    Row {
        name: format!("calls a second, {IN_FLIGHT} in flight, {name}"),
        measured: thousands(value),
        reach: Some((thousands(reach), value >= reach)),
    }
}

/// 18359 as 18,359.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
