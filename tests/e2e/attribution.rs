//! CloudTrail can name the agent: credentials of a rule's peers carry the name of the rule's `agent`, and each agent
//! has its own credentials.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sigward_proto::v1::{ListProfilesRequest, ProfileState, ReportRejectionRequest};
use sigward_tests::aws::{Aws, Issued, WEB_IDENTITY_TOKEN};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::broker::post;
use sigward_tests::processes::{Process, StdioClient};

use crate::commands::run;
use crate::setup::{World, assert_names, connect, failure, own_uid, ping, text};

const READER: &str = "arn:aws:iam::123456789012:role/Reader";
const TARGET: &str = "arn:aws:iam::123456789012:role/Target";

/// A home with a role, a chained role, an identity of IAM Identity Center, and a web identity.
fn home() -> AwsHome {
    let home = AwsHome::new();
    home.role("reader", "dev", READER);
    home.role("target", "reader", TARGET);
    Aws::sign_in(&home, "person", "Developer");
    let token = home.path().join("token");
    std::fs::write(&token, WEB_IDENTITY_TOKEN).unwrap();
    home.config(&format!(
        "[profile pod]\nrole_arn = {READER}\nweb_identity_token_file = {}\n",
        token.display()
    ));
    home
}

fn profiles(names: &[&str]) -> String {
    let table = |name: &&str| format!("[[profile]]\nname = {name:?}\nendpoints = [\"upstream\"]\n");
    names.iter().map(table).collect()
}

/// A rule for the current user.
fn rule(profile: &str, keys: &str) -> String {
    format!(
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [{profile:?}]\nendpoints = [\"upstream\"]\n{keys}\n",
        own_uid()
    )
}

async fn broker(world: &World, aws: &Aws, more: &str) -> Process {
    let config = world.write("broker.toml", &world.configuration(more));
    let mut command = world.broker_command(&["serve", "--config", config.to_str().unwrap()]);
    command.envs(aws.environment());
    let broker = Process::start(command);
    broker.logged("listening").await;
    broker
}

fn parameters(named: &[(&str, &str)]) -> BTreeMap<String, String> {
    named.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn assumed(aws: &Aws) -> Vec<Issued> {
    aws.issued().into_iter().filter(|issued| issued.action.starts_with("AssumeRole")).collect()
}

/// The last role of a chain, and no other, gets the name: in the role session, in a tag and in the source identity. The
/// access key id links CloudTrail and the audit log.
#[tokio::test]
async fn the_last_role_carries_the_agents_name() {
    let world = World::at_home(home(), |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    for action in ["sts:TagSession", "sts:SetSourceIdentity"] {
        aws.allow(TARGET, action);
    }
    let audit = world.directory.path().join("audit.jsonl");
    let agent = "agent = \"build-bot\"\nattribution = [\"tag\", \"source-identity\"]";
    let more = profiles(&["target"])
        + &rule("target", agent)
        + &format!("[audit]\nfile = {:?}\n", audit.display().to_string());
    let _broker = broker(&world, &aws, &more).await;
    let mut client = world.client_of(&world.socket(), &["target"]).await;
    let called = client.call("whoami", "{}").await;
    assert!(text(&called).ends_with(":assumed-role/Target/sigward-target-build-bot"), "{called}");

    let [first, last] = &assumed(&aws)[..] else { panic!("{:?}", aws.issued()) };
    // The session name of the files.
    let plain = parameters(&[("RoleArn", READER), ("RoleSessionName", "sigward-tests")]);
    assert_eq!(first.parameters, plain);
    let named = parameters(&[
        ("RoleArn", TARGET),
        ("RoleSessionName", "sigward-target-build-bot"),
        ("Tags.member.1.Key", "sigward:agent"),
        ("Tags.member.1.Value", "build-bot"),
        ("SourceIdentity", "build-bot"),
    ]);
    assert_eq!(last.parameters, named);

    let key = world.upstream.requests_of("tools/call").pop().unwrap().signature.unwrap().key;
    let log = std::fs::read_to_string(&audit).unwrap();
    let records: Vec<Value> = log.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    let of = |action: &str| {
        let found = records.iter().rfind(|record| record["action"] == action);
        found.unwrap_or_else(|| panic!("{action}: {log}"))
    };
    for record in [of("sign"), of("load")] {
        assert_eq!(record["agent"], "build-bot");
        assert_eq!(record["access_key_id"], key.access_key_id.as_str());
    }
    assert_eq!(of("sign")["rule"], "rule 1");
}

/// Without `attribution` only the role session name is set, and it overrides those of the files and the configuration.
#[tokio::test]
async fn the_agents_name_overrides_other_session_names() {
    let home = home();
    home.config(&format!(
        "[profile named]\nrole_arn = {READER}\nsource_profile = dev\nrole_session_name = files\n"
    ));
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let narrow = format!(
        "[[profile]]\nname = \"narrow\"\naws_profile = \"dev\"\nendpoints = [\"upstream\"]\nrole_arn = \"{TARGET}\"\n\
         session_name = \"configured\"\n"
    );
    let agent = "agent = \"bot\"";
    let more = profiles(&["named", "pod"]) + &narrow + &rule("*", agent);
    let _broker = broker(&world, &aws, &more).await;
    let mut client = world.client_of(&world.socket(), &["named", "narrow", "pod"]).await;
    for (profile, role) in [("named", READER), ("narrow", TARGET), ("pod", READER)] {
        let called = client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
        let session = format!("sigward-{profile}-bot");
        assert!(text(&called).ends_with(&session), "{called}");
        let last = assumed(&aws).pop().unwrap();
        assert_eq!((last.role.as_str(), last.session.as_str()), (role, session.as_str()));
        let parameters: BTreeSet<_> = last.parameters.keys().map(String::as_str).collect();
        assert!(
            !parameters.contains("SourceIdentity") && !parameters.contains("Tags.member.1.Key")
        );
    }
}

/// AWS refuses a tag or a source identity that the role doesn't allow: the error names the missing action, to the
/// caller and in `check`.
#[tokio::test]
async fn the_action_that_a_trust_policy_lacks_is_named() {
    for (attribution, allowed, missing) in [
        ("tag", "sts:SetSourceIdentity", "sts:TagSession"),
        ("source-identity", "sts:TagSession", "sts:SetSourceIdentity"),
    ] {
        let world = World::at_home(home(), |builder| builder).await;
        let aws = Aws::start(world.home.keys()).await;
        aws.allow(READER, allowed);
        let agent = format!("agent = \"bot\"\nattribution = [{attribution:?}]");
        let more = profiles(&["reader"]) + &rule("reader", &agent) + &rule("dev", "");
        let _broker = broker(&world, &aws, &more).await;
        let mut client = world.client_of(&world.socket(), &["dev", "reader"]).await;
        let refused = client.call("whoami", r#"{"aws_profile":"reader"}"#).await;
        assert_names(
            failure(&refused),
            &["role's trust policy allow", missing, "beside sts:AssumeRole"],
        );
        assert_eq!(assumed(&aws), [], "no other credentials are used instead");
        let config = world.directory.path().join("broker.toml");
        let mut check = world.broker_command(&["check", "--config", config.to_str().unwrap()]);
        check.envs(aws.environment());
        let (good, output, _) = run(check).await;
        assert!(!good, "{output}");
        assert_names(
            &output,
            &[
                "reader as bot: ACCESS_DENIED",
                &format!("the trust policy of {READER} must allow {missing}"),
                &format!("let the role's trust policy allow {missing}"),
            ],
        );
    }
}

/// Without a role session that can carry the agent's name nothing is signed: the error says why, and what to add. AWS
/// isn't asked.
#[tokio::test]
async fn a_profile_without_a_role_to_name_is_refused() {
    let home = home();
    home.config(&format!(
        "[profile someone]\nrole_arn = {READER}\nsource_profile = dev\nsource_identity = someone\n[profile after]\nrole_arn = {TARGET}\nsource_profile = someone\n"
    ));
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    for role in [READER, TARGET] {
        aws.allow(role, "sts:SetSourceIdentity");
        aws.allow(role, "sts:TagSession");
    }
    let cases = [
        ("dev", "", "the broker assumes no role for the profile"),
        ("person", "", "IAM Identity Center names the session after its user"),
        ("pod", "attribution = [\"tag\"]", "come from its token alone"),
        ("pod2", "attribution = [\"source-identity\"]", "come from its token alone"),
        ("someone", "attribution = [\"source-identity\"]", "source_identity = someone"),
        ("after", "attribution = [\"source-identity\"]", "source_identity = someone"),
    ];
    let mut more = profiles(&["person", "pod", "someone", "after"]);
    more += "[[profile]]\nname = \"pod2\"\naws_profile = \"pod\"\nendpoints = [\"upstream\"]\n";
    for (number, (profile, attribution, _)) in cases.iter().enumerate() {
        more += &rule(profile, &format!("agent = \"bot{number}\"\n{attribution}"));
    }
    more += &rule("staging", "");
    let broker = broker(&world, &aws, &more).await;
    for (number, (profile, ..)) in cases.iter().enumerate() {
        let line = broker.logged(&format!("agent=\"bot{number}\"")).await;
        assert_names(&line, &["nothing will be signed for the agent", profile]);
    }
    let names: Vec<&str> = ["staging"].into_iter().chain(cases.iter().map(|it| it.0)).collect();
    let mut client = world.client_of(&world.socket(), &names).await;
    for (profile, _, why) in cases {
        let refused = client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
        assert_names(failure(&refused), &["can't be used", "the rule's agent is", why]);
    }
    assert_eq!(aws.issued(), [], "AWS wasn't asked");
    let listed = connect(&world.socket()).await.list_profiles(ListProfilesRequest {}).await;
    for profile in listed.unwrap().into_inner().profiles {
        let refused = profile.name != "staging";
        assert_eq!(profile.state() == ProfileState::Misconfigured, refused, "{profile:?}");
    }
}

/// If two rules give a caller two agents, its session is opened as the first one, and a call that only the second rule
/// permits comes from another identity: a server that binds sessions to an identity refuses it. `check` warns.
#[tokio::test]
async fn two_agents_of_one_caller_break_its_session_and_check_warns() {
    let world = World::at_home(home(), |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let rules = |second: &str| {
        let first = "name = \"first\"\ntools = { allow = [\"whoami\"] }\nagent = \"bot\"";
        let second = format!("name = \"second\"\nagent = {second:?}");
        profiles(&["reader"]) + &rule("reader", first) + &rule("reader", &second)
    };
    let _broker = broker(&world, &aws, &rules("operator")).await;
    let mut client = world.client_of(&world.socket(), &["reader"]).await;
    assert_names(text(&client.call("whoami", "{}").await), &["sigward-reader-bot"]);
    let refused = client.call("echo", "{}").await;
    assert_names(failure(&refused), &["the session belongs to another identity"]);

    let check = async |config: &str| {
        let config = world.write("checked.toml", &world.configuration(config));
        let mut check = world.broker_command(&["check", "--config", config.to_str().unwrap()]);
        check.envs(aws.environment());
        let (_, output, errors) = run(check).await;
        output + &errors
    };
    let warned = check(&rules("operator")).await;
    assert_names(
        &warned,
        &["Warning: with the profile reader", "\"first\"", "\"second\"", "bot and operator"],
    );
    let silent = check(&rules("bot")).await;
    assert!(!silent.contains("Warning: with the profile"), "{silent}");
}

/// Two rules for one peer: the one that permits the call names the agent. Each agent's credentials are loaded on first
/// use, renewed separately, and dropped with the rule.
#[tokio::test]
async fn each_agent_has_its_own_credentials() {
    let world = World::at_home(home(), |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let more = |second: &str| {
        profiles(&["reader"])
            + &rule("reader", "tools = { allow = [\"whoami\"] }\nagent = \"bot\"")
            + second
            + &rule("dev", "")
    };
    let second = rule("reader", "agent = \"operator\"\nname = \"second\"");
    let broker = broker(&world, &aws, &more(&second)).await;
    let mut client = world.client_of(&world.socket(), &["dev", "reader"]).await;
    let session = |called: &Value| text(called).rsplit('/').next().unwrap().to_owned();
    let reader_call = r#"{"aws_profile":"reader"}"#;
    assert_eq!(session(&client.call("whoami", reader_call).await), "sigward-reader-bot");
    let sessions = |aws: &Aws| -> Vec<String> {
        assumed(aws).into_iter().map(|issued| issued.session).collect()
    };
    assert_eq!(sessions(&aws), ["sigward-reader-bot"], "the other agent isn't loaded yet");
    // The first rule doesn't permit this tool.
    let mut caller = connect(&world.socket()).await;
    let echo = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#;
    let echo = || post(&world.upstream.url(), "reader", &[], echo.as_slice());
    let signed = caller.sign(echo()).await.unwrap().into_inner();
    assert_eq!(signed.agent, "operator");
    assert_eq!(sessions(&aws), ["sigward-reader-bot", "sigward-reader-operator"]);

    let listed = caller.list_profiles(ListProfilesRequest {}).await.unwrap().into_inner();
    let reader = listed.profiles.iter().find(|profile| profile.name == "reader").unwrap();
    let agents: Vec<_> = reader.agents.iter().map(|it| (it.name.as_str(), it.state())).collect();
    assert_eq!(agents, [("bot", ProfileState::Fresh), ("operator", ProfileState::Fresh)]);
    assert_eq!(reader.agents[1].session_name, "sigward-reader-operator");
    assert!(reader.agents.iter().all(|agent| agent.credential_expiry.is_some()));
    assert_eq!((reader.agent.as_str(), reader.state()), ("bot", ProfileState::Fresh));
    let socket = format!("unix:{}", world.socket().display());
    let (_, table, _) = run(world.broker_command(&["status", "--broker", &socket])).await;
    for (agent, line) in
        ["bot", "operator"].iter().zip(table.lines().filter(|it| it.starts_with("reader")))
    {
        assert_names(line, &[agent, "fresh", "m"]);
    }

    // A rejection affects only the agent whose key was rejected; the proxy names it.
    let last = world.upstream.requests_of("tools/call").pop().unwrap();
    world.home.keys().remove(&last.signature.unwrap().key.access_key_id);
    assert_eq!(session(&client.call("whoami", reader_call).await), "sigward-reader-bot");
    assert_eq!(sessions(&aws)[2..], ["sigward-reader-bot"]);
    let reject = |agent: &str| ReportRejectionRequest {
        profile: "reader".to_owned(),
        credential_generation: signed.credential_generation,
        agent: agent.to_owned(),
    };
    let renewed = caller.report_rejection(reject("operator")).await.unwrap().into_inner();
    assert!(renewed.credential_generation > signed.credential_generation);
    assert_eq!(sessions(&aws)[3..], ["sigward-reader-operator"]);
    for unknown in ["", "nobody"] {
        let refused = caller.report_rejection(reject(unknown)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{unknown:?}");
    }
    assert_eq!(sessions(&aws).len(), 4);

    // Removing the rule removes its agent.
    world.write("broker.toml", &world.configuration(&more("")));
    broker.logged("the configuration was reloaded").await;
    let listed = caller.list_profiles(ListProfilesRequest {}).await.unwrap().into_inner();
    let reader = listed.profiles.iter().find(|profile| profile.name == "reader").unwrap();
    let left: Vec<_> = reader.agents.iter().map(|agent| agent.name.as_str()).collect();
    assert_eq!(left, ["bot"]);
    let refused = caller.sign(echo()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    let signed = caller.sign(ping(&world, "reader")).await.unwrap().into_inner();
    assert_eq!(signed.agent, "bot");
    assert_eq!(sessions(&aws).len(), 4, "the credentials of the other agent were kept");
}

#[tokio::test]
async fn check_and_explain_show_the_agent() {
    let world = World::at_home(home(), |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    aws.allow(READER, "sts:TagSession");
    let agent = "name = \"agents\"\nagent = \"bot\"\nattribution = [\"tag\"]";
    let more = profiles(&["reader"]) + &rule("reader", agent) + &rule("dev", "");
    let config = world.write("broker.toml", &world.configuration(&more));
    let config = config.to_str().unwrap();
    let mut check = world.broker_command(&["check", "--config", config]);
    check.envs(aws.environment());
    let (good, output, errors) = run(check).await;
    assert!(good, "{output}{errors}");
    let rows: Vec<_> = output.lines().filter(|line| line.starts_with("reader")).collect();
    assert_eq!(rows.len(), 1, "no rule permits the profile's own credentials: {output}");
    assert_names(rows[0], &["bot", "ok", "assumed-role/Reader/sigward-reader-bot"]);
    let uid = own_uid().to_string();
    let mut arguments = vec!["explain", "--config", config, "--uid", &uid, "--profile"];
    arguments.push("reader");
    let (good, output, _) = run(world.broker_command(&arguments)).await;
    assert!(good, "{output}");
    assert_names(
        &output,
        &[
            "Permitted by \"agents\".",
            "\"bot\": role session sigward-reader-bot, with a session tag.",
        ],
    );
    *arguments.last_mut().unwrap() = "dev";
    let (good, output, _) = run(world.broker_command(&arguments)).await;
    assert!(good && !output.contains("agent \""), "{output}");
}

#[tokio::test]
async fn all_errors_of_agents_are_reported_at_once() {
    let world = World::new().await;
    let plain = "[[rule]]\npeer = { uid = 1 }\nprofiles = [\"dev\"]\n";
    let more = [
        "[[profile]]\nname = \"dev-a\"\nendpoints = [\"upstream\"]\n",
        plain,
        "agent = \"with space\"\n",
        plain,
        "attribution = [\"tag\"]\n",
        plain,
        "agent = \"bot\"\nattribution = [\"tags\"]\n",
        plain,
        "agent = \"twice\"\nattribution = [\"tag\", \"tag\"]\n",
        plain,
        "agent = \"empty\"\nattribution = []\n",
        plain,
        "agent = \"other\"\nattribution = [\"tag\"]\n",
        plain,
        "agent = \"other\"\n",
        plain,
        "agent = \"a-b\"\n",
        "[[rule]]\npeer = { uid = 1 }\nprofiles = [\"dev-a\"]\nagent = \"bb\"\n",
        "[[rule]]\npeer = { uid = 1 }\nprofiles = [\"dev-a\"]\nagent = \"b\"\n",
    ]
    .concat();
    let more = more.replace("agent = \"bb\"", "agent = \"b2\"").replace("\"a-b\"", "\"a-b2\"");
    let text = world.configuration(&more);
    let config = world.write("faulty.toml", &text);
    let check = world.broker_command(&["check", "--config", config.to_str().unwrap()]);
    let (good, output, errors) = run(check).await;
    assert!(!good);
    let all = output + &errors;
    let line = |what: &str| 1 + text[..text.rfind(what).unwrap()].lines().count();
    for (what, key, why) in [
        ("agent = \"with space\"", "agent: ", "must be 2 to 64 letters"),
        (
            "attribution = [\"tag\"]\n[[rule]]\npeer = { uid = 1 }\nprofiles = [\"dev\"]\nagent = \"bot\"",
            "attribution: ",
            "needs agent",
        ),
        ("attribution = [\"tags\"]", "attribution[0]: ", "must be \"tag\" or \"source-identity\""),
        ("attribution = [\"tag\", \"tag\"]", "attribution[1]: ", "is listed twice"),
        ("attribution = []", "attribution: ", "is empty"),
        ("agent = \"other\"\n[[rule]]", "agent: ", "whose attribution is another one"),
        ("agent = \"b2\"", "agent: ", "sigward-dev-a-b2"),
        ("agent = \"b\"", "agent: ", "must be 2 to 64 letters"),
    ] {
        let place = format!(":{}: ", line(what));
        let found = all.lines().find(|it| it.contains(&place) && it.contains(key));
        let found = found.unwrap_or_else(|| panic!("{place}{key} is missing in:\n{all}"));
        assert_names(found, &[why]);
    }
}

/// A proxy that starts its own broker has no agents.
#[tokio::test]
async fn without_rules_there_is_no_agent() {
    let world = World::at_home(home(), |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let mut command = world.private_proxy(&["reader"], &[]);
    command.envs(aws.environment());
    let mut client = StdioClient::start(command);
    client.initialize().await;
    let called = client.call("whoami", "{}").await;
    assert!(text(&called).ends_with("/sigward-tests"), "{called}");
}
