use super::*;
use crate::config::PaceRate;

fn requester(uid: u32, connection: u64) -> Requester {
    Requester { peer: PeerId::Uid(uid), connection: ConnectionId(connection) }
}

fn pace(rate: Option<(f64, f64)>, in_flight: Option<u32>) -> Pace {
    let rate = rate.map(|(per_second, burst)| PaceRate { per_second, burst });
    Pace { rate, in_flight, wait: Duration::from_secs(20) }
}

fn millis(start: Instant, millis: u64) -> Instant {
    start + Duration::from_millis(millis)
}

/// Asks for a turn, and uses it if it is given at once.
fn sign(schedule: &mut Schedule<u32>, requester: &Requester, id: &str, now: Instant) -> bool {
    match schedule.ask(requester, true, 0, now) {
        Asked::Now(ticket) => {
            schedule.signed(ticket, id, now);
            true
        }
        Asked::Later(ticket) => {
            schedule.leave(requester, ticket);
            false
        }
    }
}

#[test]
fn a_burst_is_given_at_once_and_then_the_rate() {
    let start = Instant::now();
    let mut schedule = Schedule::fixed(pace(Some((4.0, 2.0)), None), start);
    let me = requester(1, 1);
    assert!(sign(&mut schedule, &me, "a", start) && sign(&mut schedule, &me, "b", start));
    for waiter in 0..3 {
        assert!(matches!(schedule.ask(&me, true, waiter, start), Asked::Later(_)));
    }
    assert_eq!(schedule.next(start), millis(start, 250));
    assert_eq!(schedule.estimate(), Duration::from_secs(1), "three others wait");
    assert!(schedule.due(millis(start, 249)).is_empty());
    assert_eq!(schedule.due(millis(start, 250)), [0]);
    assert_eq!(schedule.due(millis(start, 750)), [1, 2]);
    assert_eq!((schedule.waiting(), schedule.rate()), (0, Some(4.0)));
    assert!(!schedule.limits_places());
}

/// A new request waits behind others, even if a token is available.
#[test]
fn no_request_overtakes_waiting_ones() {
    let start = Instant::now();
    let mut schedule = Schedule::fixed(pace(Some((1.0, 1.0)), None), start);
    assert!(sign(&mut schedule, &requester(1, 1), "a", start));
    assert!(matches!(schedule.ask(&requester(1, 1), true, 1, start), Asked::Later(_)));
    let now = millis(start, 1500);
    assert!(matches!(schedule.ask(&requester(2, 2), true, 2, now), Asked::Later(_)));
    assert_eq!(schedule.due(now), [1]);
    assert_eq!(schedule.due(millis(start, 2500)), [2]);
}

#[test]
fn a_turn_that_is_not_used_goes_to_others() {
    let start = Instant::now();
    let mut schedule = Schedule::fixed(pace(Some((1.0, 1.0)), Some(1)), start);
    let Asked::Now(ticket) = schedule.ask(&requester(1, 1), true, 0, start) else {
        panic!("a token")
    };
    let Asked::Later(gone) = schedule.ask(&requester(1, 1), true, 1, start) else {
        panic!("no token")
    };
    assert!(matches!(schedule.ask(&requester(2, 2), true, 2, start), Asked::Later(_)));
    schedule.leave(&requester(1, 1), gone);
    assert!(schedule.due(start).is_empty());
    // The request was denied, for instance: its rule was removed while it waited.
    schedule.leave(&requester(1, 1), ticket);
    assert_eq!(schedule.due(start), [2]);
    // Giving it up twice has no effect.
    schedule.leave(&requester(1, 1), ticket);
    assert_eq!(schedule.in_flight(), 1);
}

#[test]
fn only_a_report_of_its_peer_frees_a_place() {
    let start = Instant::now();
    let mut schedule = Schedule::fixed(pace(None, Some(2)), start);
    assert!(
        sign(&mut schedule, &requester(1, 1), "a", start)
            && sign(&mut schedule, &requester(1, 1), "b", start)
    );
    assert!(schedule.limits_places());
    assert!(matches!(schedule.ask(&requester(2, 2), true, 7, start), Asked::Later(_)));
    // Another peer, and another id.
    assert!(!schedule.ended(&PeerId::Uid(2), "a") && !schedule.ended(&PeerId::Uid(1), "c"));
    assert!(schedule.due(start).is_empty());
    assert!(schedule.ended(&PeerId::Uid(1), "a"));
    assert!(!schedule.ended(&PeerId::Uid(1), "a"), "it has already ended");
    assert_eq!(schedule.due(start), [7]);
    assert_eq!(schedule.in_flight(), 2);
}

/// A GET isn't a call: an open one would hold a place for hours.
#[test]
fn a_request_without_a_place_waits_for_none() {
    let start = Instant::now();
    let mut schedule = Schedule::fixed(pace(None, Some(1)), start);
    assert!(sign(&mut schedule, &requester(1, 1), "a", start));
    assert!(matches!(schedule.ask(&requester(1, 1), false, 0, start), Asked::Now(_)));
    assert!(matches!(schedule.ask(&requester(1, 1), true, 0, start), Asked::Later(_)));
}

#[test]
fn a_closed_connection_frees_its_places() {
    let start = Instant::now();
    let mut schedule = Schedule::fixed(pace(None, Some(3)), start);
    assert!(
        sign(&mut schedule, &requester(1, 1), "a", start)
            && sign(&mut schedule, &requester(1, 1), "b", start)
    );
    assert!(sign(&mut schedule, &requester(1, 2), "c", start));
    assert!(schedule.closed(ConnectionId(1)));
    assert_eq!(schedule.in_flight(), 1);
    assert!(!schedule.closed(ConnectionId(1)) && !schedule.ended(&PeerId::Uid(1), "a"));
    assert!(schedule.ended(&PeerId::Uid(1), "c"));
}

#[test]
fn a_place_without_a_report_expires() {
    let start = Instant::now();
    let mut schedule = Schedule::fixed(pace(None, Some(1)), start);
    assert!(sign(&mut schedule, &requester(1, 1), "a", start));
    assert!(matches!(schedule.ask(&requester(2, 2), true, 7, start), Asked::Later(_)));
    assert_eq!(schedule.next(start), start + MAX_LIFE);
    let now = start + MAX_LIFE - Duration::from_secs(1);
    assert!(schedule.due(now).is_empty());
    assert_eq!(schedule.next(now), start + MAX_LIFE);
    assert_eq!(schedule.due(start + MAX_LIFE), [7]);
    assert!(schedule.given.is_empty());
}

/// The attacks: throttling is reported for signatures of others, for ones that never existed, and
/// for one again and again.
#[test]
fn throttling_counts_for_a_signature_of_the_reporter_once() {
    let start = Instant::now();
    let mut schedule = Schedule::fixed(pace(Some((1.0, 5.0)), None), start);
    assert!(sign(&mut schedule, &requester(1, 1), "a", start));
    for (uid, id) in [(2, "a"), (1, "b"), (2, "b")] {
        assert_eq!(schedule.throttled(&PeerId::Uid(uid), id, start), None);
    }
    assert!(sign(&mut schedule, &requester(2, 2), "b", start), "nothing has changed");
    assert_eq!(schedule.throttled(&PeerId::Uid(1), "a", start), Some(true));
    assert!(!sign(&mut schedule, &requester(2, 2), "c", start), "the server's bucket is empty");
    for at in [300, 600, 900] {
        let now = millis(start, at);
        assert_eq!(schedule.throttled(&PeerId::Uid(1), "a", now), Some(false));
    }
    assert!(sign(&mut schedule, &requester(2, 2), "d", millis(start, 1000)));
    let late = start + REPORTABLE;
    assert_eq!(schedule.throttled(&PeerId::Uid(2), "b", late), None);
}

/// A caller that reports throttling for each signature slows everyone down to the floor, but
/// starves no one: the others have every second turn.
#[test]
fn false_reports_starve_no_caller() {
    let start = Instant::now();
    let mut schedule = Schedule::adaptive(start);
    let (liar, honest) = (requester(1, 1), requester(2, 2));
    let (mut lies, mut signed) = (0_i32, 0_i32);
    schedule.ask(&liar, true, 1, start);
    schedule.ask(&honest, true, 2, start);
    for at in 1..=600 {
        let now = millis(start, at * 100);
        for next in schedule.due(now) {
            let requester = if next == 1 { &liar } else { &honest };
            let ticket = *schedule.turns.keys().next().expect("a turn");
            let id = format!("{at} {next}");
            schedule.signed(ticket, &id, now);
            if next == 1 {
                lies += 1;
                schedule.throttled(&liar.peer, &id, millis(start, at * 100 + 1));
            } else {
                signed += 1;
            }
            schedule.ask(requester, true, next, now);
        }
    }
    assert!(signed >= 14, "{signed} in a minute");
    assert!((signed - lies).abs() <= 1, "{signed} {lies}");
}

#[test]
fn the_rate_after_throttling_starts_low_and_grows() {
    let start = Instant::now();
    let mut schedule = Schedule::adaptive(start);
    let mut given = 0;
    for waiter in 0..1000 {
        schedule.ask(&requester(1, 1), true, waiter, start);
    }
    let mut rates = Vec::new();
    for at in 1..=60 {
        given += schedule.due(millis(start, at * 100)).len();
        if at % 10 == 0 {
            rates.push(given);
        }
    }
    assert!(rates[0] <= 2 && rates[5] > 60, "{rates:?}");
    assert!(rates.is_sorted());
    assert_eq!(schedule.wait(), None);
    assert!(schedule.next(start) <= start + RATE_INTERVAL);
}

#[test]
fn another_configuration_keeps_waiting_and_given_turns() {
    let start = Instant::now();
    let mut schedule = Schedule::fixed(pace(Some((1.0, 1.0)), Some(1)), start);
    assert!(sign(&mut schedule, &requester(1, 1), "a", start));
    assert!(matches!(schedule.ask(&requester(1, 1), true, 7, start), Asked::Later(_)));
    schedule.configure(Some(pace(Some((100.0, 10.0)), Some(1))), start);
    assert!(schedule.due(millis(start, 900)).is_empty(), "the place is still taken");
    schedule.configure(Some(pace(Some((100.0, 10.0)), Some(2))), millis(start, 900));
    assert_eq!(schedule.due(millis(start, 901)), [7]);
    assert!(schedule.ended(&PeerId::Uid(1), "a"));
    assert!(!schedule.is_over(millis(start, 1000)));
    assert!(sign(&mut schedule, &requester(1, 1), "b", millis(start, 1000)));
    for waiter in [8, 9] {
        let asked = schedule.ask(&requester(1, 1), true, waiter, millis(start, 1000));
        assert!(matches!(asked, Asked::Later(_)));
    }
    // Without a pace no one waits; the turns are given in order.
    schedule.configure(None, millis(start, 1000));
    assert_eq!(schedule.due(millis(start, 1000)), [8, 9]);
    assert_eq!((schedule.wait(), schedule.rate()), (None, None));
    assert!(matches!(schedule.ask(&requester(1, 1), true, 10, millis(start, 1000)), Asked::Now(_)));
}

#[test]
fn stored_signatures_are_bounded() {
    let start = Instant::now();
    let mut schedule = Schedule::fixed(pace(Some((1e6, 1e6)), Some(2)), start);
    assert!(sign(&mut schedule, &requester(1, 1), "held", start));
    for number in 0..MAX_GIVEN + 100 {
        assert!(sign(&mut schedule, &requester(1, 1), &number.to_string(), start));
        assert!(schedule.ended(&PeerId::Uid(1), &number.to_string()));
    }
    schedule.advance(start);
    assert!(schedule.given.len() <= MAX_GIVEN + 1 && schedule.order.len() <= MAX_GIVEN);
    assert!(schedule.ended(&PeerId::Uid(1), "held"), "signatures with a place are kept");
    assert!(schedule.is_over(start + MAX_LIFE));
    assert!(schedule.given.is_empty() && schedule.order.is_empty() && schedule.long.is_empty());
}

/// The attack on a quota: all callers start at the same moment.
#[test]
fn a_slow_start_limits_unanswered_signatures() {
    let start = Instant::now();
    let mut schedule = Schedule::slow_start(start);
    let me = requester(1, 1);
    let mut wants_end = Vec::new();
    let mut given = 0;
    while let Asked::Now(ticket) = schedule.ask(&me, true, 0, start) {
        let terms = schedule.signed(ticket, &given.to_string(), start);
        assert!(!terms.is_paced);
        wants_end.push(terms.wants_end);
        given += 1;
    }
    assert_eq!(given, 48);
    assert_eq!(wants_end.iter().filter(|it| **it).count(), 32, "the first ones aren't reported");
    assert!(schedule.due(start).is_empty());
    // Each answer makes room for two, and only reports of the peer that was given the signature count.
    assert!(!schedule.ended(&PeerId::Uid(2), "40") && !schedule.ended(&PeerId::Uid(1), "0"));
    for waiter in 0..4 {
        assert!(matches!(schedule.ask(&me, true, waiter, start), Asked::Later(_)));
    }
    assert!(schedule.ended(&PeerId::Uid(1), "40"));
    assert!(!schedule.ended(&PeerId::Uid(1), "40"), "it has already ended");
    assert_eq!(schedule.due(start).len(), 2);
    // After a quarter of a second without a report all of them count as answered: a slow call
    // blocks no other.
    let later = start + LATELY;
    assert_eq!(schedule.next(start), later);
    assert_eq!(schedule.due(later).len(), 3);
    assert!(schedule.wants_ends() && schedule.ended(&PeerId::Uid(1), "41"), "late, but valid");
}
