//! Tests of AWS files that are missing, unreadable or invalid.

use super::*;

/// The files of a home, in their default places.
fn at_home(directory: &Path) -> Arc<Source> {
    let flags = config::Flags {
        profiles: vec!["dev".to_owned()],
        endpoints: vec!["https://aws-mcp.us-east-1.api.aws/mcp".to_owned()],
        ..config::Flags::default()
    };
    let config = flags.into_config(0).expect("valid");
    let surroundings = Surroundings { home: Some(directory.to_owned()), ..Surroundings::default() };
    let home = Arc::new(Home::new(&config.aws, &surroundings));
    let tokens = Arc::new(Tokens::new(Some(directory)));
    Arc::new(Source::new(&config.profiles[0], &config, &surroundings, home, tokens))
}

const KEYS: &str = "[dev]\naws_access_key_id = A\naws_secret_access_key = canary\n";
/// The keys are only meant to assume the role.
const ROLE: &str = "[profile dev]\nrole_arn = arn:aws:iam::1:role/Narrow\nsource_profile = dev\n";

#[tokio::test]
async fn keys_are_not_used_without_the_role_in_an_unreadable_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let aws = directory.path().join(".aws");
    std::fs::create_dir(&aws).expect("a directory");
    write(&aws, "credentials", KEYS);
    let source = at_home(directory.path());
    // A missing file differs from an unreadable one.
    let (keys, before) = load_with_inputs(&source).await;
    assert_eq!(keys.expect("keys").access_key_id(), "A");

    let config = aws.join("config");
    for spoil in [
        (|config: &Path| std::fs::create_dir(config)) as fn(&Path) -> std::io::Result<()>,
        |config| std::fs::write(config, [ROLE.as_bytes(), b"# caf\xe9\n"].concat()),
        |config| std::fs::write(config, format!("{ROLE}canary\n")),
        |config| std::os::unix::fs::symlink("config", config),
    ] {
        spoil(&config).expect("spoilt");
        let denial = source
            .load(None, Effort::Waited, now(), Box::new(drop))
            .await
            .expect_err("not with the keys alone");
        let detail = denial.detail();
        assert!(detail.contains(".aws/config"), "{detail}");
        assert!(!detail.contains("canary"), "{detail}");
        // Previously loaded credentials are kept.
        assert!(matches!(read(&source).await.found, Found::Unreadable(_)));
        drop(std::fs::remove_dir(&config).or_else(|_| std::fs::remove_file(&config)));
    }
    assert_eq!(change(&source, &before).await, None);
}

#[tokio::test]
async fn a_file_in_the_configuration_must_exist() {
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), "credentials", KEYS);
    let source = source(directory.path(), "dev", "dev");
    let denial = source
        .load(None, Effort::Waited, now(), Box::new(drop))
        .await
        .expect_err("there is no config");
    assert_eq!(denial.reason(), Reason::ProfileMisconfigured);
    assert!(denial.detail().contains("/config can't be read"), "{denial}");
    assert!(matches!(read(&source).await.found, Found::Gone));
}

#[tokio::test]
async fn an_error_is_reported_with_its_file_and_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    write(at, "config", "[profile dev]\nregion = us-east-1\n");
    write(at, "credentials", "[dev]\naws_access_key_id = A\naws_secret_access_key canary\n");
    let denial = source(at, "dev", "dev")
        .load(None, Effort::Waited, now(), Box::new(drop))
        .await
        .expect_err("a fault");
    for part in ["/credentials:3: ", "'='"] {
        assert!(denial.detail().contains(part), "{part}: {denial}");
    }
    assert!(!denial.detail().contains("canary"), "{denial}");
}

#[tokio::test]
async fn a_key_that_is_invalid_in_a_header_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    write(at, "config", "[profile role]\nrole_arn = arn:aws:iam::1:role/X\nsource_profile = dev\n");
    for (id, secret, token) in
        [("A\u{1b}[31m", "s", "t"), ("A", "s\u{1}", "t"), ("A", "s", "t\u{e9}"), ("A B", "s", "t")]
    {
        let keys = format!("aws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
        write(at, "credentials", &format!("[dev]\n{keys}aws_session_token = {token}\n"));
        for profile in ["dev", "role"] {
            let loaded =
                source(at, "dev", profile).load(None, Effort::Waited, now(), Box::new(drop)).await;
            let denial = loaded.expect_err("no key");
            assert_eq!(denial.reason(), Reason::ProfileMisconfigured, "{profile}: {denial}");
        }
    }
}
