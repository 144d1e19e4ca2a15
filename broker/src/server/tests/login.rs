//! Sign-ins through the broker.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::profile::fake::Fake;

/// A server of IAM Identity Center, which answers as to a person who signs in once `let_in` is set.
async fn identity_center(let_in: Arc<AtomicBool>) -> Fake {
    Fake::start(move |asked| {
        let answer = match asked.path.as_str() {
            "/client/register" => r#"{"clientId":"c","clientSecret":"s","clientSecretExpiresAt":4102444800}"#,
            "/device_authorization" => {
                r#"{"deviceCode":"d","userCode":"ABCD","verificationUri":"https://x/","expiresIn":600,"interval":1}"#
            }
            "/token" if !let_in.load(Ordering::SeqCst) => {
                return (400, r#"{"__type":"AuthorizationPendingException"}"#.to_owned());
            }
            "/token" => r#"{"accessToken":"canary","expiresIn":3600}"#,
            _ => {
                r#"{"roleCredentials":{"accessKeyId":"PERSON","secretAccessKey":"s","sessionToken":"t","expiration":4102444800000}}"#
            }
        };
        (200, answer.to_owned())
    })
    .await
}

/// Makes `ghost` a profile of that server.
fn use_server(broker: &Broker, server: &Fake) {
    let config = format!(
        "[profile ghost]\nsso_session = team\nsso_account_id = 1\nsso_role_name = R\nendpoint_url = {}\n\
         [sso-session team]\nsso_region = us-east-1\nsso_start_url = https://x/start\n",
        server.url
    );
    Broker::write(broker.directory.path(), "config", &config);
}

#[tokio::test]
async fn a_person_signs_in_and_the_next_signature_is_theirs() {
    use sigward_proto::v1::login_response::Event;

    let let_in = Arc::new(AtomicBool::new(false));
    let (broker, server) = (Broker::start(""), identity_center(Arc::clone(&let_in)).await);
    use_server(&broker, &server);
    let mut client = broker.client().await;
    let status = client.sign(request("ghost")).await.expect_err("no one has signed in");
    assert_eq!(reason(&status), "LOGIN_REQUIRED");

    let login = v1::LoginRequest { profile: "ghost".to_owned() };
    let mut events = client.login(login.clone()).await.expect("a stream").into_inner();
    let mut joined = client.login(login).await.expect("a stream").into_inner();
    for events in [&mut events, &mut joined] {
        let event =
            deadline::within(events.message()).await.expect("a prompt").expect("a prompt").event;
        let Some(Event::Prompt(prompt)) = event else { panic!("{event:?}") };
        assert_eq!(
            (prompt.user_code.as_str(), prompt.verification_uri.as_str()),
            ("ABCD", "https://x/")
        );
    }
    // One caller hangs up; the other one's stream continues.
    drop(joined);
    let_in.store(true, Ordering::SeqCst);
    let event = deadline::within(events.message()).await.expect("an end").expect("an end").event;
    // This broker has no home to write a cache to.
    assert!(matches!(event, Some(Event::Done(v1::LoginDone { in_memory: true, .. }))), "{event:?}");
    assert!(deadline::within(events.message()).await.expect("an end").is_none());
    assert_eq!(server.asked_of("/client/register").len(), 1);
    let answer = client.sign(request("ghost")).await.expect("a signature").into_inner();
    assert_eq!(answer.access_key_id, "PERSON");
}

#[tokio::test]
async fn a_forbidden_sign_in_is_reported() {
    let rule = |login| {
        let uid = uid();
        format!(
            "[[rule]]\npeer = {{ uid = {uid} }}\nprofiles = [\"ghost\", \"dev\"]\nlogin = {login}\n"
        )
    };
    let login = |profile: &str| v1::LoginRequest { profile: profile.to_owned() };
    let server = identity_center(Arc::default()).await;
    for (allowed, profile, expected) in [
        (false, "ghost", "LOGIN_NOT_ALLOWED"),
        (true, "dev", "NOT_A_LOGIN_PROFILE"),
        (true, "mfa", "PROFILE_NOT_ALLOWED"),
        (true, "nobody", "PROFILE_NOT_ALLOWED"),
    ] {
        let broker = Broker::start(&rule(allowed));
        use_server(&broker, &server);
        let status = broker.client().await.login(login(profile)).await.expect_err(profile);
        assert_eq!(reason(&status), expected, "{profile}");
    }
    assert!(server.asked().is_empty());
}
