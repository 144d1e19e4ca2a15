//! The output of `kubectl kustomize` for broker/deploy/container, alone and with overlays.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::{Map, Value};
use sigward_tests::{processes, tools};
use tempfile::TempDir;

use crate::yaml::documents;

/// `broker/deploy/container`.
pub(crate) fn directory() -> PathBuf {
    processes::workspace().join("broker/deploy/container")
}

/// The resources rendered from a directory.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub(crate) resources: Vec<Value>,
}

impl Rendered {
    /// The output of `kubectl kustomize DIRECTORY`, or its error.
    pub(crate) fn load(directory: &Path) -> Result<Self, String> {
        let mut kubectl = Command::new(tools::kubectl());
        // The user's own files must not change the output.
        kubectl.arg("kustomize").arg(directory).env_clear().env("KUBERC", "off");
        let output = kubectl.output().expect("kubectl runs");
        let errors = String::from_utf8(output.stderr).expect("UTF-8");
        if !output.status.success() {
            return Err(errors);
        }
        assert_eq!(errors, "", "a warning about {}", directory.display());
        let resources = documents(&String::from_utf8(output.stdout).expect("UTF-8"));
        assert!(!resources.is_empty(), "{} is empty", directory.display());
        Ok(Self { resources })
    }

    /// A directory of broker/deploy/container, with components on top.
    pub(crate) fn with(base: &str, components: &[&str]) -> Self {
        let rendered = if components.is_empty() {
            Self::load(&directory().join(base))
        } else {
            let components: Vec<_> = components.iter().map(|it| format!("../{it}")).collect();
            let components = components.join(", ");
            Overlay::new(&format!("resources: [../{base}]\ncomponents: [{components}]\n")).render()
        };
        rendered.unwrap_or_else(|error| panic!("{base} {components:?}: {error}"))
    }

    /// The metadata and the specification of the one pod, or of the pods of the one DaemonSet.
    pub(crate) fn pod(&self) -> (&Value, &Value) {
        let of_sets = self.of_kind("DaemonSet").map(|set| &set["spec"]["template"]);
        let pods: Vec<_> = self.of_kind("Pod").chain(of_sets).collect();
        let [pod] = pods[..] else { panic!("{} pods", pods.len()) };
        (&pod["metadata"], &pod["spec"])
    }

    /// The resources of a kind.
    pub(crate) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.resources.iter().filter(move |it| it["kind"] == kind)
    }

    /// The resource of that kind and name.
    pub(crate) fn named(&self, kind: &str, name: &str) -> &Value {
        let found = self.of_kind(kind).find(|it| it["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    /// The files of a ConfigMap, by the name that a volume uses: with the hash of its contents.
    pub(crate) fn files(&self, config_map: &str) -> &Map<String, Value> {
        self.named("ConfigMap", config_map)["data"].as_object().expect("files")
    }
}

/// Every combination that README.md and the kustomizations say one may apply.
pub(crate) fn every_variant() -> &'static [Rendered] {
    static ALL: LazyLock<[Rendered; 5]> = LazyLock::new(|| {
        [
            Rendered::with("pod", &[]),
            Rendered::with("pod", &["socket"]),
            Rendered::with("pod", &["node-agent"]),
            Rendered::with("pod", &["socket", "node-agent"]),
            Rendered::with("node", &[]),
        ]
    });
    &*ALL
}

/// All containers of a pod, the sidecars first.
pub(crate) fn containers(spec: &Value) -> Vec<&Value> {
    let lists = ["initContainers", "containers"].map(|name| spec[name].as_array());
    lists.into_iter().flatten().flatten().collect()
}

/// A copy of broker/deploy/container, with the overlay of a user beside the base and its components.
pub(crate) struct Overlay {
    copy: TempDir,
}

impl Overlay {
    /// An overlay with this kustomization.yaml. Paths in it are relative to a directory beside `pod`.
    pub(crate) fn new(kustomization: &str) -> Self {
        let copy = tempfile::tempdir().expect("a directory");
        for part in kustomizations() {
            fs::create_dir(copy.path().join(&part)).expect("a directory");
            for file in fs::read_dir(directory().join(&part)).expect("a directory") {
                let file = file.expect("a file");
                let to = copy.path().join(&part).join(file.file_name());
                fs::copy(file.path(), to).expect("a copy");
            }
        }
        fs::create_dir(copy.path().join("overlay")).expect("a directory");
        let overlay = Self { copy };
        overlay.write("overlay/kustomization.yaml", kustomization);
        overlay
    }

    /// Writes a file of the copy.
    pub(crate) fn write(&self, file: &str, text: &str) {
        fs::write(self.copy.path().join(file), text).expect("a writable directory");
    }

    /// Replaces the only occurrence of `from` in a file of the copy.
    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.copy.path().join(file)).expect("a file");
        assert_eq!(text.matches(from).count(), 1, "{from} in {file}");
        self.write(file, &text.replace(from, to));
    }

    /// Renders the overlay.
    pub(crate) fn render(&self) -> Result<Rendered, String> {
        Rendered::load(&self.copy.path().join("overlay"))
    }
}

/// The directories of broker/deploy/container that have a kustomization.yaml.
pub(crate) fn kustomizations() -> Vec<String> {
    let entries = fs::read_dir(directory()).expect("a directory").map(|it| it.expect("an entry"));
    let with = entries.filter(|it| it.path().join("kustomization.yaml").exists());
    let mut names: Vec<_> = with.map(|it| it.file_name().into_string().expect("a name")).collect();
    names.sort();
    names
}
