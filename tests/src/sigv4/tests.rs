//! The verifier with the vectors that AWS publishes, and with each kind of error.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::*;

/// One parsed `header-signed-request.txt`.
struct Vector {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Vector {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let (head, body) = text.split_once("\n\n").unwrap_or((text.trim_end(), ""));
        let mut lines = head.lines();
        let line = lines.next().unwrap();
        let (method, rest) = line.split_once(' ').unwrap();
        let target = rest.strip_suffix(" HTTP/1.1").unwrap();
        let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
        for line in lines {
            if line.starts_with(' ') {
                let folded = headers.last_mut().unwrap();
                folded.1.extend_from_slice(format!(" {}", line.trim()).as_bytes());
            } else {
                let (name, value) = line.split_once(':').unwrap();
                headers.push((name.to_owned(), value.as_bytes().to_vec()));
            }
        }
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers,
            body: body.as_bytes().to_vec(),
        }
    }

    fn with_request<T>(&self, check: impl FnOnce(&Request<'_>) -> T) -> T {
        let headers: Vec<_> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        check(&Request {
            method: &self.method,
            target: &self.target,
            headers: &headers,
            body: &self.body,
        })
    }
}

fn vectors() -> PathBuf {
    suite().join("v4")
}

fn suite() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "aws-sigv4").unwrap();
    let manifest = package["manifest_path"].as_str().unwrap();
    Path::new(manifest).parent().unwrap().join("aws-signing-test-suite")
}

fn verifier(context: &Value) -> Verifier {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let credentials = &context["credentials"];
    let key = Key {
        access_key_id: text(&credentials["access_key_id"]).unwrap(),
        secret: text(&credentials["secret_access_key"]).unwrap(),
        session_token: text(&credentials["token"]),
        identity: "arn:aws:iam::123456789012:user/example".to_owned(),
        account: "123456789012".to_owned(),
    };
    let [service, region] = ["service", "region"].map(|name| text(&context[name]).unwrap());
    let mut verifier = Verifier::new([key].into_iter().collect(), &service, &region);
    if context["normalize"] == false {
        verifier.path = PathRule::Verbatim;
    }
    verifier.unsigned_token = context["omit_session_token"] == true;
    verifier
}

fn context(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("context.json")).unwrap()).unwrap()
}

#[test]
fn every_published_vector_verifies_and_no_changed_one() {
    let mut seen = 0;
    for entry in fs::read_dir(vectors()).unwrap() {
        let directory = entry.unwrap().path();
        if !directory.join("context.json").exists() {
            continue; // two examples of a canonical path, without a signature
        }
        let verifier = verifier(&context(&directory));
        let mut vector = Vector::read(&directory.join("header-signed-request.txt"));
        let date =
            vector.with_request(|request| only(request, "x-amz-date")).unwrap().expect("a date");
        let now = parse_date(&date).unwrap();

        let verified = vector.with_request(|request| verifier.verify(request, now));
        assert!(verified.is_ok(), "{}: {}", directory.display(), verified.unwrap_err());

        vector.body.push(b'!');
        let refusal = vector.with_request(|request| verifier.verify(request, now)).unwrap_err();
        assert!(
            matches!(refusal, Refusal::Mismatch { .. } | Refusal::BodyHash),
            "{}: {refusal}",
            directory.display()
        );
        seen += 1;
    }
    assert_eq!(seen, 38, "the published set has 38 vectors");
}

/// The signatures of these vectors contain a random number, so they can be verified, but not reproduced.
#[test]
fn every_published_vector_of_several_regions_verifies_and_no_changed_one() {
    let mut seen = 0;
    for entry in fs::read_dir(suite().join("v4a")).unwrap() {
        let directory = entry.unwrap().path();
        if !directory.join("context.json").exists() {
            continue;
        }
        let verifier = verifier(&context(&directory));
        let public: Value =
            serde_json::from_slice(&fs::read(directory.join("public-key.json")).unwrap()).unwrap();
        let key = verifier.keys.find("AKIDEXAMPLE").unwrap();
        let point = format!("04{}{}", public["X"].as_str().unwrap(), public["Y"].as_str().unwrap());
        assert_eq!(hex::encode(asymmetric::public_key(&key)), point, "{}", directory.display());

        let mut vector = Vector::read(&directory.join("header-signed-request.txt"));
        let now = parse_date("20150830T123600Z").unwrap();
        let verified = vector.with_request(|request| verifier.verify(request, now));
        assert!(verified.is_ok(), "{}: {}", directory.display(), verified.unwrap_err());

        let other = Verifier { region: "eu-west-1".to_owned(), ..verifier.clone() };
        let refusal = vector.with_request(|request| other.verify(request, now)).unwrap_err();
        assert!(matches!(refusal, Refusal::Scope { .. }), "{refusal}");
        vector.body.push(b'!');
        let refusal = vector.with_request(|request| verifier.verify(request, now)).unwrap_err();
        let changed = matches!(refusal, Refusal::Mismatch { .. } | Refusal::BodyHash);
        assert!(changed, "{}: {refusal}", directory.display());
        seen += 1;
    }
    assert!(seen > 30, "{seen}");
}

/// Verifies a vector with a session token after `change`, and returns the refusal.
fn refusal(change: impl FnOnce(&mut Vector, &mut Verifier, &mut SystemTime)) -> Refusal {
    let directory = vectors().join("get-vanilla-with-session-token");
    let mut verifier = verifier(&context(&directory));
    let mut vector = Vector::read(&directory.join("header-signed-request.txt"));
    let mut now = parse_date("20150830T123600Z").unwrap();
    vector.with_request(|request| verifier.verify(request, now)).expect("unchanged, it verifies");
    change(&mut vector, &mut verifier, &mut now);
    vector.with_request(|request| verifier.verify(request, now)).unwrap_err()
}

fn header<'a>(vector: &'a mut Vector, name: &str) -> &'a mut Vec<u8> {
    let found = vector.headers.iter_mut().find(|(key, _)| key.eq_ignore_ascii_case(name));
    &mut found.unwrap().1
}

#[test]
fn each_error_has_its_reason() {
    let missing =
        refusal(|vector, _, _| vector.headers.retain(|(name, _)| name != "Authorization"));
    assert_eq!(missing, Refusal::Missing);

    let late = refusal(|_, _, now| *now += Duration::from_secs(301));
    assert!(matches!(late, Refusal::Skewed { skew: 301, .. }), "{late}");
    let early = refusal(|_, _, now| *now -= Duration::from_secs(301));
    assert!(matches!(early, Refusal::Skewed { skew: 301, .. }), "{early}");

    let region = refusal(|_, verifier, _| "eu-west-1".clone_into(&mut verifier.region));
    assert!(matches!(region, Refusal::Scope { .. }), "{region}");
    let service = refusal(|_, verifier, _| "s3".clone_into(&mut verifier.service));
    assert!(matches!(service, Refusal::Scope { .. }), "{service}");

    let unknown = refusal(|_, verifier, _| verifier.keys.remove("AKIDEXAMPLE"));
    assert_eq!(unknown, Refusal::UnknownKey("AKIDEXAMPLE".to_owned()));

    let token = refusal(|vector, _, _| header(vector, "x-amz-security-token").push(b'x'));
    assert_eq!(token, Refusal::Token);

    let beside = refusal(|vector, _, _| {
        vector.headers.push(("X-Amz-Target".to_owned(), b"Evil".to_vec()));
    });
    assert_eq!(beside, Refusal::Unsigned("x-amz-target".to_owned()));

    let twice = refusal(|vector, _, _| {
        let copy = vector.headers.iter().find(|(name, _)| name == "Authorization").cloned();
        vector.headers.extend(copy);
    });
    assert!(matches!(twice, Refusal::Malformed(_)), "{twice}");

    for fault in [
        refusal(|vector, _, _| *header(vector, "host") = b"evil.example".to_vec()),
        refusal(|vector, _, _| vector.target.push_str("?a=b")),
        refusal(|vector, _, _| "POST".clone_into(&mut vector.method)),
    ] {
        assert!(matches!(fault, Refusal::Mismatch { .. }), "{fault}");
    }
}

#[test]
fn dates_are_read_exactly() {
    let seconds = |text: &str| {
        parse_date(text).map(|time| time.duration_since(UNIX_EPOCH).unwrap().as_secs())
    };
    assert_eq!(seconds("19700101T000000Z"), Some(0));
    assert_eq!(seconds("20000229T235959Z"), Some(951_868_799));
    assert_eq!(seconds("20261123T221530Z"), Some(1_795_472_130));
    for bad in ["", "20261123", "2026-11-23T22:15:30Z", "20261323T221530Z", "20261123T22153xZ"] {
        assert_eq!(seconds(bad), None, "{bad:?}");
    }
}
