use std::path::Path;

use sigward_proto::v1::sign_request::Payload;
use sigward_proto::v1::{Header, SignRequest};

use super::*;
use crate::config;
use crate::request::whole;

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
    crate::peer::tests::process(uid)
}

fn body(tool: &str) -> Payload {
    let body = format!(r#"{{"method":"tools/call","params":{{"name":"{tool}"}}}}"#);
    Payload::Body(body.into_bytes().into())
}

fn request(
    config: &Config,
    want: Option<&Arc<Want>>,
    profile: &str,
    host: &str,
    payload: Payload,
) -> CheckedRequest {
    let content_type =
        Header { name: "content-type".to_owned(), value: b"application/json".as_slice().into() };
    let request = SignRequest {
        profile: profile.to_owned(),
        method: "POST".to_owned(),
        uri: format!("https://{host}.us-east-1.api.aws/mcp"),
        headers: vec![content_type],
        payload: Some(payload),
    };
    whole::check(request, &config.endpoints, want).expect("valid")
}

/// The policy's decision about one request: `None` for a grant.
fn verdict(rules: &str, uid: u32, profile: &str, host: &str, payload: Payload) -> Option<Reason> {
    let config = config(rules);
    let policy = Policy::new(&config);
    let request = request(&config, Some(&policy.want), profile, host, payload);
    let matched = match policy.match_rules(&peer(uid), request.head()) {
        Ok(matched) => matched,
        Err(denial) => return Some(denial.reason()),
    };
    matched.decide(&request).outcome.err().map(|denial| denial.reason())
}

/// The decision of a rule of uid 7 for `dev` about a message.
fn decision_on(matchers: &str, message: &str) -> Option<Reason> {
    let rule = format!("[[rule]]\npeer = {{ uid = 7 }}\nprofiles = [\"dev\"]\n{matchers}\n");
    let payload = Payload::Body(message.as_bytes().to_vec().into());
    verdict(&rule, 7, "dev", "aws-mcp", payload)
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
    for odd in [" aws___call", "aws___call ", "aws___call\u{200b}", "aws___call\\u0000", ""] {
        assert_eq!(tool(odd), Some(Reason::AmbiguousJson), "{odd:?}");
    }
    assert_eq!(tool(&format!("aws___{}", "x".repeat(200))), Some(Reason::AmbiguousJson));

    // A second rule without tools would allow all; the deny of the first one still applies.
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
    assert_eq!(of(rule, raw(r#"{"id":1,"method":"tools/list"}"#)), None);
    // Without such a rule the body isn't read, and a hash suffices.
    let open = "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"dev\"]\n";
    assert_eq!(of(open, hash()), None);
    assert_eq!(of(open, raw(twice)), None);
}

#[test]
fn rates_count_by_rule_and_peer() {
    let config = config(
        "[[rule]]\npeer = { gid = 100 }\nprofiles = [\"dev\"]\nrate = { per_second = 1, burst = 2 }\n\
         [[rule]]\npeer = { uid = 8 }\nprofiles = [\"dev\"]\n",
    );
    let now = Instant::now();
    let rates = Rates::new(now);
    let allowed = |uid, seconds| {
        // A new policy for each request, as after a reload: the rates are kept.
        let policy = Policy::new(&config);
        let request = request(&config, None, "dev", "aws-mcp", body("t"));
        let at = now + std::time::Duration::from_secs(seconds);
        let peer = peer(uid);
        let matched = policy.match_rules(&peer, request.head()).expect("a rule");
        let checked = matched.check_rate(&rates, at).map_err(|denial| denial.reason());
        let decision = matched.decide(&request);
        let charged = matched.charge(&decision, &rates, at).map_err(|denial| {
            assert!(denial.wait().is_some_and(|wait| !wait.is_zero()));
            denial.reason()
        });
        if uid != 8 {
            assert_eq!(checked, charged);
        }
        charged
    };
    assert_eq!(allowed(7, 0), Ok(()));
    assert_eq!(allowed(7, 0), Ok(()));
    assert_eq!(allowed(7, 0), Err(Reason::RateLimited));
    // Another user of the same rule isn't affected.
    assert_eq!(allowed(9, 0), Ok(()));
    assert_eq!(allowed(7, 1), Ok(()));
    assert_eq!(allowed(7, 1), Err(Reason::RateLimited));
}

#[test]
fn a_sign_in_needs_a_rule_that_allows_it() {
    let rules = "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"dev\"]\nlogin = true\n\
                 [[rule]]\npeer = { uid = 7 }\nprofiles = [\"prod\"]\n\
                 [[rule]]\npeer = { uid = 8 }\nprofiles = [\"*\"]\nlogin = false\n";
    let policy = Policy::new(&config(rules));
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
    // Without rules, the own user could sign in with the AWS CLI as well.
    let policy = Policy::new(&config(""));
    assert!(policy.authorize_login(&peer(1000), "dev").is_ok());
    assert!(policy.authorize_login(&peer(1001), "dev").is_err());
}

#[test]
fn a_peer_sees_its_own_profiles_and_endpoints() {
    let rules = "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"dev\"]\nendpoints = [\"two\"]\n\
                 [[rule]]\npeer = { uid = 8 }\nprofiles = [\"*\"]\n";
    let policy = Policy::new(&config(rules));
    let name = |text| ProfileName::parse(text).expect(text);
    assert_eq!(policy.endpoints_of(&peer(7), &name("dev")), ["two"]);
    assert!(policy.endpoints_of(&peer(7), &name("prod")).is_empty());
    assert_eq!(policy.endpoints_of(&peer(8), &name("prod")), ["one"]);
    assert!(policy.endpoints_of(&peer(9), &name("dev")).is_empty());
    assert!(policy.endpoints_of(&peer(8), &name("nobody")).is_empty());
}

fn call(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
}

const SESSION: [&str; 9] = [
    "initialize",
    "ping",
    "server/discover",
    "logging/setLevel",
    "tools/list",
    "resources/list",
    "resources/templates/list",
    "prompts/list",
    "subscriptions/listen",
];

#[test]
fn a_rule_about_mcp_permits_what_it_names_and_the_session() {
    let matchers = [
        "tools = { allow = [\"t\"] }",
        "resources = { allow = [\"docs://*\"] }",
        "prompts = { allow = [\"p\"] }",
        "methods = { allow = [\"x/*\"] }",
    ];
    let refused = Some(Reason::MethodNotAllowed);
    for rule in matchers {
        for method in SESSION {
            assert_eq!(decision_on(rule, &call(method, "{}")), None, "{rule} {method}");
        }
        assert_eq!(decision_on(rule, r#"{"method":"notifications/cancelled","params":{}}"#), None);
        assert_eq!(decision_on(rule, r#"{"id":1,"result":{}}"#), None);
        // Unknown methods are refused, even those that look like notifications.
        for method in ["no/such", "elicitation/create", "notifications/x", "tools/call2"] {
            assert_eq!(decision_on(rule, &call(method, "{}")), refused, "{rule} {method}");
        }
        assert_eq!(decision_on(rule, "{}"), Some(Reason::AmbiguousJson));
    }
    let cases = [
        ("tools/call", r#"{"name":"t"}"#, [true, false, false, false]),
        ("tools/call", r#"{"name":"T"}"#, [false; 4]),
        ("tasks/get", r#"{"taskId":"1"}"#, [true, false, false, false]),
        ("tasks/cancel", r#"{"taskId":"1"}"#, [true, false, false, false]),
        ("resources/read", r#"{"uri":"docs://a"}"#, [false, true, false, false]),
        ("resources/subscribe", r#"{"uri":"docs://a"}"#, [false, true, false, false]),
        ("resources/read", r#"{"uri":"file:///etc"}"#, [false; 4]),
        ("prompts/get", r#"{"name":"p"}"#, [false, false, true, false]),
        ("prompts/get", r#"{"name":"t"}"#, [false; 4]),
        ("x/y", "{}", [false, false, false, true]),
    ];
    for (method, params, permitted) in cases {
        for (rule, permitted) in matchers.iter().zip(permitted) {
            let outcome = decision_on(rule, &call(method, params));
            assert_eq!(outcome.is_none(), permitted, "{rule} {method} {params}: {outcome:?}");
        }
    }
    let completion = |of: &str| call("completion/complete", &format!(r#"{{"ref":{of}}}"#));
    let prompt = completion(r#"{"type":"ref/prompt","name":"p"}"#);
    let resource = completion(r#"{"type":"ref/resource","uri":"docs://a/{x}"}"#);
    assert_eq!(decision_on(matchers[2], &prompt), None);
    assert_eq!(decision_on(matchers[1], &resource), None);
    assert_eq!(decision_on(matchers[1], &prompt), refused);
    assert_eq!(decision_on(matchers[2], &resource), refused);
}

#[test]
fn a_named_method_permits_only_calls_without_another_matcher() {
    let rule = "methods = { allow = [\"tools/call\", \"resources/read\"] }\n\
                resources = { allow = [\"docs://*\"] }";
    assert_eq!(decision_on(rule, &call("tools/call", r#"{"name":"any"}"#)), None);
    assert_eq!(
        decision_on(rule, &call("prompts/get", r#"{"name":"any"}"#)),
        Some(Reason::MethodNotAllowed)
    );
    // The rule lists resources: the method doesn't widen that.
    assert_eq!(decision_on(rule, &call("resources/read", r#"{"uri":"docs://a"}"#)), None);
    let other = decision_on(rule, &call("resources/read", r#"{"uri":"file:///a"}"#));
    assert_eq!(other, Some(Reason::MethodNotAllowed));
}

#[test]
fn a_deny_of_any_matching_rule_wins() {
    let open = "[[rule]]\npeer = { uid = 7 }\nprofiles = [\"dev\"]\n";
    let cases = [
        ("methods = { allow = [\"*\"], deny = [\"ping\"] }", call("ping", "{}")),
        (
            "methods = { allow = [\"*\"], deny = [\"tools/*\"] }",
            call("tools/call", r#"{"name":"t"}"#),
        ),
        ("resources = { deny = [\"file:*\"] }", call("resources/read", r#"{"uri":"file:///a"}"#)),
        ("prompts = { deny = [\"*\"] }", call("prompts/get", r#"{"name":"p"}"#)),
        ("tools = { deny = [\"t\"] }", call("tools/call", r#"{"name":"t"}"#)),
    ];
    for (matchers, message) in cases {
        assert!(decision_on(matchers, &message).is_some(), "{matchers}");
        let both = format!("{matchers}\n{open}");
        assert!(
            decision_on(&both, &message).is_some(),
            "{matchers} beside a rule that permits all"
        );
        assert_eq!(decision_on(&both, &call("other/method", "{}")), None, "{matchers}");
    }
}

#[test]
fn conditions_on_arguments_are_checked() {
    let tool = |arguments: &str| {
        call("tools/call", &format!(r#"{{"name":"run","arguments":{arguments}}}"#))
    };
    let rule = |condition: &str| {
        format!(
            "tools = {{ allow = [\"*\"] }}\narguments = [{{ tool = \"r*\", path = \"/region\", {condition} }}]"
        )
    };
    let refused = Some(Reason::ToolNotAllowed);
    let cases = [
        ("in = [\"eu-west-1\", 5]", r#"{"region":"eu-west-1"}"#, None),
        ("in = [\"eu-west-1\", 5]", r#"{"region":5}"#, None),
        ("in = [\"eu-west-1\", 5]", r#"{"region":"5"}"#, refused),
        ("in = [\"eu-west-1\", 5]", r#"{"region":5.0}"#, refused),
        ("in = [\"eu-west-1\", 5]", r#"{"region":"us-east-1"}"#, refused),
        ("in = [\"eu-west-1\", 5]", r#"{"region":["eu-west-1"]}"#, refused),
        ("in = [\"eu-west-1\", 5]", r#"{}"#, refused),
        ("in = [\"eu-west-1\", 5]", r#"{"x":{"region":"eu-west-1"}}"#, refused),
        ("equals = true", r#"{"region":true}"#, None),
        ("equals = true", r#"{"region":"true"}"#, refused),
        ("matches = \"eu-*\"", r#"{"region":"eu-west-9"}"#, None),
        ("matches = \"eu-*\"", r#"{"region":"us-eu-1"}"#, refused),
        ("matches = [\"a*\", \"b*\"]", r#"{"region":"bc"}"#, None),
        ("matches = \"*\"", r#"{"region":null}"#, refused),
        ("absent = true", r#"{}"#, None),
        ("absent = true", r#"{"region":null}"#, refused),
        ("equals = \"a\"", r#"{"region":"a","region":"b"}"#, Some(Reason::AmbiguousJson)),
        ("equals = \"a\"", r#"{"region":"a","Region":"b"}"#, Some(Reason::AmbiguousJson)),
        ("absent = true", r#"{"REGION":"b"}"#, Some(Reason::AmbiguousJson)),
    ];
    for (condition, arguments, expected) in cases {
        assert_eq!(
            decision_on(&rule(condition), &tool(arguments)),
            expected,
            "{condition} {arguments}"
        );
    }
    // A condition applies to the tools that it names; other tools may have any keys.
    let other = call("tools/call", r#"{"name":"other","arguments":{"region":"b","Region":1}}"#);
    assert_eq!(decision_on(&rule("equals = \"a\""), &other), None);
    let long = tool(&format!(r#"{{"region":"{}"}}"#, "a".repeat(70_000)));
    assert_eq!(decision_on(&rule("matches = \"a*\""), &long), Some(Reason::AmbiguousJson));
}

#[test]
fn places_of_other_rules_are_not_looked_up() {
    let rule = |path: &str| {
        config(&format!(
            "[[rule]]\npeer = {{ uid = 7 }}\nprofiles = [\"dev\"]\ntools = {{ allow = [\"t\"] }}\n\
             arguments = [{{ path = \"{path}\", equals = \"a\" }}]\n"
        ))
    };
    let (before, after) = (rule("/one"), rule("/two"));
    let payload =
        r#"{"id":1,"method":"tools/call","params":{"name":"t","arguments":{"one":"a","two":"b"}}}"#;
    let payload = Payload::Body(payload.as_bytes().into());
    let read_for = Policy::new(&before);
    let request = request(&before, Some(&read_for.want), "dev", "aws-mcp", payload);
    let decide = |policy: &Policy| {
        let matched = policy.match_rules(&peer(7), request.head()).expect("a rule");
        matched.decide(&request).outcome.map(drop).map_err(|denial| denial.reason())
    };
    assert_eq!(decide(&read_for), Ok(()));
    assert_eq!(decide(&Policy::new(&before)), Ok(()));
    assert_eq!(decide(&Policy::new(&after)), Err(Reason::BodyRequired));
}

#[test]
fn a_decision_names_its_rule_and_the_explanation_agrees() {
    let rules = "[[rule]]\nname = \"no scripts\"\npeer = { uid = 7 }\nprofiles = [\"dev\"]\ntools = { deny = [\"run\"] }\n\
                 [[rule]]\npeer = { uid = 7 }\nprofiles = [\"prod\"]\n\
                 [[rule]]\nname = \"two\"\npeer = { uid = 7 }\nprofiles = [\"*\"]\nendpoints = [\"two\"]\n\
                 [[rule]]\nname = \"others\"\npeer = { uid = 8 }\nprofiles = [\"dev\"]\n";
    let config = config(rules);
    let policy = Policy::new(&config);
    for (tool, permitted) in [("t", true), ("run", false)] {
        let request = request(&config, Some(&policy.want), "dev", "aws-mcp", body(tool));
        let matched = policy.match_rules(&peer(7), request.head()).expect("a rule");
        let decision = matched.decide(&request);
        assert_eq!(
            (decision.rule.as_deref(), decision.outcome.is_ok()),
            (Some("no scripts"), permitted)
        );
        let Content::Call(call) = request.content() else { panic!("no call") };
        let explained = policy.explain(&peer(7), "dev", "one", Some(call));
        let verdict = if permitted { Verdict::Permits } else { Verdict::Denies(Matcher::Tools) };
        assert_eq!(
            explained,
            [
                ("no scripts", Why::Call(verdict)),
                ("rule 2", Why::Profile),
                ("two", Why::Endpoint),
                ("others", Why::Peer),
            ]
        );
    }
    assert!(policy.needs_body(&peer(7), &ProfileName::parse("dev").expect("a name")));
    assert!(!policy.needs_body(&peer(7), &ProfileName::parse("prod").expect("a name")));
    assert!(!policy.needs_body(&peer(8), &ProfileName::parse("dev").expect("a name")));
}
