//! Warns of rules that give one caller two agents, which breaks its MCP session.
//!
//! The rule that permits a request names its agent. The methods that open a session are permitted
//! by the first rule that matches the caller, the profile and the endpoint, whatever its `tools`; a
//! call that this rule doesn't permit is signed as the agent of a later rule, in the session of the
//! first. Servers that bind a session to an identity refuse it.

use crate::config::{Agent, Config, Profile, Rule};

/// A warning for each such pair of rules.
pub(super) fn broken_sessions(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for (at, first) in config.rules.iter().enumerate() {
        // This rule permits everything: the rules after it never name the agent of its callers.
        if !first.reads_the_body() {
            continue;
        }
        for later in &config.rules[at + 1..] {
            let is_one = agent(first) == agent(later) || !first.peer.overlaps(&later.peer);
            let shared = |it: &'_ &Profile| !is_one && share(it, first, later);
            let Some(profile) = config.profiles.iter().find(shared) else { continue };
            warnings.push(format!(
                "Warning: with the profile {}, callers of both {:?} and {:?} have two agents, {} and {}. Their MCP session is \
                 opened as the first, and a server that binds sessions to an identity refuses calls as the \
                 second. Give both rules one agent, or each a profile of its own (another [[profile]] with the same \
                 aws_profile).\n",
                profile.name,
                first.name,
                later.name,
                named(first),
                named(later),
            ));
        }
    }
    warnings
}

/// Whether both rules match the profile at one of its endpoints.
fn share(profile: &Profile, first: &Rule, later: &Rule) -> bool {
    let allow = |rule: &Rule, endpoint: &str| {
        rule.profiles.contains(profile.name.as_str()) && rule.endpoints.contains(endpoint)
    };
    profile.endpoints.iter().any(|endpoint| allow(first, endpoint) && allow(later, endpoint))
}

fn agent(rule: &Rule) -> Option<&Agent> {
    rule.agent.as_deref()
}

fn named(rule: &Rule) -> &str {
    agent(rule).map_or("none (the profile's own credentials)", Agent::name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    fn warnings(rules: &[&str]) -> Vec<String> {
        let endpoint = |name: &str, region: &str| {
            format!(
                "[[endpoint]]\nname = {name:?}\nurl = \"https://aws-mcp.{region}.api.aws/mcp\"\n"
            )
        };
        let mut text = endpoint("e", "us-east-1") + &endpoint("f", "eu-central-1");
        for name in ["p", "q"] {
            text += &format!("[[profile]]\nname = {name:?}\nendpoints = [\"e\", \"f\"]\n");
        }
        for (number, rule) in rules.iter().enumerate() {
            let peer = if rule.contains("peer") { "" } else { "peer = { uid = 7 }\n" };
            let profiles = if rule.contains("profiles") { "" } else { "profiles = [\"p\"]\n" };
            text += &format!("[[rule]]\nname = \"rule {number}\"\n{peer}{profiles}{rule}\n");
        }
        let parsed = config::parse(&text, Path::new("broker.toml"), 1000);
        broken_sessions(&parsed.expect("a configuration"))
    }

    #[test]
    fn two_agents_of_one_caller_are_warned_of() {
        let readers = "tools = { allow = [\"read_*\"] }\nagent = \"reader\"";
        for later in [
            "agent = \"writer\"",
            // Without an agent, the identity differs too.
            "",
            "agent = \"writer\"\npeer = { gid = 7 }",
            "agent = \"writer\"\nprofiles = [\"*\"]\nendpoints = [\"f\"]",
        ] {
            let [warning] = &warnings(&[readers, later])[..] else { panic!("{later}") };
            for word in ["profile p", "\"rule 0\"", "\"rule 1\"", "reader"] {
                assert!(warning.contains(word), "{word}: {warning}");
            }
        }
        assert_eq!(warnings(&[readers, "agent = \"b2\"", "agent = \"b3\""]).len(), 2);
    }

    #[test]
    fn rules_that_do_not_overlap_are_not_warned_of() {
        let readers = "tools = { allow = [\"read_*\"] }\nagent = \"reader\"";
        for rules in [
            [readers, "agent = \"reader\""],
            [readers, "agent = \"writer\"\npeer = { uid = 8 }"],
            [readers, "agent = \"writer\"\nprofiles = [\"q\"]"],
            [
                "tools = { allow = [\"read_*\"] }\nagent = \"reader\"\nendpoints = [\"e\"]",
                "agent = \"writer\"\nendpoints = [\"f\"]",
            ],
            // The first rule permits everything.
            ["agent = \"reader\"", "agent = \"writer\""],
        ] {
            assert_eq!(warnings(&rules), Vec::<String>::new(), "{rules:?}");
        }
    }
}
