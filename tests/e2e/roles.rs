//! The parameters of requests to STS, and their number: a narrower role in the broker's configuration, the region of
//! STS, the name of a session.

use std::collections::{BTreeMap, BTreeSet};

use sigward_proto::v1::SignRequest;
use sigward_tests::aws::{Aws, WEB_IDENTITY_TOKEN};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::deadline;
use sigward_tests::processes::{Process, StdioClient};

use crate::setup::{World, connect, own_uid, text};

const NARROW: &str = "arn:aws:iam::123456789012:role/Narrow";
const POLICY: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:Get*","Resource":"*"}]}"#;

fn parameters(named: &[(&str, &str)]) -> BTreeMap<String, String> {
    named.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// All settings of a role reach STS, and nothing else does.
#[tokio::test]
async fn all_settings_of_a_narrower_role_are_sent_to_sts() {
    let world = World::new().await;
    let aws = Aws::start(world.home.keys()).await;
    let more = format!(
        r#"
[[profile]]
name = "narrow"
aws_profile = "dev"
endpoints = ["upstream"]
role_arn = "{NARROW}"
external_id = "customer-7:a/b"
session_name = "agent@7"
session_policy = '{POLICY}'
session_policy_arns = ["arn:aws:iam::aws:policy/ReadOnlyAccess", "arn:aws:iam::123456789012:policy/Own"]
duration = "20m"

[[profile]]
name = "plain"
aws_profile = "dev"
endpoints = ["upstream"]
role_arn = "{NARROW}"

[[rule]]
peer = {{ uid = {uid} }}
profiles = ["dev", "narrow", "plain"]
endpoints = ["upstream"]
"#,
        uid = own_uid()
    );
    let config = world.write("broker.toml", &world.configuration(&more));
    let mut command = world.broker_command(&["serve", "--config", config.to_str().unwrap()]);
    command.envs(aws.environment());
    let broker = Process::start(command);
    broker.logged("listening").await;
    let mut client = world.client_of(&world.socket(), &["dev", "narrow", "plain"]).await;

    for (profile, session, asked) in [
        (
            "narrow",
            "agent@7",
            parameters(&[
                ("RoleArn", NARROW),
                ("RoleSessionName", "agent@7"),
                ("ExternalId", "customer-7:a/b"),
                ("Policy", POLICY),
                ("PolicyArns.member.1.arn", "arn:aws:iam::aws:policy/ReadOnlyAccess"),
                ("PolicyArns.member.2.arn", "arn:aws:iam::123456789012:policy/Own"),
                ("DurationSeconds", "1200"),
            ]),
        ),
        (
            "plain",
            "sigward-plain",
            parameters(&[("RoleArn", NARROW), ("RoleSessionName", "sigward-plain")]),
        ),
    ] {
        let called = client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
        assert!(text(&called).ends_with(&format!(":assumed-role/Narrow/{session}")), "{called}");
        let issued = aws.issued().pop().unwrap();
        assert_eq!((issued.action.as_str(), issued.parameters), ("AssumeRole", asked));
        assert_eq!(issued.caller, world.home.identity("dev"));
    }
    let called = client.call("whoami", "{}").await;
    assert_eq!(text(&called), world.home.identity("dev"), "the profile itself is unchanged");
    assert_eq!(aws.issued().len(), 2);
}

/// STS is asked in the region of the profile, else of the environment, else of the endpoint. For the default chain the
/// environment comes first, as in the SDK. The region of a profile's source doesn't count.
#[tokio::test]
async fn sts_is_asked_in_the_region_of_profile_environment_or_endpoint() {
    let home = AwsHome::new();
    for (profile, region) in
        [("own", "region = sa-east-1\n"), ("plain", ""), ("default", "region = sa-east-1\n")]
    {
        let section =
            if profile == "default" { "default".to_owned() } else { format!("profile {profile}") };
        home.config(&format!(
            "[{section}]\n{region}role_arn = arn:aws:iam::123456789012:role/{profile}\nsource_profile = dev\n"
        ));
    }
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let endpoint = world.upstream.url();
    let last = Some(("AWS_REGION", "ca-central-1"));
    let first = Some(("AWS_DEFAULT_REGION", "ap-south-1"));
    for (profile, environment, region) in [
        ("own", [last, None], "sa-east-1"),
        ("own", [last, first], "ap-south-1"),
        ("plain", [last, None], "ca-central-1"),
        ("plain", [last, first], "ap-south-1"),
        ("plain", [None, None], "eu-north-1"),
        ("default", [last, None], "sa-east-1"),
        ("default", [last, first], "ap-south-1"),
        ("default", [None, None], "sa-east-1"),
    ] {
        let mut command = world.broker_command(&["check", "--endpoint", &endpoint]);
        command.args(["--service", "aws-mcp", "--region", "eu-north-1"]);
        if profile != "default" {
            command.args(["--profile", profile]);
        }
        command.envs(aws.environment());
        command.envs(environment.into_iter().flatten());
        let ended = deadline::within(command.output(), || "check doesn't end".to_owned()).await;
        let output = ended.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // The role, and then whose identity it is.
        let mut issued = aws.issued();
        let issued = issued.split_off(issued.len() - 2);
        assert_eq!(issued[0].role, format!("arn:aws:iam::123456789012:role/{profile}"));
        assert_eq!(issued[1].action, "GetCallerIdentity");
        for asked in issued {
            assert_eq!(asked.region, region, "{profile} with {environment:?}: {}", asked.action);
        }
    }
}

/// Services bind what they store for a caller to the session's name: each refresh must use the same one.
#[tokio::test]
async fn a_role_session_keeps_its_name_over_refreshes() {
    let home = AwsHome::new();
    let token = home.path().join("token");
    std::fs::write(&token, WEB_IDENTITY_TOKEN).unwrap();
    let role = "role_arn = arn:aws:iam::123456789012:role/Reader\n";
    home.config(&format!(
        "[profile reader]\n{role}source_profile = dev\n[profile pod]\n{role}web_identity_token_file = {}\n",
        token.display()
    ));
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let mut command = world.private_proxy(&["dev", "reader", "pod"], &[]);
    command.envs(aws.environment());
    let mut client = StdioClient::start(command);
    client.initialize().await;
    for profile in ["reader", "pod"] {
        let whoami = format!(r#"{{"aws_profile":"{profile}"}}"#);
        let first = text(&client.call("whoami", &whoami).await).to_owned();
        assert!(first.ends_with(&format!(":assumed-role/Reader/sigward-{profile}")), "{first}");
        let before = aws.issued().len();
        // The key is revoked: the broker loads another one.
        let last = world.upstream.requests_of("tools/call").pop().unwrap();
        world.home.keys().remove(&last.signature.unwrap().key.access_key_id);
        assert_eq!(text(&client.call("whoami", &whoami).await), first);
        let refreshed = &aws.issued()[before..];
        assert_eq!(refreshed.len(), 1, "{refreshed:?}");
        assert_eq!(refreshed[0].session, format!("sigward-{profile}"));
    }
}

/// 500 signatures at once for a profile that wasn't used yet, and the first caller gives up.
#[tokio::test]
async fn five_hundred_callers_cause_one_call_to_sts() {
    const CONNECTIONS: usize = 5;
    let home = AwsHome::new();
    home.role("reader", "dev", "arn:aws:iam::123456789012:role/Reader");
    let world = World::at_home(home, |builder| builder).await;
    let aws = Aws::start(world.home.keys()).await;
    let more = "[[profile]]\nname = \"reader\"\nendpoints = [\"upstream\"]\n";
    let config = world.write("broker.toml", &world.configuration(more));
    let arguments = ["serve", "--config", config.to_str().unwrap(), "--audit", "none"];
    let mut command = world.broker_command(&arguments);
    command.envs(aws.environment());
    let broker = Process::start(command);
    broker.logged("listening").await;

    aws.hold();
    let first = connect(&world.socket()).await;
    let get = |profile: &str| SignRequest {
        profile: profile.to_owned(),
        method: "GET".to_owned(),
        uri: world.upstream.url(),
        ..SignRequest::default()
    };
    let request = get("reader");
    let mut caller = first.clone();
    let gives_up = tokio::spawn(async move { caller.sign(request).await });
    aws.held().await;
    let mut waiting = Vec::new();
    for connection in 0..CONNECTIONS {
        let mut broker = connect(&world.socket()).await;
        for _ in 0..if connection == 0 { 99 } else { 100 } {
            let (mut broker, request) = (broker.clone(), get("reader"));
            waiting.push(tokio::spawn(async move { broker.sign(request).await }));
        }
        // A later request on the same connection is answered: the others have arrived.
        broker.sign(get("dev")).await.expect("keys that need no call");
    }
    gives_up.abort();
    assert!(gives_up.await.unwrap_err().is_cancelled());
    drop(first);
    assert!(waiting.iter().all(|caller| !caller.is_finished()), "they wait");
    aws.release();
    let mut keys = BTreeSet::new();
    let count = waiting.len();
    for caller in waiting {
        let answer = deadline::within(caller, || "a caller waits forever".to_owned()).await;
        keys.insert(answer.unwrap().expect("a signature").into_inner().access_key_id);
    }
    assert_eq!((count, keys.len()), (499, 1), "{keys:?} of {:?}", aws.issued());
    let actions: Vec<_> = aws.issued().into_iter().map(|issued| issued.action).collect();
    assert_eq!(actions, ["AssumeRole"]);
}

/// If the environment names a proxy, STS is asked through it, except for the hosts in NO_PROXY.
#[tokio::test]
async fn sts_is_asked_through_the_proxy_of_the_environment() {
    let home = AwsHome::new();
    home.role("reader", "dev", "arn:aws:iam::123456789012:role/Reader");
    let world = World::at_home(home, |builder| builder).await;
    // This server accepts requests for any host, as a proxy does.
    let aws = Aws::start(world.home.keys()).await;
    let proxy = aws.environment().remove(0).1;
    let endpoint = world.upstream.url();
    for (variables, reached) in [
        (vec![], false),
        (vec![("HTTP_PROXY", proxy.as_str())], true),
        (vec![("http_proxy", proxy.as_str())], true),
        (vec![("HTTP_PROXY", proxy.as_str()), ("NO_PROXY", "127.0.0.1")], false),
    ] {
        let before = aws.issued().len();
        let mut command = world.broker_command(&["check", "--endpoint", &endpoint]);
        command.args(["--service", "aws-mcp", "--region", "us-east-1", "--profile", "reader"]);
        // Nothing listens there.
        command.env("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1");
        command.envs(variables.iter().copied());
        let ended = deadline::within(command.output(), || "check doesn't end".to_owned()).await;
        let output = ended.unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.success(), reached, "{variables:?}: {shown}");
        assert_eq!(aws.issued().len() - before, if reached { 2 } else { 0 }, "{variables:?}");
    }
}
