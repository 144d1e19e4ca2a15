//! Tests against a local server whose seconds are a few milliseconds long.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::deadline;
use crate::profile::fake::{Answer, Asked, Fake};

const SECOND: Duration = Duration::from_millis(10);

fn session() -> Session {
    Session {
        name: Some("team".to_owned()),
        start_url: "https://sigward.example/start".to_owned(),
        region: "eu-west-1".to_owned(),
        scopes: vec!["sso:account:access".to_owned()],
    }
}

fn error(kind: &str, error: &str) -> Answer {
    (400, json!({"__type": kind, "error": error}).to_string())
}

fn ok(body: &Value) -> Answer {
    (200, body.to_string())
}

fn token() -> Answer {
    ok(&json!({
        "accessToken": "canary-access", "tokenType": "Bearer", "expiresIn": 3600,
        "refreshToken": "canary-refresh"
    }))
}

/// An OIDC server whose answers to polls come from a list; the last one is repeated.
async fn server(polls: Vec<Answer>) -> Fake {
    let poll = AtomicUsize::new(0);
    Fake::start(move |asked: &Asked| match asked.path.as_str() {
        "/client/register" => ok(&json!({
            "clientId": "client", "clientSecret": "canary-client",
            "clientIdIssuedAt": 1, "clientSecretExpiresAt": 4_102_444_800_u64
        })),
        "/device_authorization" => ok(&json!({
            "deviceCode": "device", "userCode": "ABCD-EFGH",
            "verificationUri": "https://sigward.example/device",
            "verificationUriComplete": "https://sigward.example/device?user_code=ABCD-EFGH",
            "expiresIn": 600, "interval": 1
        })),
        "/token" => {
            let number = poll.fetch_add(1, Ordering::SeqCst).min(polls.len() - 1);
            polls[number].clone()
        }
        other => panic!("{other}"),
    })
    .await
}

fn logins(home: Option<&Path>) -> Logins {
    Logins { second: SECOND, ..Logins::new(Arc::new(Tokens::new(home))) }
}

async fn end(login: &Login) -> Result<Done, Reason> {
    let mut stage = login.stage();
    let over = deadline::within(stage.wait_for(|stage| matches!(stage, Stage::Over(_))))
        .await
        .expect("an end");
    match &*over {
        Stage::Over(outcome) => outcome.clone().map_err(|denial| denial.reason()),
        other => panic!("{other:?}"),
    }
}

fn pending() -> Answer {
    error("AuthorizationPendingException", "authorization_pending")
}

#[tokio::test]
async fn a_sign_in_writes_the_cache_that_others_read() {
    let server = server(vec![pending(), error("SlowDownException", "slow_down"), token()]).await;
    let home = tempfile::tempdir().expect("a home");
    let logins = logins(Some(home.path()));
    let notified = Arc::new(AtomicBool::new(false));
    let done = {
        let notified = Arc::clone(&notified);
        async move { notified.store(true, Ordering::SeqCst) }
    };
    let login = logins.join(session(), &server.config().await, done);
    let mut stage = login.stage();
    let prompted =
        deadline::within(stage.wait_for(|stage| matches!(stage, Stage::Prompted(_)))).await;
    match &*prompted.expect("a prompt") {
        Stage::Prompted(prompt) => {
            assert_eq!(prompt.code, "ABCD-EFGH");
            assert_eq!(prompt.uri, "https://sigward.example/device");
            assert!(prompt.uri_complete.ends_with("?user_code=ABCD-EFGH"));
        }
        other => panic!("{other:?}"),
    }
    let done = end(&login).await.expect("signed in");
    assert!(!done.in_memory && notified.load(Ordering::SeqCst));

    // After slow_down the pause is longer by five of the server's seconds.
    let polls = server.asked_of("/token");
    assert_eq!(polls.len(), 3);
    assert!(polls[2].at - polls[1].at >= SECOND * 6, "{polls:?}");
    assert_eq!(polls[0].body["grantType"], DEVICE_CODE);
    assert_eq!(polls[0].body["deviceCode"], "device");
    assert_eq!(
        server.asked_of("/client/register")[0].body["scopes"],
        json!(["sso:account:access"])
    );
    assert_eq!(
        server.asked_of("/device_authorization")[0].body["startUrl"],
        "https://sigward.example/start"
    );

    // The SHA-1 of "team".
    let path = home.path().join(".aws/sso/cache/d25187dc137f35c88bc80ec8c3ffbdb17b5eb873.json");
    let text = std::fs::read_to_string(&path).expect("a cache file");
    let cached: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(cached["startUrl"], "https://sigward.example/start");
    assert_eq!(cached["region"], "eu-west-1");
    assert_eq!(cached["accessToken"], "canary-access");
    assert_eq!(cached["refreshToken"], "canary-refresh");
    assert_eq!(
        (&cached["clientId"], &cached["clientSecret"]),
        (&"client".into(), &"canary-client".into())
    );
    assert_eq!(cached["registrationExpiresAt"], "2100-01-01T00:00:00Z");
    assert!(cached["expiresAt"].as_str().is_some_and(|time| time.ends_with('Z')));
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(std::fs::read_dir(path.parent().expect("a directory")).expect("it").count(), 1);
}

#[tokio::test]
async fn one_registration_is_enough_until_the_server_forgets_it() {
    let forgotten = Arc::new(AtomicBool::new(false));
    let (register, registered) = (AtomicUsize::new(0), Arc::clone(&forgotten));
    let server = Fake::start(move |asked: &Asked| match asked.path.as_str() {
        "/client/register" => {
            let number = register.fetch_add(1, Ordering::SeqCst);
            // The second registration is about to expire.
            let end = if number == 1 { 1_u64 } else { 4_102_444_800 };
            ok(&json!({
                "clientId": format!("client{number}"), "clientSecret": "canary-client",
                "clientIdIssuedAt": 1, "clientSecretExpiresAt": end
            }))
        }
        "/device_authorization"
            if asked.body["clientId"] == "client0" && registered.load(Ordering::SeqCst) =>
        {
            error("InvalidClientException", "invalid_client")
        }
        "/device_authorization" => ok(&json!({
            "deviceCode": "device", "userCode": "A", "verificationUri": "https://x",
            "expiresIn": 600, "interval": 1
        })),
        _ => token(),
    })
    .await;
    let logins = logins(None);
    let config = server.config().await;
    for (forget, session, clients) in [
        (false, session(), 1),
        (false, session(), 1),
        (false, Session { region: "us-east-2".to_owned(), ..session() }, 2),
        // The registration has expired: a new one each time.
        (false, Session { region: "us-east-2".to_owned(), ..session() }, 3),
        (true, session(), 4),
        (true, session(), 4),
    ] {
        forgotten.store(forget, Ordering::SeqCst);
        let login = logins.join(session, &config, async {});
        end(&login).await.expect("signed in");
        assert_eq!(server.asked_of("/client/register").len(), clients);
    }
    assert!(!format!("{logins:?}").contains("canary"), "{logins:?}");
}

#[tokio::test]
async fn a_declined_or_expired_sign_in_fails() {
    for (answer, reason) in [
        (error("AccessDeniedException", "access_denied"), Reason::LoginDenied),
        (error("ExpiredTokenException", "expired_token"), Reason::LoginExpired),
        (error("InvalidGrantException", "invalid_grant"), Reason::ProfileMisconfigured),
    ] {
        let server = server(vec![pending(), answer]).await;
        let home = tempfile::tempdir().expect("a home");
        let logins = logins(Some(home.path()));
        let login =
            logins.join(session(), &server.config().await, async { panic!("not signed in") });
        assert_eq!(end(&login).await, Err(reason));
        assert!(!home.path().join(".aws").exists());
    }
}

/// RFC 8628 has the error in the body; AWS adds a type in the header.
#[tokio::test]
async fn an_error_in_the_body_alone_is_recognised() {
    let only_code = |code: &str| (400, json!({"error": code}).to_string());
    let server = server(vec![
        only_code("authorization_pending"),
        only_code("slow_down"),
        only_code("temporarily_unavailable"),
        token(),
    ])
    .await;
    let logins = logins(None);
    let login = logins.join(session(), &server.config().await, async {});
    assert!(end(&login).await.is_ok());
    let polls = server.asked_of("/token");
    assert_eq!(polls.len(), 4);
    assert!(polls[2].at - polls[1].at >= SECOND * 6, "{polls:?}");

    for (code, reason) in [
        ("access_denied", Reason::LoginDenied),
        ("expired_token", Reason::LoginExpired),
        ("invalid_grant", Reason::ProfileMisconfigured),
        ("invalid_client", Reason::ProfileMisconfigured),
    ] {
        let server = self::server(vec![only_code("authorization_pending"), only_code(code)]).await;
        let login = logins.join(session(), &server.config().await, async move { panic!("{code}") });
        assert_eq!(end(&login).await, Err(reason), "{code}");
        assert_eq!(server.asked_of("/token").len(), 2, "{code}");
    }
}

#[tokio::test]
async fn waiting_ends_with_the_expiry_of_the_code() {
    let server = server(vec![pending()]).await;
    let logins = Logins { second: Duration::from_micros(100), ..logins(None) };
    let login = logins.join(session(), &server.config().await, async {});
    assert_eq!(end(&login).await, Err(Reason::LoginExpired));
}

#[tokio::test]
async fn server_errors_are_retried() {
    let trouble = error("InternalServerException", "server_error");
    let server = server(vec![(503, String::new()), (500, trouble.1), token()]).await;
    let logins = logins(None);
    let login = logins.join(session(), &server.config().await, async {});
    assert!(end(&login).await.is_ok());
}

#[tokio::test]
async fn a_refused_start_url_is_an_error_of_the_profile() {
    let server = Fake::start(|_| error("InvalidRequestException", "invalid_request")).await;
    let logins = logins(None);
    let login = logins.join(session(), &server.config().await, async {});
    assert_eq!(end(&login).await, Err(Reason::ProfileMisconfigured));
}

#[tokio::test]
async fn without_a_cache_the_token_is_kept_in_memory() {
    let server = server(vec![token()]).await;
    let home = tempfile::tempdir().expect("a home");
    // Not a directory: nothing can be written below it, not even by root.
    std::fs::write(home.path().join(".aws"), "").expect("a file");
    let logins = logins(Some(home.path()));
    let login = logins.join(session(), &server.config().await, async {});
    assert!(end(&login).await.expect("signed in").in_memory);
    let token = logins.tokens.find(&session()).await.expect("a token");
    assert_eq!(token.access.expose(), "canary-access");
    assert!(!format!("{:?}", logins.tokens).contains("canary"), "{:?}", logins.tokens);
    let other = Session { name: Some("other".to_owned()), ..session() };
    assert!(logins.tokens.find(&other).await.is_err());
}

#[tokio::test]
async fn callers_join_and_the_last_one_ends_it() {
    let server = server(vec![pending()]).await;
    let config = server.config().await;
    let logins = logins(None);
    let first = logins.join(session(), &config, async {});
    let second = logins.join(session(), &config, async {});
    assert!(Arc::ptr_eq(&first, &second));
    let other = Session { name: None, ..session() };
    assert!(!Arc::ptr_eq(&first, &logins.join(other, &config, async {})));
    drop(first);
    let mut stage = second.stage();
    deadline::within(stage.wait_for(|stage| matches!(stage, Stage::Prompted(_))))
        .await
        .expect("it continues");
    drop(second);
    // The task has ended, and with it the sender of the channel.
    assert!(
        deadline::within(stage.wait_for(|stage| matches!(stage, Stage::Over(_)))).await.is_err()
    );
    // A later caller starts a new sign-in.
    let third = logins.join(session(), &config, async {});
    let mut stage = third.stage();
    deadline::within(stage.wait_for(|stage| matches!(stage, Stage::Prompted(_))))
        .await
        .expect("a prompt");
}
