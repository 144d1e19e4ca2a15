//! Tests with injected time: the wall clock is an argument, the monotonic one is the paused runtime's.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::*;
use crate::deadline;
use crate::profile::load::OnRead;

mod changes;
mod table;

/// A wall clock that advances with the runtime's, and steps when a test sets it.
struct Wall {
    start: Instant,
    /// The time at the start, in seconds.
    offset: AtomicI64,
}

impl Wall {
    fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), offset: AtomicI64::new(0) })
    }

    fn now(&self) -> SystemTime {
        let offset = u64::try_from(self.offset.load(Ordering::SeqCst)).expect("after 1970");
        at(offset) + self.start.elapsed()
    }

    fn set(&self, seconds: u64) {
        let elapsed = self.start.elapsed().as_secs().cast_signed();
        self.offset.store(seconds.cast_signed() - elapsed, Ordering::SeqCst);
    }

    fn step(&self, seconds: i64) {
        self.offset.fetch_add(seconds, Ordering::SeqCst);
    }

    fn clock(self: &Arc<Self>) -> Clock {
        let this = Arc::clone(self);
        Clock::new(move || this.now())
    }
}

/// A source that returns results from a list, when a permit is available.
struct Script {
    loads: AtomicUsize,
    gate: Semaphore,
    answers: Mutex<VecDeque<Result<Keys, Denial>>>,
    wall: Arc<Wall>,
}

impl Load for Arc<Script> {
    fn load(&self, _: Effort, _: SystemTime, _: OnRead) -> BoxFuture<'_, Result<Keys, Denial>> {
        Box::pin(async {
            self.loads.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.expect("open").forget();
            self.answers.lock().expect("a lock").pop_front().unwrap_or_else(|| Err(unavailable()))
        })
    }
}

/// An STS with the wall clock: its credentials live for an hour, and it is unavailable at times.
struct Sts {
    wall: Arc<Wall>,
    away: std::ops::Range<u64>,
    calls: Mutex<Vec<u64>>,
    /// The most network calls: a load may make three attempts.
    attempts: AtomicUsize,
}

impl Load for Arc<Sts> {
    fn load(
        &self,
        effort: Effort,
        _: SystemTime,
        _: OnRead,
    ) -> BoxFuture<'_, Result<Keys, Denial>> {
        Box::pin(async move {
            let attempts = if effort == Effort::Waited { 3 } else { 1 };
            self.attempts.fetch_add(attempts, Ordering::SeqCst);
            // The server's clock is right, whatever the local one shows.
            let now = self.wall.start.elapsed().as_secs() + EPOCH;
            self.calls.lock().expect("a lock").push(now - EPOCH);
            if self.away.contains(&(now - EPOCH)) {
                return Err(unavailable());
            }
            keys(&format!("K{}", now - EPOCH), Some(now + 3600))
        })
    }
}

/// 2026-11-23, 22:00:00 UTC.
const EPOCH: u64 = 1_795_471_200;

/// A profile whose credentials come from an STS that is unavailable at times (in seconds from now).
fn on_sts(away: std::ops::Range<u64>) -> (Arc<Actor>, Arc<Sts>) {
    let wall = Wall::new();
    wall.set(EPOCH);
    let (calls, attempts) = (Mutex::default(), AtomicUsize::new(0));
    let sts = Arc::new(Sts { wall: Arc::clone(&wall), away, calls, attempts });
    let source: Arc<dyn Load> = Arc::new(Arc::clone(&sts));
    (Arc::new(Actor::new(source, watch::Sender::new(()), wall.clock())), sts)
}

async fn sign(actor: &Arc<Actor>, sts: &Sts) -> Result<String, Reason> {
    let credentials = actor.credentials(sts.wall.now()).await;
    credentials.map(|it| it.access_key_id().to_owned()).map_err(|denial| denial.reason())
}

fn calls(sts: &Sts) -> Vec<u64> {
    sts.calls.lock().expect("a lock").clone()
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

/// An actor and its source; `open` results are returned without waiting.
fn scripted(
    answers: impl IntoIterator<Item = Result<Keys, Denial>>,
    open: usize,
) -> (Arc<Actor>, Arc<Script>) {
    let wall = Wall::new();
    let script = Arc::new(Script {
        loads: AtomicUsize::new(0),
        gate: Semaphore::new(open),
        answers: Mutex::new(answers.into_iter().collect()),
        wall: Arc::clone(&wall),
    });
    let source: Arc<dyn Load> = Arc::new(Arc::clone(&script));
    (Arc::new(Actor::new(source, watch::Sender::new(()), wall.clock())), script)
}

fn loads(script: &Script) -> usize {
    script.loads.load(Ordering::SeqCst)
}

/// The key that signs at a time of the wall clock.
async fn id(actor: &Arc<Actor>, script: &Script, seconds: u64) -> Result<String, Reason> {
    script.wall.set(seconds);
    let credentials = actor.credentials(at(seconds)).await;
    credentials.map(|it| it.access_key_id().to_owned()).map_err(|denial| denial.reason())
}

/// Drops the profile's keys.
fn forget(actor: &Arc<Actor>, denial: Denial) {
    actor.send(|machine, now| machine.forget(denial, now));
}

/// Waits until the running load has ended.
async fn settle(actor: &Actor) {
    deadline::until(|| !actor.status.load().loading).await;
}

#[tokio::test(start_paused = true)]
async fn callers_share_one_load_even_if_the_first_is_cancelled() {
    let (actor, script) = scripted([keys("A", None)], 0);
    let mut waiting: Vec<_> = (0..500)
        .map(|_| {
            let (actor, script) = (Arc::clone(&actor), Arc::clone(&script));
            tokio::spawn(async move { id(&actor, &script, 0).await })
        })
        .collect();
    deadline::until(|| loads(&script) > 0).await;
    waiting.remove(0).abort();
    script.gate.add_permits(1);
    for waiter in waiting {
        assert_eq!(waiter.await.expect("an answer"), Ok("A".to_owned()));
    }
    assert_eq!(loads(&script), 1);
}

#[tokio::test(start_paused = true)]
async fn credentials_are_reloaded_at_half_of_life_and_served_meanwhile() {
    let (actor, script) = scripted([keys("A", Some(1000)), keys("B", Some(2000))], 1);
    assert_eq!(id(&actor, &script, 0).await, Ok("A".to_owned()));
    assert_eq!(id(&actor, &script, 499).await, Ok("A".to_owned()));
    assert_eq!(loads(&script), 1);
    assert_eq!(actor.view(at(499)).state, ProfileState::Fresh);
    assert_eq!(id(&actor, &script, 500).await, Ok("A".to_owned()));
    assert_eq!(actor.view(at(500)).state, ProfileState::Refreshing);
    script.gate.add_permits(1);
    settle(&actor).await;
    assert_eq!(id(&actor, &script, 501).await, Ok("B".to_owned()));
    assert_eq!(loads(&script), 2);
}

#[tokio::test(start_paused = true)]
async fn a_profile_is_refreshed_without_requests() {
    let (actor, sts) = on_sts(0..0);
    assert_eq!(sign(&actor, &sts).await, Ok("K0".to_owned()));
    tokio::time::sleep(Duration::from_secs(7210)).await;
    assert_eq!(calls(&sts), [0, 1800, 3600, 5400, 7200]);
    assert_eq!(sign(&actor, &sts).await, Ok("K7200".to_owned()));
    // The task ends with the profile.
    drop(actor);
    tokio::time::sleep(Duration::from_secs(7200)).await;
    assert_eq!(calls(&sts).len(), 5);
}

#[tokio::test(start_paused = true)]
async fn valid_credentials_outlive_an_outage() {
    // From half of the lifetime, 30 minutes before the expiry, until the expiry.
    let (actor, sts) = on_sts(1800..3600);
    for second in 0..3600 {
        // In the last 15 seconds a key isn't used.
        if second < 3585 {
            assert_eq!(sign(&actor, &sts).await, Ok("K0".to_owned()), "{second}");
        } else {
            assert_eq!(sign(&actor, &sts).await, Err(Reason::CredentialsUnavailable), "{second}");
        }
        if second == 2000 {
            assert_eq!(actor.view(sts.wall.now()).state, ProfileState::Degraded);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // Until the last seconds; then callers wait, and get failures from memory for 5 seconds each.
    let before = calls(&sts).iter().filter(|call| (1800..3585).contains(*call)).count();
    assert!(before <= 16, "{:?}", calls(&sts));
    // The first load may make three attempts; the outage causes at most twenty calls.
    assert!(sts.attempts.load(Ordering::SeqCst) <= 3 + 20, "{:?}", calls(&sts));
    let back = sts.wall.start.elapsed();
    while sign(&actor, &sts).await.is_err() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(sts.wall.start.elapsed() - back <= Duration::from_secs(5));
    assert_eq!(actor.view(sts.wall.now()).state, ProfileState::Fresh);
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_ends_early_is_detected_within_one_pause_without_requests() {
    let (actor, sts) = on_sts(1800..3000);
    assert_eq!(sign(&actor, &sts).await, Ok("K0".to_owned()));
    tokio::time::sleep(Duration::from_secs(3180)).await;
    assert_eq!(actor.view(sts.wall.now()).state, ProfileState::Fresh);
    let last = calls(&sts).last().copied().expect("a call");
    assert!((3000..3180).contains(&last), "{:?}", calls(&sts));
    assert_eq!(sign(&actor, &sts).await, Ok(format!("K{last}")));
}

#[tokio::test(start_paused = true)]
async fn a_clock_an_hour_ahead_and_right_again() {
    let (actor, sts) = on_sts(0..0);
    assert_eq!(sign(&actor, &sts).await, Ok("K0".to_owned()));
    sts.wall.step(3600);
    // By the local clock, STS's new credentials have expired; AWS would refuse its signatures anyway.
    assert_eq!(sign(&actor, &sts).await, Err(Reason::CredentialsUnavailable));
    sts.wall.step(-3600);
    assert_eq!(sign(&actor, &sts).await, Ok("K0".to_owned()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(sign(&actor, &sts).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_clock_an_hour_back_does_not_keep_the_keys_for_longer() {
    let (actor, sts) = on_sts(0..0);
    assert_eq!(sign(&actor, &sts).await, Ok("K0".to_owned()));
    sts.wall.step(-3600);
    assert_eq!(sign(&actor, &sts).await, Ok("K0".to_owned()));
    tokio::time::sleep(Duration::from_secs(1830)).await;
    // At half of the lifetime by the monotonic clock.
    assert_eq!(calls(&sts), [0, 1800]);
    assert_eq!(sign(&actor, &sts).await, Ok("K1800".to_owned()));
    sts.wall.step(3600);
    assert_eq!(sign(&actor, &sts).await, Ok("K1800".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn midnight_changes_nothing() {
    // From 22:00 to 02:00, UTC.
    let (actor, sts) = on_sts(0..0);
    for _ in 0..4 * 60 {
        assert!(sign(&actor, &sts).await.is_ok());
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    assert!(calls(&sts).len() <= 9, "{:?}", calls(&sts));
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_remembered_for_a_second() {
    let login = Denial::new(Reason::LoginRequired, "expired");
    let (actor, script) = scripted([Err(login), keys("A", None)], 100);
    for _ in 0..10 {
        assert_eq!(id(&actor, &script, 0).await, Err(Reason::LoginRequired));
    }
    assert_eq!(loads(&script), 1);
    assert_eq!(actor.view(at(0)).state, ProfileState::LoginRequired);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(id(&actor, &script, 1).await, Ok("A".to_owned()));
    assert!(actor.view(at(1)).failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn expired_credentials_of_a_source_are_a_failure() {
    let (actor, script) = scripted([keys("A", Some(100))], 100);
    assert_eq!(id(&actor, &script, 100).await, Err(Reason::CredentialsUnavailable));
}

#[tokio::test(start_paused = true)]
async fn a_load_that_hangs_ends() {
    let (actor, script) = scripted([keys("A", None)], 0);
    assert_eq!(id(&actor, &script, 0).await, Err(Reason::CredentialsUnavailable));
    // The next load isn't blocked by it.
    script.gate.add_permits(1);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(id(&actor, &script, 61).await, Ok("A".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_load_that_panics_is_a_failure_and_the_next_one_runs() {
    struct Panics(AtomicUsize);
    impl Load for Panics {
        fn load(&self, _: Effort, _: SystemTime, _: OnRead) -> BoxFuture<'_, Result<Keys, Denial>> {
            Box::pin(async {
                assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "the clock stepped back");
                keys("A", None)
            })
        }
    }
    let source: Arc<dyn Load> = Arc::new(Panics(AtomicUsize::new(0)));
    let actor = Arc::new(Actor::new(source, watch::Sender::new(()), Wall::new().clock()));
    let denial = actor.credentials(at(0)).await.expect_err("a panic");
    assert_eq!(denial.reason(), Reason::CredentialsUnavailable);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(actor.credentials(at(0)).await.expect("keys").access_key_id(), "A");
}

#[tokio::test(start_paused = true)]
async fn a_rejection_loads_once_and_only_for_the_current_generation() {
    let (actor, script) = scripted([keys("A", None), keys("B", None), keys("C", None)], 100);
    assert_eq!(id(&actor, &script, 0).await, Ok("A".to_owned()));
    assert_eq!(actor.reject(1).await.expect("a generation"), 2);
    assert_eq!(id(&actor, &script, 0).await, Ok("B".to_owned()));
    // An old generation, and an unknown one.
    assert_eq!(actor.reject(1).await.expect("a generation"), 2);
    assert_eq!(actor.reject(9).await.expect("a generation"), 2);
    // Too soon: the same generation means that signing again can't help.
    assert_eq!(actor.reject(2).await.expect("a generation"), 2);
    assert_eq!(loads(&script), 2);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(actor.reject(2).await.expect("a generation"), 3);
    assert_eq!(loads(&script), 3);
}

#[tokio::test(start_paused = true)]
async fn the_same_credentials_are_the_same_generation() {
    let (actor, script) = scripted([keys("A", None), keys("A", None)], 100);
    assert_eq!(id(&actor, &script, 0).await, Ok("A".to_owned()));
    assert_eq!(actor.reject(1).await.expect("a generation"), 1);
    assert_eq!(loads(&script), 2);
}

#[tokio::test(start_paused = true)]
async fn credentials_without_an_expiry_are_checked_again_after_a_minute() {
    let (actor, script) = scripted([keys("A", None), keys("B", None)], 100);
    assert_eq!(id(&actor, &script, 0).await, Ok("A".to_owned()));
    assert_eq!(id(&actor, &script, 59).await, Ok("A".to_owned()));
    assert_eq!(loads(&script), 1);
    assert_eq!(id(&actor, &script, 60).await, Ok("A".to_owned()));
    settle(&actor).await;
    assert_eq!(id(&actor, &script, 60).await, Ok("B".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_steps_back_keeps_the_credentials() {
    let (actor, script) = scripted([keys("A", Some(5000))], 100);
    assert_eq!(id(&actor, &script, 4000).await, Ok("A".to_owned()));
    assert_eq!(id(&actor, &script, 400).await, Ok("A".to_owned()));
    assert_eq!(loads(&script), 1);
}

#[tokio::test]
async fn fresh_credentials_and_the_state_are_read_without_the_lock() {
    use futures_util::FutureExt;

    let (actor, script) = scripted([keys("A", Some(1000))], 1);
    assert_eq!(id(&actor, &script, 0).await, Ok("A".to_owned()));
    let held = actor.machine.lock().expect("no panic");
    let (sender, results) = std::sync::mpsc::channel();
    let other = Arc::clone(&actor);
    std::thread::spawn(move || {
        let loaded = other.credentials(at(1)).now_or_never();
        let view = other.view(at(1));
        sender.send((loaded.map(|it| it.is_ok()), view.state)).ok();
    });
    let result = results.recv_timeout(Duration::from_secs(20));
    assert_eq!(result, Ok((Some(true), ProfileState::Fresh)));
    drop(held);
}
