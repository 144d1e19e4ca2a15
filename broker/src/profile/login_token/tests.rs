use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const SESSION: &str = "arn:aws:iam::111122223333:user/person";

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

/// A file of `aws login`, with an unknown field.
fn file(id: &str, refresh: &str, key: &str, expiry: u64) -> Value {
    json!({
        "accessToken": {
            "accessKeyId": id, "secretAccessKey": "canary-secret", "sessionToken": "canary-token",
            "accountId": "111122223333", "expiresAt": log::timestamp(at(expiry), "T") + "Z",
        },
        "tokenType": "aws_sigv4", "refreshToken": refresh, "idToken": "canary-id",
        "clientId": "arn:aws:signin:::devtools/same-device", "dpopKey": key,
        "signInRegion": "eu-west-1", "new": {"number": 12345678901234567890_u64, "list": [1.50]},
    })
}

/// A home with one session: `A`, `r1`, with the expiry 100.
fn home() -> (TempDir, PathBuf, LoginTokens) {
    let home = tempfile::tempdir().expect("a home");
    let directory = home.path().join(".aws/login/cache");
    std::fs::create_dir_all(&directory).expect("a directory");
    let path = LoginTokens::path(&directory, SESSION);
    write_file(&path, &file("A", "r1", "canary-key", 100));
    (home, path, LoginTokens::default())
}

fn write_file(path: &Path, content: &Value) {
    std::fs::write(path, content.to_string()).expect("a file");
}

fn renewal(before: &LoginToken, id: &str, refresh: &str, expiry: u64) -> LoginToken {
    let keys = [id, "canary-secret-2", "canary-token-2"];
    before.renewed(keys, refresh.to_owned(), at(expiry)).expect("a renewal")
}

fn id(token: &LoginToken) -> &str {
    token.keys.access_key_id()
}

fn cached(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

#[test]
fn files_are_named_as_the_aws_cli_names_them() {
    // printf %s arn:aws:iam::111122223333:user/person | sha256sum
    assert_eq!(
        LoginTokens::path(Path::new("/c"), SESSION).display().to_string(),
        "/c/b43dc5603ee797e860e4e36d9f5819ff3ee31e57abaaa6bb89c8442a9052cf4c.json"
    );
}

#[tokio::test]
async fn a_session_is_read_and_shown_nowhere() {
    let (_home, path, tokens) = home();
    let token = tokens.find(&path).await.expect("a session");
    assert_eq!((id(&token), token.refresh.expose()), ("A", "r1"));
    assert_eq!(token.region.as_deref(), Some("eu-west-1"));
    assert_eq!((token.expiry, token.keys.expiry()), (at(100), Some(at(100))));
    let shown = format!("{token:?} {tokens:?}");
    assert!(!shown.contains("canary") && !shown.contains("r1"), "{shown}");
}

#[tokio::test]
async fn errors_name_the_file_without_its_content() {
    let (_home, path, tokens) = home();
    let good = file("A", "canary-refresh", "canary-key", 100);
    let without = |pointer: &str| {
        let mut json = good.clone();
        *json.pointer_mut(pointer).expect(pointer) = Value::Null;
        json.to_string()
    };
    let with = |field: &str, value: Value| {
        let mut json = good.clone();
        json[field] = value;
        json.to_string()
    };
    let text = good.to_string();
    for (content, word) in [
        (without("/accessToken"), "no accessToken"),
        (without("/accessToken/accessKeyId"), "no accessKeyId"),
        (without("/accessToken/secretAccessKey"), "no secretAccessKey"),
        (without("/accessToken/sessionToken"), "no sessionToken"),
        (without("/accessToken/accountId"), "no accountId"),
        (without("/accessToken/expiresAt"), "no expiresAt"),
        (without("/refreshToken"), "no refreshToken"),
        (without("/clientId"), "no clientId"),
        (without("/dpopKey"), "no dpopKey"),
        (with("dpopKey", "".into()), "no dpopKey"),
        (with("dpopKey", json!(["canary"])), "line 1"),
        (with("signInRegion", "evil.example/".into()), "signInRegion"),
        (text.replace("2027", "canary"), "expiresAt"),
        (text[..text.len() / 2].to_owned(), "cut"),
        (String::new(), "cut"),
        ("[]".to_owned(), "line 1"),
        ("canary".to_owned(), "line 1"),
    ] {
        std::fs::write(&path, &content).expect("a file");
        let denial = tokens.find(&path).await.expect_err(word);
        assert_eq!(denial.reason(), Reason::LoginRequired, "{content}");
        let shown = denial.to_string();
        assert!(shown.contains(word), "{word}: {shown}");
        assert!(shown.contains(&path.display().to_string()), "{shown}");
        assert!(!shown.contains("canary"), "{shown}");
    }
    std::fs::remove_file(&path).expect("it");
    let denial = tokens.find(&path).await.expect_err("no one has signed in");
    assert_eq!(denial.reason(), Reason::LoginRequired);
    assert!(denial.detail().contains("aws login"), "{denial}");
    // The file can't be read at all: signing in doesn't help.
    std::fs::create_dir(&path).expect("a directory");
    let denial = tokens.find(&path).await.expect_err("a directory");
    assert_eq!(denial.reason(), Reason::ProfileMisconfigured);
    assert!(denial.detail().contains(&path.display().to_string()), "{denial}");
}

#[tokio::test]
async fn a_renewal_keeps_all_other_fields() {
    let (_home, path, tokens) = home();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("permitted");
    let before = tokens.find(&path).await.expect("a session");
    let stored = tokens.store(&path, &before, renewal(&before, "B", "r2", 1000)).await;
    let stored = stored.expect("stored");
    let mut expected = file("B", "r2", "canary-key", 1000);
    expected["accessToken"]["secretAccessKey"] = "canary-secret-2".into();
    expected["accessToken"]["sessionToken"] = "canary-token-2".into();
    assert_eq!(cached(&path), expected);
    let text = std::fs::read_to_string(&path).expect("a file");
    assert!(text.contains(r#"{"list":[1.5],"number":12345678901234567890}"#), "{text}");
    let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let entries = std::fs::read_dir(path.parent().expect("a directory")).expect("a directory");
    assert_eq!(entries.count(), 1, "no temporary file");
    let found = tokens.find(&path).await.expect("a session");
    assert_eq!((id(&found), &found.keys), ("B", &stored.keys), "no other generation");
    // Another renewal, of the stored session.
    let again = renewal(&stored, "C", "r3", 2000);
    tokens.store(&path, &stored, again).await.expect("stored");
    assert_eq!(cached(&path)["refreshToken"], "r3");
}

#[tokio::test]
async fn fractions_of_a_second_are_dropped_before_storing() {
    let (_home, path, tokens) = home();
    let before = tokens.find(&path).await.expect("a session");
    let expiry = at(1000) + Duration::from_millis(999);
    let renewed = before.renewed(["B", "s", "t"], "r2".to_owned(), expiry).expect("a renewal");
    assert_eq!(renewed.expiry, at(1000));
}

/// The directory is the one of the open file descriptors, in which nothing can be created, not even
/// by root.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_unwritten_session_is_kept_in_memory_until_it_can_be_written() {
    use std::os::fd::AsRawFd;

    let (home, original, tokens) = home();
    let open = std::fs::File::open(&original).expect("a file");
    let directory = home.path().join("cache");
    let path = directory.join(open.as_raw_fd().to_string());
    std::os::unix::fs::symlink("/proc/self/fd", &directory).expect("a link");
    let before = tokens.find(&path).await.expect("a session");
    let stored = tokens.store(&path, &before, renewal(&before, "B", "r2", 1000)).await;
    let stored = stored.expect("kept");
    assert_eq!(id(&stored), "B");
    assert_eq!(cached(&path)["refreshToken"], "r1");
    assert_eq!(id(&tokens.find(&path).await.expect("kept")), "B");
    let shown = format!("{tokens:?}");
    assert!(!shown.contains("canary") && !shown.contains("r2"), "{shown}");

    // The session in memory is renewed, when the cache can be written again.
    std::fs::remove_file(&directory).expect("the link");
    std::fs::create_dir(&directory).expect("a directory");
    std::fs::copy(&original, &path).expect("a copy");
    let next = renewal(&stored, "C", "r3", 2000);
    tokens.store(&path, &stored, next).await.expect("stored");
    assert_eq!(cached(&path)["refreshToken"], "r3");
    assert!(tokens.kept().is_empty());
}

/// A session that is kept in memory, and its cache.
async fn kept() -> (TempDir, PathBuf, LoginTokens) {
    let (home, path, tokens) = home();
    let before = tokens.find(&path).await.expect("a session");
    tokens.kept().insert(path.clone(), renewal(&before, "B", "r2", 1000));
    (home, path, tokens)
}

#[tokio::test]
async fn the_newer_of_cache_and_memory_is_used() {
    let other_key = "canary-key-of-another-sign-in";
    for (what, content, expected) in [
        ("an older renewal", file("C", "r3", "canary-key", 999), "B"),
        ("a renewal as old", file("C", "r3", "canary-key", 1000), "C"),
        ("a newer renewal of another program", file("C", "r3", "canary-key", 1001), "C"),
        ("another sign-in counts, whenever it expires", file("C", "r3", other_key, 500), "C"),
    ] {
        let (_home, path, tokens) = kept().await;
        write_file(&path, &content);
        assert_eq!(id(&tokens.find(&path).await.expect(what)), expected, "{what}");
        assert_eq!(tokens.kept().is_empty(), expected == "C", "{what}");
    }
}

#[tokio::test]
async fn a_session_in_memory_outlives_a_cut_cache_but_not_a_sign_out() {
    let (_home, path, tokens) = kept().await;
    std::fs::write(&path, r#"{"accessToken": {"#).expect("a cut file");
    assert_eq!(id(&tokens.find(&path).await.expect("kept")), "B");
    std::fs::remove_file(&path).expect("a file");
    std::fs::create_dir(&path).expect("a directory in its place");
    assert_eq!(id(&tokens.find(&path).await.expect("kept")), "B");
    std::fs::remove_dir(&path).expect("it");
    let denial = tokens.find(&path).await.expect_err("aws logout removes the file");
    assert_eq!(denial.reason(), Reason::LoginRequired);
    // It isn't restored by the next sign-in.
    write_file(&path, &file("A", "r1", "canary-key", 100));
    assert_eq!(id(&tokens.find(&path).await.expect("a session")), "A");
}

/// The file changes while the server is called.
#[tokio::test]
async fn a_renewal_does_not_overwrite_concurrent_changes() {
    let other_key = "canary-key-of-another-sign-in";
    for (what, written, used, in_file) in [
        ("nothing", None, "B", "r2"),
        ("an older renewal", Some(file("C", "r3", "canary-key", 999)), "B", "r2"),
        ("a newer renewal", Some(file("C", "r3", "canary-key", 1001)), "C", "r3"),
        ("another sign-in", Some(file("C", "r3", other_key, 500)), "C", "r3"),
    ] {
        let (_home, path, tokens) = home();
        let before = tokens.find(&path).await.expect("a session");
        if let Some(content) = written {
            write_file(&path, &content);
        }
        let stored = tokens.store(&path, &before, renewal(&before, "B", "r2", 1000)).await;
        assert_eq!(id(&stored.expect(what)), used, "{what}");
        assert_eq!(cached(&path)["refreshToken"], in_file, "{what}");
        assert!(tokens.kept().is_empty(), "{what}");
    }
    // An incomplete file: another program is writing it.
    let (_home, path, tokens) = home();
    let before = tokens.find(&path).await.expect("a session");
    std::fs::write(&path, "{").expect("a cut file");
    let stored = tokens.store(&path, &before, renewal(&before, "B", "r2", 1000)).await;
    assert_eq!(id(&stored.expect("kept")), "B");
    assert_eq!(std::fs::read(&path).expect("a file"), b"{");
    // A sign-out is kept.
    std::fs::remove_file(&path).expect("a file");
    let stored = tokens.store(&path, &before, renewal(&before, "B", "r2", 1000)).await;
    assert_eq!(stored.expect_err("signed out").reason(), Reason::LoginRequired);
    assert!(!path.exists());
    assert!(tokens.kept().is_empty());
}

#[tokio::test]
async fn only_writes_of_others_are_changes() {
    let (_home, path, tokens) = home();
    let first = tokens.mark(&path).await;
    assert_eq!(tokens.mark(&path).await, first);
    let mut token = tokens.find(&path).await.expect("a session");
    for (number, (name, refresh)) in [("B", "r2"), ("C", "r3")].into_iter().enumerate() {
        let expiry = 1000 * (number as u64 + 1);
        let renewed = renewal(&token, name, refresh, expiry);
        token = tokens.store(&path, &token, renewed).await.expect("stored");
        assert_eq!(tokens.mark(&path).await, first, "our own renewal");
    }
    // To another broker with the same home it is a change.
    let elsewhere = LoginTokens::default().mark(&path).await;
    assert_ne!(elsewhere, first);
    write_file(&path, &file("D", "r4", "canary-key", 3000));
    let theirs = tokens.mark(&path).await;
    assert!(theirs != first && theirs != elsewhere);
    // A renewal of that session isn't a change.
    let token = tokens.find(&path).await.expect("a session");
    tokens.store(&path, &token, renewal(&token, "E", "r5", 4000)).await.expect("stored");
    assert_eq!(tokens.mark(&path).await, theirs);
    std::fs::remove_file(&path).expect("a file");
    let missing = tokens.mark(&path).await;
    std::fs::create_dir(&path).expect("a directory");
    let unreadable = tokens.mark(&path).await;
    assert!(missing != theirs && missing != unreadable && unreadable != theirs);
}
