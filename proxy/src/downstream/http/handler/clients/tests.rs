use super::*;

fn id(number: usize) -> HeaderValue {
    HeaderValue::try_from(format!("session-{number}")).unwrap()
}

fn with_one() -> Clients {
    let clients = Clients::new(Shared::alone());
    let begun = clients.begin().unwrap();
    let _ = clients.insert(id(1), Arc::clone(&begun.0));
    clients
}

#[tokio::test]
async fn a_client_that_is_silent_for_long_is_gone() {
    let clients = with_one();
    let now = Instant::now();
    assert_eq!(clients.take_idle(now).len(), 0);
    assert_eq!(clients.take_idle(now + IDLE / 2).len(), 0);
    assert!(clients.find(Some(&id(1))).is_some());
    assert_eq!(clients.take_idle(now + IDLE * 2).len(), 1);
    assert!(clients.find(Some(&id(1))).is_none(), "it must initialize again");
    assert_eq!(clients.take_idle(now + IDLE * 4).len(), 0, "once");
}

#[tokio::test]
async fn a_client_with_an_open_stream_is_there_however_silent() {
    let clients = with_one();
    let stream = clients.find(Some(&id(1))).unwrap();
    let later = Instant::now() + IDLE * 10;
    assert_eq!(clients.take_idle(later).len(), 0);
    drop(stream);
    assert_eq!(clients.take_idle(Instant::now() + IDLE / 2).len(), 0, "it was just heard of");
    assert_eq!(clients.take_idle(later).len(), 1);
}

#[tokio::test]
async fn there_is_a_limit_to_sessions() {
    let clients = with_one();
    for number in 2..=MAX_SESSIONS {
        let begun = clients.begin().unwrap();
        let _ = clients.insert(id(number), Arc::clone(&begun.0));
    }
    assert!(clients.begin().is_none());
    clients.remove(&id(7)).unwrap();
    assert!(clients.begin().is_some());
    assert!(clients.find(None).is_some(), "clients without a session aren't counted");
}

/// What the proxy ends, it ends all of: each session's client once, and those without any.
#[tokio::test]
async fn all_are_taken_at_the_end() {
    let clients = with_one();
    assert_eq!(clients.take_all().len(), 2);
    assert_eq!(clients.take_all().len(), 1, "those without a session are always there");
}

/// A server that gives one id twice: who had it before must be ended.
#[tokio::test]
async fn a_client_whose_id_another_one_gets_is_handed_back() {
    let clients = with_one();
    let first = Arc::clone(&clients.find(Some(&id(1))).unwrap().0);
    let second = clients.begin().unwrap();
    let earlier = clients.insert(id(1), Arc::clone(&second.0)).unwrap();
    assert!(Arc::ptr_eq(&earlier, &first));
    assert!(Arc::ptr_eq(&clients.find(Some(&id(1))).unwrap().0, &second.0));
}
