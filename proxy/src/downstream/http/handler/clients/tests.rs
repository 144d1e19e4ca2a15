use super::*;

fn id(number: usize) -> HeaderValue {
    HeaderValue::try_from(format!("session-{number}")).unwrap()
}

fn with_one() -> Clients {
    let clients = Clients::new(Shared::unconnected());
    let begun = clients.begin().unwrap();
    let _ = clients.insert(id(1), Arc::clone(&begun.0));
    clients
}

#[tokio::test]
async fn an_idle_client_is_removed() {
    let clients = with_one();
    let now = Instant::now();
    assert_eq!(clients.take_idle(now).len(), 0);
    assert_eq!(clients.take_idle(now + IDLE / 2).len(), 0);
    assert!(clients.find(Some(&id(1))).is_some());
    assert_eq!(clients.take_idle(now + IDLE * 2).len(), 1);
    assert!(clients.find(Some(&id(1))).is_none(), "the client must initialize again");
    assert_eq!(clients.take_idle(now + IDLE * 4).len(), 0, "once");
}

#[tokio::test]
async fn a_client_with_an_open_stream_is_never_idle() {
    let clients = with_one();
    let stream = clients.find(Some(&id(1))).unwrap();
    let later = Instant::now() + IDLE * 10;
    assert_eq!(clients.take_idle(later).len(), 0);
    drop(stream);
    assert_eq!(clients.take_idle(Instant::now() + IDLE / 2).len(), 0, "the client was just active");
    assert_eq!(clients.take_idle(later).len(), 1);
}

#[tokio::test]
async fn sessions_are_limited() {
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

/// The proxy closes every client at its end: each with a session once, and those without a session.
#[tokio::test]
async fn take_all_returns_each_client_once() {
    let clients = with_one();
    assert_eq!(clients.take_all().len(), 2);
    assert_eq!(clients.take_all().len(), 1, "the one for clients without a session always exists");
}

/// If a server gives one id twice, the client that had it before must be closed.
#[tokio::test]
async fn a_client_whose_id_is_given_again_is_returned() {
    let clients = with_one();
    let first = Arc::clone(&clients.find(Some(&id(1))).unwrap().0);
    let second = clients.begin().unwrap();
    let earlier = clients.insert(id(1), Arc::clone(&second.0)).unwrap();
    assert!(Arc::ptr_eq(&earlier, &first));
    assert!(Arc::ptr_eq(&clients.find(Some(&id(1))).unwrap().0, &second.0));
}
