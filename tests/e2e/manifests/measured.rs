//! The resources that the pod's sidecars request are those that the benchmark measured.

use std::path::Path;

use super::rendered::{Rendered, containers, directory};

const FIGURES: &str = include_str!("../../bench/speed.md");

/// The figures of the proxy and of the broker in a row of the benchmark's table.
fn figures(row: &str) -> [f64; 2] {
    let (_, rest) = FIGURES.split_once(row).unwrap_or_else(|| panic!("there is no row {row}"));
    let mut numbers = rest
        .split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .filter(|it| !it.is_empty())
        .map(|it| it.parse().expect("a number"));
    [(); 2].map(|()| numbers.next().expect("two figures"))
}

/// A Kubernetes quantity, in bytes or processors.
fn quantity(text: &str) -> f64 {
    let (number, unit) =
        text.split_at(text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len());
    let unit = match unit {
        "Mi" => f64::from(1 << 20),
        "m" => 1e-3,
        other => panic!("unknown unit {other} of {text}"),
    };
    number.parse::<f64>().expect("a number") * unit
}

/// At least what was measured, and not far more.
fn is_measured(request: f64, measured: f64) -> bool {
    (measured..4.0 * measured).contains(&request)
}

#[test]
fn resource_requests_match_the_benchmark() {
    let rules = std::fs::read_to_string(directory().join("pod/broker.toml")).expect("a file");
    let config = sigward_broker::config::parse(&rules, Path::new("broker.toml"), 65532);
    let rate = config.expect("a configuration").rules[0].rate.expect("a rate").per_second;
    let memory = figures("memory of both processes after the run");
    let time = figures("processor time of such a call, proxy and broker");
    let all = Rendered::with("pod", &[]);
    let (_, spec) = all.pod();
    for (name, memory, time) in [("proxy", memory[0], time[0]), ("broker", memory[1], time[1])] {
        let container = containers(spec).into_iter().find(|it| it["name"] == name);
        let resources = &container.expect(name)["resources"];
        let quantity = |of: &str, what: &str| quantity(resources[of][what].as_str().expect(what));
        let request = quantity("requests", "memory");
        assert!(is_measured(request, memory * 1e6), "{name}: {request} for {memory} MB");
        assert!(quantity("limits", "memory") > request, "{name}: no room to grow");
        let needed = f64::from(rate) * time / 1e6;
        assert!(quantity("requests", "cpu") >= needed, "{name}: {needed} processors are needed");
    }
    // Too little and too much don't match.
    assert!(!is_measured(quantity("8Mi"), memory[1] * 1e6));
    assert!(!is_measured(quantity("128Mi"), memory[1] * 1e6));
}
