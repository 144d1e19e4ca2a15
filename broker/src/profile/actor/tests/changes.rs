//! Tests of changed and removed inputs.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_change_is_loaded_at_once_and_supersedes_a_running_load() {
    let login = Denial::new(Reason::LoginRequired, "expired");
    let (actor, script) = scripted([Err(login), keys("B", None), keys("C", None)], 0);
    let waiting = {
        let (actor, script) = (Arc::clone(&actor), Arc::clone(&script));
        tokio::spawn(async move { id(&actor, &script, 0).await })
    };
    deadline::until(|| loads(&script) > 0).await;
    // A person signs in while a load with the old token is running.
    actor.change(Change::Files);
    script.gate.add_permits(2);
    assert_eq!(waiting.await.expect("an answer"), Ok("B".to_owned()));
    script.gate.add_permits(1);
    actor.change(Change::Files);
    settle(&actor).await;
    assert_eq!(id(&actor, &script, 0).await, Ok("C".to_owned()));
    assert_eq!(loads(&script), 3);
}

#[tokio::test(start_paused = true)]
async fn keys_that_never_end_do_not_outlive_their_source_for_long() {
    for (reason, served) in
        [(Reason::ProfileMisconfigured, false), (Reason::CredentialsUnavailable, true)]
    {
        let failed = || Err(Denial::new(reason, "taken out"));
        let (actor, script) =
            scripted([keys("A", None), failed(), failed(), failed(), failed()], 100);
        assert_eq!(id(&actor, &script, 0).await, Ok("A".to_owned()));
        actor.start();
        settle(&actor).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(id(&actor, &script, 30).await, Ok("A".to_owned()));
        tokio::time::sleep(Duration::from_secs(70)).await;
        assert_eq!(id(&actor, &script, 100).await.is_ok(), served, "{reason:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_keys_are_not_brought_back_by_an_earlier_load() {
    let (actor, script) = scripted([keys("A", Some(1000)), keys("B", None), keys("C", None)], 1);
    assert_eq!(id(&actor, &script, 0).await, Ok("A".to_owned()));
    let held = Arc::downgrade(&actor.status.load().held.as_ref().expect("held").credentials);
    actor.change(Change::Files);
    deadline::until(|| loads(&script) == 2).await;
    forget(&actor, Denial::new(Reason::ProfileMisconfigured, "there is no profile dev"));
    assert!(held.upgrade().is_none(), "the keys are freed, and zeroed with that");
    script.gate.add_permits(1);
    settle(&actor).await;
    assert_eq!(id(&actor, &script, 0).await, Err(Reason::ProfileMisconfigured));
    assert_eq!(actor.view(at(0)).state, ProfileState::Misconfigured);
    // The profile exists again.
    script.gate.add_permits(1);
    actor.change(Change::Files);
    settle(&actor).await;
    assert_eq!(id(&actor, &script, 0).await, Ok("C".to_owned()));
    actor.end();
    actor.change(Change::Files);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(id(&actor, &script, 60).await, Err(Reason::CredentialsUnavailable));
    assert_eq!(loads(&script), 3);
}

/// A source that hangs at some list entries, and returns the others.
struct FlakySource {
    loads: AtomicUsize,
    answers: Mutex<VecDeque<Option<Result<Keys, Denial>>>>,
}

impl Load for FlakySource {
    fn load(&self, _: Effort, _: SystemTime, _: OnRead) -> BoxFuture<'_, Result<Keys, Denial>> {
        Box::pin(async {
            self.loads.fetch_add(1, Ordering::SeqCst);
            let answer = self.answers.lock().expect("a lock").pop_front().expect("an answer");
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    }
}

fn flaky(
    answers: impl IntoIterator<Item = Option<Result<Keys, Denial>>>,
) -> (Arc<Actor>, Arc<FlakySource>) {
    let answers = Mutex::new(answers.into_iter().collect());
    let flaky = Arc::new(FlakySource { loads: AtomicUsize::new(0), answers });
    let source: Arc<dyn Load> = Arc::<FlakySource>::clone(&flaky);
    (Arc::new(Actor::new(source, watch::Sender::new(()), Wall::new().clock())), flaky)
}

/// A task that waits for a signature, after its load has started.
async fn waiting(
    actor: &Arc<Actor>,
    flaky: &FlakySource,
) -> tokio::task::JoinHandle<Result<Arc<Credentials>, Denial>> {
    let waiter = {
        let actor = Arc::clone(actor);
        tokio::spawn(async move { actor.credentials(at(0)).await })
    };
    deadline::until(|| flaky.loads.load(Ordering::SeqCst) > 0).await;
    waiter
}

#[tokio::test(start_paused = true)]
async fn a_hanging_load_does_not_block_a_change() {
    let (actor, flaky) = flaky([None, Some(keys("B", None))]);
    let waiter = waiting(&actor, &flaky).await;
    let started = Instant::now();
    actor.change(Change::Files);
    let loaded = waiter.await.expect("an answer").expect("keys");
    assert_eq!(loaded.access_key_id(), "B");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_removed_profile_ends_all_waits_and_a_restored_one_is_loaded() {
    let (actor, flaky) = flaky([None, None, Some(keys("B", None))]);
    let waiter = waiting(&actor, &flaky).await;
    let started = Instant::now();
    forget(&actor, Denial::new(Reason::ProfileMisconfigured, "there is no profile dev"));
    let denial = waiter.await.expect("an answer").expect_err("gone");
    assert_eq!(denial.reason(), Reason::ProfileMisconfigured);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());

    // The profile is removed and restored while a load hangs, without requests.
    actor.change(Change::Files);
    deadline::until(|| flaky.loads.load(Ordering::SeqCst) == 2).await;
    forget(&actor, Denial::new(Reason::ProfileMisconfigured, "there is no profile dev"));
    actor.change(Change::Files);
    settle(&actor).await;
    assert_eq!(actor.view(at(0)).state, ProfileState::Fresh);
}

#[tokio::test(start_paused = true)]
async fn keys_are_dropped_when_the_file_has_changed() {
    let refused = || Err(Denial::new(Reason::ProfileMisconfigured, "no such role"));
    let away = || Err(unavailable());
    for (change, failure, served) in [
        // A different role was configured, which STS refuses, or STS is unavailable: the previous
        // role isn't a substitute.
        (Some(Change::Files), &refused as &dyn Fn() -> _, false),
        (Some(Change::Files), &away, false),
        // A person signed out, or in again.
        (Some(Change::Token), &refused, false),
        (Some(Change::Token), &away, true),
        // AWS refuses the unchanged configuration: the issued keys stay valid until their expiry.
        (None, &refused, true),
        (None, &away, true),
    ] {
        let answers = [keys("A", Some(3600))].into_iter().chain((0..9).map(|_| failure()));
        let (actor, script) = scripted(answers, 100);
        assert_eq!(id(&actor, &script, 0).await, Ok("A".to_owned()));
        match change {
            Some(change) => actor.change(change),
            // Half of the lifetime.
            None => tokio::time::sleep(Duration::from_secs(1801)).await,
        }
        settle(&actor).await;
        assert_eq!(actor.view(script.wall.now()).state, ProfileState::Degraded);
        let now = || script.wall.start.elapsed().as_secs();
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(id(&actor, &script, now()).await, Ok("A".to_owned()));
        tokio::time::sleep(Duration::from_secs(70)).await;
        let reason = failure().expect_err("a failure").reason();
        assert_eq!(id(&actor, &script, now()).await.is_ok(), served, "{change:?}, {reason:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_file_in_an_outage_is_not_final() {
    // Without a result in its list, the source is unavailable.
    let (actor, script) = scripted([keys("A", Some(36_000))], 100);
    assert_eq!(id(&actor, &script, 0).await, Ok("A".to_owned()));
    actor.change(Change::Token);
    settle(&actor).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let half = Err(Denial::new(Reason::ProfileMisconfigured, "half a file"));
    script.answers.lock().expect("a lock").push_back(half);
    actor.change(Change::Files);
    settle(&actor).await;
    let failure = actor.view(at(100)).failure.expect("half a file");
    assert_eq!(failure.reason(), Reason::ProfileMisconfigured);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(id(&actor, &script, 130).await, Ok("A".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_change_in_an_outage_is_loaded_after_it_without_requests() {
    let answers = [keys("A", Some(36_000)), Err(unavailable()), keys("B", Some(36_000))];
    let (actor, script) = scripted(answers, 100);
    assert_eq!(id(&actor, &script, 0).await, Ok("A".to_owned()));
    actor.change(Change::Files);
    settle(&actor).await;
    assert_eq!(actor.view(at(0)).state, ProfileState::Degraded);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(loads(&script), 3);
    assert_eq!(id(&actor, &script, 20).await, Ok("B".to_owned()));
}

/// Exactly a minute, however often the task is woken, and however long a load takes that was
/// started in it.
#[tokio::test(start_paused = true)]
async fn disowned_keys_are_dropped_after_exactly_a_minute() {
    let signed_out = || Some(Err(Denial::new(Reason::LoginRequired, "signed out")));
    for hangs in [false, true] {
        let rejected = if hangs { None } else { signed_out() };
        let answers = [Some(keys("A", None)), signed_out(), rejected, Some(keys("B", None))];
        let (actor, flaky) = flaky(answers);
        let signs = async || actor.credentials(at(0)).await.map(|it| it.access_key_id().to_owned());
        assert_eq!(signs().await.expect("keys"), "A");
        actor.start();
        settle(&actor).await;
        let failed = Instant::now();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let rejecting = {
            let actor = Arc::clone(&actor);
            tokio::spawn(async move { actor.reject(1).await })
        };
        tokio::time::sleep_until(failed + Duration::from_millis(59_500)).await;
        assert_eq!(flaky.loads.load(Ordering::SeqCst), 3, "the rejection forced a load");
        assert_eq!(signs().await.expect("keys"), "A", "hangs: {hangs}");
        tokio::time::sleep_until(failed + Duration::from_millis(60_500)).await;
        let held = actor.status.load().held.is_some();
        assert!(!held, "hangs: {hangs}");
        // A caller that waits for the hanging load waits for its outcome.
        assert_eq!(rejecting.is_finished(), !hangs);
        rejecting.await.expect("no panic").expect_err("signed out, or too late");
        // A later load brings the keys of the person who has signed in again.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(signs().await.expect("keys"), "B", "hangs: {hangs}");
    }
}
