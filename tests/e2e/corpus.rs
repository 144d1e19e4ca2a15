//! The properties of the fuzz targets (`proxy/fuzz`, `broker/fuzz`), on the corpus that is committed with them.

use std::fs;
use std::path::PathBuf;

use sigward_tests::processes;

#[path = "../../broker/fuzz/properties/aws_files.rs"]
mod aws_files;
#[path = "../../broker/fuzz/properties/body.rs"]
mod body;
#[path = "../../broker/fuzz/properties/config.rs"]
mod config;
#[path = "../../broker/fuzz/properties/head.rs"]
mod head;
#[path = "../../broker/fuzz/properties/message.rs"]
mod message;
#[path = "../../broker/fuzz/properties/process.rs"]
mod process;
#[path = "../../proxy/fuzz/properties/sse.rs"]
mod sse;
#[path = "../../proxy/fuzz/properties/stdio.rs"]
mod stdio;
#[path = "../../broker/fuzz/properties/time.rs"]
mod time;
#[path = "../../broker/fuzz/properties/tokens.rs"]
mod tokens;
#[path = "../../proxy/fuzz/properties/wire.rs"]
mod wire;

fn check(target: &str, property: fn(&[u8])) {
    check_of("proxy", target, property);
}

fn check_of(package: &str, target: &str, property: fn(&[u8])) {
    let corpus = processes::workspace().join(package).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = fs::read_dir(corpus).unwrap().map(|it| it.unwrap().path()).collect();
    inputs.sort();
    check_each(&inputs, property);
}

fn check_each(inputs: &[PathBuf], property: fn(&[u8])) {
    assert!(!inputs.is_empty());
    for input in inputs {
        let data = fs::read(input).unwrap();
        let outcome = std::panic::catch_unwind(|| property(&data));
        assert!(outcome.is_ok(), "{}", input.display());
    }
}

#[test]
fn messages_are_split_at_the_right_place() {
    check("wire", wire::check);
}

#[test]
fn events_are_parsed_alike_however_they_are_chunked() {
    check("sse", sse::check);
}

#[test]
fn lines_are_parsed_alike_however_they_are_chunked() {
    check("stdio", stdio::check);
}

#[test]
fn a_sign_message_is_parsed_as_by_prost() {
    check_of("broker", "message", message::check);
}

#[test]
fn a_body_has_one_meaning() {
    check_of("broker", "body", body::check);
}

#[test]
fn a_signed_request_stays_at_its_endpoint() {
    check_of("broker", "head", head::check);
}

#[test]
fn a_configuration_is_valid_or_its_errors_have_a_place() {
    check_of("broker", "config", config::check);
    // Also those that are shipped, which the fuzzer gets as a second corpus.
    let deploy = processes::workspace().join("broker/deploy");
    let shipped = ["broker.toml", "container/pod/broker.toml", "container/node/broker.toml"];
    check_each(&shipped.map(|file| deploy.join(file)), config::check);
}

#[test]
fn a_faulty_section_affects_no_other() {
    check_of("broker", "aws_files", aws_files::check);
}

#[test]
fn a_token_is_parsed_completely_or_refused() {
    check_of("broker", "tokens", tokens::check);
}

#[test]
fn the_output_of_a_process_is_parsed_completely_or_refused() {
    check_of("broker", "process", process::check);
}

#[test]
fn a_time_is_parsed_completely_or_refused() {
    check_of("broker", "time", time::check);
}
