//! Overlays that users make of the base and the components: the recommended ones work, and a component that doesn't fit
//! is an error, never a half-changed pod.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use sigward_tests::processes;

use super::rendered::{Overlay, Rendered, containers, directory, kustomizations};

#[test]
fn every_kustomization_is_tested() {
    assert_eq!(kustomizations(), ["node", "node-agent", "pod", "socket"]);
}

/// `kubectl apply` needs a cluster; it would send what `kubectl kustomize` prints.
#[test]
fn every_directory_in_a_kubectl_apply_command_renders() {
    let workspace = processes::workspace();
    let mut texts = vec![fs::read_to_string(workspace.join("README.md")).expect("a file")];
    for name in kustomizations() {
        let file = directory().join(name).join("kustomization.yaml");
        texts.push(fs::read_to_string(file).expect("a file"));
    }
    let texts = texts.join("\n");
    let commands = texts.split("kubectl apply -k ").skip(1);
    let applied: BTreeSet<_> = commands.filter_map(|rest| rest.lines().next()).collect();
    let expected = ["broker/deploy/container/node", "broker/deploy/container/pod"];
    assert_eq!(applied, BTreeSet::from(expected));
    for path in applied {
        Rendered::load(&workspace.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// The overlay that pod/kustomization.yaml recommends.
#[test]
fn an_overlay_can_replace_images_and_files() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let overlay = Overlay::new(&format!(
        r#"
namespace: team-a
resources: [../pod]
components: [../socket]
images:
  - {{name: sigward, newName: registry.example.com/sigward, digest: "{digest}"}}
  - {{name: example.com/your/agent, newName: registry.example.com/agent, newTag: "7"}}
configMapGenerator:
  - name: sigward-broker
    behavior: replace
    files: [broker.toml, aws-config]
patches:
  - target: {{kind: Pod, name: agent}}
    patch: |
      - {{op: test, path: /spec/initContainers/1/command/4, value: --listen-mode=0660}}
      - {{op: replace, path: /spec/initContainers/1/command/4, value: --listen-mode=0600}}
"#
    ));
    overlay.write("overlay/broker.toml", "# Another.\n");
    overlay.write("overlay/aws-config", "");
    let all = overlay.render().unwrap_or_else(|error| panic!("{error}"));
    let (metadata, spec) = all.pod();
    assert_eq!(metadata["namespace"], "team-a");
    let images: Vec<_> = containers(spec).iter().map(|it| it["image"].as_str()).collect();
    let sigward = format!("registry.example.com/sigward@{digest}");
    let expected = [Some(&*sigward), Some(&*sigward), Some("registry.example.com/agent:7")];
    assert_eq!(images, expected);
    // The patch applies after the component, whose value it compares.
    assert_eq!(containers(spec)[1]["command"][4], "--listen-mode=0600");
    let config_map = |spec: &Value| {
        let volumes = spec["volumes"].as_array().expect("volumes").iter();
        let mut names = volumes.filter_map(|it| it["configMap"]["name"].as_str());
        names.next().expect("a ConfigMap").to_owned()
    };
    let name = config_map(spec);
    assert_eq!(all.files(&name)["broker.toml"], "# Another.\n");
    let base = Rendered::with("pod", &[]);
    assert_ne!(name, config_map(base.pod().1), "the same name makes no new pod");
}

#[test]
fn components_fit_a_pod_with_more_profiles() {
    for (component, option) in [
        ("socket", "--listen-mode=0660"),
        ("node-agent", "--broker-ca=/var/run/secrets/spiffe.io/ca.crt"),
    ] {
        let overlay = Overlay::new(&format!("resources: [../pod]\ncomponents: [../{component}]\n"));
        overlay.edit("pod/pod.yaml", "        - dev\n", "        - dev\n        - staging\n");
        let all = overlay.render().unwrap_or_else(|error| panic!("{error}"));
        let (_, spec) = all.pod();
        let proxy = containers(spec).into_iter().find(|it| it["name"] == "proxy");
        let command = proxy.expect("a proxy")["command"].as_array().expect("a command");
        assert!(command.contains(&option.into()), "{command:?}");
        assert!(
            command.ends_with(&[
                "--profile".into(),
                "prod-readonly".into(),
                "dev".into(),
                "staging".into()
            ]),
            "{command:?}"
        );
    }
}

/// The attack: Kustomize skips a patch without a target, and a patch by index changes whatever is there. The pod would
/// keep its broker and its token, or lose another container.
#[test]
fn a_component_that_does_not_fit_is_an_error() {
    let sidecar = "  initContainers:\n    - {name: mine, image: example.com/mine}\n";
    let renamed = ("  name: agent\n  labels:", "  name: mine\n  labels:");
    let earlier = ("  initContainers:\n", sidecar);
    let port = ("--listen=127.0.0.1:8080", "--listen=127.0.0.1:9090");
    let socket = ("--broker=unix:/run/sigward/broker.sock", "--broker=unix:/run/sigward/b.sock");
    for (components, (from, to), expected) in [
        ("../socket", renamed, "no matches for Id Pod"),
        ("../node-agent", renamed, "no matches for Id Pod"),
        ("../socket", earlier, "testing value /spec/initContainers/1/name failed"),
        ("../node-agent", earlier, "testing value /spec/initContainers/0/name failed"),
        ("../socket", port, "testing value /spec/initContainers/1/command/3 failed"),
        ("../node-agent", socket, "testing value /spec/initContainers/0/command/2 failed"),
        ("../node-agent, ../socket", ("", ""), "missing path: /spec/initContainers/1"),
        ("../sockets", ("", ""), "sockets"),
    ] {
        let overlay = Overlay::new(&format!("resources: [../pod]\ncomponents: [{components}]\n"));
        if !from.is_empty() {
            overlay.edit("pod/pod.yaml", from, to);
        }
        let error = overlay.render().expect_err(components);
        assert!(error.contains(expected), "{components}, {to}: {error}");
    }
}

#[test]
fn a_wrong_kustomization_is_an_error() {
    for (from, to, expected) in [
        ("aws-config]", "aws-confg]", "aws-confg"),
        ("- pod.yaml", "- pods.yaml", "pods.yaml"),
        ("resources:", "resource:", "unknown field \"resource\""),
    ] {
        let overlay = Overlay::new("resources: [../pod]\n");
        overlay.edit("pod/kustomization.yaml", from, to);
        let error = overlay.render().expect_err(to);
        assert!(error.contains(expected), "{to}: {error}");
    }
}
