use std::path::Path;

use sigward_proto::v1::sign_request::Payload;
use sigward_proto::v1::{Header, SignRequest};

use super::*;
use crate::config;

const BASE: &str = r#"
[[endpoint]]
name = "one"
url = "https://aws-mcp.us-east-1.api.aws/mcp"
[[endpoint]]
name = "two"
url = "https://eks-mcp.us-east-1.api.aws/mcp"
[[profile]]
name = "dev"
endpoints = ["one", "two"]
[[profile]]
name = "prod"
endpoints = ["one"]
"#;

fn config(rules: &str) -> Config {
    config::parse(&format!("{BASE}{rules}"), Path::new("test"), 1000).expect("valid")
}

fn peer(uid: u32) -> Peer {
    Peer { uid, gid: 100, pid: Some(1), exe: None }
}

fn body(tool: &str) -> Payload {
    let body = format!(r#"{{"method":"tools/call","params":{{"name":"{tool}"}}}}"#);
    Payload::Body(body.into_bytes().into())
}

fn request(config: &Config, profile: &str, host: &str, payload: Payload) -> CheckedRequest {
    let content_type =
        Header { name: "content-type".to_owned(), value: b"application/json".as_slice().into() };
    let request = SignRequest {
        profile: profile.to_owned(),
        method: "POST".to_owned(),
        uri: format!("https://{host}.us-east-1.api.aws/mcp"),
        headers: vec![content_type],
        payload: Some(payload),
    };
    CheckedRequest::parse(request, &config.endpoints).expect("valid")
}

/// What a policy says to one request: nothing for a grant.
fn verdict(rules: &str, uid: u32, profile: &str, host: &str, payload: Payload) -> Option<Reason> {
    let config = config(rules);
    let now = Instant::now();
    let policy = Policy::new(&config, now);
    let request = request(&config, profile, host, payload);
    policy.authorize(&peer(uid), &request, now).err().map(|denial| denial.reason())
}

#[test]
fn without_rules_only_the_own_user_is_allowed() {
    assert_eq!(verdict("", 1000, "dev", "aws-mcp", body("t")), None);
    assert_eq!(verdict("", 1001, "dev", "aws-mcp", body("t")), Some(Reason::PeerNotAllowed));
    assert_eq!(verdict("", 0, "dev", "aws-mcp", body("t")), Some(Reason::PeerNotAllowed));
}

#[test]
fn a_rule_allows_what_it_names_and_nothing_else() {
    let rule = "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"dev\"]\nendpoints = [\"one\"]\n";
    assert_eq!(verdict(rule, 7, "dev", "aws-mcp", body("t")), None);
    assert_eq!(verdict(rule, 1000, "dev", "aws-mcp", body("t")), Some(Reason::PeerNotAllowed));
    assert_eq!(verdict(rule, 7, "prod", "aws-mcp", body("t")), Some(Reason::ProfileNotAllowed));
    assert_eq!(verdict(rule, 7, "nobody", "aws-mcp", body("t")), Some(Reason::ProfileNotAllowed));
    assert_eq!(verdict(rule, 7, "", "aws-mcp", body("t")), Some(Reason::ProfileNotAllowed));
    assert_eq!(verdict(rule, 7, "dev", "eks-mcp", body("t")), Some(Reason::EndpointNotAllowed));
}

#[test]
fn a_profile_goes_only_to_its_endpoints() {
    let rule = "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"*\"]\n";
    assert_eq!(verdict(rule, 7, "dev", "eks-mcp", body("t")), None);
    assert_eq!(verdict(rule, 7, "prod", "eks-mcp", body("t")), Some(Reason::EndpointNotAllowed));
}

#[test]
fn rights_of_two_rules_do_not_mix() {
    let rules = "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"dev\"]\nendpoints = [\"two\"]\n\
                 [[rule]]\npeer = { uid = 7 }\nprofiles = [\"prod\"]\nendpoints = [\"one\"]\n";
    assert_eq!(verdict(rules, 7, "dev", "eks-mcp", body("t")), None);
    assert_eq!(verdict(rules, 7, "prod", "aws-mcp", body("t")), None);
    assert_eq!(verdict(rules, 7, "dev", "aws-mcp", body("t")), Some(Reason::EndpointNotAllowed));
}

#[test]
fn tools_are_allowed_by_glob_and_a_deny_wins() {
    let rule = "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"dev\"]\n\
                tools = { allow = [\"aws___*\"], deny = [\"aws___run_*\"] }\n";
    let tool = |name| verdict(rule, 7, "dev", "aws-mcp", body(name));
    assert_eq!(tool("aws___call"), None);
    assert_eq!(tool("aws___run_script"), Some(Reason::ToolNotAllowed));
    assert_eq!(tool("other"), Some(Reason::ToolNotAllowed));
    assert_eq!(tool("AWS___call"), Some(Reason::ToolNotAllowed));
    assert_eq!(tool(" aws___call"), Some(Reason::ToolNotAllowed));

    // A second rule without tools would allow all; the deny of the first still wins.
    let rules = format!("{rule}[[rule]]\npeer = {{ uid = 7 }}\nprofiles = [\"dev\"]\n");
    let tool = |name| verdict(&rules, 7, "dev", "aws-mcp", body(name));
    assert_eq!(tool("other"), None);
    assert_eq!(tool("aws___run_script"), Some(Reason::ToolNotAllowed));

    let deny_only =
        "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"dev\"]\ntools = { deny = [\"x\"] }\n";
    assert_eq!(verdict(deny_only, 7, "dev", "aws-mcp", body("y")), None);
    assert_eq!(verdict(deny_only, 7, "dev", "aws-mcp", body("x")), Some(Reason::ToolNotAllowed));
    let allow_none = "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"dev\"]\ntools = { allow = [] }\n";
    assert_eq!(verdict(allow_none, 7, "dev", "aws-mcp", body("y")), Some(Reason::ToolNotAllowed));
}

#[test]
fn a_rule_about_tools_reads_the_body_itself() {
    let rule = "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"dev\"]\ntools = { allow = [\"t\"] }\n";
    let raw = |text: &str| Payload::Body(text.as_bytes().to_vec().into());
    let of = |rule: &str, payload| verdict(rule, 7, "dev", "aws-mcp", payload);
    let hash = || Payload::BodySha256(vec![1; 32].into());
    let twice = r#"{"method":"tools/call","params":{"name":"t","name":"x"}}"#;
    assert_eq!(of(rule, hash()), Some(Reason::BodyRequired));
    assert_eq!(of(rule, raw(twice)), Some(Reason::AmbiguousJson));
    assert_eq!(of(rule, raw(r#"[{"method":"ping"}]"#)), Some(Reason::AmbiguousJson));
    assert_eq!(of(rule, raw(r#"{"method":"tools/list"}"#)), None);
    // Without such a rule nobody looks, and a hash is enough.
    let open = "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"dev\"]\n";
    assert_eq!(of(open, hash()), None);
    assert_eq!(of(open, raw(twice)), None);
}

#[test]
fn the_rate_is_the_rules() {
    let config = config(
        "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"dev\"]\nrate = { per_second = 1, burst = 2 }\n\
         [[rule]]\npeer = { uid = 8 }\nprofiles = [\"dev\"]\n",
    );
    let now = Instant::now();
    let policy = Policy::new(&config, now);
    let request = request(&config, "dev", "aws-mcp", body("t"));
    let allowed = |uid, seconds| {
        let at = now + std::time::Duration::from_secs(seconds);
        policy.authorize(&peer(uid), &request, at).map(drop).map_err(|denial| denial.reason())
    };
    assert_eq!(allowed(7, 0), Ok(()));
    assert_eq!(allowed(7, 0), Ok(()));
    assert_eq!(allowed(7, 0), Err(Reason::RateLimited));
    assert_eq!(allowed(8, 0), Ok(()));
    assert_eq!(allowed(7, 1), Ok(()));
    assert_eq!(allowed(7, 1), Err(Reason::RateLimited));
}

#[test]
fn a_sign_in_needs_a_rule_that_says_so() {
    let rules = "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"dev\"]\nlogin = true\n\
                 [[rule]]\npeer = { uid = 7 }\nprofiles = [\"prod\"]\n\
                 [[rule]]\npeer = { uid = 8 }\nprofiles = [\"*\"]\nlogin = false\n";
    let policy = Policy::new(&config(rules), Instant::now());
    let verdict = |uid, profile| {
        let grant = policy.authorize_login(&peer(uid), profile);
        grant.map(|grant| grant.profile().to_string()).map_err(|denial| denial.reason())
    };
    assert_eq!(verdict(7, "dev"), Ok("dev".to_owned()));
    assert_eq!(verdict(7, "prod"), Err(Reason::LoginNotAllowed));
    assert_eq!(verdict(8, "dev"), Err(Reason::LoginNotAllowed));
    assert_eq!(verdict(9, "dev"), Err(Reason::PeerNotAllowed));
    assert_eq!(verdict(8, "nobody"), Err(Reason::ProfileNotAllowed));
    assert_eq!(verdict(8, "a b"), Err(Reason::ProfileNotAllowed));
    // Where no rule was written, the own user could sign in with the AWS CLI as well.
    let policy = Policy::new(&config(""), Instant::now());
    assert!(policy.authorize_login(&peer(1000), "dev").is_ok());
    assert!(policy.authorize_login(&peer(1001), "dev").is_err());
}

#[test]
fn what_a_peer_may_see() {
    let rules = "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"dev\"]\nendpoints = [\"two\"]\n\
                 [[rule]]\npeer = { uid = 8 }\nprofiles = [\"*\"]\n";
    let policy = Policy::new(&config(rules), Instant::now());
    let name = |text| ProfileName::parse(text).expect(text);
    assert_eq!(policy.endpoints_of(&peer(7), &name("dev")), ["two"]);
    assert!(policy.endpoints_of(&peer(7), &name("prod")).is_empty());
    assert_eq!(policy.endpoints_of(&peer(8), &name("prod")), ["one"]);
    assert!(policy.endpoints_of(&peer(9), &name("dev")).is_empty());
    assert!(policy.endpoints_of(&peer(8), &name("nobody")).is_empty());
}
