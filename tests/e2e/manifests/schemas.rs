//! Kubernetes accepts every document, strictly by its own schemas: those of the oldest version that has sidecars by
//! default, and those of the newest.

use std::slice::from_ref;

use serde_json::{Value, json};

use super::rendered::{Rendered, every_variant};
use crate::yaml;

/// The first version with sidecars by default.
const OLDEST: &str = "1.29";
const NEWEST: &str = "1.37";

/// Prints a line for each document that doesn't validate. A version without schemas is an error.
const VALIDATE: &str = "
import json, sys
from kubernetes_validate import ValidationError, validate
from kubernetes_validate.utils import SchemaNotFoundError

version, documents = sys.argv[1], json.load(sys.stdin)
for document in documents:
    try:
        used = validate(document, version, strict=True)
    except ValidationError as error:
        used = error.version
        print(document['kind'], '/'.join(map(str, error.path)), error.message)
    except SchemaNotFoundError as error:
        used = error.version
        print(error.message)
    if used != version:
        sys.exit(f'validated against {used}, not {version}')
";

/// The errors that Kubernetes of this version reports for the documents.
fn refusals(documents: &[Value], version: &str) -> Vec<String> {
    let documents = Value::from(documents).to_string();
    let output = yaml::run(VALIDATE, &[version], &documents);
    let output = output.unwrap_or_else(|error| panic!("{error}"));
    output.lines().map(str::to_owned).collect()
}

#[test]
fn kubernetes_accepts_every_document() {
    for all in every_variant() {
        for version in [OLDEST, NEWEST] {
            assert_eq!(refusals(&all.resources, version), Vec::<String>::new(), "{version}");
        }
    }
}

#[test]
fn the_newest_version_is_the_newest_that_has_schemas() {
    let script = "import kubernetes_validate as it; print(it.latest_version())";
    let latest = yaml::run(script, &[], "").expect("a version");
    assert!(latest.starts_with(&format!("{NEWEST}.")), "{latest}");
    let documents = json!([{ "kind": "Pod", "apiVersion": "v1" }]).to_string();
    let unknown = yaml::run(VALIDATE, &["1.99"], &documents).expect_err("no schemas");
    assert!(unknown.contains("VersionNotSupportedError"), "{unknown}");
}

/// The deny twin: single edits of a valid pod, and the error for each.
#[test]
fn an_invalid_document_is_refused() {
    let pod = Rendered::with("pod", &[]).of_kind("Pod").next().expect("a pod").clone();
    let broker = "/spec/initContainers/0/securityContext";
    let edits = [
        (broker, "readOnlyRootFileSystem", json!(true), "'readOnlyRootFileSystem' was unexpected"),
        (broker, "runAsUser", json!("65532"), "'65532' is not of type 'integer'"),
        ("/spec", "serviceAcountName", json!("agent"), "'serviceAcountName' was unexpected"),
        ("/spec/volumes/0", "name", Value::Null, "None is not of type 'string'"),
        ("", "kind", json!("Podd"), "Couldn't find schema for kind Podd"),
    ];
    let wrong = edits.clone().map(|(parent, key, value, _)| {
        let mut wrong = pod.clone();
        wrong.pointer_mut(parent).expect(parent)[key] = value;
        wrong
    });
    let documents = [&wrong[..], from_ref(&pod)].concat();
    for version in [OLDEST, NEWEST] {
        let refused = refusals(&documents, version);
        assert_eq!(refused.len(), wrong.len(), "{refused:#?}");
        for (refused, (.., expected)) in refused.iter().zip(&edits) {
            assert!(refused.contains(expected), "{expected}: {refused}");
        }
    }
    // The version matters: this one has no sidecars.
    let refused = refusals(from_ref(&pod), "1.27");
    assert!(
        refused.len() == 1 && refused[0].contains("'restartPolicy' was unexpected"),
        "{refused:?}"
    );
}
