//! The pod of `kubectl kustomize`, as podman 4.3 can run it. The differences, and why:
//!
//! - its sidecars (init containers that are restarted) become usual containers, since podman doesn't know sidecars. The
//!   test runs their probes, and stops them in the kubelet's order
//! - each volume becomes a directory of the host with the owner, the modes and the contents that the kubelet gives it:
//!   podman knows neither `fsGroup` nor `subPath`, nor projected tokens
//! - `fsGroup` becomes the group of each container, since there are no supplementary ones
//! - the image is the one just built; the agent runs the probe of the tests, with planted keys that it must find
//! - the rule has no rate: one agent of the test calls as often as many
//! - AWS is on the network of the pod: the endpoint's URL in the proxy's command and in broker.toml, and
//!   `AWS_ENDPOINT_URL_STS` of the broker
//!
//! All else is run as shipped: users, commands, mounts, rules, roles.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sigward_tests::aws::WEB_IDENTITY_TOKEN;
use sigward_tests::keys::CANARY;
use sigward_tests::upstream::{REGION, SERVICE};

use super::image;
use crate::manifests::rendered::{Rendered, containers};

/// Where the server and STS listen, on the network of the pod.
pub(super) const PORT: u16 = 8090;
pub(super) const STS_PORT: u16 = 8091;
pub(super) const ENDPOINT: &str = "http://127.0.0.1:8090/mcp";
/// The token between agent and proxy.
pub(super) const AGENT_TOKEN: &str = "token-between-agent-and-proxy";

/// The shipped endpoint, in the proxy's command and in broker.toml.
pub(super) const SHIPPED: &str = "https://aws-mcp.us-east-1.api.aws/mcp";

/// Writes the pod and its volumes into `scene`. Returns the path of the pod's file.
pub(super) fn write(scene: &Path) -> String {
    let base = Rendered::with("pod", &[]);
    let mut pod = base.named("Pod", "agent").clone();
    let spec = pod["spec"].take();
    let group = spec["securityContext"]["fsGroup"].as_u64().expect("a group");
    let group = u32::try_from(group).expect("a group");
    let volumes = scene.join("volumes");
    for volume in spec["volumes"].as_array().expect("volumes") {
        write_volume(&volumes, volume, group, &base);
    }
    let mut mounted = Vec::new();
    let mut played: Vec<Value> =
        containers(&spec).into_iter().map(|it| play(it, group, &volumes, &mut mounted)).collect();
    let agent = played.last_mut().expect("the agent");
    give_control(agent, scene, &mut mounted);
    pod["spec"] = json!({
        "restartPolicy": "Always",
        "automountServiceAccountToken": spec["automountServiceAccountToken"],
        "containers": played,
        "volumes": mounted,
    });
    let file = scene.join("pod.yaml");
    // JSON is valid YAML.
    fs::write(&file, pod.to_string()).expect("a file");
    file.display().to_string()
}

/// Writes a volume as the kubelet would.
fn write_volume(volumes: &Path, volume: &Value, group: u32, base: &Rendered) {
    let directory = volumes.join(volume["name"].as_str().expect("a name"));
    fs::create_dir_all(&directory).expect("a directory");
    let file = |name: &str, text: &str, mode: u32| {
        let path = directory.join(name);
        fs::write(&path, text).expect("a file");
        own(&path, group, mode);
    };
    // A tmpfs is sticky, and fsGroup makes the directory's group that of its files.
    let mut mode = 0o3777;
    if volume["emptyDir"].is_object() {
        if volume["emptyDir"]["medium"] != "Memory" {
            mode = 0o2777;
        }
    } else if let Some(name) = volume["configMap"]["name"].as_str() {
        mode = 0o2777;
        for (name, text) in base.files(name) {
            let text = text.as_str().expect("a string");
            file(name, &with_endpoint(text, ENDPOINT), 0o644);
        }
    } else if volume["projected"].is_object() {
        let source = &volume["projected"]["sources"][0]["serviceAccountToken"];
        assert_eq!(source["audience"], "sts.amazonaws.com");
        file(source["path"].as_str().expect("a path"), WEB_IDENTITY_TOKEN, 0o440);
    } else {
        assert_eq!(volume["secret"]["secretName"], "sigward-agent", "{volume}");
        file("token", AGENT_TOKEN, 0o440);
    }
    own(&directory, group, mode);
}

/// A shipped file of the broker, with another endpoint and without rates.
pub(super) fn with_endpoint(shipped: &str, endpoint: &str) -> String {
    let endpoint = format!("{endpoint}\"\nservice = \"{SERVICE}\"\nregion = \"{REGION}");
    let is_rate = |line: &str| line.starts_with("rate = ");
    let text = shipped.replace(SHIPPED, &endpoint);
    text.lines().filter(|line| !is_rate(line)).collect::<Vec<_>>().join("\n")
}

fn own(path: &Path, group: u32, mode: u32) {
    std::os::unix::fs::chown(path, Some(0), Some(group)).expect("root may do that");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// A container as podman accepts it; its mounts have volumes of their own.
fn play(shipped: &Value, group: u32, volumes: &Path, mounted: &mut Vec<Value>) -> Value {
    let mut container = shipped.clone();
    let fields = container.as_object_mut().expect("an object");
    for kubelet in ["restartPolicy", "startupProbe", "livenessProbe", "resources"] {
        fields.remove(kubelet);
    }
    container["image"] = "localhost/sigward".into();
    container["imagePullPolicy"] = "Never".into();
    container["securityContext"]["runAsGroup"] = group.into();
    let owner = container["name"].as_str().expect("a name").to_owned();
    for (number, mount) in
        container["volumeMounts"].as_array_mut().expect("mounts").iter_mut().enumerate()
    {
        let mut path = volumes.join(mount["name"].as_str().expect("a name"));
        let fields = mount.as_object_mut().expect("an object");
        if let Some(Value::String(below)) = fields.remove("subPath") {
            path.push(below);
        }
        let name = format!("{owner}-{number}");
        mounted.push(host_path(&name, &path));
        mount["name"] = name.into();
    }
    if owner == "broker" {
        let sts = format!("http://127.0.0.1:{STS_PORT}");
        container["env"] = json!([{ "name": "AWS_ENDPOINT_URL_STS", "value": sts }]);
    }
    if owner == "proxy" {
        let command = container["command"].as_array_mut().expect("a command");
        assert_eq!(command[1], SHIPPED);
        command[1] = ENDPOINT.into();
        command.extend(
            [format!("--service={SERVICE}"), format!("--region={REGION}")].map(Value::from),
        );
    }
    container
}

/// Gives the agent its program, and plants a key in a file and in its environment.
fn give_control(agent: &mut Value, scene: &Path, mounted: &mut Vec<Value>) {
    let directory = |name: &str| -> PathBuf {
        let path = scene.join(name);
        fs::create_dir(&path).expect("a directory");
        path
    };
    let (probe, control) = (directory("probe"), directory("control"));
    image::place(env!("CARGO_BIN_EXE_probe").as_ref(), &probe.join("probe"));
    fs::write(control.join("key"), CANARY).expect("a file");
    agent["command"] = json!(["/probe/probe", "wait"]);
    agent["env"] = json!([{ "name": "CONTROL", "value": CANARY }]);
    let mounts = agent["volumeMounts"].as_array_mut().expect("mounts");
    for (name, path) in [("probe", &probe), ("control", &control)] {
        mounted.push(host_path(name, path));
        mounts.push(json!({ "name": name, "mountPath": format!("/{name}"), "readOnly": true }));
    }
}

fn host_path(name: &str, path: &Path) -> Value {
    json!({ "name": name, "hostPath": { "path": path } })
}
