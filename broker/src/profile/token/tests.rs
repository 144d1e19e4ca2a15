use std::time::Duration;

use super::*;

fn session(name: Option<&str>) -> Session {
    Session {
        name: name.map(str::to_owned),
        start_url: "https://d-abc123.awsapps.com/start".to_owned(),
        region: "us-east-1".to_owned(),
        scopes: Vec::new(),
    }
}

fn token(access: &str, seconds: u64) -> Token {
    Token {
        access: Secret::new(access.to_owned()),
        expiry: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        renewal: None,
    }
}

#[test]
fn files_are_named_as_the_aws_cli_names_them() {
    let tokens = Tokens::new(Some(Path::new("/home/me")));
    let path = |session| tokens.path(&session).expect("a path").display().to_string();
    // printf %s team | sha1sum
    assert_eq!(
        path(session(Some("team"))),
        "/home/me/.aws/sso/cache/d25187dc137f35c88bc80ec8c3ffbdb17b5eb873.json"
    );
    assert_eq!(
        path(session(None)),
        format!(
            "/home/me/.aws/sso/cache/{}.json",
            hex::encode(Sha1::digest("https://d-abc123.awsapps.com/start"))
        )
    );
    assert_eq!(Tokens::new(None).path(&session(None)), None);
}

#[test]
fn what_the_aws_cli_wrote_is_read() {
    let text = r#"{"startUrl":"https://x/start","region":"us-east-1","accessToken":"a",
        "expiresAt":"2026-11-23T22:00:00Z","clientId":"c","clientSecret":"s",
        "registrationExpiresAt":"2027-01-01T00:00:00Z","refreshToken":"r","more":[1]}"#;
    let token = parse(text.as_bytes()).expect("a token");
    assert_eq!(token.access.expose(), "a");
    assert_eq!(crate::log::timestamp(token.expiry, "T"), "2026-11-23T22:00:00");
    assert_eq!(token.renewal.expect("a renewal").refresh.expose(), "r");
    let old = parse(br#"{"accessToken":"a","expiresAt":"2020-06-17T10:02:08UTC"}"#);
    assert!(old.is_some_and(|token| token.renewal.is_none()));
    // A cut file, and an empty one.
    assert!(parse(&text.as_bytes()[..60]).is_none());
    assert!(parse(b"").is_none());
    assert!(parse(br#"{"accessToken":"a"}"#).is_none());
}

#[tokio::test]
async fn what_is_written_is_read_again() {
    let home = tempfile::tempdir().expect("a home");
    let tokens = Tokens::new(Some(home.path()));
    let renewal = Renewal {
        refresh: Secret::new("r".to_owned()),
        client_id: "c".to_owned(),
        client_secret: Secret::new("s".to_owned()),
        registration_expiry: SystemTime::UNIX_EPOCH + Duration::from_secs(9000),
    };
    let written = Token { renewal: Some(renewal), ..token("a", 5000) };
    assert!(!tokens.store(&session(None), written.clone()).await);
    let read = tokens.find(&session(None)).await.expect("a token");
    assert_eq!(format!("{read:?}"), format!("{written:?}"));
    assert_eq!(read.access.expose(), "a");
    // A newer token replaces it.
    assert!(!tokens.store(&session(None), token("b", 6000)).await);
    assert_eq!(tokens.find(&session(None)).await.expect("a token").access.expose(), "b");
    assert!(tokens.find(&session(Some("other"))).await.is_err());
}

#[tokio::test]
async fn a_later_sign_in_of_another_program_replaces_the_token_in_memory() {
    let home = tempfile::tempdir().expect("a home");
    let aws = home.path().join(".aws");
    std::fs::write(&aws, "").expect("a file in the way");
    let tokens = Tokens::new(Some(home.path()));
    assert!(tokens.store(&session(None), token("kept", 5000)).await);
    std::fs::remove_file(&aws).expect("there");
    let others = Tokens::new(Some(home.path()));
    others.store(&session(None), token("older", 4000)).await;
    assert_eq!(tokens.find(&session(None)).await.expect("a token").access.expose(), "kept");
    others.store(&session(None), token("later", 6000)).await;
    assert_eq!(tokens.find(&session(None)).await.expect("a token").access.expose(), "later");
}
