use std::path::Path;

use super::*;
use crate::endpoint::Paths;
use crate::error::Faults;
use crate::peer::{PeerPattern, UnixPattern};

const MINIMAL: &str = r#"
[[endpoint]]
name = "aws-mcp"
url = "https://aws-mcp.us-east-1.api.aws/mcp"

[[profile]]
name = "dev"
endpoints = ["aws-mcp"]
"#;

fn parsed(text: &str) -> Result<Config, Faults> {
    parse(text, Path::new("broker.toml"), 1000)
}

/// The errors of the minimal configuration with an addition: line, key and message.
fn faults(added: &str) -> Vec<(usize, String, String)> {
    let faults = parsed(&format!("{MINIMAL}{added}")).expect_err(added).faults;
    faults.into_iter().map(|fault| (fault.line, fault.key, fault.message)).collect()
}

#[test]
fn the_annotated_file_is_valid_and_parsed_as_documented() {
    let config = parsed(include_str!("../../deploy/broker.toml")).expect("valid");
    assert_eq!(config.endpoints.len(), 2);
    assert_eq!(config.profiles.len(), 2);
    assert_eq!(config.rules.len(), 2);
    assert_eq!(config.listen.mode, Some(0o660));
    let role = config.profiles[1].role.as_ref().expect("a role");
    assert_eq!(role.duration, Some(std::time::Duration::from_secs(3600)));
    assert!(role.session_policy.is_some());
    let tools = config.rules[0].tools.as_ref().expect("tools");
    assert_eq!(tools.deny, ["aws___get_presigned_url"]);
    assert_eq!(
        (config.rules[0].name.as_str(), config.rules[1].name.as_str()),
        ("agents", "rule 2")
    );
    assert_eq!(config.rules[0].arguments.len(), 2);
    assert_eq!(config.rules[0].arguments[1].must, Must::BeAbsent);
    assert_eq!(config.endpoints[0].paths, Paths::Exact);
    assert_eq!(config.endpoints[1].paths, Paths::Prefix);
    assert_eq!(config.audit.rotate, Some(Rotate { bytes: 100 << 20, keep: 10 }));
    assert_eq!(config.rules[0].rate, Some(Rate { per_second: 50, burst: 100 }));
    assert_eq!(config.rules[1].endpoints, Names::All);
    assert!(config.rules[0].login && !config.rules[1].login);
}

#[test]
fn without_a_rule_the_own_user_may_use_all() {
    let config = parsed(MINIMAL).expect("valid");
    let [rule] = config.rules.as_slice() else { panic!("{:?}", config.rules) };
    assert_eq!(rule.peer, user(1000));
    assert_eq!(rule.profiles, Names::All);
    // An empty list of rules differs from no list: it allows nothing.
    let config = parsed(&format!("rule = []\n{MINIMAL}")).expect("valid");
    assert!(config.rules.is_empty());
}

/// The attack: in a user namespace every unmapped user of the host has this uid, and the broker may
/// have it too.
#[test]
fn a_broker_with_an_unmapped_user_needs_a_rule() {
    const OVERFLOW: u32 = 65534;
    let parsed = |text: &str| parse(text, Path::new("broker.toml"), OVERFLOW);
    let faults = parsed(MINIMAL).expect_err("any unmapped user would be the broker's own");
    assert_eq!(faults.faults.len(), 1);
    let rule = "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"*\"]\n";
    assert!(parsed(&format!("{MINIMAL}{rule}")).is_ok());
    let endpoints = vec!["https://aws-mcp.us-east-1.api.aws/mcp".to_owned()];
    let given = Flags { endpoints, ..Flags::default() };
    assert!(given.into_config(OVERFLOW).is_err());
}

#[test]
fn all_errors_are_reported() {
    let text = r#"
[listen]
gruop = "mcp"
[[endpoint]]
name = "aws-mcp"
url = "http://example.com/mcp"
[[profile]]
name = "dev"
endpoints = ["aws-mpc"]
[[rule]]
profiles = ["dve"]
"#;
    let error = parsed(text).expect_err("faulty");
    let found: Vec<(usize, &str)> =
        error.faults.iter().map(|fault| (fault.line, fault.key.as_str())).collect();
    assert_eq!(
        found,
        [
            (3, "listen.gruop"),
            (6, "endpoint[0].url"),
            (9, "profile[0].endpoints[0]"),
            (10, "rule[0].peer"),
            (11, "rule[0].profiles[0]"),
        ]
    );
    let shown = error.to_string();
    assert!(shown.starts_with("broker.toml has 5 errors:"), "{shown}");
    assert!(shown.contains("broker.toml:3: listen.gruop: "), "{shown}");
    assert!(shown.contains("did you mean \"group\"?"), "{shown}");
    assert!(shown.contains("did you mean \"aws-mcp\"?"), "{shown}");
    assert!(shown.contains("did you mean \"dev\"?"), "{shown}");
}

#[test]
fn every_syntax_error_has_its_line() {
    let error = parsed("[listen\nunix = = 1\n").expect_err("faulty");
    let lines: Vec<usize> = error.faults.iter().map(|fault| fault.line).collect();
    assert!(lines.contains(&1) && lines.contains(&2), "{error}");
}

#[test]
fn each_error_has_its_key_and_cause() {
    for (added, key, message) in [
        ("[listen]\nunix = \"x/y.sock\"", "listen.unix", "absolute"),
        ("[listen]\nmode = \"0666\"", "listen.mode", "every user"),
        ("[listen]\nmode = \"0060\"", "listen.mode", "octal"),
        ("[listen]\nmode = \"9\"", "listen.mode", "octal"),
        ("[listen]\nmode = 432", "listen.mode", "text in quotes"),
        ("[listen]\ngroup = \"no-such-group\"", "listen.group", "groupadd"),
        ("[listen]\ntcp = \"0.0.0.0:7443\"", "listen.tcp", "client_ca"),
        (
            "[listen]\ntcp = \"7443\"\ntls = { cert = \"/c\", key = \"/k\", client_ca = \"/a\" }",
            "listen.tcp",
            "address and a port",
        ),
        (
            "[listen]\ntls = { cert = \"/c\", key = \"/k\", client_ca = \"/a\" }",
            "listen.tls",
            "needs tcp",
        ),
        (
            "[listen]\ntcp = \"0.0.0.0:1\"\ntls = { key = \"/k\", client_ca = \"/a\" }",
            "listen.tls.cert",
            "chain",
        ),
        (
            "[listen]\ntcp = \"0.0.0.0:1\"\ntls = { cert = \"/c\", client_ca = \"/a\" }",
            "listen.tls.key",
            "private key",
        ),
        (
            "[listen]\ntcp = \"0.0.0.0:1\"\ntls = { cert = \"/c\", key = \"/k\" }",
            "listen.tls.client_ca",
            "all callers",
        ),
        (
            "[listen]\ntcp = \"0.0.0.0:1\"\ntls = { cert = \"/c\", key = \"/k\", client_ca = \"/a\", ca = 1 }",
            "listen.tls.ca",
            "not a key",
        ),
        (
            "[listen]\ntcp = \"0.0.0.0:1\"\ntls = { cert = \"/c\", key = \"k\", client_ca = \"/a\" }",
            "listen.tls.key",
            "absolute",
        ),
        ("[aws]\nconfig_file = \"~/.aws/config\"", "aws.config_file", "absolute"),
        ("[metrics]\nlisten = \"localhost\"", "metrics.listen", "address and a port"),
        ("[metrics]", "metrics.listen", "127.0.0.1:9464"),
        (
            "[metrics]\nport = 1\nlisten = \"127.0.0.1:1\"",
            "metrics.port",
            "is not a key of this table",
        ),
        ("[audit]\non_failure = \"ignore\"", "audit.on_failure", "\"deny\" or \"allow\""),
        ("[audit]\nfile = \"a.log\"", "audit.file", "absolute"),
        ("[audti]\nfile = \"/a\"", "audti", "did you mean \"audit\"?"),
        (
            "[[endpoint]]\nname = \"aws-mcp\"\nurl = \"https://eks-mcp.us-east-1.api.aws/\"",
            "endpoint[1].name",
            "twice",
        ),
        (
            "[[endpoint]]\nname = \"b\"\nurl = \"https://aws-mcp.us-east-1.api.aws/mcp\"",
            "endpoint[1].url",
            "already",
        ),
        ("[[endpoint]]\nname = \"b\"", "endpoint[1].url", "missing"),
        (
            "[[endpoint]]\nurl = \"https://eks-mcp.us-east-1.api.aws/\"",
            "endpoint[1].name",
            "missing",
        ),
        (
            "[[endpoint]]\nname = \"b\"\nurl = \"https://h/\"\nservice = \"x\"",
            "endpoint[1].region",
            "missing",
        ),
        (
            "[[endpoint]]\nname = \"b\"\nurl = \"https://h/\"\nregion = \"r\"",
            "endpoint[1].service",
            "missing",
        ),
        (
            "[[endpoint]]\nname = \"b\"\nurl = \"https://eks-mcp.us-east-1.api.aws/\"\nservice = \"a/b\"",
            "endpoint[1].service",
            "signing name",
        ),
        (
            "[[endpoint]]\nname = \"b\"\nurl = \"https://eks-mcp.us-east-1.api.aws/\"\nregion = \"us-*\"",
            "endpoint[1].region",
            "region",
        ),
        (
            "[[profile]]\nname = \"a\\u0085b\"\nendpoints = [\"aws-mcp\"]",
            "profile[1].name",
            "control characters",
        ),
        ("[[profile]]\nname = \"b\"", "profile[1].endpoints", "missing"),
        ("[[profile]]\nname = \"b\"\nendpoints = []", "profile[1].endpoints", "empty"),
        ("[[profile]]\nname = \"b\"\nendpoints = \"aws-mcp\"", "profile[1].endpoints", "list"),
        (
            "[[profile]]\nname = \"b\"\nendpoints = [\"aws-mcp\", \"aws-mcp\"]",
            "profile[1].endpoints[1]",
            "twice",
        ),
        (
            "[[profile]]\nname = \"b\"\nendpoints = [\"aws-mcp\"]\nrole_arn = \"x\"",
            "profile[1].role_arn",
            "ARN",
        ),
        (
            "[[profile]]\nname = \"b\"\nendpoints = [\"aws-mcp\"]\nsession_policy = \"{}\"",
            "profile[1].session_policy",
            "role_arn",
        ),
        ("[[rule]]\nprofiles = [\"dev\"]", "rule[0].peer", "missing"),
        ("[[rule]]\npeer = {}\nprofiles = [\"dev\"]", "rule[0].peer.uid", "missing"),
        ("[[rule]]\npeer = { uid = -1 }\nprofiles = [\"dev\"]", "rule[0].peer.uid", "whole number"),
        (
            "[[rule]]\npeer = { exe = \"agent\" }\nprofiles = [\"dev\"]",
            "rule[0].peer.exe",
            "absolute",
        ),
        (
            "[[rule]]\npeer = { spiffe_id = \"spiffe://a/b\" }\nprofiles = [\"dev\"]",
            "rule[0].peer.spiffe_id",
            "TLS",
        ),
        (
            "[listen]\ntcp = \"0.0.0.0:1\"\ntls = { cert = \"/c\", key = \"/k\", client_ca = \"/a\" }\n\
             [[rule]]\npeer = { dns = \"*.example.org\" }\nprofiles = [\"dev\"]",
            "rule[0].peer.dns",
            "without wildcards",
        ),
        (
            "[listen]\ntcp = \"0.0.0.0:1\"\ntls = { cert = \"/c\", key = \"/k\", client_ca = \"/a\" }\n\
             [[rule]]\npeer = { spiffe_id = \"spiffe://*/b\" }\nprofiles = [\"dev\"]",
            "rule[0].peer.spiffe_id",
            "trust domain",
        ),
        (
            "[listen]\ntcp = \"0.0.0.0:1\"\ntls = { cert = \"/c\", key = \"/k\", client_ca = \"/a\" }\n\
             [[rule]]\npeer = { uid = 1, spiffe_id = \"spiffe://a/b\" }\nprofiles = [\"dev\"]",
            "rule[0].peer.spiffe_id",
            "a rule for each",
        ),
        (
            "[listen]\ntcp = \"0.0.0.0:1\"\ntls = { cert = \"/c\", key = \"/k\", client_ca = \"/a\" }\n\
             [[rule]]\npeer = { dns = \"a\", spiffe_id = \"spiffe://a/b\" }\nprofiles = [\"dev\"]",
            "rule[0].peer.spiffe_id",
            "a rule for each",
        ),
        ("[[rule]]\npeer = { uid = 1 }", "rule[0].profiles", "missing"),
        ("[[rule]]\npeer = { uid = 1 }\nprofiles = []", "rule[0].profiles", "empty"),
        (
            "[[rule]]\npeer = { uid = 1 }\nprofiles = [\"dev\"]\nendpoints = [\"x\"]",
            "rule[0].endpoints[0]",
            "no endpoint",
        ),
        (
            "[[rule]]\npeer = { uid = 1 }\nprofiles = [\"dev\"]\ntools = {}",
            "rule[0].tools.allow",
            "missing",
        ),
        (
            "[[rule]]\npeer = { uid = 1 }\nprofiles = [\"dev\"]\nrate = { burst = 1 }",
            "rule[0].rate.per_second",
            "missing",
        ),
        (
            "[[rule]]\npeer = { uid = 1 }\nprofiles = [\"dev\"]\nrate = { per_second = 0 }",
            "rule[0].rate.per_second",
            "from 1",
        ),
        (
            "[[rule]]\npeer = { uid = 1 }\nprofiles = [\"dev\"]\nlogin = \"yes\"",
            "rule[0].login",
            "true or false",
        ),
        ("[rule]\npeer = { uid = 1 }", "rule", "[[rule]]"),
        (
            "[[rule]]\npeer = { exe = \"/bin/a\" }\nprofiles = [\"dev\"]",
            "rule[0].peer.uid",
            "no identity",
        ),
        (
            "[[rule]]\npeer = { uid = 65534 }\nprofiles = [\"dev\"]",
            "rule[0].peer.uid",
            "identifies no one",
        ),
        (
            "[[rule]]\npeer = { gid = 65534 }\nprofiles = [\"dev\"]",
            "rule[0].peer.gid",
            "identifies no one",
        ),
        (
            "[[rule]]\nname = \"a\"\npeer = { uid = 1 }\nprofiles = [\"dev\"]\n\
             [[rule]]\nname = \"a\"\npeer = { uid = 1 }\nprofiles = [\"dev\"]",
            "rule[1].name",
            "declared twice",
        ),
        (
            "[[rule]]\npeer = { uid = 1 }\nprofiles = [\"dev\"]\nmethods = { deny = [\"x\"] }",
            "rule[0].methods",
            "permits nothing",
        ),
        (
            "[[rule]]\npeer = { uid = 1 }\nprofiles = [\"dev\"]\narguments = [{ path = \"/a\", equals = 1 }]",
            "rule[0].arguments",
            "permits no call",
        ),
        (
            "[[rule]]\npeer = { uid = 1 }\nprofiles = [\"dev\"]\ntools = { allow = [\"*\"] }\n\
             arguments = [{ path = \"a\", equals = 1 }]",
            "rule[0].arguments[0].path",
            "JSON pointer",
        ),
        (
            "[[rule]]\npeer = { uid = 1 }\nprofiles = [\"dev\"]\ntools = { allow = [\"*\"] }\n\
             arguments = [{ path = \"/a\", equals = 1, absent = true }]",
            "rule[0].arguments[0].path",
            "one condition",
        ),
        (
            "[[rule]]\npeer = { uid = 1 }\nprofiles = [\"dev\"]\ntools = { allow = [\"*\"] }\n\
             arguments = [{ path = \"/a\", in = [1.5] }]",
            "rule[0].arguments[0].in[0]",
            "whole number",
        ),
        ("[audit]\nfile = \"/a\"\nsync = \"yes\"", "audit.sync", "batch"),
        ("[audit]\nfile = \"/a\"\nrotate = { keep = 1 }", "audit.rotate.mib", "missing"),
        ("[audit]\nrotate = { mib = 1 }", "audit.rotate", "needs file"),
    ] {
        let found = faults(added);
        let [(_, found_key, found_message)] = found.as_slice() else {
            panic!("{added}: {found:?}")
        };
        assert_eq!(found_key, key, "{added}");
        assert!(found_message.contains(message), "{added}: {found_message}");
    }
}

#[test]
fn role_keys_are_checked() {
    let role = "[[profile]]\nname = \"b\"\nendpoints = [\"aws-mcp\"]\nrole_arn = \"arn:aws:iam::123456789012:role/R\"\n";
    let arns =
        |count| format!("session_policy_arns = {:?}", vec!["arn:aws:iam::1:policy/a/B"; count]);
    let eleven = arns(11);
    for (added, key) in [
        ("duration = \"10m\"", "profile[1].duration"),
        ("duration = 900", "profile[1].duration"),
        ("session_policy = \"not json\"", "profile[1].session_policy"),
        ("session_name = \"a b\"", "profile[1].session_name"),
        ("external_id = \"x\"", "profile[1].external_id"),
        ("external_id = \"a b\"", "profile[1].external_id"),
        (
            "session_policy_arns = [\"arn:aws:iam::aws:policy/A\", \"A\"]",
            "profile[1].session_policy_arns[1]",
        ),
        (&eleven, "profile[1].session_policy_arns"),
    ] {
        let found = faults(&format!("{role}{added}"));
        assert_eq!(
            found.iter().map(|fault| fault.1.as_str()).collect::<Vec<_>>(),
            [key],
            "{added}"
        );
    }
    assert!(
        parsed(&format!("{MINIMAL}{role}duration = \"15m\"\nexternal_id = \"a:/b\"\n{}", arns(10)))
            .is_ok()
    );
}

#[test]
fn a_file_writable_by_all_is_not_read() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("broker.toml");
    let minimal = "[[endpoint]]\nname = \"e\"\nurl = \"https://aws-mcp.us-east-1.api.aws/mcp\"\n\
                   [[profile]]\nname = \"p\"\nendpoints = [\"e\"]\n";
    std::fs::write(&path, minimal).expect("a file");
    for (mode, good) in [(0o600, true), (0o664, true), (0o666, false), (0o602, false)] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, permissions).expect("a mode");
        let read = read(&path, 1000).map_err(|error| crate::error::with_causes(&error));
        assert_eq!(read.is_ok(), good, "{mode:o}: {:?}", read.err());
        if let Err(words) = read {
            assert!(words.contains("broker.toml") && words.contains("chmod o-w"), "{words}");
        }
    }
}

fn user(uid: u32) -> PeerPattern {
    PeerPattern::Unix(UnixPattern { uid: Some(uid), ..UnixPattern::default() })
}

#[test]
fn certificates_are_identified_by_id_or_by_name() {
    let text = format!(
        "[listen]\ntcp = \"[::]:7443\"\ntls = {{ cert = \"/c\", key = \"/k\", client_ca = \"/a\" }}\n{MINIMAL}\
         [[rule]]\npeer = {{ spiffe_id = \"spiffe://a/ns/*/sa/b\" }}\nprofiles = [\"dev\"]\n\
         [[rule]]\npeer = {{ dns = \"Agent.example.org\" }}\nprofiles = [\"dev\"]\n"
    );
    let config = parsed(&text).expect("valid");
    let tcp = config.listen.tcp.expect("an address");
    assert_eq!(tcp.address, "[::]:7443".parse().expect("an address"));
    assert_eq!(tcp.tls.paths(), [Path::new("/c"), Path::new("/k"), Path::new("/a")]);
    assert!(matches!(&config.rules[0].peer, PeerPattern::SpiffeId(_)));
    assert_eq!(config.rules[1].peer, PeerPattern::Dns("agent.example.org".to_owned()));
}
