//! Changes the configuration of a running broker.

use super::*;

#[tokio::test]
async fn a_valid_configuration_takes_effect_and_an_invalid_one_does_not() {
    let broker = Broker::start("");
    let at = broker.directory.path();
    let before = std::fs::read_to_string(at.join("broker.toml")).expect("a configuration");
    let mut client = broker.client().await;
    let mut changes =
        client.watch_profiles(v1::WatchProfilesRequest {}).await.expect("a stream").into_inner();
    client.sign(request("dev")).await.expect("a signature");

    // With errors: the previous one stays in effect, and the list reports it.
    Broker::write(at, "broker.toml", &format!("{before}[nonsense]\n"));
    loop {
        let list = deadline::within(changes.message()).await.expect("a list").expect("a list");
        assert_eq!(names(&list.profiles), ["dev", "mfa", "ghost"]);
        if list.config_rejected {
            break;
        }
    }
    client.sign(request("dev")).await.expect("a signature");

    // Valid: one profile is removed, another one has a new description, and keeps its credentials.
    let after = before.replace("For tests", "Other words");
    let after = after.replace("[[profile]]\nname = \"ghost\"", "[[profile]]\nname = \"late\"");
    Broker::write(at, "broker.toml", &after);
    let list = loop {
        let list = deadline::within(changes.message()).await.expect("a list").expect("a list");
        if !list.config_rejected {
            break list;
        }
    };
    assert_eq!(names(&list.profiles), ["dev", "mfa", "late"]);
    assert_eq!(list.profiles[0].description, "Other words");
    assert_eq!(
        (list.profiles[0].credential_generation, list.profiles[0].state()),
        (1, v1::ProfileState::Fresh)
    );
    let status = client.sign(request("ghost")).await.expect_err("gone");
    assert_eq!(reason(&status), "PROFILE_NOT_ALLOWED");
    // The AWS files are still watched.
    let keys = "[dev]\naws_access_key_id = OTHER\naws_secret_access_key = s\n";
    Broker::write(at, "credentials", keys);
    while deadline::within(changes.message()).await.expect("a list").expect("a list").profiles[0]
        .credential_generation
        < 2
    {}
    let answer = client.sign(request("dev")).await.expect("a signature").into_inner();
    assert_eq!(answer.access_key_id, "OTHER");
}

#[tokio::test]
async fn a_removed_rule_allows_nothing() {
    let broker =
        Broker::start(&format!("[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"*\"]\n", uid()));
    let at = broker.directory.path();
    let before = std::fs::read_to_string(at.join("broker.toml")).expect("a configuration");
    let mut client = broker.client().await;
    let mut changes =
        client.watch_profiles(v1::WatchProfilesRequest {}).await.expect("a stream").into_inner();
    client.sign(request("dev")).await.expect("a signature");
    let rule = format!("uid = {}", uid());
    Broker::write(at, "broker.toml", &before.replace(&rule, &format!("uid = {}", uid() + 1)));
    while !deadline::within(changes.message())
        .await
        .expect("a list")
        .expect("a list")
        .profiles
        .is_empty()
    {}
    let status = client.sign(request("dev")).await.expect_err("no rule");
    assert_eq!(reason(&status), "PEER_NOT_ALLOWED");
}

/// An edit between the first reading and the first check is detected, though the file isn't changed
/// again. The attack: a removed rule would stay in effect for ever.
#[tokio::test]
async fn an_edit_during_the_start_is_detected() {
    let rule = format!("[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"*\"]\n", uid());
    let broker = Broker::start_while(&rule, |at, text| {
        let other = rule.replace(&format!("uid = {}", uid()), &format!("uid = {}", uid() + 1));
        Broker::write(at, "broker.toml", &text.replace(&rule, &other));
    });
    let mut client = broker.client().await;
    deadline::within(async { while client.sign(request("dev")).await.is_ok() {} }).await;
    let status = client.sign(request("dev")).await.expect_err("no rule");
    assert_eq!(reason(&status), "PEER_NOT_ALLOWED");
}

/// The attack: the rule is removed while the call waits for its keys, which may take a minute.
#[tokio::test]
async fn a_call_that_waited_for_its_keys_is_authorized_again() {
    let rules = format!("[[rule]]\npeer = {{ uid = {} }}\nprofiles = [\"*\"]\n", uid());
    let broker = Broker::start_while(&rules, |at, _| {
        let gate = at.join("gate");
        rustix::fs::mkfifoat(rustix::fs::CWD, &gate, 0o600.into()).expect("a pipe");
        let keys = r#"{"Version": 1, "AccessKeyId": "AKIDGHOST", "SecretAccessKey": "canary"}"#;
        let script = format!("read line < {}\necho '{keys}'\n", gate.display());
        let process = format!("/bin/sh {}", Broker::write(at, "script", &script).display());
        let config = format!("[profile dev]\n[profile ghost]\ncredential_process = {process}\n");
        Broker::write(at, "config", &config);
    });
    let at = broker.directory.path();
    let mut client = broker.client().await;
    let mut changes =
        client.watch_profiles(v1::WatchProfilesRequest {}).await.expect("a stream").into_inner();
    let mut until = async |reached: &dyn Fn(&[v1::Profile]) -> bool| {
        while !reached(
            &deadline::within(changes.message()).await.expect("a list").expect("it").profiles,
        ) {}
    };
    let waiting = {
        let mut client = client.clone();
        tokio::spawn(async move { client.sign(request("ghost")).await })
    };
    let loading = v1::ProfileState::Loading;
    until(&|profiles| profiles.iter().any(|it| it.name == "ghost" && it.state() == loading)).await;
    let before = std::fs::read_to_string(at.join("broker.toml")).expect("a configuration");
    let (ours, theirs) = (format!("uid = {}", uid()), format!("uid = {}", uid() + 1));
    Broker::write(at, "broker.toml", &before.replace(&ours, &theirs));
    until(&<[v1::Profile]>::is_empty).await;
    assert!(!waiting.is_finished());
    // The program continues, and the keys are loaded.
    let gate = at.join("gate");
    let opening = tokio::task::spawn_blocking(move || std::fs::write(gate, "go\n"));
    deadline::within(opening).await.expect("a thread").expect("it is read");
    let status = deadline::within(waiting).await.expect("an answer").expect_err("no rule");
    assert_eq!(reason(&status), "PEER_NOT_ALLOWED");
}
