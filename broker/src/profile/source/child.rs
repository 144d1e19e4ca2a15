//! `credential_process`: runs a program that prints credentials, so that it can't harm the callers.
//!
//! It is run without a shell, like in the AWS CLI.
//!
//! Invariant: the child gets no standard input and only the variables in [`PASSED_ON`] and in the
//! configuration, is killed with all of its children when this module returns, and its standard
//! error is discarded.
//!
//! Source of the format:
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html>.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use aws_credential_types::Credentials;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::runtime::Handle;

use crate::error::{Denial, Reason};
use crate::process::outside;
use crate::profile::time;
use crate::secret::Secret;

/// The timeout of the child. A person may have to touch a security key, or answer a prompt.
const DEADLINE: Duration = Duration::from_secs(45);
/// The most bytes of output; credentials have a few kilobytes.
const MAX_OUTPUT: u64 = 64 * 1024;

/// The variables for a child: paths of programs, homes, agents, displays, proxies and AWS settings.
/// The credentials in the broker's own environment, and all others, aren't passed on.
const PASSED_ON: [&str; 34] = [
    "ALL_PROXY",
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_SHARED_CREDENTIALS_FILE",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "GNUPGHOME",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANG",
    "LC_ALL",
    "LOGNAME",
    "NO_PROXY",
    "PATH",
    "SHELL",
    "SSH_AUTH_SOCK",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
    "WAYLAND_DISPLAY",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// The environment of a child; its `Debug` shows no value.
pub(super) struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    /// Selects the variables for a child: [`PASSED_ON`], and those in the configuration.
    pub(super) fn new(variables: &[(OsString, OsString)], added: &[String]) -> Self {
        let passed = |name: &OsString| {
            PASSED_ON.iter().any(|passed| name == passed)
                || added.iter().any(|added| name == added.as_str())
        };
        Self(variables.iter().filter(|(name, _)| passed(name)).cloned().collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Runs the command and parses its output.
pub(super) async fn run(
    command: &[Secret],
    environment: &Environment,
) -> Result<Credentials, Denial> {
    run_until(command, environment, DEADLINE).await
}

async fn run_until(
    command: &[Secret],
    environment: &Environment,
    deadline: Duration,
) -> Result<Credentials, Denial> {
    let late = |_| failed("took too long, and was killed");
    let output = tokio::time::timeout(deadline, output(command, environment)).await;
    let output = output.map_err(late)??;
    let credentials = parse(output.expose()).map_err(failed)?;
    Ok(credentials)
}

/// A denial never contains text of the child, which may be a key.
fn failed(what: &str) -> Denial {
    Denial::new(Reason::CredentialsUnavailable, format!("the credential process {what}"))
}

/// A hint if the command is written for a shell.
fn hint(arguments: &[Secret]) -> &'static str {
    let shell = |word: &Secret| {
        word.expose().starts_with('~')
            || word.expose().contains(['$', '`', '|', ';', '&', '<', '>'])
    };
    if arguments.iter().any(shell) {
        "; it is run without a shell, as by the AWS CLI: for variables and pipes write sh -c '…'"
    } else {
        ""
    }
}

/// The standard output of the child, until it is closed and the child exits successfully.
async fn output(command: &[Secret], environment: &Environment) -> Result<Secret, Denial> {
    // Without a shell, like the AWS CLI and botocore: `#`, `$` and `;` are part of an argument.
    let [program, arguments @ ..] = command else { return Err(failed("is empty")) };
    let mut command = Command::new(program.expose());
    command
        .args(arguments.iter().map(Secret::expose))
        .env_clear()
        .envs(environment.0.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    // The child opens files of its own, so it must run outside of a confinement.
    let runtime = Handle::current();
    let started = outside::run(move || {
        let _runtime = runtime.enter();
        command.spawn()
    });
    let mut child = started.map_err(|error| {
        failed(&format!("can't be started: {}{}", error.kind(), hint(arguments)))
    })?;
    // Dropped in all cases, also if the caller is cancelled.
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).map(Group);
    let mut stdout = child.stdout.take().ok_or_else(|| failed("has no standard output"))?;
    let mut bytes = Vec::new();
    let reading = async {
        let mut limited = (&mut stdout).take(MAX_OUTPUT + 1);
        limited.read_to_end(&mut bytes).await
    };
    // A grandchild may keep standard output open after the child has exited; the output so far is used.
    let status = wait(&mut child, reading).await.map_err(|_| failed("can't be read"))?;
    drop(group);
    let text = String::from_utf8(bytes).map_err(|_| failed("printed text that isn't UTF-8"))?;
    let text = Secret::new(text);
    if text.expose().len() as u64 > MAX_OUTPUT {
        return Err(failed("printed too much, and was killed"));
    }
    match status {
        Some(status) if !status.success() => {
            let kept = "its standard error is discarded";
            Err(failed(&format!("failed ({status}); {kept}{}", hint(arguments))))
        }
        _ => Ok(text),
    }
}

/// Reads until the end or the limit, and waits for the child to exit. Then the rest in the pipe is
/// read, without waiting for other processes.
async fn wait(
    child: &mut tokio::process::Child,
    reading: impl Future<Output = io::Result<usize>>,
) -> io::Result<Option<ExitStatus>> {
    const REST: Duration = Duration::from_millis(100);
    tokio::pin!(reading);
    tokio::select! {
        read = &mut reading => {
            // At the limit the child is still writing, and is killed.
            if read? as u64 > MAX_OUTPUT {
                return Ok(None);
            }
            child.wait().await.map(Some)
        }
        status = child.wait() => {
            let status = status?;
            if let Ok(read) = tokio::time::timeout(REST, &mut reading).await {
                read?;
            }
            Ok(Some(status))
        }
    }
}

/// A process group, which is killed on drop.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // The leader may have exited; the group exists as long as any of its children.
        kill_process_group(self.0, Signal::KILL).unwrap_or_default();
    }
}

/// Parses the credentials that a child printed; an error contains none of its text.
pub(in crate::profile) fn parse(text: &str) -> Result<Credentials, &'static str> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        version: u32,
        access_key_id: String,
        secret_access_key: String,
        session_token: Option<String>,
        expiration: Option<serde_json::Value>,
    }
    let answer: Answer = serde_json::from_str(text)
        .map_err(|_| "didn't print JSON with Version, AccessKeyId and SecretAccessKey")?;
    if answer.version != 1 {
        return Err("printed a Version other than 1");
    }
    if answer.access_key_id.is_empty() || answer.secret_access_key.is_empty() {
        return Err("printed an empty key");
    }
    let expiry = answer.expiration.as_ref().map(|it| it.as_str().and_then(time::parse));
    if expiry == Some(None) {
        return Err("printed an Expiration that is no ISO 8601 time with a zone");
    }
    Ok(Credentials::new(
        answer.access_key_id,
        answer.secret_access_key,
        answer.session_token,
        expiry.flatten(),
        "process",
    ))
}

#[cfg(test)]
mod tests;
