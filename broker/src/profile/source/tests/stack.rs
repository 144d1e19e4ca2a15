//! Tests that loads and readings leave no key on the stack.

use super::*;
use crate::memory::residue;

/// Runs it on the current thread.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

/// Profiles whose load hashes a key: for the fingerprint of the files, and to sign for STS.
fn home_with_a_role(url: &str, secret: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let keys = format!("[keys]\naws_access_key_id = A\naws_secret_access_key = {secret}\n");
    write(directory.path(), "credentials", &keys);
    let role = "[profile role]\nrole_arn = arn:aws:iam::1:role/X\nsource_profile = keys\n";
    write(directory.path(), "config", &format!("{role}endpoint_url = {url}\n"));
    directory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_load_leaves_no_key_on_the_stack() {
    const SECRET: &str = "canary-of-the-stack-7mW2kQ0xVb4nLr8sTz6u";
    let server = Fake::start(|_| (200, assumed("T"))).await;
    for profile in ["keys", "role"] {
        let url = server.url.clone();
        let left = residue::after(SECRET, move || {
            let home = home_with_a_role(&url, SECRET);
            let source = source(home.path(), "dev", profile);
            block_on(source.load(None, Effort::Waited, now(), Box::new(drop)))
                .expect("credentials");
        });
        assert_eq!(left, 0, "{profile}");
    }
}

#[tokio::test]
async fn reading_the_files_leaves_no_key_on_the_stack() {
    const SECRET: &str = "canary-of-a-look-7mW2kQ0xVb4nLr8sTz6uYcd";
    let looked = residue::after(SECRET, || {
        let home = home_with_a_role("http://127.0.0.1:1", SECRET);
        for profile in ["keys", "role"] {
            let source = source(home.path(), "dev", profile);
            let reading = block_on(read(&source));
            assert!(matches!(reading.found, Found::Inputs(_)));
            assert!(!reading.about.source.is_empty());
        }
    });
    assert_eq!(looked, 0);
}
