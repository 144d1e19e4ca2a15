//! Tests of the state machine alone: the effect of each message in each state.

use super::super::state::State;
use super::*;
use crate::profile::reading::{Found, Inputs};

const HOUR: Duration = Duration::from_secs(3600);

/// A time after these machines were made.
fn later(after: Duration) -> Moment {
    Moment { wall: at(EPOCH) + after, steady: Instant::now() + after }
}

fn reading(version: u64, found: Found) -> Reading {
    Reading {
        version,
        about: About {
            region: None,
            source: "",
            hindrance: None,
            account: String::new(),
            role: String::new(),
            traceable: None,
        },
        found,
    }
}

fn inputs(text: u8) -> Found {
    Found::Inputs(Inputs { files: [text; 32], all: [text; 32], exact: [text; 32], token: None })
}

fn refused() -> Denial {
    Denial::new(Reason::ProfileMisconfigured, "no such role")
}

fn name(machine: &Machine) -> &'static str {
    match &machine.state {
        State::Unloaded => "unloaded",
        State::Loading { .. } => "loading",
        State::Fresh { .. } => "fresh",
        State::Refreshing { .. } => "refreshing",
        State::Degraded { .. } => "degraded",
        State::Failed { .. } => "failed",
        State::Ended { .. } => "ended",
    }
}

/// The load that has to run now.
fn ticket(machine: &Machine) -> Option<Ticket> {
    match machine.step(later(Duration::ZERO)) {
        Step::Load(ticket, ..) => Some(ticket),
        Step::Wait(_) | Step::End => None,
    }
}

/// Ends the running load, which has read the first text.
fn land(machine: &mut Machine, loaded: Result<Keys, Denial>) {
    let Some(ticket) = ticket(machine) else { return };
    let now = later(Duration::ZERO);
    machine.take_read_of_load(ticket, reading(1, inputs(1)));
    machine.land(ticket, loaded, now.wall, 0.0, now);
}

fn good(id: &str) -> Result<Keys, Denial> {
    keys(id, Some(EPOCH + 3600))
}

/// A machine in a state, by the shortest path.
fn machine(state: &str) -> Machine {
    let mut machine = Machine::default();
    let now = later(Duration::ZERO);
    let want = |machine: &mut Machine| drop(machine.want(Asker::Background, now));
    match state {
        "unloaded" => {}
        "loading" => want(&mut machine),
        "fresh" | "refreshing" | "degraded" => {
            want(&mut machine);
            land(&mut machine, good("A"));
            if state != "fresh" {
                want(&mut machine);
            }
            if state == "degraded" {
                land(&mut machine, Err(refused()));
            }
        }
        "failed" => {
            want(&mut machine);
            land(&mut machine, Err(refused()));
        }
        _ => machine.end(now),
    }
    assert_eq!(name(&machine), state);
    drop((machine.take_status(), machine.take_notification()));
    machine
}

const STATES: [&str; 7] =
    ["unloaded", "loading", "fresh", "refreshing", "degraded", "failed", "ended"];

type Message = fn(&mut Machine);

/// Each message, and the resulting state for each of [`STATES`].
const TABLE: [(&str, Message, [&str; 7]); 15] = [
    (
        "a caller wants keys, just after a load",
        |it| drop(it.want(Asker::Caller, later(Duration::ZERO))),
        ["loading", "loading", "refreshing", "refreshing", "degraded", "failed", "ended"],
    ),
    (
        "a caller wants keys, an hour later",
        |it| drop(it.want(Asker::Caller, later(HOUR))),
        ["loading", "loading", "refreshing", "refreshing", "refreshing", "loading", "ended"],
    ),
    (
        "something has changed",
        |it| it.change(Change::Files, later(Duration::ZERO)),
        ["loading", "loading", "refreshing", "refreshing", "refreshing", "loading", "ended"],
    ),
    (
        "the token has changed",
        |it| it.change(Change::Token, later(Duration::ZERO)),
        ["loading", "loading", "refreshing", "refreshing", "refreshing", "loading", "ended"],
    ),
    (
        "the files say the same",
        |it| drop(it.take_reading(reading(2, inputs(1)), later(Duration::ZERO))),
        // The running load has read nothing yet: it will read this, or a later version.
        ["unloaded", "loading", "fresh", "refreshing", "degraded", "failed", "ended"],
    ),
    (
        "the files say something else",
        |it| drop(it.take_reading(reading(2, inputs(2)), later(Duration::ZERO))),
        ["unloaded", "loading", "refreshing", "refreshing", "refreshing", "loading", "ended"],
    ),
    (
        "the files can't be read",
        |it| drop(it.take_reading(reading(2, Found::Unreadable(refused())), later(HOUR))),
        ["unloaded", "loading", "fresh", "refreshing", "degraded", "failed", "ended"],
    ),
    (
        "the profile isn't in the files",
        |it| drop(it.take_reading(reading(2, Found::Gone), later(Duration::ZERO))),
        ["unloaded", "failed", "failed", "failed", "failed", "failed", "ended"],
    ),
    ("the configuration drops the profile", |it| it.end(later(Duration::ZERO)), ["ended"; 7]),
    (
        "upstream refuses a signature",
        |it| drop(it.reject(it.generation, later(Duration::ZERO))),
        ["loading", "loading", "refreshing", "refreshing", "refreshing", "loading", "ended"],
    ),
    (
        "upstream refuses a signature of another generation",
        |it| drop(it.reject(99, later(Duration::ZERO))),
        ["unloaded", "loading", "fresh", "refreshing", "degraded", "failed", "ended"],
    ),
    (
        "the load brings keys",
        |it| land(it, good("B")),
        ["unloaded", "fresh", "fresh", "fresh", "degraded", "failed", "ended"],
    ),
    (
        "the load fails",
        |it| land(it, Err(refused())),
        ["unloaded", "failed", "fresh", "degraded", "degraded", "failed", "ended"],
    ),
    (
        "a load that was overtaken brings keys",
        |it| {
            let now = later(Duration::ZERO);
            let overtaken = ticket(it);
            it.change(Change::Files, now);
            if let Some(overtaken) = overtaken {
                it.take_read_of_load(overtaken, reading(9, inputs(9)));
                it.land(overtaken, good("B"), now.wall, 0.0, now);
            }
        },
        ["loading", "loading", "refreshing", "refreshing", "refreshing", "loading", "ended"],
    ),
    (
        "half of life is over",
        |it| it.tick(later(HOUR / 2)),
        ["unloaded", "loading", "refreshing", "refreshing", "refreshing", "failed", "ended"],
    ),
];

#[tokio::test(start_paused = true)]
async fn each_message_has_one_result_in_each_state() {
    for (message, send, expected) in TABLE {
        for (state, expected) in STATES.into_iter().zip(expected) {
            let mut machine = machine(state);
            send(&mut machine);
            assert_eq!(name(&machine), expected, "{message}, in {state}");
            // Only these states contain keys.
            let holds = ["fresh", "refreshing", "degraded"].contains(&expected);
            assert_eq!(machine.state.held().is_some(), holds, "{message}, in {state}");
            assert_eq!(ticket(&machine).is_some(), ["loading", "refreshing"].contains(&expected));
            // A changed state is published.
            let changed = name(&machine) != state;
            let status = machine.take_status();
            assert!(status.is_some() || !changed, "{message}, in {state}");
            let published = status.is_none_or(|it| it.held.is_some() == holds);
            assert!(published, "{message}, in {state}");
        }
    }
}

/// A caller that waits for a load gets an outcome in any case.
#[tokio::test(start_paused = true)]
async fn each_end_of_a_load_ends_the_waits_for_it() {
    let ends: [(&str, Message, bool); 4] = [
        ("keys", |it| land(it, good("B")), true),
        ("a failure", |it| land(it, Err(refused())), false),
        ("gone", |it| it.forget(refused(), later(Duration::ZERO)), false),
        ("ended", |it| it.end(later(Duration::ZERO)), false),
    ];
    for state in ["loading", "refreshing"] {
        for (end, send, good) in &ends {
            let mut machine = machine(state);
            let waiting = machine.want(Asker::Caller, later(Duration::ZERO)).expect("it runs");
            // A change in between doesn't lose them.
            machine.change(Change::Token, later(Duration::ZERO));
            send(&mut machine);
            let landing = machine.take_notification().flatten().expect(end);
            assert_eq!(landing.outcome.is_ok(), *good, "{end}, in {state}");
            landing.landed.send_replace(Some(landing.outcome));
            assert!(waiting.borrow().is_some());
        }
    }
}

/// The attack: an edit removes a role, and is reverted while a load with the edit is in flight.
#[tokio::test(start_paused = true)]
async fn a_load_that_has_read_older_files_than_the_watch_is_repeated() {
    for state in ["loading", "refreshing"] {
        let mut machine = machine(state);
        let (now, first) = (later(Duration::ZERO), ticket(&machine).expect("a load"));
        // The load reads the second text; before it reports that, the watch has read the third,
        // which equals the first.
        machine.take_reading(reading(3, inputs(1)), now);
        let first = if state == "loading" { ticket(&machine).expect("a load") } else { first };
        machine.take_read_of_load(first, reading(2, inputs(2)));
        machine.land(first, good("OLD"), now.wall, 0.0, now);
        let second = ticket(&machine).expect("another load");
        assert!(first != second, "{state}");
        machine.take_read_of_load(second, reading(3, inputs(1)));
        machine.land(second, good("NEW"), now.wall, 0.0, now);
        let held = machine.state.held().expect("keys");
        assert_eq!(held.credentials.access_key_id(), "NEW", "{state}");
        // An older reading of the watch has no effect any more.
        assert!(matches!(machine.take_reading(reading(2, inputs(2)), now), Taken::Same));
        assert_eq!(name(&machine), "fresh");
    }
}

/// A load may read the new files before the watch; if it fails, they are nevertheless the new ones.
#[tokio::test(start_paused = true)]
async fn changed_files_are_detected_by_watch_or_load() {
    let mut machine = machine("refreshing");
    let (now, load) = (later(Duration::ZERO), ticket(&machine).expect("a load"));
    machine.take_read_of_load(load, reading(2, inputs(2)));
    machine.land(load, Err(unavailable()), now.wall, 0.0, now);
    assert_eq!(name(&machine), "degraded");
    assert!(matches!(machine.take_reading(reading(2, inputs(2)), now), Taken::Reloads));
    // So the keys are disowned, if the new ones can't be loaded.
    let load = ticket(&machine).expect("a load");
    machine.land(load, Err(unavailable()), now.wall, 0.0, now);
    machine.tick(later(Duration::from_secs(59)));
    assert!(machine.state.held().is_some());
    machine.tick(later(Duration::from_secs(60)));
    assert!(machine.state.held().is_none());
}

/// After a renewal of a session's token, only those profiles are reloaded whose load failed with
/// the previous one.
#[tokio::test(start_paused = true)]
async fn a_renewed_token_reloads_only_failed_profiles() {
    for (state, reloads) in
        [("fresh", false), ("refreshing", false), ("degraded", true), ("failed", true)]
    {
        let mut machine = machine(state);
        let Found::Inputs(before) = inputs(1) else { unreachable!() };
        let renewed = Found::Inputs(Inputs { exact: [9; 32], ..before });
        let taken = machine.take_reading(reading(2, renewed), later(Duration::ZERO));
        assert_eq!(matches!(taken, Taken::Reloads), reloads, "{state}");
    }
}

/// Due work is done whatever else fails, and the task doesn't loop over work that isn't due.
#[tokio::test(start_paused = true)]
async fn the_task_waits_until_work_is_due() {
    let wait = |machine: &Machine, after| match machine.step(later(after)) {
        Step::Wait(pause) => pause,
        step => panic!("{step:?}"),
    };
    let (none, second) = (Duration::ZERO, Duration::from_secs(1));
    assert_eq!(wait(&machine("unloaded"), none), None);
    assert_eq!(wait(&machine("failed"), none), None);
    // The clock is checked every half minute, because it may step.
    assert_eq!(wait(&machine("fresh"), none), Some(30 * second));
    assert_eq!(wait(&machine("fresh"), 1795 * second), Some(5 * second));
    // A rejection forced an early load, which failed: nothing is due before half of the lifetime.
    assert_eq!(wait(&machine("degraded"), 20 * second), Some(30 * second));
    assert_eq!(machine("ended").step(later(none)), Step::End);
}

/// A load may end between a caller's look at the status and its request. The caller then gets those credentials: a second
/// load would bring other keys.
#[tokio::test(start_paused = true)]
async fn a_request_after_the_end_of_a_load_starts_no_other() {
    for state in ["fresh", "refreshing", "degraded"] {
        let mut machine = machine(state);
        let requested = machine.request(at(EPOCH), later(Duration::ZERO)).expect("credentials");
        assert!(matches!(requested, Requested::Loaded(_)), "{state}");
        assert_eq!(name(&machine), state);
    }
    for state in ["unloaded", "loading"] {
        let mut machine = machine(state);
        let requested = machine.request(at(EPOCH), later(Duration::ZERO)).expect("a load");
        assert!(matches!(requested, Requested::Wait(_)), "{state}");
        assert_eq!(name(&machine), "loading");
    }
    // Expired credentials are no answer.
    let mut machine = machine("fresh");
    let requested = machine.request(at(EPOCH + 3600), later(HOUR)).expect("a load");
    assert!(matches!(requested, Requested::Wait(_)));
}
