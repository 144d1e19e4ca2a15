//! botocore, and so the AWS CLI, as the reference for AWS files: one process of Python that says whose identity it uses.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use sigward_tests::{deadline, processes, tools};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

/// The process. What it is asked and what it answers stands in `botocore/identities.py`.
pub(crate) struct Botocore {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Botocore {
    pub(crate) fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/botocore/identities.py");
        let mut command = processes::command(tools::python());
        // The AWS CLI reads files as UTF-8 wherever people use it; nothing is left beside the script.
        command.env("PYTHONUTF8", "1").env("PYTHONDONTWRITEBYTECODE", "1").arg(script);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("Python starts");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { input, output, _child: child }
    }

    /// Asks one question.
    pub(crate) async fn ask(&mut self, question: &Value) -> Value {
        self.input.write_all(format!("{question}\n").as_bytes()).await.expect("it reads");
        let answer = deadline::within_long(self.output.next_line(), || {
            format!("botocore doesn't answer {question}")
        });
        let answer = answer.await.unwrap().unwrap_or_else(|| panic!("it ended at {question}"));
        serde_json::from_str(&answer).expect("JSON")
    }
}
