//! The cases of `tests/cases`: what users met and reported, as data. All files in there are run.
//!
//! All failures of all cases are reported at once.

mod credentials;
mod mcp;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;

/// The number of cases that run at the same time.
const AT_A_TIME: usize = 4;

/// The entries of a directory of `tests/cases`, sorted.
fn found(kind: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases").join(kind);
    let entries = fs::read_dir(directory).expect("the cases");
    let mut found: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    found.sort();
    assert!(!found.is_empty(), "no case of {kind}");
    found
}

/// Runs each case in its own task, and fails with all errors of all cases.
async fn run_all<F>(cases: Vec<PathBuf>, run: impl Fn(PathBuf) -> F)
where
    F: Future<Output = Vec<String>> + Send + 'static,
{
    let count = cases.len();
    let runs = cases.into_iter().map(|path| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let run = tokio::spawn(run(path));
        async move {
            let wrong = match run.await {
                Ok(wrong) => wrong,
                Err(panicked) => vec![panic_message(panicked)],
            };
            (name, wrong)
        }
    });
    let mut reports: Vec<_> = futures_util::stream::iter(runs)
        .buffer_unordered(AT_A_TIME)
        .filter(|(_, wrong)| std::future::ready(!wrong.is_empty()))
        .collect()
        .await;
    reports.sort();
    let mut report = String::new();
    for (name, wrong) in &reports {
        let _ = writeln!(report, "{name}");
        for wrong in wrong {
            let _ = writeln!(report, "  - {}", wrong.trim_end().replace('\n', "\n    "));
        }
    }
    assert!(reports.is_empty(), "{} of {count} cases are wrong:\n{report}", reports.len());
}

/// The message of a case that panicked.
fn panic_message(error: tokio::task::JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else { return "was cancelled".to_owned() };
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("panicked").to_owned()
}
