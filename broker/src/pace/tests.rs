use std::path::Path;

use super::line::Turn;
use super::schedule::Terms;
use super::*;
use crate::config;
use crate::deadline;

/// The lanes of a configuration with this `pace`, with one endpoint.
fn lanes(paces: &Paces, pace: &str) -> Vec<Arc<Lane>> {
    let text = format!(
        "[[endpoint]]\nname = \"e\"\nurl = \"https://aws-mcp.us-east-1.api.aws/mcp\"\n{pace}\n\
         [[profile]]\nname = \"p\"\nendpoints = [\"e\"]\n"
    );
    paces.lanes(&config::parse(&text, Path::new("broker.toml"), 1000).expect("a configuration"))
}

fn lane(pace: &str) -> (Paces, Arc<Lane>) {
    let paces = Paces::default();
    let lane = lanes(&paces, pace).remove(0);
    (paces, lane)
}

fn requester(uid: u32, connection: u64) -> Requester {
    Requester { peer: PeerId::Uid(uid), connection: ConnectionId(connection) }
}

/// Waits for a turn of an account, as a signature does; `None` if it isn't limited.
async fn turn_of(
    lane: &Lane,
    account: &str,
    requester: Requester,
    place: bool,
) -> Result<Option<Turn>, Denial> {
    let exchange = Exchange { takes_place: place, is_reported: true };
    loop {
        match lane.ask(account, requester.clone(), exchange)? {
            Asked::Free => return Ok(None),
            Asked::Now(turn) => return Ok(Some(turn)),
            Asked::Later(waiting) => {
                if let Some(turn) = waiting.turn().await? {
                    return Ok(Some(turn));
                }
            }
        }
    }
}

/// A turn that is given at once or in time.
async fn turn(lane: &Lane, requester: Requester) -> Option<Turn> {
    deadline::within(turn_of(lane, "1", requester, true)).await.expect("a turn")
}

async fn sign(lane: &Lane, requester: Requester, id: &str) -> Terms {
    turn(lane, requester).await.expect("it is paced").signed(id)
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_throttles_is_never_slowed_down() {
    let (paces, lane) = lane("");
    let begun = Instant::now();
    // A few at a time: no end must be reported.
    for number in 0..16 {
        let terms = sign(&lane, requester(1, 1), &number.to_string()).await;
        assert_eq!(terms, Terms::default());
    }
    assert_eq!(lane.view(), View::default());
    paces.closed(ConnectionId(1));
    // A report about an unknown signature has no effect.
    assert!(!lane.ended(&PeerId::Uid(1), "a"));
    // Many, one after the other: ends are reported until enough is known.
    let mut reports = 0;
    for number in 0..2000 {
        let Some(turn) = turn(&lane, requester(1, 1)).await else { break };
        if turn.signed(&format!("n{number}")).wants_end {
            assert!(lane.ended(&PeerId::Uid(1), &format!("n{number}")));
            reports += 1;
        }
    }
    assert_eq!(reports, 512);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(!lane.is_limited());
    assert_eq!(lane.view(), View::default());
    assert!(lock(&lane.state).started.is_none(), "it is dropped");
}

/// Sixteen agents with 32 calls each start at the same moment: the server throttles the first
/// requests, while the others aren't signed yet.
#[tokio::test(start_paused = true)]
async fn throttling_ends_a_slow_start_and_waiting_requests_take_turns() {
    let (_paces, lane) = lane("");
    let mut out = Vec::new();
    for number in 0..48_u64 {
        out.push(format!("{number}"));
        sign(&lane, requester(1, number), &format!("{number}")).await;
    }
    let waiting = tokio::spawn({
        let lane = Arc::clone(&lane);
        async move { turn(&lane, requester(1, 100)).await.expect("a turn").signed("late") }
    });
    let other = tokio::spawn({
        let lane = Arc::clone(&lane);
        async move { turn_of(&lane, "2", requester(1, 101), true).await.expect("no refusal").is_none() }
    });
    tokio::task::yield_now().await;
    assert!(!lane.view().is_paced);
    let begun = Instant::now();
    assert_eq!(lane.throttled("1", &PeerId::Uid(1), "47"), Throttled::Begins);
    assert!(other.await.expect("a task"), "the other account isn't limited");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let terms = waiting.await.expect("a task");
    assert!(terms.is_paced && begun.elapsed() >= Duration::from_millis(500));
    // The other signatures of the start report their ends, which count.
    assert!(lane.ended(&PeerId::Uid(1), "40") && !lane.ended(&PeerId::Uid(1), "3"));
    for id in &out {
        lane.ended(&PeerId::Uid(1), id);
    }
    assert!(lock(&lane.state).started.is_none(), "it is dropped");
}

/// A server with slow calls is delayed only for a moment.
#[tokio::test(start_paused = true)]
async fn slow_calls_end_a_slow_start_without_reports() {
    let (_paces, lane) = lane("");
    let begun = Instant::now();
    let mut signing = tokio::task::JoinSet::new();
    for number in 0..1000_u64 {
        let lane = Arc::clone(&lane);
        signing.spawn(async move {
            if let Some(turn) = turn(&lane, requester(1, number % 16)).await {
                turn.signed(&number.to_string());
            }
        });
    }
    signing.join_all().await;
    assert!(begun.elapsed() <= Duration::from_millis(1100), "{:?}", begun.elapsed());
    assert!(!lane.view().is_paced && lane.view().throttled == 0);
}

#[tokio::test(start_paused = true)]
async fn turns_are_given_at_the_pace_and_to_each_caller_in_turn() {
    let (_paces, lane) = lane("pace = { per_second = 10, burst = 1, wait = \"1m\" }");
    assert!(lane.view().is_paced);
    let begun = Instant::now();
    let order: Arc<Mutex<Vec<u32>>> = Arc::default();
    let mut tasks = tokio::task::JoinSet::new();
    for (uid, count) in [(1, 20), (2, 3), (3, 3)] {
        for number in 0..count {
            let (lane, order) = (Arc::clone(&lane), Arc::clone(&order));
            tasks.spawn(async move {
                sign(&lane, requester(uid, u64::from(uid)), &format!("{uid} {number}")).await;
                lock(&order).push(uid);
            });
        }
    }
    tasks.join_all().await;
    let took = begun.elapsed();
    assert!((2.4..2.6).contains(&took.as_secs_f64()), "26 of 10 a second: {took:?}");
    let order = lock(&order).clone();
    let last_of_others = order.iter().rposition(|uid| *uid != 1).expect("there are others");
    assert!(last_of_others < 12, "{order:?}");
    let view = lane.view();
    assert_eq!((view.waited, view.waiting, view.per_second), (25, 0, Some(10.0)));
}

#[tokio::test(start_paused = true)]
async fn waiting_too_long_for_a_turn_is_refused() {
    let (_paces, lane) = lane("pace = { per_second = 0.1, burst = 1, wait = \"2s\" }");
    sign(&lane, requester(1, 1), "a").await;
    let begun = Instant::now();
    let denial = turn_of(&lane, "1", requester(1, 1), true).await.expect_err("no turn");
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
    assert_eq!(denial.reason(), Reason::RateLimited);
    let retry = denial.wait().expect("when to ask again");
    assert!(retry > Duration::from_secs(7), "{retry:?}");
    assert_eq!(lane.view().waiting, 0);
    // Another account has a quota of its own.
    assert!(turn_of(&lane, "2", requester(1, 1), true).await.expect("a turn").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_loses_its_turn() {
    let (_paces, lane) = lane("pace = { per_second = 1, burst = 1, wait = \"1m\" }");
    sign(&lane, requester(1, 1), "a").await;
    let mut first = Box::pin(turn_of(&lane, "1", requester(1, 1), true));
    assert!(tokio::time::timeout(Duration::from_millis(10), &mut first).await.is_err());
    let begun = Instant::now();
    let second = turn(&lane, requester(2, 2));
    let gone = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(first);
    };
    let (second, ()) = tokio::join!(second, gone);
    assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
    // An unused turn, after a changed policy for instance, goes to the next request at once.
    let begun = Instant::now();
    drop(second);
    turn(&lane, requester(3, 3)).await.expect("a turn");
    assert!(begun.elapsed() < Duration::from_millis(10), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn places_are_freed_by_reports_and_closed_connections() {
    let (paces, lane) = lane("pace = { in_flight = 2, wait = \"1m\" }");
    assert!(sign(&lane, requester(1, 1), "a").await.wants_end);
    sign(&lane, requester(1, 2), "b").await;
    assert_eq!(lane.view().in_flight, 2);
    // A request that takes no place needs none.
    turn_of(&lane, "1", requester(2, 3), false)
        .await
        .expect("no wait")
        .expect("a turn")
        .signed("get");
    for (uid, id) in [(2, "a"), (1, "c"), (1, "get")] {
        assert!(!lane.ended(&PeerId::Uid(uid), id), "{uid} {id}");
    }
    let waits = turn(&lane, requester(2, 3));
    let ends = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(lane.ended(&PeerId::Uid(1), "a"));
    };
    let (third, ()) = tokio::join!(waits, ends);
    third.expect("a turn").signed("c");
    let waits = turn(&lane, requester(2, 3));
    let dies = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        paces.closed(ConnectionId(2));
    };
    let (fourth, ()) = tokio::join!(waits, dies);
    assert!(fourth.is_some());
}

#[tokio::test(start_paused = true)]
async fn throttling_paces_one_account_for_a_while() {
    let (_paces, lane) = lane("");
    let peer = PeerId::Uid(1);
    assert_eq!(lane.throttled("1", &peer, "unknown"), Throttled::Begins);
    assert!(lane.view().is_paced);
    assert_eq!(lane.throttled("1", &peer, "unknown"), Throttled::NotYours);
    assert!(
        turn_of(&lane, "2", requester(1, 1), true).await.expect("no wait").is_none(),
        "another account"
    );
    let begun = Instant::now();
    sign(&lane, requester(1, 1), "a").await;
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(lane.throttled("1", &PeerId::Uid(2), "a"), Throttled::NotYours);
    assert_eq!(lane.throttled("1", &peer, "a"), Throttled::Known);
    let view = lane.view();
    assert_eq!((view.is_paced, view.throttled), (true, 2));
    assert!(view.per_second.expect("a rate") < 2.0);
    tokio::time::advance(Duration::from_secs(601)).await;
    assert!(turn(&lane, requester(1, 1)).await.is_none());
    assert!(!lane.is_limited());
}

/// A signature that is completed after its connection was closed holds no place.
#[tokio::test(start_paused = true)]
async fn a_signature_for_a_connection_that_is_closed_holds_no_place() {
    let (paces, lane) = lane("pace = { in_flight = 1, wait = \"1m\" }");
    paces.opened(ConnectionId(1));
    sign(&lane, requester(1, 1), "a").await;
    paces.given(ConnectionId(1));
    assert_eq!(lane.view().in_flight, 1);
    paces.closed(ConnectionId(1));
    assert_eq!(lane.view().in_flight, 0);
    sign(&lane, requester(1, 1), "b").await;
    paces.given(ConnectionId(1));
    assert_eq!(lane.view().in_flight, 0);
    assert!(paces.open.lock().expect("a lock").is_empty());
}

/// The attack: reports about endlessly many accounts, each of which would be stored.
#[tokio::test(start_paused = true)]
async fn accounts_are_bounded() {
    let (_paces, lane) = lane("");
    let begun = |lane: &Lane, number: usize| {
        lane.throttled(&number.to_string(), &PeerId::Uid(1), "x") == Throttled::Begins
    };
    assert_eq!((0..100).filter(|number| begun(&lane, *number)).count(), MAX_ACCOUNTS);
    tokio::time::advance(Duration::from_secs(601)).await;
    assert!(begun(&lane, 1000));
    assert_eq!(lane.lines().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_waiting_requests() {
    let paces = Paces::default();
    let lane = lanes(&paces, "pace = { per_second = 0.01, burst = 1, wait = \"5m\" }").remove(0);
    sign(&lane, requester(1, 1), "a").await;
    let begun = Instant::now();
    let waits = turn(&lane, requester(1, 1));
    let reload = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let same = lanes(&paces, "pace = { per_second = 10, burst = 1, wait = \"5m\" }").remove(0);
        assert!(Arc::ptr_eq(&same, &lane));
    };
    let (turn, ()) = tokio::join!(waits, reload);
    assert!(turn.is_some() && begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(paces.lanes.lock().expect("a lock").len() == 1);
}

/// Without a pace there is no limit until the server throttles: waiting callers continue at once,
/// and later ones don't wait.
#[tokio::test(start_paused = true)]
async fn removing_a_pace_ends_all_waits() {
    let paces = Paces::default();
    let lane =
        lanes(&paces, "pace = { per_second = 0.01, burst = 1, in_flight = 1, wait = \"5m\" }");
    let lane = &lane[0];
    sign(lane, requester(1, 1), "a").await;
    let begun = Instant::now();
    let waits = async { tokio::join!(turn(lane, requester(1, 1)), turn(lane, requester(2, 2))) };
    let reload = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(lane.view().waiting, 2);
        assert!(Arc::ptr_eq(&lanes(&paces, "")[0], lane));
    };
    let ((first, second), ()) = tokio::join!(waits, reload);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // Signatures given before the pace was removed don't block others.
    first.expect("a turn").signed("b");
    drop(second);
    assert_eq!(lane.view(), View { waited: 2, ..View::default() });
    assert!(turn_of(lane, "1", requester(1, 1), true).await.expect("no wait").is_none());
    // A server that throttles is paced from then on, by what it accepts.
    assert_eq!(lane.throttled("1", &PeerId::Uid(1), "b"), Throttled::Begins);
    assert!(lane.view().is_paced);
}

/// A caller of the gRPC service that reports no ends isn't limited: its exchanges would count as unanswered for a quarter
/// of a second each, and delay the callers that do.
#[tokio::test(start_paused = true)]
async fn a_slow_start_counts_only_exchanges_that_are_reported() {
    let (_paces, lane) = lane("");
    let begun = Instant::now();
    let exchange = Exchange { takes_place: true, is_reported: false };
    for _ in 0..1000 {
        assert!(matches!(lane.ask("1", requester(2, 2), exchange), Ok(Asked::Free)));
    }
    sign(&lane, requester(1, 1), "a").await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    // Once the server throttles, they take turns like all others.
    assert_eq!(lane.throttled("1", &PeerId::Uid(1), "a"), Throttled::Begins);
    assert!(matches!(lane.ask("1", requester(2, 2), exchange), Ok(Asked::Later(_))));
}
