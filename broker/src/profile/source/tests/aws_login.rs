//! Tests of `aws login` sessions that are valid, expire, and are renewed, with a local sign-in
//! server that verifies each proof.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use serde_json::{Value, json};

use super::*;
use crate::profile::dpop;
use crate::profile::fake::{Answer, Asked};
use crate::profile::login_token::LoginTokens;

const SESSION: &str = "arn:aws:iam::111122223333:user/person";

/// A home with the profile `dev` of a session, and the server that renews it.
struct Login {
    home: tempfile::TempDir,
    server: Fake,
    cache: PathBuf,
    public_key: Vec<u8>,
}

fn time(seconds: i64) -> String {
    let now = i64::try_from(now().duration_since(SystemTime::UNIX_EPOCH).expect("it").as_secs());
    let at = u64::try_from(now.expect("it") + seconds).expect("after 1970");
    crate::log::timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(at), "T") + "Z"
}

/// The response to a renewal, with the keys and refresh token number `number`.
fn renewed(number: usize) -> Answer {
    let answer = json!({
        "accessToken": {
            "accessKeyId": format!("NEW{number}"), "secretAccessKey": "canary-secret-new",
            "sessionToken": "canary-token-new",
        },
        "tokenType": "aws_sigv4", "expiresIn": 900, "refreshToken": format!("canary-r{number}"),
    });
    (200, answer.to_string())
}

impl Login {
    /// A session whose keys expire `seconds` from now.
    async fn new(seconds: i64, answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::in_directory(None, seconds, answer).await
    }

    /// The same, with a long path of the cache directory.
    async fn in_directory(
        length: Option<usize>,
        seconds: i64,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let home = tempfile::tempdir().expect("a home");
        let mut directory = home.path().join(".aws/login/cache");
        if let Some(length) = length {
            let left = |directory: &Path| length - directory.as_os_str().len() - 1;
            while left(&directory) > 200 {
                directory.push("d".repeat(left(&directory).min(240) - 20));
            }
            directory.push("d".repeat(left(&directory)));
            assert_eq!(directory.as_os_str().len(), length);
        }
        std::fs::create_dir_all(&directory).expect("a directory");
        let (key, public_key) = dpop::fake::key();
        let cache = LoginTokens::path(&directory, SESSION);
        let server = Fake::start(answer).await;
        let login = Self { home, server, cache, public_key };
        login.write("canary-r0", &key, seconds);
        write(login.home.path(), "credentials", "");
        login.config();
        login
    }

    /// Two profiles of the session.
    fn config(&self) {
        let text = format!(
            "[profile dev]\nregion = eu-north-1\nlogin_session = {SESSION}\n\
             [profile other]\nregion = eu-north-1\nlogin_session = {SESSION}\n"
        );
        write(self.home.path(), "config", &text);
    }

    /// The file that `aws login` writes.
    fn write(&self, refresh: &str, key: &str, seconds: i64) {
        let session = json!({
            "accessToken": {
                "accessKeyId": "OLD", "secretAccessKey": "canary-secret-old",
                "sessionToken": "canary-token-old", "accountId": "111122223333",
                "expiresAt": time(seconds),
            },
            "tokenType": "aws_sigv4", "refreshToken": refresh, "idToken": "canary-id",
            "clientId": "arn:aws:signin:::devtools/same-device", "dpopKey": key,
        });
        std::fs::write(&self.cache, session.to_string()).expect("a cache file");
    }

    fn cached(&self) -> Value {
        serde_json::from_slice(&std::fs::read(&self.cache).expect("a file")).expect("JSON")
    }

    fn source(&self) -> Arc<Source> {
        let source = source(self.home.path(), "dev", "dev");
        let mut source = Arc::into_inner(source).expect("the only reference");
        source.reader.login_cache = self.cache.parent().map(Path::to_owned);
        source.endpoints = self.at(&self.server.url);
        Arc::new(source)
    }

    /// An environment with the URL for renewals.
    fn at(&self, url: &str) -> FromEnvironment {
        let variables = vec![("AWS_ENDPOINT_URL_SIGNIN".into(), url.into())];
        FromEnvironment::new(&Surroundings { variables, ..Surroundings::default() })
    }

    fn asked(&self) -> Vec<Asked> {
        self.server.asked_of("/v1/token")
    }
}

async fn load(source: &Arc<Source>) -> Result<String, Denial> {
    let loaded =
        deadline::within(source.load(None, Effort::Background, now(), Box::new(drop))).await;
    loaded.map(|keys| keys.access_key_id().to_owned())
}

#[tokio::test]
async fn a_valid_session_needs_no_call() {
    let login = Login::new(301, |_| panic!("no call is expected")).await;
    let keys =
        login.source().load(None, Effort::Waited, now(), Box::new(drop)).await.expect("keys");
    assert_eq!(keys.access_key_id(), "OLD");
    assert_eq!(keys.session_token(), Some("canary-token-old"));
    assert_eq!(keys.expiry(), Some(now() + Duration::from_secs(301)));
}

#[tokio::test]
async fn a_session_near_its_end_is_renewed_with_a_proof_and_shared() {
    for seconds in [300, -7200] {
        let login = Login::new(seconds, |_| renewed(1)).await;
        let source = login.source();
        let keys = source.load(None, Effort::Waited, now(), Box::new(drop)).await.expect("keys");
        assert_eq!(
            (keys.access_key_id(), keys.session_token()),
            ("NEW1", Some("canary-token-new"))
        );
        assert_eq!(keys.expiry(), Some(now() + Duration::from_secs(900)));

        let asked = login.asked();
        assert_eq!(asked.len(), 1);
        let body = json!({
            "clientId": "arn:aws:signin:::devtools/same-device", "grantType": "refresh_token",
            "refreshToken": "canary-r0",
        });
        assert_eq!(asked[0].body, body);
        let claims = proven(&asked[0], &login.public_key);
        assert_eq!(claims["htm"], "POST");
        assert_eq!(claims["htu"], format!("{}/v1/token", login.server.url));
        assert_eq!(claims["iat"], 1_800_000_000);

        let cached = login.cached();
        assert_eq!(cached["accessToken"]["accessKeyId"], "NEW1");
        assert_eq!(cached["accessToken"]["expiresAt"], time(900));
        assert_eq!(cached["refreshToken"], "canary-r1");
        assert_eq!(cached["idToken"], "canary-id");
        assert_eq!(load(&source).await.expect("keys"), "NEW1");
        assert_eq!(load(&login.source()).await.expect("keys"), "NEW1");
        assert_eq!(login.asked().len(), 1);
    }
}

fn proven(asked: &Asked, public_key: &[u8]) -> Value {
    let proof = asked.text.lines().find_map(|line| line.strip_prefix("dpop: "));
    dpop::fake::verified(proof.expect("a proof"), public_key)
}

#[tokio::test]
async fn each_attempt_has_a_proof_of_its_own() {
    let attempt = AtomicUsize::new(0);
    let login = Login::new(-1, move |_| match attempt.fetch_add(1, Ordering::SeqCst) {
        0 => (503, String::new()),
        number => renewed(number),
    })
    .await;
    let keys =
        login.source().load(None, Effort::Waited, now(), Box::new(drop)).await.expect("keys");
    assert_eq!(keys.access_key_id(), "NEW1");
    let asked = login.asked();
    let ids: Vec<Value> =
        asked.iter().map(|asked| proven(asked, &login.public_key)["jti"].clone()).collect();
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
}

/// The region of the sign-in has priority over the profile's, like in botocore.
#[tokio::test]
async fn a_session_is_renewed_where_the_person_signed_in() {
    for (region, host) in [
        (Some("ap-south-1"), "ap-south-1.signin.aws.amazon.com"),
        (Some("cn-north-1"), "cn-north-1.signin.amazonaws.cn"),
        (None, "eu-north-1.signin.aws.amazon.com"),
    ] {
        let login = Login::new(-1, |_| panic!("no call is expected")).await;
        let mut cached = login.cached();
        cached["signInRegion"] = region.into();
        std::fs::write(&login.cache, cached.to_string()).expect("a cache file");
        let network = NoServer::default();
        let client = network.clone();
        let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .no_credentials()
            .retry_config(aws_config::retry::RetryConfig::disabled())
            .region(Region::new("eu-north-1"))
            .http_client(http_client_fn(move |_, _| SharedHttpConnector::new(client.clone())))
            .load()
            .await;
        let directory = login.cache.parent().expect("a directory");
        let tokens = Arc::new(LoginTokens::default());
        let session =
            login_session::credentials(SESSION, Some(directory), &tokens, &config, now()).await;
        assert_eq!(
            session.expect_err("no server answers").reason(),
            Reason::CredentialsUnavailable
        );
        assert_eq!(*network.0.lock().expect("a lock"), [format!("https://{host}/v1/token")]);
    }
}

/// A network without servers, which records the calls.
#[derive(Debug, Clone, Default)]
struct NoServer(Arc<Mutex<Vec<String>>>);

impl HttpConnector for NoServer {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        self.0.lock().expect("a lock").push(request.uri().to_owned());
        HttpConnectorFuture::ready(Err(ConnectorError::io("no server answers".into())))
    }
}

/// The profiles of one session share one sign-in: the server may accept each refresh token only once.
#[tokio::test]
async fn two_profiles_of_a_session_renew_it_once() {
    let login = Login::new(-1, |_| renewed(1)).await;
    let dev = login.source();
    let other = sharing(&login, "other", &dev);
    let (first, second) = tokio::join!(load(&dev), load(&other));
    assert_eq!((first.expect("keys"), second.expect("keys")), ("NEW1".into(), "NEW1".into()));
    assert_eq!(login.asked().len(), 1);
}

/// Another profile of the same broker.
fn sharing(login: &Login, profile: &str, with: &Source) -> Arc<Source> {
    let source = source(login.home.path(), profile, profile);
    let mut source = Arc::into_inner(source).expect("the only reference");
    source.reader.tokens = Arc::clone(&with.reader.tokens);
    source.reader.login_cache.clone_from(&with.reader.login_cache);
    source.endpoints = login.at(&login.server.url);
    Arc::new(source)
}

/// This also holds if renewals can't be written: the path has the maximum length, so that no
/// temporary file can be created.
#[tokio::test]
async fn a_session_that_cannot_be_written_is_renewed_once_for_all_profiles() {
    let longest = if cfg!(target_os = "linux") { 4096 } else { 1024 };
    let number = AtomicUsize::new(0);
    let answer = move |_: &Asked| renewed(number.fetch_add(1, Ordering::SeqCst) + 1);
    let login = Login::in_directory(Some(longest - 78), -1, answer).await;
    let dev = login.source();
    let other = sharing(&login, "other", &dev);
    for source in [&dev, &other, &dev] {
        let (loaded, before) = load_with_inputs(source).await;
        assert_eq!(loaded.expect("keys").access_key_id(), "NEW1");
        assert_eq!(change(source, &before).await, None);
    }
    assert_eq!(login.asked().len(), 1);
    assert_eq!(login.cached()["refreshToken"], "canary-r0");
    // The next renewal starts from the one in memory.
    let later = now() + Duration::from_secs(700);
    let keys = deadline::within(other.load(None, Effort::Background, later, Box::new(drop)))
        .await
        .expect("keys");
    assert_eq!(keys.access_key_id(), "NEW2");
    let asked = login.asked();
    assert_eq!((asked.len(), &asked[1].body["refreshToken"]), (2, &"canary-r1".into()));
}

/// A cancelled caller doesn't lose the refresh token that the server has just issued.
#[tokio::test]
async fn a_renewal_outlives_the_load_that_started_it() {
    let login = Login::new(-1, |_| renewed(1)).await;
    let source = login.source();
    tokio::select! {
        biased;
        () = deadline::until(|| !login.asked().is_empty()) => {}
        loaded = source.load(None, Effort::Background, now(), Box::new(drop)) => panic!("{loaded:?}"),
    }
    deadline::until(|| login.cached()["refreshToken"] == "canary-r1").await;
    assert_eq!(load(&source).await.expect("keys"), "NEW1");
    assert_eq!(login.asked().len(), 1);
}

#[tokio::test]
async fn a_renewal_of_another_program_is_used_after_waiting() {
    let login = Login::new(-1, |_| panic!("no call is expected")).await;
    let source = login.source();
    let renewing = source.reader.tokens.login.renewing(&login.cache);
    let held = renewing.lock().await;
    let mut loading = std::pin::pin!(load(&source));
    for _ in 0..1000 {
        tokio::select! {
            biased;
            loaded = &mut loading => panic!("another renewal is in flight: {loaded:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    login.write("canary-theirs", "canary-key", 900);
    drop(held);
    assert_eq!(loading.await.expect("keys"), "OLD");
}

/// Both sent the same refresh token, and the server accepted the other one's.
#[tokio::test]
async fn a_refusal_after_another_program_s_renewal_uses_that() {
    let theirs = Arc::new(Mutex::new(None::<(PathBuf, String)>));
    let quicker = Arc::clone(&theirs);
    let login = Login::new(-1, move |_| {
        if let Some((path, text)) = quicker.lock().expect("a lock").take() {
            std::fs::write(path, text).expect("a cache file");
        }
        (403, json!({"__type": "AccessDeniedException", "error": "TOKEN_EXPIRED"}).to_string())
    })
    .await;
    let mut session = login.cached();
    session["refreshToken"] = "canary-theirs".into();
    session["accessToken"]["accessKeyId"] = "THEIRS".into();
    session["accessToken"]["expiresAt"] = time(900).into();
    *theirs.lock().expect("a lock") = Some((login.cache.clone(), session.to_string()));
    assert_eq!(load(&login.source()).await.expect("keys"), "THEIRS");
    assert_eq!(login.cached(), session);
}

#[tokio::test]
async fn only_sign_ins_and_renewals_of_others_are_changes() {
    let login = Login::new(-1, |_| renewed(1)).await;
    let (dev, key) = (login.source(), dpop::fake::key().0);
    let other = sharing(&login, "other", &dev);
    let mut before = Vec::new();
    for source in [&dev, &other] {
        let (loaded, inputs) = load_with_inputs(source).await;
        assert_eq!(loaded.expect("keys").access_key_id(), "NEW1");
        assert_eq!(inputs.token.as_ref(), Some(&login.cache));
        before.push((source, inputs));
    }
    for (source, before) in &before {
        assert_eq!(change(source, before).await, None, "our own renewal");
    }
    login.write("canary-r9", &key, 900);
    for (source, before) in &mut before {
        assert_eq!(change(source, before).await, Some(Change::Token), "a sign-in");
        let (loaded, inputs) = load_with_inputs(source).await;
        assert_eq!(loaded.expect("keys").access_key_id(), "OLD");
        assert_eq!(change(source, &inputs).await, None);
        *before = inputs;
    }
    std::fs::remove_file(&login.cache).expect("aws logout");
    let (source, before) = &before[0];
    assert_eq!(change(source, before).await, Some(Change::Token));
}

#[tokio::test]
async fn a_clock_step_does_not_panic() {
    let number = AtomicUsize::new(0);
    let answer = move |_: &Asked| renewed(number.fetch_add(1, Ordering::SeqCst) + 1);
    let login = Login::new(-1, answer).await;
    let source = login.source();
    let early = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    let late = now() + Duration::from_secs(100 * 365 * 24 * 3600);
    for (time, id) in [(now(), "NEW1"), (early, "NEW1"), (late, "NEW2"), (now(), "NEW2")] {
        let keys = deadline::within(source.load(None, Effort::Background, time, Box::new(drop)))
            .await
            .expect("keys");
        assert_eq!(keys.access_key_id(), id, "{time:?}");
    }
}

#[tokio::test]
async fn a_missing_home_is_reported() {
    let login = Login::new(900, |_| panic!("no call is expected")).await;
    let mut source = Arc::into_inner(login.source()).expect("the only reference");
    source.reader.login_cache = None;
    let denial = load(&Arc::new(source)).await.expect_err("nowhere");
    assert_eq!(denial.reason(), Reason::ProfileMisconfigured);
    assert!(denial.detail().contains("HOME"), "{denial}");
}

#[tokio::test]
async fn each_failure_has_its_reason() {
    let named = |status: u16, body: Value| (status, body.to_string());
    let denied =
        |code: &str| json!({"__type": "AccessDeniedException", "error": code, "message": "m"});
    for (answer, reason) in [
        (named(403, denied("TOKEN_EXPIRED")), Reason::LoginRequired),
        (named(403, denied("USER_CREDENTIALS_CHANGED")), Reason::LoginRequired),
        (named(403, denied("INSUFFICIENT_PERMISSIONS")), Reason::LoginRequired),
        (named(400, json!({"error": "TOKEN_EXPIRED"})), Reason::LoginRequired),
        (named(400, json!({"error": "invalid_grant"})), Reason::LoginRequired),
        (named(403, json!({"__type": "AccessDeniedException"})), Reason::LoginRequired),
        (named(400, json!({"__type": "ValidationException"})), Reason::LoginRequired),
        (named(429, json!({"__type": "TooManyRequestsError"})), Reason::CredentialsUnavailable),
        (named(500, json!({"__type": "InternalServerException"})), Reason::CredentialsUnavailable),
        (named(400, json!({"error": "slow_down"})), Reason::CredentialsUnavailable),
        ((403, "<html>".to_owned()), Reason::CredentialsUnavailable),
        (named(200, json!({})), Reason::CredentialsUnavailable),
        (
            named(200, json!({"accessToken": {}, "expiresIn": 900, "refreshToken": "r"})),
            Reason::CredentialsUnavailable,
        ),
    ] {
        let (status, body) = answer.clone();
        let login = Login::new(-1, move |_| answer.clone()).await;
        let before = login.cached();
        let denial = load(&login.source()).await.expect_err("no keys");
        assert_eq!(denial.reason(), reason, "{status} {body}: {denial}");
        assert!(!denial.to_string().contains("canary"), "{denial}");
        assert_eq!(login.cached(), before);
    }
    // No server answers.
    let login = Login::new(-1, |_| renewed(1)).await;
    let mut source = Arc::into_inner(login.source()).expect("the only reference");
    source.endpoints = login.at("http://127.0.0.1:1");
    let denial = load(&Arc::new(source)).await.expect_err("no server answers");
    assert_eq!(denial.reason(), Reason::CredentialsUnavailable);
}

#[tokio::test]
async fn keys_that_still_sign_outlive_a_failed_renewal() {
    let login = Login::new(200, |_| (500, String::new())).await;
    assert_eq!(load(&login.source()).await.expect("keys"), "OLD");
    assert_eq!(login.asked().len(), 1);
}

#[tokio::test]
async fn errors_name_a_missing_cut_or_unreadable_cache() {
    let login = Login::new(3600, |_| panic!("no call is expected")).await;
    let source = login.source();
    let text = std::fs::read_to_string(&login.cache).expect("a file");
    std::fs::write(&login.cache, &text[..40]).expect("a cut file");
    let cut = load(&source).await.expect_err("cut");
    std::fs::remove_file(&login.cache).expect("it");
    let missing = load(&source).await.expect_err("missing");
    // This is known before the first request for a signature.
    let hindrance = read(&source).await.about.hindrance.expect("no sign-in");
    assert_eq!(hindrance.reason(), Reason::LoginRequired);
    std::fs::create_dir(&login.cache).expect("a directory");
    let unreadable = load(&source).await.expect_err("unreadable");
    for (denial, reason) in [
        (cut, Reason::LoginRequired),
        (missing, Reason::LoginRequired),
        (unreadable, Reason::ProfileMisconfigured),
    ] {
        assert_eq!(denial.reason(), reason, "{denial}");
        assert!(denial.detail().contains(&login.cache.display().to_string()), "{denial}");
        assert!(!denial.to_string().contains("canary"), "{denial}");
    }
}

#[tokio::test]
async fn an_unusable_key_needs_a_sign_in() {
    let login = Login::new(-1, |_| panic!("no call is expected")).await;
    login.write("canary-r0", "canary-no-key", -1);
    let denial = load(&login.source()).await.expect_err("no proof");
    assert_eq!(denial.reason(), Reason::LoginRequired);
    assert!(!denial.to_string().contains("canary"), "{denial}");
}
