//! The files for Docker and Kubernetes in broker/deploy/container are consistent with each other and with the programs:
//! every named file exists, every volume, name and port has its counterpart, the programs accept the options and the
//! files, and only the broker's container has the broker's secrets.
//!
//! Read from the output of `kubectl kustomize`, which [`schemas`] validates.

mod measured;
mod overlays;
pub(crate) mod rendered;
mod schemas;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;
use sigward_proto::remote::BrokerName;
use sigward_proxy::cli::{self, BrokerChoice};
use sigward_proxy::environment::Environment;

use self::rendered::{Rendered, containers, directory};
use crate::yaml::documents;

/// The volumes that only the broker's container may mount.
const SECRETS: [&str; 2] = ["aws-token", "broker-config"];

fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().into_iter().flatten();
    list.map(|text| text.as_str().expect("a string")).collect()
}

/// Every container is accepted by a namespace with the Pod Security level `restricted`.
#[test]
fn no_container_has_more_rights_than_it_needs() {
    for all in rendered::every_variant() {
        let (_, spec) = all.pod();
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(spec["automountServiceAccountToken"], false);
        for shared in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
            assert_ne!(spec[shared], true, "{shared}");
        }
        let mut users = BTreeSet::new();
        for container in containers(spec) {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{container}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
            assert_eq!(texts(&context["capabilities"]["drop"]), ["ALL"], "{container}");
            assert!(context["runAsUser"].as_u64().is_some_and(|uid| uid > 0), "{container}");
            assert!(
                users.insert(context["runAsUser"].as_u64()),
                "two containers with the same user"
            );
            assert!(container["resources"]["requests"]["memory"].is_string(), "{container}");
        }
        for volume in spec["volumes"].as_array().expect("volumes") {
            assert!(volume["hostPath"].is_null(), "{volume}");
        }
    }
}

#[test]
fn volumes_names_and_selectors_have_their_counterparts() {
    for all in rendered::every_variant() {
        let (metadata, spec) = all.pod();
        let volumes = spec["volumes"].as_array().expect("volumes");
        let volumes: BTreeMap<&str, &Value> =
            volumes.iter().map(|it| (it["name"].as_str().expect("a name"), it)).collect();
        let mut mounted = BTreeSet::new();
        let mut names = BTreeSet::new();
        let mut config_maps = BTreeSet::new();
        for container in containers(spec) {
            assert!(
                names.insert(container["name"].as_str()),
                "two containers of one name: {container}"
            );
            for mount in container["volumeMounts"].as_array().expect("mounts") {
                let name = mount["name"].as_str().expect("a name");
                let volume = volumes.get(name).unwrap_or_else(|| panic!("no volume {name}"));
                mounted.insert(name);
                if let Some(config) = volume["configMap"]["name"].as_str() {
                    let file = mount["subPath"].as_str().expect("a file of the ConfigMap");
                    assert!(all.files(config).contains_key(file), "{config} has no {file}");
                    config_maps.insert(config);
                }
            }
        }
        assert_eq!(mounted, volumes.keys().copied().collect(), "a volume that no container mounts");
        let rendered = all.of_kind("ConfigMap").filter_map(|it| it["metadata"]["name"].as_str());
        assert_eq!(config_maps, rendered.collect(), "a ConfigMap that no container mounts");
        let account =
            all.named("ServiceAccount", spec["serviceAccountName"].as_str().expect("one"));
        assert_eq!(account["automountServiceAccountToken"], false);
        // IRSA gives a token to every container of a pod whose account has a role.
        assert!(account["metadata"]["annotations"].is_null());
        let labels = &metadata["labels"];
        for resource in &all.resources {
            let selector = match resource["kind"].as_str() {
                Some("NetworkPolicy") => &resource["spec"]["podSelector"]["matchLabels"],
                Some("Service") => &resource["spec"]["selector"],
                Some("DaemonSet") => &resource["spec"]["selector"]["matchLabels"],
                _ => continue,
            };
            for (name, value) in selector.as_object().expect("labels") {
                assert_eq!(&labels[name], value, "{resource}");
            }
        }
    }
}

/// The attack: an agent that finds AWS credentials in its own container or in the proxy's.
#[test]
fn only_the_broker_s_container_has_the_broker_s_secrets() {
    for all in [Rendered::with("pod", &[]), Rendered::with("pod", &["socket"])] {
        let (metadata, spec) = all.pod();
        let skipped = metadata["annotations"]["eks.amazonaws.com/skip-containers"].as_str();
        let skipped: BTreeSet<&str> = skipped.expect("the annotation").split(',').collect();
        let mut others = BTreeSet::new();
        for container in containers(spec) {
            let name = container["name"].as_str().expect("a name");
            let mounts = container["volumeMounts"].as_array().expect("mounts").iter();
            let mounts: Vec<&str> = mounts.map(|it| it["name"].as_str().expect("one")).collect();
            let has = |volume: &&str| mounts.contains(volume);
            assert_eq!(SECRETS.iter().all(has), name == "broker", "{name}: {mounts:?}");
            if name == "broker" {
                continue;
            }
            others.insert(name);
            assert!(!SECRETS.iter().any(has), "{name}: {mounts:?}");
            assert!(container["env"].is_null() && container["envFrom"].is_null(), "{name}");
            assert_eq!(has(&"broker-socket"), name == "proxy", "{name}: {mounts:?}");
        }
        assert_eq!(skipped, others, "EKS must give these containers no role");
        let policy = all.named("NetworkPolicy", "sigward-agent").to_string();
        assert!(policy.contains("169.254.0.0/16"), "metadata addresses are open: {policy}");
    }
    for components in [&["node-agent"][..], &["socket", "node-agent"]] {
        let all = Rendered::with("pod", components);
        let (_, spec) = all.pod();
        let names: Vec<_> = containers(spec).iter().map(|it| it["name"].as_str()).collect();
        assert_eq!(names, [Some("proxy"), Some("agent")]);
        assert!(
            !spec.to_string().contains("sts.amazonaws.com"),
            "a token in a pod without a broker"
        );
        let policy = all.named("NetworkPolicy", "sigward-agent").to_string();
        assert!(policy.contains("169.254.0.0/16"), "metadata addresses are open: {policy}");
    }
}

/// Each container starts when the one before is healthy; the agent last.
#[test]
fn the_broker_starts_before_the_proxy_and_the_proxy_before_the_agent() {
    for components in [&[][..], &["socket"]] {
        let all = Rendered::with("pod", components);
        let (_, spec) = all.pod();
        let names: Vec<_> = containers(spec).iter().map(|it| it["name"].as_str()).collect();
        assert_eq!(names, [Some("broker"), Some("proxy"), Some("agent")]);
        for sidecar in spec["initContainers"].as_array().expect("sidecars") {
            assert_eq!(sidecar["restartPolicy"], "Always");
            assert!(sidecar["startupProbe"]["exec"].is_object());
            assert_eq!(
                sidecar["startupProbe"]["exec"], sidecar["livenessProbe"]["exec"],
                "one probe for both"
            );
        }
    }
}

/// The options of a proxy, as the program itself parses them.
fn invocation(command: &[&str]) -> cli::Invocation {
    assert_eq!(command[0], "sigward-proxy");
    let parsed = cli::parse(command.iter().map(Into::into), &Environment::of_process());
    parsed.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_programs_accept_their_options_in_the_manifests() {
    for all in rendered::every_variant() {
        let (_, spec) = all.pod();
        for container in containers(spec) {
            let command = texts(&container["command"]);
            match command.first() {
                Some(&"sigward-broker") => {
                    assert_eq!(command[1..4], ["serve", "--config", "/etc/sigward/broker.toml"]);
                    assert_eq!(
                        texts(&container["livenessProbe"]["exec"]["command"]),
                        ["sigward-broker", "health"]
                    );
                }
                Some(_) => {
                    let probe = texts(&container["livenessProbe"]["exec"]["command"]);
                    let asked = cli::health(probe.iter().map(Into::into));
                    let asked = asked.expect("a probe").expect("an address");
                    let listen = invocation(&command).config.listen.expect("it listens");
                    assert_eq!(listen.address, asked, "the probe asks another address");
                }
                None => assert_eq!(container["name"], "agent"),
            }
        }
    }
}

/// A shipped configuration as the program itself parses it, and its text. An unknown key makes it invalid.
fn configuration(of: &str) -> (sigward_broker::config::Config, String) {
    let text = std::fs::read_to_string(directory().join(of)).expect("a file");
    let copy = tempfile::tempdir().expect("a directory");
    let path = copy.path().join("broker.toml");
    std::fs::write(&path, format!("unknown = 1\n{text}")).expect("a writable directory");
    assert!(sigward_broker::config::read(&path, 65532).is_err());
    std::fs::write(&path, &text).expect("a writable directory");
    let config = sigward_broker::config::read(&path, 65532).unwrap_or_else(|it| panic!("{it}"));
    (config, text)
}

/// The broker identifies the proxy by the uid in the manifest.
#[test]
fn the_pod_s_broker_configuration_matches_the_pod_s_proxy() {
    let (config, text) = configuration("pod/broker.toml");
    let socket = config.listen.unix.expect("a socket");
    let all = Rendered::with("pod", &[]);
    let (_, spec) = all.pod();
    let proxy = containers(spec)[1];
    assert!(
        text.contains(&format!("peer = {{ uid = {} }}", proxy["securityContext"]["runAsUser"]))
    );
    assert!(text.contains(&format!("group = \"{}\"", spec["securityContext"]["fsGroup"])));
    let command = texts(&proxy["command"]);
    assert!(command.contains(&format!("--broker=unix:{}", socket.display()).as_str()));
}

/// The broker of a node and the proxy of an agent's pod reach each other, and identify each other by the names that
/// their certificates get from the service accounts.
#[test]
fn the_node_s_broker_and_the_pods_proxies_name_each_other() {
    let (config, _) = configuration("node/broker.toml");
    let (node, agents) = (Rendered::with("node", &[]), Rendered::with("pod", &["node-agent"]));
    let (_, broker) = node.pod();
    let (_, agent) = agents.pod();
    let id = |namespace: &str, spec: &Value| {
        let account = spec["serviceAccountName"].as_str().expect("an account");
        format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
    };
    let namespace = &node.named("Namespace", "sigward")["metadata"]["name"];
    let namespace = namespace.as_str().expect("a name");
    let BrokerChoice::Tls(asked) = invocation(&texts(&containers(agent)[0]["command"])).broker
    else {
        panic!("the proxy uses no broker over TLS")
    };

    // The address: the service and its port lead to the port on which the broker listens.
    let service = node.named("Service", "sigward-broker");
    let name = service["metadata"]["name"].as_str().expect("a name");
    assert_eq!(asked.host, format!("{name}.{namespace}.svc"));
    let port = &service["spec"]["ports"][0];
    assert_eq!(port["port"], asked.port);
    let tcp = config.listen.tcp.expect("an address");
    let container = containers(broker)[0];
    let ports = container["ports"].as_array().expect("ports");
    let target = ports.iter().find(|it| it["name"] == port["targetPort"]).expect("the target");
    assert_eq!(target["containerPort"], tcp.address.port());

    // The identities of both.
    let BrokerName::SpiffeId(name) = &asked.name else {
        panic!("the broker isn't named by a SPIFFE id")
    };
    assert_eq!(name.to_string(), id(namespace, broker));
    let text = std::fs::read_to_string(directory().join("node/broker.toml")).expect("a file");
    let of_agents = id("team-a", agent);
    assert!(text.contains(&format!("peer = {{ spiffe_id = \"{of_agents}\" }}")), "{of_agents}");

    // The certificates: files of the mounted volume.
    let mounted = |container: &Value| {
        let mounts = container["volumeMounts"].as_array().expect("mounts").iter();
        let mount = mounts.clone().find(|it| it["name"] == "spiffe").expect("certificates");
        PathBuf::from(mount["mountPath"].as_str().expect("a path"))
    };
    for (files, container) in [
        ([&asked.cert, &asked.key, &asked.ca], containers(agent)[0]),
        ([&tcp.tls.cert, &tcp.tls.key, &tcp.tls.client_ca], container),
    ] {
        for file in files {
            assert_eq!(file.parent(), Some(&*mounted(container)), "{}", file.display());
        }
    }
}

fn compose() -> Value {
    let text = std::fs::read_to_string(directory().join("compose.yaml")).expect("a file");
    documents(&text).remove(0)
}

#[test]
fn compose_gives_the_agent_no_way_around_the_proxy() {
    let compose = compose();
    let services = compose["services"].as_object().expect("services");
    for (name, service) in services {
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
        for network in texts(&service["networks"]) {
            assert!(compose["networks"].get(network).is_some(), "{name}: no network {network}");
        }
        for volume in texts(&service["volumes"]) {
            let source = volume.split(':').next().unwrap_or_default();
            let is_path = source.starts_with(['.', '$']);
            assert!(is_path || compose["volumes"].get(source).is_some(), "{name}: no {source}");
            if source.starts_with("./pod/") {
                assert!(directory().join(source).exists(), "{name}: no {source}");
            }
        }
        for secret in texts(&service["secrets"]) {
            assert!(compose["secrets"].get(secret).is_some(), "{name}: no secret {secret}");
        }
    }
    assert_eq!(texts(&services["agent"]["networks"]), ["agent"]);
    assert_eq!(compose["networks"]["agent"]["internal"], true);
    assert!(services["agent"]["volumes"].is_null());
    assert!(!texts(&services["broker"]["networks"]).contains(&"agent"));
    let invocation = invocation(&texts(&services["proxy"]["command"]));
    assert_eq!(invocation.config.listen.expect("it listens").address.to_string(), "0.0.0.0:8080");
    let probe = texts(&services["proxy"]["healthcheck"]["test"]);
    assert!(cli::health(probe[1..].iter().map(Into::into)).expect("a probe").is_ok());
    let users: BTreeSet<_> = services.values().map(|it| it["user"].as_str()).collect();
    assert_eq!(users.len(), 3, "three users");
}

/// podman 4, which compose programs drive, takes the `size` of a volume for a quota, which few file systems support,
/// and doesn't know `start_interval`.
#[test]
fn compose_uses_only_options_that_podman_accepts() {
    let compose = compose();
    for (name, service) in compose["services"].as_object().expect("services") {
        assert!(service["healthcheck"]["start_interval"].is_null(), "{name}");
    }
    let options = compose["volumes"]["socket"]["driver_opts"]["o"].as_str().expect("options");
    for option in options.split(',') {
        let name = option.split('=').next().unwrap_or_default();
        assert!(["nr_blocks", "uid", "gid", "mode"].contains(&name), "{option}");
    }
}
