//! The broker's signatures compared with botocore's, for generated requests: two independent implementations agree on
//! every one.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sigward_proto::v1::sign_request::Payload;
use sigward_proto::v1::{Header, SignRequest};
use sigward_tests::upstream::REGION;
use sigward_tests::{deadline, processes, tools};
use tokio::io::AsyncWriteExt as _;

use crate::dice::Dice;
use crate::setup::{World, connect, own_uid, text};

/// The number of generated requests.
const REQUESTS: usize = 400;

/// URL, service and region of the endpoints: every form of host, and paths that need care.
const ENDPOINTS: [(&str, &str, &str); 6] = [
    ("https://aws-mcp.us-east-1.api.aws/mcp", "aws-mcp", "us-east-1"),
    (
        "https://bedrock-agentcore.us-west-2.amazonaws.com/runtimes/arn%3Aaws%3Abedrock-agentcore%3Aus-west-2%3A123456789012%3Aruntime%2Fmy_agent-AbC/invocations",
        "bedrock-agentcore",
        "us-west-2",
    ),
    ("https://abc123.execute-api.eu-west-1.amazonaws.com/prod/mcp", "execute-api", "eu-west-1"),
    ("https://abc123.lambda-url.eu-central-1.on.aws/", "lambda", "eu-central-1"),
    ("https://mcp.example.com:8443/caf%C3%A9/~me/a,b;c=d/", "aws-mcp", "ap-south-1"),
    ("http://127.0.0.1:9/mcp", "aws-mcp", "us-east-1"),
];

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// A query in canonical form: sorted, everything encoded.
fn query(dice: &mut Dice) -> String {
    let mut pairs: Vec<_> = (0..dice.roll(4))
        .map(|_| {
            let (name, value) = (dice.roll(6) + 1, dice.roll(12));
            let name = encoded(&dice.text("abzAZ019_.~-é漢", name));
            format!("{name}={}", encoded(&dice.text("ab /+=&?%:*'é漢🦀~", value)))
        })
        .collect();
    pairs.sort_by(|left, right| left.split_once('=').cmp(&right.split_once('=')));
    pairs.dedup();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

fn path_below(dice: &mut Dice, url: &str) -> String {
    let below =
        dice.one_of(&["", "", "a", "a/b", "a-b_c.d~e/f", "arn:aws:x:y/z", "caf%C3%A9", "a%20b/c"]);
    match (below, url.ends_with('/')) {
        ("", _) => url.to_owned(),
        (below, true) => format!("{url}{below}"),
        (below, false) => format!("{url}/{below}"),
    }
}

fn headers(dice: &mut Dice) -> Vec<(String, String)> {
    let mut headers = vec![
        ("content-type".to_owned(), "application/json".to_owned()),
        ("Accept".to_owned(), "application/json, text/event-stream".to_owned()),
    ];
    headers.truncate(dice.roll(3));
    for (name, letters, longest) in [
        ("Mcp-Session-Id", "abcdef0123456789-", 64),
        ("mcp-protocol-version", "2025-1", 10),
        ("Mcp-Param-Region", "abc =?base64:/+", 40),
        ("X-Long", "abcdefghijklmnopqrstuvwxyz,;=\"'()[]{}!#$%&*+./:<>?@^_`|~\\", 8000),
    ] {
        if dice.roll(2) == 0 {
            continue;
        }
        let length = dice.roll(longest) + 1;
        // Outer and repeated spaces are refused, since canonical values have none.
        let value = dice.text(letters, length);
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        if !value.is_empty() {
            headers.push((name.to_owned(), value));
        }
    }
    if dice.roll(4) == 0 {
        headers.push(("x-repeated".to_owned(), "first".to_owned()));
        headers.push(("X-Repeated".to_owned(), "second, third".to_owned()));
    }
    headers
}

#[tokio::test]
async fn every_signature_equals_botocore_s() {
    let world = World::new().await;
    let mut config = format!(
        "[listen]\nunix = {:?}\n[aws]\nconfig_file = {:?}\ncredentials_file = {:?}\n[audit]\nfile = \"/dev/null\"\n",
        world.socket(),
        world.home.config_file(),
        world.home.credentials_file()
    );
    let mut names = Vec::new();
    for (number, (url, service, region)) in ENDPOINTS.iter().enumerate() {
        names.push(format!("endpoint-{number}"));
        let _ = write!(
            config,
            "[[endpoint]]\nname = \"endpoint-{number}\"\nurl = \"{url}\"\nmatch = \"prefix\"\n"
        );
        if number >= 4 {
            let _ = write!(config, "service = \"{service}\"\nregion = \"{region}\"\n");
        }
    }
    for profile in ["dev", "staging"] {
        let _ = write!(config, "[[profile]]\nname = \"{profile}\"\nendpoints = {names:?}\n");
    }
    let _ = write!(
        config,
        "[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"dev\", \"staging\"]\nendpoints = {names:?}\n",
        own_uid()
    );
    let _broker = world.broker(&config).await;
    let mut broker = connect(&world.socket()).await;

    let mut dice = Dice::new(0x5167_7761_7264_2026);
    let mut cases = Vec::new();
    let mut ours = Vec::new();
    for number in 0..REQUESTS {
        let (base, service, region) = ENDPOINTS[number % ENDPOINTS.len()];
        let profile = ["dev", "staging"][dice.roll(2)];
        let method = dice.one_of(&["POST", "POST", "POST", "GET", "DELETE"]);
        let url = format!("{}{}", path_below(&mut dice, base), query(&mut dice));
        let headers = headers(&mut dice);
        let length = dice.roll(2000);
        let body = match method {
            "POST" => dice.text("{}[]\":, \n\t\\abcé漢🦀0123456789", length),
            _ => String::new(),
        };
        let payload = match (method, dice.roll(2)) {
            ("POST", 0) => Payload::BodySha256(Bytes::from(Sha256::digest(&body).to_vec())),
            _ => Payload::Body(Bytes::from(body.clone())),
        };
        let request = SignRequest {
            profile: profile.to_owned(),
            method: method.to_owned(),
            uri: url.clone(),
            headers: headers
                .iter()
                .map(|(name, value)| Header {
                    name: name.clone(),
                    value: Bytes::from(value.clone()),
                })
                .collect(),
            payload: Some(payload),
        };
        let answer = broker.sign(request).await;
        let answer = answer.unwrap_or_else(|status| panic!("{method} {url} {headers:?}: {status}"));
        let added = answer.into_inner().headers;
        let added = |name: &str| {
            let found = added.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| String::from_utf8(header.value.to_vec()).unwrap())
        };
        let key = world.home.key(profile);
        cases.push(json!({
            "method": method,
            "url": url,
            "headers": headers,
            "body": body,
            "access_key": key.access_key_id,
            "secret": key.secret,
            "token": key.session_token,
            "service": service,
            "region": region,
            "date": added("x-amz-date"),
        }));
        ours.push(added("authorization").unwrap());
    }

    let theirs = botocore(&Value::from(cases.clone())).await;
    assert_eq!(theirs.len(), REQUESTS);
    for ((case, ours), theirs) in cases.iter().zip(&ours).zip(&theirs) {
        let canonical = theirs["canonical"].as_str().unwrap();
        assert_eq!(
            normal(ours),
            normal(theirs["authorization"].as_str().unwrap()),
            "{} {}\nbotocore's canonical request:\n{canonical}",
            case["method"],
            case["url"],
        );
    }
    let different: std::collections::HashSet<_> = ours.iter().collect();
    assert_eq!(different.len(), REQUESTS, "no two requests share a signature");
}

/// An `Authorization` without the white space that differs between implementations.
fn normal(authorization: &str) -> String {
    authorization.replace(", ", ",")
}

/// The `Authorization` headers that botocore computes for the cases, with its canonical requests.
async fn botocore(cases: &Value) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/signatures/botocore_signs.py");
    let mut command = processes::command(tools::python());
    command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let text = cases.to_string();
    let feeding = tokio::spawn(async move { input.write_all(text.as_bytes()).await });
    let output = deadline::within(child.wait_with_output(), || "Python doesn't end".to_owned());
    let output = output.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    feeding.await.unwrap().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// SigV4a, for one signature that is valid in several regions: the server verifies it with a key that it derives itself.
#[tokio::test]
async fn sigv4a_signs_for_a_set_of_regions() {
    for (option, toml) in
        [("*", "\"*\""), ("us-east-1,eu-west-1", "[\"us-east-1\", \"eu-west-1\"]")]
    {
        let world = World::with(|builder| builder.regions(option)).await;
        // A private broker: the last --region counts.
        let mut client = world.client(&["dev", "prod"], &["--region", option]).await;
        for profile in ["dev", "prod"] {
            let called = client.call("whoami", &format!(r#"{{"aws_profile":"{profile}"}}"#)).await;
            assert!(text(&called).contains(world.home.identity(profile)), "{called:?}");
        }
        // A shared broker.
        let config = world
            .configuration("")
            .replace(&format!("region = \"{REGION}\""), &format!("region = {toml}"));
        let _broker = world.broker(&config).await;
        let mut client = world.client_of(&world.socket(), &["dev"]).await;
        let called = client.call("whoami", "{}").await;
        assert!(text(&called).contains(world.home.identity("dev")), "{called:?}");
        for request in world.upstream.requests() {
            assert_eq!(request.header("x-amz-region-set"), Some(option));
        }
    }
}
