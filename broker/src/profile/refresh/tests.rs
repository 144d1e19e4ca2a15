//! In injected time: the wall clock is an argument, the monotonic one is the paused runtime's.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_credential_types::Credentials as Keys;
use tokio::sync::Semaphore;

use super::*;

/// Answers from a list, when it is let.
struct Script {
    loads: AtomicUsize,
    gate: Semaphore,
    answers: Mutex<VecDeque<Result<Keys, Denial>>>,
}

impl Load for Arc<Script> {
    fn load(&self, _: Effort, _: SystemTime) -> BoxFuture<'_, Result<Keys, Denial>> {
        Box::pin(async {
            self.loads.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.expect("open").forget();
            self.answers.lock().expect("a lock").pop_front().unwrap_or_else(|| Err(unavailable()))
        })
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn keys(id: &str, expiry: Option<u64>) -> Result<Keys, Denial> {
    Ok(Keys::new(id, "secret", None, expiry.map(at), "test"))
}

fn unavailable() -> Denial {
    Denial::new(Reason::CredentialsUnavailable, "down")
}

/// A refresh machine and its source; `open` answers go out without waiting.
fn machine(
    answers: impl IntoIterator<Item = Result<Keys, Denial>>,
    open: usize,
) -> (Arc<Refresh>, Arc<Script>) {
    let script = Arc::new(Script {
        loads: AtomicUsize::new(0),
        gate: Semaphore::new(open),
        answers: Mutex::new(answers.into_iter().collect()),
    });
    let source: Arc<dyn Load> = Arc::new(Arc::clone(&script));
    (Arc::new(Refresh::new(source, watch::Sender::new(()))), script)
}

fn loads(script: &Script) -> usize {
    script.loads.load(Ordering::SeqCst)
}

async fn id(refresh: &Arc<Refresh>, seconds: u64) -> Result<String, Reason> {
    let credentials = refresh.credentials(at(seconds)).await;
    credentials.map(|it| it.access_key_id().to_owned()).map_err(|denial| denial.reason())
}

/// Lets the load that runs come to its end.
async fn settle(refresh: &Refresh) {
    while refresh.flight().running().is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_load_for_all_who_ask_even_if_the_first_gives_up() {
    let (refresh, script) = machine([keys("A", None)], 0);
    let mut waiting: Vec<_> = (0..500)
        .map(|_| {
            let refresh = Arc::clone(&refresh);
            tokio::spawn(async move { id(&refresh, 0).await })
        })
        .collect();
    while loads(&script) == 0 {
        tokio::task::yield_now().await;
    }
    waiting.remove(0).abort();
    script.gate.add_permits(1);
    for waiter in waiting {
        assert_eq!(waiter.await.expect("an answer"), Ok("A".to_owned()));
    }
    assert_eq!(loads(&script), 1);
}

#[tokio::test(start_paused = true)]
async fn loaded_again_at_half_life_and_served_meanwhile() {
    let (refresh, script) = machine([keys("A", Some(1000)), keys("B", Some(2000))], 1);
    assert_eq!(id(&refresh, 0).await, Ok("A".to_owned()));
    assert_eq!(id(&refresh, 499).await, Ok("A".to_owned()));
    assert_eq!(loads(&script), 1);
    assert_eq!(refresh.status(at(499)).state, ProfileState::Fresh);
    assert_eq!(id(&refresh, 500).await, Ok("A".to_owned()));
    assert_eq!(refresh.status(at(500)).state, ProfileState::Refreshing);
    script.gate.add_permits(1);
    settle(&refresh).await;
    assert_eq!(id(&refresh, 501).await, Ok("B".to_owned()));
    assert_eq!(loads(&script), 2);
}

#[tokio::test(start_paused = true)]
async fn valid_credentials_outlive_an_outage() {
    let (refresh, script) = machine([keys("A", Some(1000))], 100);
    assert_eq!(id(&refresh, 0).await, Ok("A".to_owned()));
    for seconds in 500..985 {
        assert_eq!(id(&refresh, seconds).await, Ok("A".to_owned()), "{seconds}");
        tokio::time::advance(Duration::from_secs(1)).await;
        settle(&refresh).await;
    }
    assert_eq!(refresh.status(at(984)).state, ProfileState::Degraded);
    let tried = loads(&script);
    assert!(tried <= 1 + 485 / 30 + 1, "{tried} loads");
    // In the last seconds nothing is signed.
    assert_eq!(id(&refresh, 985).await, Err(Reason::CredentialsUnavailable));
    assert_eq!(refresh.status(at(1001)).state, ProfileState::Expired);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_remembered_for_a_second() {
    let login = Denial::new(Reason::LoginRequired, "expired");
    let (refresh, script) = machine([Err(login), keys("A", None)], 100);
    for _ in 0..10 {
        assert_eq!(id(&refresh, 0).await, Err(Reason::LoginRequired));
    }
    assert_eq!(loads(&script), 1);
    assert_eq!(refresh.status(at(0)).state, ProfileState::LoginRequired);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(id(&refresh, 1).await, Ok("A".to_owned()));
    assert!(refresh.status(at(1)).failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn expired_credentials_of_a_source_are_a_failure() {
    let (refresh, _script) = machine([keys("A", Some(100))], 100);
    assert_eq!(id(&refresh, 100).await, Err(Reason::CredentialsUnavailable));
}

#[tokio::test(start_paused = true)]
async fn a_load_that_hangs_ends() {
    let (refresh, script) = machine([keys("A", None)], 0);
    assert_eq!(id(&refresh, 0).await, Err(Reason::CredentialsUnavailable));
    // And the next one isn't in its way.
    script.gate.add_permits(1);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(id(&refresh, 61).await, Ok("A".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_load_that_panics_is_a_failure_and_the_next_one_runs() {
    struct Panics(AtomicUsize);
    impl Load for Panics {
        fn load(&self, _: Effort, _: SystemTime) -> BoxFuture<'_, Result<Keys, Denial>> {
            Box::pin(async {
                assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "the clock stepped back");
                keys("A", None)
            })
        }
    }
    let source: Arc<dyn Load> = Arc::new(Panics(AtomicUsize::new(0)));
    let refresh = Arc::new(Refresh::new(source, watch::Sender::new(())));
    assert_eq!(id(&refresh, 0).await, Err(Reason::CredentialsUnavailable));
    assert_eq!(id(&refresh, 0).await, Ok("A".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_loads_once_and_only_for_the_current_generation() {
    let (refresh, script) = machine([keys("A", None), keys("B", None), keys("C", None)], 100);
    assert_eq!(id(&refresh, 0).await, Ok("A".to_owned()));
    assert_eq!(refresh.reject(1, at(0)).await.expect("a generation"), 2);
    assert_eq!(id(&refresh, 0).await, Ok("B".to_owned()));
    // An old one, and one that never was.
    assert_eq!(refresh.reject(1, at(0)).await.expect("a generation"), 2);
    assert_eq!(refresh.reject(9, at(0)).await.expect("a generation"), 2);
    // Too soon: the same generation says that signing again can't help.
    assert_eq!(refresh.reject(2, at(0)).await.expect("a generation"), 2);
    assert_eq!(loads(&script), 2);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(refresh.reject(2, at(10)).await.expect("a generation"), 3);
    assert_eq!(loads(&script), 3);
}

#[tokio::test(start_paused = true)]
async fn the_same_credentials_are_the_same_generation() {
    let (refresh, script) = machine([keys("A", None), keys("A", None)], 100);
    assert_eq!(id(&refresh, 0).await, Ok("A".to_owned()));
    assert_eq!(refresh.reject(1, at(0)).await.expect("a generation"), 1);
    assert_eq!(loads(&script), 2);
}

#[tokio::test(start_paused = true)]
async fn credentials_without_an_end_are_looked_at_again_after_a_minute() {
    let (refresh, script) = machine([keys("A", None), keys("B", None)], 100);
    assert_eq!(id(&refresh, 0).await, Ok("A".to_owned()));
    assert_eq!(id(&refresh, 59).await, Ok("A".to_owned()));
    assert_eq!(loads(&script), 1);
    assert_eq!(id(&refresh, 60).await, Ok("A".to_owned()));
    settle(&refresh).await;
    assert_eq!(id(&refresh, 60).await, Ok("B".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_steps_back_keeps_what_is_there() {
    let (refresh, script) = machine([keys("A", Some(5000))], 100);
    assert_eq!(id(&refresh, 4000).await, Ok("A".to_owned()));
    assert_eq!(id(&refresh, 400).await, Ok("A".to_owned()));
    assert_eq!(loads(&script), 1);
}
