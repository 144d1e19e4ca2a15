//! As much of Kustomize as the files of broker/deploy/container use: resources, ConfigMaps of files, and components with
//! patches of RFC 6902. Anything else in a kustomization.yaml is an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sigward_tests::tools;

/// The resources that a directory stands for.
pub(crate) struct Kustomized {
    pub(crate) resources: Vec<Value>,
    /// The files of each ConfigMap, by the names that they have in it.
    pub(crate) config_maps: BTreeMap<String, BTreeMap<String, PathBuf>>,
}

/// Reads YAML as Kubernetes does, which takes no key twice, and writes JSON.
const TO_JSON: &str = "
import json, sys, yaml

class Strict(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            sys.exit(f'a key is there twice: {node.start_mark}')
        return super().construct_mapping(node, deep)

read = lambda path: list(yaml.load_all(open(path), Strict))
print(json.dumps({path: read(path) for path in sys.argv[1:]}))
";

/// The documents of each YAML file.
pub(crate) fn documents(files: &[&PathBuf]) -> BTreeMap<PathBuf, Vec<Value>> {
    let mut python = std::process::Command::new(tools::yaml());
    let output = python.args(["-c", TO_JSON]).args(files).output().expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn document(file: PathBuf) -> Value {
    assert!(file.exists(), "there is no {}", file.display());
    let mut all = documents(&[&file]).remove(&file).expect("it was read");
    assert_eq!(all.len(), 1, "one document in {}", file.display());
    all.remove(0)
}

fn list<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    value[name].as_array().into_iter().flatten()
}

impl Kustomized {
    /// What `kustomize build DIRECTORY` would have, without the hashes in names.
    pub(crate) fn load(directory: &Path) -> Self {
        let kustomization = document(directory.join("kustomization.yaml"));
        assert_eq!(kustomization["kind"], "Kustomization");
        let known = ["apiVersion", "kind", "namespace", "resources", "configMapGenerator"];
        assert_known(&kustomization, &known);
        let path = |name: &Value| directory.join(name.as_str().expect("a path"));
        let resources =
            list(&kustomization, "resources").map(|name| document(path(name))).collect();
        let config_maps = list(&kustomization, "configMapGenerator").map(|map| {
            assert_known(map, &["name", "files"]);
            let files = list(map, "files").map(|name| {
                assert!(path(name).exists(), "there is no {}", path(name).display());
                (name.as_str().expect("a name").to_owned(), path(name))
            });
            (map["name"].as_str().expect("a name").to_owned(), files.collect())
        });
        let config_maps = config_maps.collect();
        Self { resources, config_maps }
    }

    /// Applies the patches of a component.
    pub(crate) fn add_component(&mut self, directory: &Path) {
        let component = document(directory.join("kustomization.yaml"));
        assert_eq!(component["kind"], "Component");
        assert_known(&component, &["apiVersion", "kind", "patches"]);
        for patch in list(&component, "patches") {
            let (path, target) = (patch["path"].as_str().expect("a path"), &patch["target"]);
            let found = self.resources.iter_mut().find(|resource| {
                resource["kind"] == target["kind"] && resource["metadata"]["name"] == target["name"]
            });
            let found = found.unwrap_or_else(|| panic!("nothing to patch: {target}"));
            for operation in document(directory.join(path)).as_array().expect("operations") {
                apply(operation, found);
            }
        }
    }

    /// The resource of that kind and name.
    pub(crate) fn named(&self, kind: &str, name: &str) -> &Value {
        let found =
            self.resources.iter().find(|it| it["kind"] == kind && it["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }
}

fn assert_known(object: &Value, known: &[&str]) {
    for key in object.as_object().expect("an object").keys() {
        assert!(known.contains(&key.as_str()), "{key}: not known here");
    }
}

/// One operation of RFC 6902. What is replaced or removed must be there.
fn apply(operation: &Value, document: &mut Value) {
    let path = operation["path"].as_str().expect("a path");
    let (parent, last) = path.rsplit_once('/').expect("an absolute path");
    let place = document.pointer_mut(parent).unwrap_or_else(|| panic!("there is no {parent}"));
    let value = operation["value"].clone();
    match (operation["op"].as_str().expect("an operation"), place) {
        ("add", Value::Array(list)) if last == "-" => list.push(value),
        ("remove", Value::Array(list)) => drop(list.remove(last.parse().expect("an index"))),
        ("replace", place) => {
            let old = place.pointer_mut(&format!("/{last}"));
            *old.unwrap_or_else(|| panic!("there is no {path}")) = value;
        }
        (other, _) => panic!("{other} {path}: not known here"),
    }
}
