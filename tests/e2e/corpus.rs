//! The properties of the fuzz targets (`proxy/fuzz`), on the corpus that is committed with them.

use std::fs;

use sigward_tests::processes;

#[path = "../../proxy/fuzz/properties/sse.rs"]
mod sse;
#[path = "../../proxy/fuzz/properties/stdio.rs"]
mod stdio;
#[path = "../../proxy/fuzz/properties/wire.rs"]
mod wire;

fn check(target: &str, property: fn(&[u8])) {
    let corpus = processes::workspace().join("proxy/fuzz/corpus").join(target);
    let mut inputs: Vec<_> = fs::read_dir(corpus).unwrap().map(|it| it.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty());
    for input in inputs {
        let data = fs::read(&input).unwrap();
        let outcome = std::panic::catch_unwind(|| property(&data));
        assert!(outcome.is_ok(), "{}", input.display());
    }
}

#[test]
fn messages_are_cut_where_they_should_be() {
    check("wire", wire::check);
}

#[test]
fn events_are_read_alike_however_they_come() {
    check("sse", sse::check);
}

#[test]
fn lines_are_read_alike_however_they_come() {
    check("stdio", stdio::check);
}
