//! The scene of one run of a case: a directory with its files, an AWS, an MCP server, and the programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sigward_tests::deadline;
use sigward_tests::keys::KeyTable;
use sigward_tests::known_aws::{Accepts, KnownAws};
use sigward_tests::processes::{self, StdioClient};
use sigward_tests::upstream::{REGION, Received, SERVICE, Upstream};
use tempfile::TempDir;
use tokio::process::Command;

use super::Case;
use super::observed::{Observed, general};
use crate::setup::failure;

pub(super) struct Scene {
    directory: TempDir,
    aws: KnownAws,
    upstream: Upstream,
    profile: Option<String>,
    environment: BTreeMap<String, String>,
    /// The user database of the programs, if it isn't that of the machine.
    passwd: Option<PathBuf>,
    /// The special answers of AWS.
    pub(super) answers: Value,
}

impl Scene {
    pub(super) async fn set(case: &Case) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap().to_owned();
        let keys = KeyTable::default();
        let aws = KnownAws::start(keys.clone(), case.answers(&path), Accepts::ItsKeys).await;
        let upstream = Upstream::start(keys).await;
        let mut scene = Self {
            directory,
            aws,
            upstream,
            profile: case.profile.clone(),
            environment: BTreeMap::new(),
            passwd: None,
            answers: case.aws.clone(),
        };
        scene.copy(&case.directory, Path::new(""));
        scene.environment = scene.environment(case);
        if let Some(home) = &case.passwd_home {
            let home = scene.directory.path().join(home);
            let passwd = scene.directory.path().join("passwd");
            fs::write(&passwd, format!("root:x:0:0:root:{}:/bin/sh\n", home.display())).unwrap();
            scene.passwd = Some(passwd);
        }
        scene
    }

    /// Copies the files of the case to their places, and fills in the placeholders.
    fn copy(&self, from: &Path, below: &Path) {
        fs::create_dir_all(self.home().join(".aws")).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let inside = below.join(path.file_name().unwrap());
            if path.is_dir() {
                self.copy(&path, &inside);
                continue;
            }
            let to = match inside.to_str().unwrap() {
                "case.json" => continue,
                "config" | "credentials" => Path::new("home/.aws").join(&inside),
                name if name.starts_with("sso-cache/") => {
                    Path::new("home/.aws/sso/cache").join(path.file_name().unwrap())
                }
                _ => inside,
            };
            let to = self.directory.path().join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(&to, self.filled(&fs::read(&path).unwrap())).unwrap();
            fs::set_permissions(&to, fs::metadata(&path).unwrap().permissions()).unwrap();
        }
    }

    fn filled(&self, bytes: &[u8]) -> Vec<u8> {
        let names = [
            ("{dir}", self.directory.path().to_str().unwrap().to_owned()),
            ("{aws_port}", self.aws.port().to_string()),
            ("{aws}", self.aws.url()),
        ];
        names.iter().fold(bytes.to_owned(), |text, (name, value)| {
            let mut filled = Vec::new();
            let mut rest = 0;
            for at in memchr::memmem::find_iter(&text, name.as_bytes()) {
                filled.extend_from_slice(&text[rest..at]);
                filled.extend_from_slice(value.as_bytes());
                rest = at + name.len();
            }
            filled.extend_from_slice(&text[rest..]);
            filled
        })
    }

    fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    fn environment(&self, case: &Case) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::from([
            ("HOME".to_owned(), self.home().to_str().unwrap().to_owned()),
            ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned()),
        ]);
        for service in ["STS", "SSO", "SSO_OIDC"] {
            environment.insert(format!("AWS_ENDPOINT_URL_{service}"), self.aws.url());
        }
        for (name, value) in &case.env {
            match value {
                Some(value) => {
                    let value = String::from_utf8(self.filled(value.as_bytes())).unwrap();
                    environment.insert(name.clone(), value)
                }
                None => environment.remove(name),
            };
        }
        environment
    }

    /// A command in the environment of the case, with its user database if it has one.
    fn command(&self, program: &Path) -> Command {
        let mut command = match &self.passwd {
            None => processes::command(program),
            Some(passwd) => {
                let mut command = processes::command(Path::new("unshare"));
                let script = r#"mount --bind "$0" /etc/passwd && exec "$@""#;
                command.args(["--mount", "sh", "-c", script]).arg(passwd).arg(program);
                command
            }
        };
        command.env_clear().envs(&self.environment).kill_on_drop(true);
        command
    }

    fn arguments(&self) -> Vec<&str> {
        let profile = self.profile.iter().flat_map(|name| ["--profile", name.as_str()]);
        ["--service", SERVICE, "--region", REGION].into_iter().chain(profile).collect()
    }

    /// Runs `sigward-broker check`.
    pub(super) async fn check(&self) -> Observed {
        let mut command = self.command(&processes::binaries().broker);
        command.args(["check", "--endpoint", &self.upstream.url()]).args(self.arguments());
        let ended = deadline::within(command.output(), || "check doesn't end".to_owned()).await;
        let output = ended.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let asked = self.aws.asked();
        let identified = asked.iter().filter(|asked| asked.action == "GetCallerIdentity");
        Observed {
            refused: !output.status.success(),
            said: text(&output.stdout),
            errors: text(&output.stderr),
            rejected: String::new(),
            signed: identified.map(|asked| (asked.key.clone(), None)).collect(),
            asked,
        }
    }

    /// Runs a client of a proxy with a private broker: the handshake, and one call.
    pub(super) async fn client(&self) -> Observed {
        let mut command = self.command(&processes::binaries().proxy);
        command.arg(self.upstream.url()).args(["--broker", "private"]).args(self.arguments());
        let mut client = StdioClient::start(command);
        let hello = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"sigward-tests","version":"1.0"}}"#;
        let id = client.start_request("initialize", hello).await;
        let mut response = client.response_or_end(&id).await;
        if response.as_ref().is_some_and(|response| response["result"].is_object()) {
            client.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
            let id = client.start_request("tools/call", &processes::call("whoami", "{}")).await;
            response = client.response_or_end(&id).await;
        }
        let (_, _, errors) = client.close().await;
        let requests = self.upstream.requests();
        let rejected = requests.iter().filter_map(|request| request.signature.as_ref().err());
        let rejected = rejected.map(|why| format!("the server: {why}\n")).collect();
        let served = |response: &&Value| response["result"]["structuredContent"].is_object();
        Observed {
            refused: response.as_ref().filter(served).is_none(),
            said: match response.as_ref().filter(|response| !served(response)) {
                Some(response) => failure(response).to_owned(),
                None => String::new(),
            },
            errors,
            rejected,
            signed: requests.iter().map(|request| (key(request), region(request))).collect(),
            asked: self.aws.asked(),
        }
    }

    /// The AWS files of the case, with their paths.
    pub(super) fn files(&self) -> Vec<(PathBuf, String)> {
        let files = ["config", "credentials"].map(|name| self.home().join(".aws").join(name));
        let read = |path: PathBuf| {
            let bytes = fs::read(&path).ok()?;
            Some((path, String::from_utf8_lossy(&bytes).into_owned()))
        };
        files.into_iter().filter_map(read).collect()
    }

    /// The question for botocore.
    pub(super) fn question(&self, case: &Case) -> Value {
        let aws = String::from_utf8(self.filled(case.aws.to_string().as_bytes())).unwrap();
        json!({
            "home": self.home(),
            "env": self.environment,
            "profile": self.profile,
            "passwd_home": case.passwd_home.as_ref().map(|home| self.directory.path().join(home)),
            "aws": serde_json::from_str::<Value>(&aws).unwrap(),
        })
    }

    /// The answer of botocore, in the format of the cases.
    pub(super) fn in_case_format(&self, answer: &Value) -> Value {
        if let Some(error) = answer["error"].as_str() {
            let error = error.replace(self.directory.path().to_str().unwrap(), "{dir}");
            return json!({"error": error.replace(&self.aws.url(), "{aws}")});
        }
        let key = general(answer["key"].as_str().unwrap_or_default());
        let mut shown = json!({"key": key, "region": answer["region"]});
        let hops = answer["hops"].as_array().map(Vec::as_slice).unwrap_or_default();
        match hops.last() {
            Some(hop) if key == "AKIDROLE" => {
                shown["role"] = hop["role"].clone();
                for name in ["by", "by_token", "sts_region"] {
                    if let Some(text) = hop[name].as_str() {
                        shown[name] = general(text).into();
                    }
                }
            }
            None if !answer["token"].is_null() => shown["token"] = answer["token"].clone(),
            _ => {}
        }
        shown
    }
}

/// The key of a request, even if its signature is invalid.
fn key(request: &Received) -> String {
    let header = request.header("authorization").unwrap_or_default();
    let credential = header.split_once("Credential=").map_or("", |(_, rest)| rest);
    credential.split('/').next().unwrap_or_default().to_owned()
}

/// The region that a call passes on.
fn region(request: &Received) -> Option<String> {
    let region = request.param("/_meta/AWS_REGION");
    (request.method() == "tools/call").then(|| region.as_str().unwrap_or_default().to_owned())
}
