//! The two processes that answer the same questions.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use sigward_tests::{deadline, processes, tools};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A process that answers each line with a line.
struct Process {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Process {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the process starts");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { input, output, child }
    }

    /// The processor time used so far, in seconds.
    fn processor_time(&self) -> f64 {
        let pid = self.child.id().expect("the process runs");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name: the state is the first field, and both times are in hundredths of a second.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
        ticks.sum::<f64>() / 100.0
    }

    /// Asks all questions at once, and reads as many answers.
    async fn ask_all(&mut self, questions: impl Iterator<Item = String>) -> Vec<Value> {
        let lines: Vec<_> = questions.collect();
        let Self { input, output, .. } = self;
        let asking = async {
            for line in &lines {
                input.write_all(format!("{line}\n").as_bytes()).await.expect("the process reads");
            }
        };
        let reading = async {
            let mut answers = Vec::new();
            while answers.len() < lines.len() {
                let line = deadline::within(output.next_line(), || "no answer".to_owned()).await;
                let line = line.unwrap().expect("the process hasn't ended");
                answers.push(serde_json::from_str(&line).expect("JSON"));
            }
            answers
        };
        tokio::join!(asking, reading).1
    }
}

/// botocore. `identities.py` documents the questions and answers.
pub(crate) struct Botocore(Process);

impl Botocore {
    pub(crate) fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/botocore/identities.py");
        let mut command = processes::command(tools::python());
        // Without the CRT, botocore signs in Python, where the script sees the key. Files are UTF-8, as for the AWS
        // CLI, and no bytecode is written next to the script.
        command.env("BOTO_DISABLE_CRT", "true");
        command.env("PYTHONUTF8", "1").env("PYTHONDONTWRITEBYTECODE", "1").arg(script);
        Self(Process::start(command))
    }

    pub(super) fn processor_time(&self) -> f64 {
        self.0.processor_time()
    }

    pub(crate) async fn ask(&mut self, question: &Value) -> Value {
        self.0.ask_all(std::iter::once(question.to_string())).await.remove(0)
    }

    pub(super) async fn ask_all(&mut self, questions: &[Value]) -> Vec<Value> {
        self.0.ask_all(questions.iter().map(Value::to_string)).await
    }
}

/// The broker, as `src/bin/identities.rs` calls it.
///
/// It reads keys and the container variables from the environment of its process, which can't change between questions:
/// there are two processes, one of them with [`IN_CONTAINER`]. The spellings of these variables (half of a key, two
/// names of the token) are left to the tests of the broker's `source/environment.rs`.
pub(super) struct Ours {
    aws: String,
    plain: Process,
    in_container: Process,
}

/// The variables of a container that also has keys. `{aws}` stands for the URL of the test AWS.
pub(super) const IN_CONTAINER: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "AKIDENV"),
    ("AWS_SECRET_ACCESS_KEY", "envsecret"),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "{aws}/container"),
];

impl Ours {
    /// Starts both processes; they ask the AWS at `aws`.
    pub(super) fn start(aws: &str) -> Self {
        let command = || {
            let mut command = processes::command(Path::new(env!("CARGO_BIN_EXE_identities")));
            command.env("AWS_EC2_METADATA_DISABLED", "true");
            // Requests to the real AWS fail at once.
            command.env("HTTPS_PROXY", "http://127.0.0.1:9");
            command
        };
        let mut in_container = command();
        in_container.envs(IN_CONTAINER.map(|(name, value)| (name, value.replace("{aws}", aws))));
        let (plain, in_container) = (Process::start(command()), Process::start(in_container));
        Self { aws: aws.to_owned(), plain, in_container }
    }

    pub(super) fn processor_time(&self) -> f64 {
        self.plain.processor_time() + self.in_container.processor_time()
    }

    /// The answers, in the order of the questions.
    pub(super) async fn ask_all(&mut self, questions: &[Value]) -> Vec<Value> {
        let (mut plain, mut in_container) = (Vec::new(), Vec::new());
        for (id, question) in questions.iter().enumerate() {
            let mut question = question.clone();
            question["id"] = id.into();
            let names_endpoints = question["names_endpoints"] == true;
            let environment = question["env"].as_object_mut().expect("an environment");
            let [id, secret, _] = IN_CONTAINER.map(|(name, _)| environment.contains_key(name));
            // As on the command line of the broker, no key is passed on.
            environment.retain(|name, _| {
                !["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].contains(&name.as_str())
            });
            for service in ["STS", "SSO", "SSO_OIDC"].into_iter().filter(|_| !names_endpoints) {
                environment.insert(format!("AWS_ENDPOINT_URL_{service}"), self.aws.as_str().into());
            }
            let to = if id && secret { &mut in_container } else { &mut plain };
            to.push(question.to_string());
        }
        let (answers, more) = tokio::join!(
            self.plain.ask_all(plain.into_iter()),
            self.in_container.ask_all(in_container.into_iter())
        );
        let mut answers = [answers, more].concat();
        answers.sort_by_key(|answer| answer["id"].as_u64());
        answers
    }
}
