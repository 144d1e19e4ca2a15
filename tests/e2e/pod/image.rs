//! The image, from the shipped Containerfile. Its build stage, which would fetch a builder from a registry and compile
//! for minutes, is replaced by a directory with the output of the stage: the root that `rootfs` stages, with the
//! programs of this test.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sigward_tests::processes::{binaries, workspace};

use super::podman::{Podman, succeed};
use crate::manifests::rendered::directory;

/// Builds `localhost/sigward` in the store of `podman`. Returns the digests of its configuration and of its manifest.
pub(super) fn build(podman: &Podman) -> [String; 2] {
    let stage = podman.directory().join("build");
    let context = podman.directory().join("context");
    fs::create_dir(&stage).expect("a directory");
    fs::create_dir(&context).expect("a directory");
    rootfs(podman.directory(), &stage.join("rootfs"));
    let mut buildah = podman.command("buildah");
    buildah.args(["bud", "--isolation", "chroot", "--tag", "sigward"]).args(reproducible());
    buildah.arg("--build-context").arg(format!("build={}", stage.display()));
    buildah.arg("--file").arg(directory().join("Containerfile")).arg(context);
    succeed(&mut buildah);
    ["{{.Id}}", "{{.Digest}}"].map(|what| {
        let answer = podman.run(&["image", "inspect", "--format", what, "localhost/sigward"]);
        answer.trim().to_owned()
    })
}

/// The options in the README's build command that make two builds equal.
fn reproducible() -> Vec<String> {
    let readme = fs::read_to_string(workspace().join("README.md")).expect("a README");
    let line = readme.lines().find(|line| line.starts_with("podman build ")).expect("the command");
    let mut words = line.split_whitespace().skip_while(|word| *word != "--timestamp");
    let options: Vec<String> = words.by_ref().take(2).map(str::to_owned).collect();
    assert_eq!(options, ["--timestamp", "0"], "{line}");
    options
}

/// Two builds of the same programs, on two machines: here, in two stores.
#[test]
fn the_image_is_reproducible() {
    let [one, other] = [(), ()].map(|()| build(&Podman::new()));
    assert_eq!(one, other);
    let [id, digest] = one;
    assert!(id.len() == 64 && digest.starts_with("sha256:"), "{id} {digest}");
}

/// Stages the root of the image in `root`, as the build stage does.
fn rootfs(scratch: &Path, root: &Path) {
    let mut command = Command::new(directory().join("rootfs"));
    command.arg(root);
    for program in [&binaries().broker, &binaries().proxy] {
        // A release has no symbols.
        let stripped = scratch.join(program.file_name().expect("a name"));
        succeed(Command::new("strip").arg("-o").arg(&stripped).arg(program));
        command.arg(stripped);
    }
    succeed(&mut command);
}

/// The mode, the time and the contents of every path below `root`.
fn contents(root: &Path) -> BTreeMap<PathBuf, (u32, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let about = fs::symlink_metadata(&path).expect("it is there");
        let bytes = match about.is_file() {
            true => Sha256::digest(fs::read(&path).expect("a file")).to_vec(),
            false => Vec::new(),
        };
        if about.is_dir() {
            left.extend(fs::read_dir(&path).expect("a directory").map(|it| it.unwrap().path()));
        }
        let name = path.strip_prefix(root).expect("below it").to_owned();
        all.insert(name, (about.mode(), about.mtime(), bytes));
    }
    all
}

/// Nothing to run but the two programs, nothing writable, and the same bytes in each build.
#[test]
fn the_root_has_only_what_the_programs_need_and_is_reproducible() {
    let scratch = tempfile::tempdir().expect("a directory");
    let [one, other] = ["one", "other"].map(|name| {
        let root = scratch.path().join(name);
        rootfs(scratch.path(), &root);
        contents(&root)
    });
    assert!(one == other, "two roots of the same programs differ");
    let loader = |path: &Path| path.components().any(|it| it.as_os_str() == "lib64");
    let mut programs = Vec::new();
    for (path, (mode, time, _)) in &one {
        assert_eq!(*time, 0, "{}", path.display());
        assert_eq!(mode & 0o022, 0, "{} is writable", path.display());
        assert_eq!(mode & 0o6000, 0, "{} changes users", path.display());
        let is_program = mode & 0o170_000 == 0o100_000 && mode & 0o111 != 0;
        if is_program && !loader(path) && !path.starts_with("lib") {
            programs.push(path.to_str().expect("a name"));
        }
    }
    assert_eq!(programs, ["usr/bin/sigward-broker", "usr/bin/sigward-proxy"]);
    let bill = succeed(&mut Command::new(directory().join("sbom")));
    let (_, _, inside) = &one[Path::new("usr/share/sigward/sbom.cdx.json")];
    assert_eq!(*inside, Sha256::digest(bill).to_vec(), "the bill of materials differs");
    for needed in ["etc/ssl/certs/ca-certificates.crt", "etc/passwd", "etc/nsswitch.conf"] {
        assert!(one.contains_key(Path::new(needed)), "{needed}");
    }
}

/// The bill of materials lists exactly the crates in the programs, with the checksums of Cargo.lock.
#[test]
fn the_bill_of_materials_matches_the_lock_file() {
    let text = succeed(&mut Command::new(directory().join("sbom")));
    let bill: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let lock = fs::read_to_string(workspace().join("Cargo.lock")).expect("a lock file");
    let components = bill["components"].as_array().expect("components");
    let mut names = Vec::new();
    for component in components {
        let (name, version) = (&component["name"], &component["version"]);
        let package = format!("name = {name}\nversion = {version}\n");
        let locked = lock.split("[[package]]\n").find(|it| it.starts_with(&package));
        let locked = locked.unwrap_or_else(|| panic!("{name} {version} isn't locked"));
        if !locked.contains("\nsource = ") {
            assert!(component["hashes"].is_null());
        } else {
            let sum = component["hashes"][0]["content"].as_str().expect("a checksum");
            assert!(locked.contains(&format!("checksum = \"{sum}\"")), "{name} {version}");
        }
        assert!(component["licenses"][0]["expression"].is_string(), "{name} has no licence");
        names.push(name.as_str().expect("a name"));
    }
    for there in ["sigward-broker", "sigward-proxy", "tokio", "rustls", "aws-lc-rs", "aws-sigv4"] {
        assert!(names.contains(&there), "{there}");
    }
    for absent in ["sigward-tests", "rcgen", "proptest", "protox"] {
        assert!(!names.contains(&absent), "{absent} isn't in the programs");
    }
}

/// Copies a program to where every user may run it.
pub(super) fn place(program: &Path, to: &Path) {
    crate::setup::copy_program(program, to);
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).expect("a mode");
}
