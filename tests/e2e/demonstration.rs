//! The demo that the README promises: it succeeds, and it is plain where no terminal is.

use sigward_tests::{deadline, processes};
use tokio::process::Command;

use crate::setup::{THREE, assert_names};

#[tokio::test]
async fn the_demo_shows_what_it_should() {
    // The demo builds the programs itself, as for a user. Compiling may take minutes, so that it's done here, before
    // the deadline begins: the demo then finds them built.
    processes::binaries();
    // With the environment of the tests, which cargo needs.
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    let ended = deadline::within(command.output(), || "the demo hangs".to_owned()).await.unwrap();
    let shown = String::from_utf8(ended.stdout).unwrap();
    let errors = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success(), "{shown}{errors}");
    assert_names(&shown, &THREE);
    assert_names(&shown, &["checks are true", "0 of 3 secrets", "admin"]);
    assert!(!shown.contains('\u{1b}'), "no colours where no terminal is");
    processes::assert_no_canary("the demo's output", &shown);
}
