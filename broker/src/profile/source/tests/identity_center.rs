//! Tests of tokens that are valid, expire, are renewed or revoked, with a local portal and OIDC server.

use super::*;
use crate::deadline;
use crate::profile::token::{Renewal, Token, parse};
use crate::secret::Secret;

/// A home that is signed in until `expiry` (in seconds), with a portal and an OIDC server.
async fn identity_center(expiry: u64, portal: u16, renewal: u16) -> (tempfile::TempDir, Fake) {
    renewing(expiry, portal, renewal, "InvalidGrantException").await
}

/// The same, with the error of a renewal that isn't 200: its type, or its code.
async fn renewing(
    expiry: u64,
    portal: u16,
    renewal: u16,
    error: &'static str,
) -> (tempfile::TempDir, Fake) {
    let server = Fake::start(move |asked| match asked.path.as_str() {
        "/federation/credentials" if portal == 200 => {
            let token = if asked.text.contains("canary-new") { "NEW" } else { "OLD" };
            (200, format!(
                r#"{{"roleCredentials":{{"accessKeyId":"{token}","secretAccessKey":"s","sessionToken":"t","expiration":4102444800000}}}}"#
            ))
        }
        "/federation/credentials" => (portal, r#"{"__type":"UnauthorizedException"}"#.to_owned()),
        "/token" if renewal == 200 => {
            (200, r#"{"accessToken":"canary-new","expiresIn":3600,"refreshToken":"r2"}"#.to_owned())
        }
        _ if error.contains('_') => (renewal, format!(r#"{{"error":"{error}"}}"#)),
        _ => (renewal, format!(r#"{{"__type":"{error}","error":"x"}}"#)),
    })
    .await;
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    write(at, "credentials", "");
    write(
        at,
        "config",
        &format!(
            "[profile dev]\nsso_session = team\nsso_account_id = 1\nsso_role_name = R\nendpoint_url = {}\n\
             [sso-session team]\nsso_region = us-east-1\nsso_start_url = https://x/start\n",
            server.url
        ),
    );
    let tokens = Tokens::new(Some(at));
    let renewal = Renewal {
        refresh: Secret::new("canary-refresh".to_owned()),
        client_id: "c".to_owned(),
        client_secret: Secret::new("s".to_owned()),
        registration_expiry: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(4_000_000_000),
    };
    let expiry = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(expiry);
    let token =
        Token { access: Secret::new("canary-old".to_owned()), expiry, renewal: Some(renewal) };
    let session = source(at, "dev", "dev").session().await.expect("a session");
    assert!(!tokens.store(&session, token).await);
    (directory, server)
}

const NOW: u64 = 1_800_000_000;

#[tokio::test]
async fn identity_center_with_a_living_token() {
    let (home, server) = identity_center(NOW + 3600, 200, 200).await;
    let keys = source(home.path(), "dev", "dev")
        .load(None, Effort::Waited, now(), Box::new(drop))
        .await
        .expect("keys");
    assert_eq!(keys.access_key_id(), "OLD");
    assert!(server.asked_of("/token").is_empty());
}

#[tokio::test]
async fn a_token_near_its_end_is_renewed_and_shared() {
    for end in [NOW + 200, NOW - 200] {
        let (home, server) = identity_center(end, 200, 200).await;
        let source = source(home.path(), "dev", "dev");
        let keys = source.load(None, Effort::Waited, now(), Box::new(drop)).await.expect("keys");
        assert_eq!(keys.access_key_id(), "NEW");
        assert_eq!(server.asked_of("/token")[0].body["refreshToken"], "canary-refresh");
        let session = source.session().await.expect("a session");
        let token = Tokens::new(Some(home.path())).find(&session).await.expect("a token");
        assert_eq!(token.renewal.expect("a renewal").refresh.expose(), "r2");
        source.load(None, Effort::Waited, now(), Box::new(drop)).await.expect("keys");
        assert_eq!(server.asked_of("/token").len(), 1);
    }
}

/// A renewal of the token reloads neither the profile whose load renewed it, nor another one of the
/// session, unless its load failed with the previous token; a new sign-in reloads both.
#[tokio::test]
async fn the_brokers_own_renewal_is_not_a_new_sign_in() {
    let (home, _server) = identity_center(NOW - 200, 200, 200).await;
    let source = source(home.path(), "dev", "dev");
    let (loaded, before) = load_with_inputs(&source).await;
    loaded.expect("keys");
    assert_eq!(change(&source, &before).await, None);
    let after = inputs(&source).await;
    assert_eq!(after.change_since_failure(Some(&before)), Some(Change::Token));
    let session = source.session().await.expect("a session");
    let other = Token {
        access: Secret::new("canary-other".to_owned()),
        ..source.reader.tokens.find(&session).await.expect("a token")
    };
    let elsewhere = Tokens::new(Some(home.path()));
    assert!(!elsewhere.store(&session, other).await);
    assert_eq!(change(&source, &before).await, Some(Change::Token));
}

#[tokio::test]
async fn a_renewal_that_cannot_be_written_is_kept_and_used() {
    let (home, server) = identity_center(NOW - 200, 200, 200).await;
    let source = source(home.path(), "dev", "dev");
    // The cache directory is a link to a directory in which no file can be created.
    let cache =
        source.reader.tokens.path(&source.session().await.expect("a session")).expect("a path");
    let token = std::fs::read(&cache).expect("a token");
    let directory = cache.parent().expect("a directory");
    let elsewhere = home.path().join("elsewhere");
    std::fs::write(&elsewhere, token).expect("a copy");
    std::fs::remove_dir_all(directory).expect("there");
    std::os::unix::fs::symlink("/proc/self/fdinfo", directory).expect("a link");
    let session = source.session().await.expect("a session");
    let token = parse(&std::fs::read(&elsewhere).expect("a copy")).expect("a token");
    assert!(source.reader.tokens.store(&session, token).await);
    for _ in 0..2 {
        let keys = source.load(None, Effort::Waited, now(), Box::new(drop)).await.expect("keys");
        assert_eq!(keys.access_key_id(), "NEW");
    }
    assert_eq!(server.asked_of("/token").len(), 1, "the refresh token is used once");
}

#[tokio::test]
async fn a_failed_renewal_uses_the_token_until_its_expiry() {
    let (home, _server) = identity_center(NOW + 200, 200, 500).await;
    let keys = source(home.path(), "dev", "dev")
        .load(None, Effort::Waited, now(), Box::new(drop))
        .await
        .expect("keys");
    assert_eq!(keys.access_key_id(), "OLD");
}

#[tokio::test]
async fn a_revoked_token_needs_a_sign_in_and_an_outage_does_not() {
    for (end, portal, renewal, reason) in [
        (NOW + 3600, 401, 200, Reason::LoginRequired),
        (NOW + 3600, 403, 200, Reason::NoAccountAccess),
        (NOW + 3600, 500, 200, Reason::CredentialsUnavailable),
        (NOW - 200, 200, 400, Reason::LoginRequired),
        (NOW - 200, 200, 500, Reason::CredentialsUnavailable),
    ] {
        let (home, _server) = identity_center(end, portal, renewal).await;
        let loaded = source(home.path(), "dev", "dev")
            .load(None, Effort::Background, now(), Box::new(drop))
            .await
            .expect_err("dead");
        assert_eq!(loaded.reason(), reason, "{end} {portal} {renewal}: {loaded}");
        assert!(!loaded.to_string().contains("canary"), "{loaded}");
    }
}

#[tokio::test]
async fn a_refused_renewal_needs_a_sign_in_unless_it_is_temporary() {
    for (error, reason) in [
        ("ExpiredTokenException", Reason::LoginRequired),
        ("UnauthorizedClientException", Reason::LoginRequired),
        ("SlowDownException", Reason::CredentialsUnavailable),
        ("TooManyRequestsException", Reason::CredentialsUnavailable),
    ] {
        let (home, _server) = renewing(NOW - 200, 200, 400, error).await;
        let loaded = source(home.path(), "dev", "dev")
            .load(None, Effort::Background, now(), Box::new(drop))
            .await;
        assert_eq!(loaded.expect_err(error).reason(), reason, "{error}");
    }
}

#[tokio::test]
async fn a_refusal_in_the_body_alone_is_recognised() {
    for (code, reason) in [
        ("invalid_grant", Reason::LoginRequired),
        ("expired_token", Reason::LoginRequired),
        ("invalid_client", Reason::LoginRequired),
        ("slow_down", Reason::CredentialsUnavailable),
    ] {
        let (home, _server) = renewing(NOW - 200, 200, 400, code).await;
        let loaded = source(home.path(), "dev", "dev")
            .load(None, Effort::Background, now(), Box::new(drop))
            .await;
        assert_eq!(loaded.expect_err(code).reason(), reason, "{code}");
    }
}

/// The server accepts a refresh token only once; but a renewal doesn't block one at another server.
#[tokio::test]
async fn only_renewals_of_one_session_wait_for_each_other() {
    let (home, server) = identity_center(NOW - 200, 200, 200).await;
    let source = source(home.path(), "dev", "dev");
    let session = source.session().await.expect("a session");
    let other = Session { name: Some("other".to_owned()), ..session.clone() };
    let (ours, theirs) =
        (source.reader.tokens.renewing(&session), source.reader.tokens.renewing(&other));
    let (held, _theirs) = (ours.lock().await, theirs.lock().await);
    let mut waiting = std::pin::pin!(source.load(None, Effort::Waited, now(), Box::new(drop)));
    let soon = tokio::time::timeout(std::time::Duration::from_millis(200), &mut waiting).await;
    assert!(soon.is_err() && server.asked().is_empty(), "another renewal is on its way");
    drop(held);
    let keys = deadline::within(waiting).await.expect("keys");
    assert_eq!(keys.access_key_id(), "NEW");
    assert_eq!(server.asked_of("/token").len(), 1);
}

#[tokio::test]
async fn without_a_token_a_sign_in_is_needed() {
    let (home, server) = identity_center(NOW + 3600, 200, 200).await;
    std::fs::remove_dir_all(home.path().join(".aws")).expect("a cache");
    let source = source(home.path(), "dev", "dev");
    let denial = source
        .load(None, Effort::Waited, now(), Box::new(drop))
        .await
        .expect_err("no one has signed in");
    assert_eq!(denial.reason(), Reason::LoginRequired);
    assert!(server.asked().is_empty());
    assert!(source.session().await.is_ok());
}

#[tokio::test]
async fn errors_name_a_cut_or_unreadable_token() {
    let (home, server) = identity_center(NOW + 3600, 200, 200).await;
    let source = source(home.path(), "dev", "dev");
    let path =
        source.reader.tokens.path(&source.session().await.expect("a session")).expect("a path");
    std::fs::write(&path, r#"{"accessToken":"canary-old","#).expect("a cut file");
    let cut = source.load(None, Effort::Waited, now(), Box::new(drop)).await.expect_err("cut");
    std::fs::remove_file(&path).expect("it");
    std::fs::create_dir(&path).expect("a directory");
    let unreadable =
        source.load(None, Effort::Waited, now(), Box::new(drop)).await.expect_err("unreadable");
    for (denial, reason) in
        [(cut, Reason::LoginRequired), (unreadable, Reason::ProfileMisconfigured)]
    {
        assert_eq!(denial.reason(), reason, "{denial}");
        assert!(denial.detail().contains(&path.display().to_string()), "{denial}");
        assert!(!denial.to_string().contains("canary"), "{denial}");
    }
    assert!(server.asked().is_empty());
}

/// A cancelled caller doesn't lose the refresh token that the server has just issued.
#[tokio::test]
async fn a_renewal_outlives_the_load_that_started_it() {
    let (home, server) = identity_center(NOW - 200, 200, 200).await;
    let source = source(home.path(), "dev", "dev");
    let session = source.session().await.expect("a session");
    let path = source.reader.tokens.path(&session).expect("a path");
    tokio::select! {
        biased;
        () = deadline::until(|| !server.asked_of("/token").is_empty()) => {}
        loaded = source.load(None, Effort::Background, now(), Box::new(drop)) => panic!("{loaded:?}"),
    }
    let written = || std::fs::read_to_string(&path).is_ok_and(|text| text.contains("canary-new"));
    deadline::until(written).await;
    source.load(None, Effort::Background, now(), Box::new(drop)).await.expect("keys");
    assert_eq!(server.asked_of("/token").len(), 1);
}

#[tokio::test]
async fn a_sign_in_of_another_program_is_detected() {
    let (home, _server) = identity_center(NOW + 3600, 401, 200).await;
    let source = source(home.path(), "dev", "dev");
    let (denial, before) = load_with_inputs(&source).await;
    assert_eq!(denial.expect_err("revoked").reason(), Reason::LoginRequired);
    assert_eq!(change(&source, &before).await, None);
    let session = source.session().await.expect("a session");
    let path = Tokens::new(Some(home.path())).path(&session).expect("a path");
    assert!(before.token == Some(path.clone()));
    let json = r#"{"accessToken":"canary-new","expiresAt":"2099-01-01T00:00:00Z"}"#;
    std::fs::write(path, json).expect("signed in");
    assert_eq!(change(&source, &before).await, Some(Change::Token));
}

/// Without an `sso-session`, the cache file is named after the start URL, and the token can't be
/// renewed.
#[tokio::test]
async fn a_profile_without_a_session_section() {
    let (home, server) = identity_center(NOW + 3600, 200, 200).await;
    let at = home.path();
    let sso = "sso_start_url = https://old/start\nsso_region = us-east-1\nsso_account_id = 1\nsso_role_name = R\n";
    write(at, "config", &format!("[profile old]\n{sso}endpoint_url = {}\n", server.url));
    let source = source(at, "dev", "old");
    let denial = source
        .load(None, Effort::Waited, now(), Box::new(drop))
        .await
        .expect_err("no one has signed in");
    assert_eq!(denial.reason(), Reason::LoginRequired);
    // printf %s https://old/start | sha1sum
    let cache = at.join(".aws/sso/cache/85096cd4931eb1372a63d460a9c91b7600c9ba2b.json");
    for (expiry, loaded) in [("2099-01-01T00:00:00Z", true), ("2020-01-01T00:00:00UTC", false)] {
        let token = format!(
            r#"{{"startUrl":"https://old/start","region":"us-east-1","accessToken":"canary-old","expiresAt":"{expiry}"}}"#
        );
        std::fs::write(&cache, token).expect("a token");
        let reason = source
            .load(None, Effort::Waited, now(), Box::new(drop))
            .await
            .map_err(|denial| denial.reason());
        match loaded {
            true => assert_eq!(reason.expect("keys").access_key_id(), "OLD"),
            false => assert_eq!(reason.expect_err("it has ended"), Reason::LoginRequired),
        }
    }
    assert!(server.asked_of("/token").is_empty());
    assert_eq!(source.session().await.expect("a session").key(), "https://old/start");
}
