use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sigward_proto::v1::sign_request::Payload;
use sigward_proto::v1::{Header, SignRequest};

use super::*;
use crate::config;
use crate::endpoint::{Endpoint, Paths};
use crate::policy::Policy;
use crate::request::whole;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// 2026-11-23 22:48:07
fn time() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_474_087)
}

fn credentials(token: Option<&str>) -> Credentials {
    with_secret(SECRET, token)
}

fn with_secret(secret: &str, token: Option<&str>) -> Credentials {
    let keys = aws_credential_types::Credentials::new(
        "AKIDEXAMPLE",
        secret,
        token.map(str::to_owned),
        None,
        "test",
    );
    Credentials::new(keys, SystemTime::UNIX_EPOCH, 1)
}

/// The default case.
const PLAIN: Case<'static> = Case {
    endpoint: "https://aws-mcp.us-east-1.api.aws/mcp",
    scope: None,
    method: "GET",
    uri: "https://aws-mcp.us-east-1.api.aws/mcp",
    headers: &[],
    body: None,
    token: None,
};

#[derive(Clone, Copy)]
struct Case<'a> {
    endpoint: &'a str,
    scope: Option<(&'a str, &'a str)>,
    method: &'a str,
    uri: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: Option<&'a str>,
    token: Option<&'a str>,
}

/// Signs a request after all of the broker's checks.
fn signature(case: &Case<'_>, time: SystemTime) -> Signature {
    signature_by(&credentials(case.token), case, time)
}

fn signature_by(credentials: &Credentials, case: &Case<'_>, time: SystemTime) -> Signature {
    checked(case, |grant| sign(grant, credentials, time).expect("a signature"))
}

/// Runs `work` with the grant for a request that passes all checks.
fn checked<T>(case: &Case<'_>, work: impl FnOnce(&Grant<'_>) -> T) -> T {
    let flags = config::Flags {
        endpoints: vec![case.endpoint.to_owned()],
        service: case.scope.map(|(service, _)| service.to_owned()),
        region: case.scope.map(|(_, region)| region.to_owned()),
        ..config::Flags::default()
    };
    let config = flags.into_config(1).expect("valid");
    let headers = case.headers.iter().map(|(name, value)| Header {
        name: (*name).to_owned(),
        value: value.as_bytes().to_vec().into(),
    });
    let request = SignRequest {
        profile: "default".to_owned(),
        method: case.method.to_owned(),
        uri: case.uri.to_owned(),
        headers: headers.collect(),
        payload: case.body.map(|body| Payload::Body(body.as_bytes().to_vec().into())),
    };
    let below = |endpoint: &Arc<Endpoint>| {
        let (url, scope) = (endpoint.url.clone(), endpoint.scope.clone());
        Arc::new(Endpoint { name: endpoint.name.clone(), url, paths: Paths::Prefix, scope })
    };
    let endpoints: Vec<Arc<Endpoint>> = config.endpoints.iter().map(below).collect();
    let request = whole::check(request, &endpoints, None).expect("valid");
    let peer = crate::peer::tests::process(1);
    let policy = Policy::new(&config);
    let matched = policy.match_rules(&peer, request.head()).expect("a rule");
    let grant = matched.decide(&request).outcome.expect("a grant");
    work(&grant)
}

fn header<'s>(signature: &'s Signature, name: &str) -> Option<&'s str> {
    let found = signature.headers.iter().find(|(candidate, _)| *candidate == name);
    found.map(|(_, value)| value.as_str())
}

#[cfg(target_os = "linux")]
#[test]
fn a_signature_leaves_no_key_on_the_stack() {
    use crate::memory::residue;

    for region in ["us-east-1", "*"] {
        let signed = || {
            let case = Case {
                scope: Some(("aws-mcp", region)),
                method: "POST",
                body: Some("{}"),
                token: Some("token"),
                ..PLAIN
            };
            signature(&case, time());
        };
        assert_eq!(residue::after(SECRET, signed), 0, "{region}");
    }
}

/// The expected values are botocore's (1.44.5), for the same requests at the same time.
#[test]
fn botocore_signs_the_same() {
    let arn = "https://bedrock-agentcore.us-west-2.amazonaws.com/runtimes/arn%3Aaws%3Abedrock-agentcore\
               %3Aus-west-2%3A123456789012%3Aruntime%2Fagent-x/invocations";
    let arn_uri = format!("{arn}?qualifier=DEFAULT");
    let cases = [
        (
            Case {
                endpoint: "https://aws-mcp.us-east-1.api.aws/mcp",
                scope: None,
                method: "POST",
                uri: "https://aws-mcp.us-east-1.api.aws/mcp",
                headers: &[
                    ("mcp-session-id", "s-1"),
                    ("accept", "application/json, text/event-stream"),
                    ("Content-Type", "application/json"),
                ],
                body: Some(r#"{"jsonrpc":"2.0"}"#),
                token: Some("token/with+chars=="),
            },
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/us-east-1/aws-mcp/aws4_request, \
             SignedHeaders=accept;content-type;host;mcp-session-id;x-amz-date;x-amz-security-token, \
             Signature=0e62a4e96479211339a974e24d0fc85ff1e28b47b1f28911df5e9c8c5a9384aa",
        ),
        (
            Case {
                endpoint: arn,
                scope: None,
                method: "POST",
                uri: &arn_uri,
                headers: &[("content-type", "application/json")],
                body: Some("{}"),
                token: None,
            },
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/us-west-2/bedrock-agentcore/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=0ede3740a1d6c43ed0c69c64bd8b4fb7a91b666a30124012d94da0f672e6d4b3",
        ),
        (
            Case {
                endpoint: "http://127.0.0.1:8080/mcp",
                scope: Some(("x", "us-west-2")),
                method: "GET",
                uri: "http://127.0.0.1:8080/mcp",
                headers: &[("accept", "text/event-stream")],
                body: None,
                token: None,
            },
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/us-west-2/x/aws4_request, \
             SignedHeaders=accept;host;x-amz-date, \
             Signature=d6b830313547eeb1dd10a3defe52936f2cc14c7fafaf003a8a2f4261fe0cf501",
        ),
        (
            Case {
                endpoint: "https://b.s3.us-east-1.amazonaws.com/",
                scope: Some(("s3", "us-east-1")),
                method: "GET",
                uri: "https://b.s3.us-east-1.amazonaws.com/a%20b/c",
                headers: &[],
                body: None,
                token: None,
            },
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/us-east-1/s3/aws4_request, \
             SignedHeaders=host;x-amz-content-sha256;x-amz-date, \
             Signature=35df03187cc123fd6adbf8044e61921664cb52851db1246fcd936cc65d16f425",
        ),
    ];
    for (case, expected) in cases {
        let signature = signature(&case, time());
        assert_eq!(header(&signature, "authorization"), Some(expected), "{}", case.uri);
        assert_eq!(header(&signature, "x-amz-date"), Some("20261123T224807Z"));
        assert_eq!(header(&signature, "x-amz-security-token"), case.token);
    }
}

#[test]
fn the_day_changes_at_midnight_utc() {
    let case = PLAIN;
    let midnight = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_478_400);
    for (time, scope, date) in [
        (midnight - Duration::from_millis(1), "20261123/", "20261123T235959Z"),
        (midnight, "20261124/", "20261124T000000Z"),
    ] {
        let signature = signature(&case, time);
        assert_eq!(header(&signature, "x-amz-date"), Some(date));
        assert!(header(&signature, "authorization").is_some_and(|value| value.contains(scope)));
    }
}

/// The clock steps back over midnight and forward again, and the secret changes under the same id
/// within the day: each signature depends only on its own key and time.
#[test]
fn earlier_signatures_do_not_affect_later_ones() {
    let case = PLAIN;
    let after_midnight = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_478_400 + 60);
    let hour = Duration::from_secs(3600);
    let times = [after_midnight, after_midnight - hour, after_midnight + hour];
    let keys =
        [SECRET, "another+secret+of+the+same+length+as+EXAM"].map(|it| with_secret(it, None));
    let sign = |key: usize, time: usize| {
        let signature = signature_by(&keys[key], &case, times[time]);
        header(&signature, "authorization").expect("a signature").to_owned()
    };
    let all: Vec<(usize, usize)> =
        (0..2).flat_map(|key| (0..3).map(move |time| (key, time))).collect();
    let first: Vec<String> = all.iter().map(|(key, time)| sign(*key, *time)).collect();
    let different: std::collections::HashSet<&String> = first.iter().collect();
    assert_eq!(different.len(), 6, "{first:?}");
    for (index, (key, time)) in all.iter().enumerate().rev() {
        assert_eq!(sign(*key, *time), first[index], "key {key} at time {time}");
    }
}

#[test]
fn debug_shows_no_token() {
    let case = Case {
        endpoint: "https://aws-mcp.us-east-1.api.aws/mcp",
        scope: None,
        method: "GET",
        uri: "https://aws-mcp.us-east-1.api.aws/mcp",
        headers: &[],
        body: None,
        token: Some("canary"),
    };
    let signature = signature(&case, time());
    assert_eq!(header(&signature, "x-amz-security-token"), Some("canary"));
    assert!(!format!("{signature:?}").contains("canary"));
}

/// AWS's published vectors, which are in the package of its signer: from the parts of a canonical
/// request to its text and the signature. Requests that aren't in canonical form are refused before
/// signing.
#[test]
fn the_published_vectors_are_signed_alike() {
    let suite = package_of_the_signer().join("aws-signing-test-suite/v4");
    let mut passed = 0;
    for entry in std::fs::read_dir(&suite).expect("the suite") {
        let directory = entry.expect("an entry").path();
        if directory.join("context.json").exists() {
            vector(&directory);
            passed += 1;
        }
    }
    assert_eq!(passed, 38);
}

fn package_of_the_signer() -> PathBuf {
    let version = cargo(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    // Packages of other platforms aren't downloaded.
    let arguments = ["metadata", "--format-version", "1", "--offline", "--filter-platform", host];
    let metadata: serde_json::Value = serde_json::from_str(&cargo(&arguments)).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package =
        packages.iter().find(|package| package["name"] == "aws-sigv4").expect("aws-sigv4");
    let manifest = package["manifest_path"].as_str().expect("a path");
    Path::new(manifest).parent().expect("a directory").to_owned()
}

fn cargo(arguments: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The text that is signed for a set of regions is checked against AWS's signer; the signature
/// itself contains a random number, and is verified by the server of the end-to-end tests.
#[test]
fn several_regions_are_signed_by_another_algorithm() {
    let case = Case {
        endpoint: "https://fn1.lambda-web.global.on.aws/mcp",
        uri: "https://fn1.lambda-web.global.on.aws/mcp",
        token: Some("token"),
        ..PLAIN
    };
    for (scope, regions) in
        [(None, "*"), (Some(("lambda", "us-east-1,eu-west-1")), "us-east-1,eu-west-1")]
    {
        let signature = signature(&Case { scope, ..case }, time());
        assert_eq!(header(&signature, "x-amz-region-set"), Some(regions));
        let authorization = header(&signature, "authorization").expect("a signature");
        let begin = "AWS4-ECDSA-P256-SHA256 Credential=AKIDEXAMPLE/20261123/lambda/aws4_request, \
                     SignedHeaders=host;x-amz-date;x-amz-region-set;x-amz-security-token, Signature=30";
        assert!(authorization.starts_with(begin), "{authorization}");
    }
}

fn vector(directory: &Path) {
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).expect(name);
    let context: serde_json::Value = serde_json::from_str(&read("context.json")).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let keys = &context["credentials"];
    // A token that isn't signed is added after the signature.
    let token = text(&keys["token"]).filter(|_| context["omit_session_token"] != true);
    let (id, secret) = (text(&keys["access_key_id"]), text(&keys["secret_access_key"]));
    let (id, secret) = (id.expect("a key"), secret.expect("a key"));
    let keys = aws_credential_types::Credentials::new(id, secret, token, None, "test");
    let (service, region) = (text(&context["service"]), text(&context["region"]));
    let (service, region) = (service.expect("a service"), region.expect("a region"));
    let time = text(&context["timestamp"]).expect("a time");
    let time: String = time.chars().filter(|c| !"-:".contains(*c)).collect();
    let whole = read("header-canonical-request.txt");
    let mut lines = whole.lines();
    let mut line = || lines.next().expect("a line").to_owned();
    let (method, path, query) = (line(), line(), line());
    let mut headers = Vec::new();
    let (mut host, mut body_header) = (String::new(), false);
    loop {
        let line = line();
        let Some((name, value)) = line.split_once(':') else { break };
        match name {
            "host" => host = value.to_owned(),
            "x-amz-content-sha256" => body_header = true,
            "x-amz-date" | "x-amz-security-token" => {}
            _ => headers.push((name.to_owned(), value.to_owned())),
        }
    }
    let _names = line();
    let body = line();
    let request = v4::Canonical {
        method: &method,
        path: &path,
        query: &query,
        host: &host,
        headers: &headers,
        body_sha256: &body,
        body_header,
    };
    let scope = format!("{}/{region}/{service}/aws4_request", &time[..8]);
    let validity = v4::Validity { region: &region, service: &service, time: &time, scope: &scope };
    let signed = v4::headers(&request, &keys, &validity).expect("a signature");
    let authorization = signed.iter().find(|(name, _)| *name == "authorization").expect("a header");
    let expected = read("header-signature.txt");
    assert!(authorization.1.ends_with(&format!("Signature={expected}")), "{}", directory.display());
}

/// Requests of all kinds that pass the checks, compared with AWS's own signer.
#[test]
fn aws_s_own_signer_signs_the_same() {
    // xorshift: the same requests in each run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("small")
    };
    let any = |of: &[u8], length: usize, random: &mut dyn FnMut(usize) -> usize| -> String {
        (0..length).map(|_| char::from(of[random(of.len())])).collect()
    };
    let names = ["accept", "X-Team", "x-a", "x-ab", "content-type", "mcp-session-id", "zz", "x-a"];
    let printable: Vec<u8> = (b'!'..=b'~').collect();
    let long = "a+secret/that/is/longer/than/a/block/of/the/hash".repeat(2);
    for round in 0..3000 {
        let service = ["aws-mcp", "s3", "bedrock-agentcore", "x"][random(4)];
        let origin = ["https://host.example", "https://host.example:8443", "http://127.0.0.1:80"];
        let endpoint = format!("{}/", origin[random(3)]);
        let mut uri = endpoint.clone();
        for segment in 0..random(4) {
            // Without the letter, a segment would have only parameters, and would be refused.
            uri += if segment > 0 { "/s" } else { "s" };
            uri += &any(b"abcXYZ019-_~!$&'()*+,;=:@", 1 + random(9), &mut random);
            uri += ["", "", "%C3%A9", "%20", "%3A"][random(5)];
        }
        let mut query: Vec<String> = (0..random(4))
            .map(|n| {
                let value = any(b"abc-._~019", random(6), &mut random);
                format!(
                    "{}{n}={value}{}",
                    any(b"abXY", 1, &mut random),
                    ["", "%20", "%2F"][random(3)]
                )
            })
            .collect();
        query.sort_by_key(|pair| pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())));
        if !query.is_empty() {
            uri += &format!("?{}", query.join("&"));
        }
        let values: Vec<String> =
            (0..6).map(|_| any(&printable, random(12), &mut random)).collect();
        let headers: Vec<(&str, &str)> =
            (0..random(7)).map(|n| (names[random(names.len())], &*values[n % 6])).collect();
        let token = ["token/with+chars==", "t"][random(2)];
        let case = Case {
            endpoint: &endpoint,
            scope: Some((service, "eu-west-1")),
            method: ["POST", "GET", "DELETE"][random(3)],
            uri: &uri,
            headers: &headers,
            body: None,
            token: (random(2) == 0).then_some(token),
        };
        let case = Case { body: (case.method == "POST").then_some("{}"), ..case };
        let secret = if random(4) == 0 { &long } else { SECRET };
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(random(5_000_000_000) as u64);
        let credentials = with_secret(secret, case.token);
        let (ours, theirs) = checked(&case, |grant| {
            let ours = sign(grant, &credentials, time).expect("a signature").headers;
            (ours, by_aws(grant, &credentials, time))
        });
        let sorted = |mut headers: Vec<(&'static str, String)>| {
            headers.sort();
            headers
        };
        assert_eq!(sorted(ours), sorted(theirs), "round {round}: {uri} {headers:?}");
    }
}

/// Signs any request with AWS's signer.
fn by_aws(
    grant: &Grant<'_>,
    credentials: &Credentials,
    time: SystemTime,
) -> Vec<(&'static str, String)> {
    let head = grant.request().head();
    let scope = &head.endpoint().scope;
    let Regions::One(region) = &scope.regions else { panic!("one region") };
    let params = aws_sigv4::sign::v4::SigningParams::builder()
        .identity(credentials.expose_identity())
        .region(region.as_str())
        .name(scope.service.as_str())
        .time(time)
        .settings(settings(scope))
        .build()
        .expect("parameters");
    let request = signable(head, hex::encode(grant.request().body_sha256())).expect("a request");
    added(request, &params.into()).expect("a signature")
}
