//! What broker/deploy/container has for Docker and Kubernetes agrees with itself and with the programs: every file that
//! is named exists, every volume, name and port has its other side, the programs take the options and the files, and
//! what is the broker's alone is in the broker's container alone.
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

/// What a container of the broker alone may have.
const SECRETS: [&str; 2] = ["aws-token", "broker-config"];

fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().into_iter().flatten();
    list.map(|text| text.as_str().expect("a text")).collect()
}

/// Every container is one that a namespace with the policy `restricted` takes.
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
            assert!(users.insert(context["runAsUser"].as_u64()), "two containers of one user");
            assert!(container["resources"]["requests"]["memory"].is_string(), "{container}");
        }
        for volume in spec["volumes"].as_array().expect("volumes") {
            assert!(volume["hostPath"].is_null(), "{volume}");
        }
    }
}

#[test]
fn volumes_names_and_selectors_have_their_other_side() {
    for all in rendered::every_variant() {
        let (metadata, spec) = all.pod();
        let volumes = spec["volumes"].as_array().expect("volumes");
        let volumes: BTreeMap<&str, &Value> =
            volumes.iter().map(|it| (it["name"].as_str().expect("a name"), it)).collect();
        let mut mounted = BTreeSet::new();
        let mut names = BTreeSet::new();
        let mut config_maps = BTreeSet::new();
        for container in containers(spec) {
            assert!(names.insert(container["name"].as_str()), "two of one name: {container}");
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
        assert_eq!(mounted, volumes.keys().copied().collect(), "a volume that nobody mounts");
        let rendered = all.of_kind("ConfigMap").filter_map(|it| it["metadata"]["name"].as_str());
        assert_eq!(config_maps, rendered.collect(), "a ConfigMap that nobody mounts");
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

/// The attack: an agent that finds in its own container, or the proxy's, what AWS takes for a key.
#[test]
fn what_is_the_broker_s_is_in_its_container_alone() {
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
        assert_eq!(skipped, others, "containers that EKS gives the role of an account");
        let policy = all.named("NetworkPolicy", "sigward-agent").to_string();
        assert!(policy.contains("169.254.0.0/16"), "metadata addresses are open: {policy}");
    }
    for components in [&["node-agent"][..], &["socket", "node-agent"]] {
        let all = Rendered::with("pod", components);
        let (_, spec) = all.pod();
        let names: Vec<_> = containers(spec).iter().map(|it| it["name"].as_str()).collect();
        assert_eq!(names, [Some("proxy"), Some("agent")]);
        assert!(!spec.to_string().contains("sts.amazonaws.com"), "a token where no broker is");
        let policy = all.named("NetworkPolicy", "sigward-agent").to_string();
        assert!(policy.contains("169.254.0.0/16"), "metadata addresses are open: {policy}");
    }
}

/// Started in this order, each when the one before is well; the agent last.
#[test]
fn the_broker_starts_before_the_proxy_and_that_before_the_agent() {
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

/// The options of a proxy, as the program itself reads them.
fn invocation(command: &[&str]) -> cli::Invocation {
    assert_eq!(command[0], "sigward-proxy");
    let parsed = cli::parse(command.iter().map(Into::into), &Environment::of_process());
    parsed.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_programs_take_their_options_and_files() {
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
                    assert_eq!(listen.address, asked, "the probe asks somewhere else");
                }
                None => assert_eq!(container["name"], "agent"),
            }
        }
    }
}

/// A shipped configuration as the program itself reads it, and its text. One key more, and it isn't valid.
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

/// The broker knows the proxy by the user that the manifest gives it.
#[test]
fn the_broker_s_configuration_is_valid_and_about_this_proxy() {
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

/// The broker of a node and the proxy of an agent's pod find each other and know each other, by the names that their
/// certificates get from the service accounts.
#[test]
fn the_broker_of_a_node_is_valid_and_about_the_proxies_of_its_pods() {
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
        panic!("the proxy asks no broker over TLS")
    };

    // Where it is: the service and its port lead to the port on which the broker listens.
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

    // Who both are.
    let BrokerName::SpiffeId(name) = &asked.name else { panic!("a broker by another name") };
    assert_eq!(name.to_string(), id(namespace, broker));
    let text = std::fs::read_to_string(directory().join("node/broker.toml")).expect("a file");
    let of_agents = id("team-a", agent);
    assert!(text.contains(&format!("peer = {{ spiffe_id = \"{of_agents}\" }}")), "{of_agents}");

    // And by which files: those of the volume that has them.
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

/// As podman 4 has it, which the compose programs drive: it takes `size` of a volume for a quota, which few file systems
/// have, and knows no other interval at the start.
#[test]
fn compose_asks_for_nothing_that_podman_refuses() {
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
