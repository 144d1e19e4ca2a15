//! Helpers of the measurements.

use std::fs::{self, DirEntry};
use std::time::Duration;

/// How long the threads of the process `pid` have run. Other load on the machine affects it little.
///
/// # Panics
/// If there is no such process.
#[must_use]
pub fn processor_time(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // proc(5), "schedstat": the first number is the time spent running, in nanoseconds.
    let spent = |task: DirEntry| -> u64 {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
    };
    Duration::from_nanos(tasks.map(|task| spent(task.unwrap())).sum())
}

/// The median.
///
/// # Panics
/// If `all` is empty, or a value isn't a number.
pub fn median<T: PartialOrd + Copy>(all: &[T]) -> T {
    let mut sorted = all.to_vec();
    sorted.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap());
    sorted[sorted.len() / 2]
}
