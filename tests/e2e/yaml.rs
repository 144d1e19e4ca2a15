//! YAML as Kubernetes reads it, parsed by Python.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;
use sigward_tests::tools;

/// Prints JSON; a key that is declared twice is an error.
const TO_JSON: &str = "
import json, sys, yaml

class Strict(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            sys.exit(f'a key is declared twice: {node.start_mark}')
        return super().construct_mapping(node, deep)

print(json.dumps(list(yaml.load_all(sys.stdin, Strict))))
";

/// The documents of a text.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let json = run(TO_JSON, &[], text).unwrap_or_else(|error| panic!("{error}"));
    serde_json::from_str(&json).expect("JSON")
}

/// The output of a Python script that reads all of its input first, or its errors if it fails.
pub(crate) fn run(script: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut python = Command::new(tools::kubernetes());
    python.args(["-c", script]).args(arguments);
    python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut python = python.spawn().expect("python starts");
    python.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("python reads");
    let output = python.wait_with_output().expect("python ends");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[test]
fn a_key_that_is_declared_twice_is_an_error() {
    assert_eq!(documents("a: {b: 1}\n---\nc: 2\n").len(), 2);
    let error = run(TO_JSON, &[], "a: {b: 1, b: 2}\n").expect_err("an error");
    assert!(error.contains("a key is declared twice"), "{error}");
}
