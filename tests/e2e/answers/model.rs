//! A model of a badly behaving MCP server: it cuts streams at every byte, replays messages of other calls, answers
//! late, twice, with other ids, out of order, before the request and not at all, and loses its sessions. Whatever it
//! does, each request gets its own answer or an error, nothing is executed twice, and the messages of a call arrive in
//! order. Over HTTP, an answer that breaks off counts as an error; one that ends normally without a response doesn't.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sigward_tests::aws_home::AwsHome;
use sigward_tests::keys::Key;
use sigward_tests::upstream::{ID, Received, Reply, Step, event};

use super::result;
use crate::agent::{Agent, Ending, SESSIONS, SIDES, STATELESS, Side};
use crate::dice::Dice;
use crate::setup::{World, text};

const PROFILES: [&str; 4] = ["dev", "staging", "prod", "audit"];
/// Concurrent calls.
const AT_ONCE: usize = 48;
/// Notifications before each response.
const NOTES: usize = 2;
/// Calls whose streams are cut, each at the next byte: more calls than a stream has bytes.
const CUTS: u64 = 480;
/// Calls with other bad answers.
const OTHERS: u64 = 96;
/// The number of the first call. All numbers have the same number of digits, so that all streams have the same length,
/// except for their ids.
const FIRST: u64 = 1000;

/// The state of the server.
#[derive(Default)]
struct Model {
    /// How often each call was executed.
    executed: HashMap<u64, usize>,
    /// The id of each call, as JSON text.
    ids: HashMap<u64, String>,
    /// How often each stream was resumed.
    resumed: HashMap<u64, usize>,
    /// The offsets at which streams were cut.
    cuts: BTreeSet<usize>,
    /// The length of the longest stream.
    longest: usize,
}

fn answer(number: u64) -> String {
    format!("the answer to call {number}")
}

fn note(number: u64, at: usize) -> String {
    json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": [number, at]}})
        .to_string()
}

impl Model {
    /// The events of a call after the one at `behind`. The first event only gives an id to resume after, as servers on
    /// the official SDKs do.
    fn events(&self, number: u64, behind: Option<usize>) -> Vec<String> {
        let id = &self.ids[&number];
        let mut events = vec![format!("retry: 1\n{}", event(Some(&format!("{number}/0")), ""))];
        let messages = (1..=NOTES).map(|at| note(number, at)).chain([result(id, &answer(number))]);
        events.extend(
            messages
                .zip(1..)
                .map(|(data, at): (_, usize)| event(Some(&format!("{number}/{at}")), &data)),
        );
        events.split_off(behind.map_or(0, |place| place + 1).min(events.len()))
    }

    /// Messages of other calls, with the first event id of this call's stream.
    fn replayed_from_others(&self, number: u64, dice: &mut Dice) -> Vec<String> {
        let mut others: Vec<_> = self.ids.keys().filter(|other| **other != number).collect();
        others.sort();
        let first = dice.roll(others.len().max(1));
        let replayed = others.iter().skip(first).take(3).flat_map(|other| {
            let notes = (1..=NOTES).map(|at| note(**other, at));
            notes.chain([result(&self.ids[other], &answer(**other))])
        });
        replayed.map(|message| event(Some(&format!("{number}/0")), &message)).collect()
    }

    fn posted(&mut self, number: u64, request: &Received, may_expire: bool) -> Reply {
        let id = request.message.as_ref().map_or("null", |message| message.id_text()).to_owned();
        self.ids.insert(number, id.clone());
        let mut dice = Dice::new(number);
        let is_first = !self.executed.contains_key(&number);
        let kind = if number - FIRST < CUTS { usize::MAX } else { dice.roll(10) };
        if may_expire && is_first && matches!(kind, 8 | 9) {
            // The session is unknown, and nothing was executed.
            self.executed.insert(number, 0);
            return match kind {
                8 => Reply::Error(-30001, "session expired".to_owned()),
                _ => Reply::Http(404, Vec::new(), String::new()),
            };
        }
        *self.executed.entry(number).or_default() += 1;
        let whole = self.events(number, None).concat();
        let late = Step::Pause(Duration::from_millis(5 + dice.roll(40) as u64));
        match kind {
            0 => Reply::Json(result(ID, &answer(number))),
            1 => Reply::Json(result(r#""other""#, &answer(number + 1))),
            // The id as a string is a different id.
            2 => Reply::Stream(vec![Step::Data(result(&format!("\"{id}\""), "poison"))]),
            3 => {
                let twice = self.events(number, Some(NOTES)).concat();
                Reply::Stream(vec![Step::Raw(whole + &twice)])
            }
            4 => {
                let others = self.replayed_from_others(number, &mut dice).concat();
                Reply::Stream(vec![Step::Raw(others + &whole)])
            }
            5 => {
                let (before, after) = whole.split_at(dice.roll(whole.len()));
                Reply::Stream(vec![Step::Raw(before.to_owned()), late, Step::Raw(after.to_owned())])
            }
            // Out of the order of the calls.
            6 => Reply::Stream(vec![late, Step::Raw(whole)]),
            7 => Reply::HangUp,
            8 | 9 => Reply::Stream(vec![Step::Raw(whole)]),
            _ => {
                let at = usize::try_from(number - FIRST).unwrap() % (whole.len() + 1);
                self.cuts.insert(at);
                self.longest = self.longest.max(whole.len());
                cut(&whole, at)
            }
        }
    }

    fn resumed(&mut self, place: &str) -> Option<Reply> {
        let (number, at) = place.split_once('/')?;
        let (number, at) = (number.parse().ok()?, at.parse().ok()?);
        let time = self.resumed.entry(number).or_default();
        *time += 1;
        let mut dice = Dice::new(number * 100 + *time as u64);
        let mut rest = self.events(number, Some(at)).concat();
        if dice.chance(30) {
            rest = self.replayed_from_others(number, &mut dice).concat() + &rest;
        }
        Some(match dice.chance(40) {
            true => cut(&rest, dice.roll(rest.len() + 1)),
            false => Reply::Stream(vec![Step::Raw(rest)]),
        })
    }
}

fn cut(text: &str, at: usize) -> Reply {
    Reply::Stream(vec![Step::Raw(text[..at].to_owned()), Step::Cut])
}

/// Makes calls with each profile in turn, and checks what the client receives.
async fn check(side: Side, version: &'static str) {
    let mut home = AwsHome::new();
    home.static_keys(PROFILES[3], &Key::user(PROFILES[3]));
    let world = World::at_home(home, |builder| builder).await;
    let model = Arc::new(Mutex::new(Model::default()));
    let shared = Arc::clone(&model);
    // A client over HTTP has to renew its own session itself, so that one doesn't expire.
    let spared = world.home.identity(PROFILES[0]).to_owned();
    world.upstream.hook(move |request: &Received| {
        let mut model = shared.lock().unwrap();
        if let Some(place) = request.header("last-event-id") {
            return model.resumed(place);
        }
        let number = request.param("/arguments/n").as_u64()?;
        let may_expire =
            version == SESSIONS && (side == Side::Stdio || request.identity() != spared);
        Some(model.posted(number, request, may_expire))
    });
    let mut agent = Agent::start(&world, side, version, &PROFILES, &[]).await;
    if side == Side::Listening {
        agent.resume_streams();
    }
    let mut responses: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    let (mut ids, mut endings) = (HashMap::new(), HashMap::new());
    let numbers: Vec<u64> = (FIRST..FIRST + CUTS + OTHERS).collect();
    for round in numbers.chunks(AT_ONCE) {
        // A response that arrives before its request was sent must be ignored, on every stream.
        world.upstream.push_to_all(&result(&agent.next_id().to_string(), "poison"));
        let mut begun = Vec::new();
        for &number in round {
            let profile = PROFILES[usize::try_from(number / 3).unwrap() % PROFILES.len()];
            let arguments = json!({"aws_profile": profile, "n": number}).to_string();
            let id = agent.start_call("write_note", &arguments).await;
            ids.insert(id.as_u64().unwrap(), (number, profile));
            begun.push(id);
        }
        for id in begun {
            let number = ids[&id.as_u64().unwrap()].0;
            match side {
                Side::Stdio => {
                    let response = agent.response(&id).await;
                    responses.entry(number).or_default().push(response);
                }
                Side::Listening => {
                    endings.insert(number, agent.ended(&id).await);
                }
            }
        }
    }
    // Duplicates would have arrived before these responses.
    for profile in PROFILES {
        text(&agent.call_as("whoami", profile).await);
    }
    let mut notes: HashMap<u64, Vec<u64>> = HashMap::new();
    for line in agent.unread() {
        let message: Value = serde_json::from_str(&line).unwrap();
        if let Some(place) = message["params"]["data"].as_array() {
            let [number, at] = [0, 1].map(|part| place[part].as_u64().unwrap());
            let seen = notes.entry(number).or_default();
            if !seen.contains(&at) {
                seen.push(at);
            }
        } else if message.get("method").is_none() {
            let (number, _) = ids[&message["id"].as_u64().unwrap()];
            responses.entry(number).or_default().push(message);
        }
    }
    let shown = format!("{side:?} {version}");
    let model = model.lock().unwrap();
    let mut good = 0;
    for (number, profile) in ids.into_values() {
        let ending = endings.get(&number);
        let shown = format!("{shown}, call {number} with {profile}, which ended {ending:?}");
        let received = responses.remove(&number).unwrap_or_default();
        // Only an answer that visibly breaks off may lack a response.
        let breaks_off = ending == Some(&Ending::BrokenOff) && received.is_empty();
        assert!(received.len() == 1 || breaks_off, "{shown}: {received:?}");
        let executed = model.executed[&number];
        assert!(executed <= 1, "{shown}: executed {executed} times");
        for response in received {
            let is_error = response["error"].is_object() || response["result"]["isError"] == true;
            if !is_error {
                assert_eq!(text(&response), answer(number), "{shown}");
                assert_eq!(executed, 1, "{shown}");
                good += 1;
            }
        }
        let seen = notes.remove(&number).unwrap_or_default();
        assert!(seen.is_sorted(), "{shown}: notes in the order {seen:?}");
    }
    assert!(notes.is_empty(), "{shown}: notes of unknown calls: {notes:?}");
    let everywhere = (0..=model.longest).all(|at| model.cuts.contains(&at));
    assert!(everywhere, "{shown}: no stream was cut at some of the {} bytes", model.longest);
    // The control: a proxy that answers only errors would pass the checks above. Without resumption, calls whose
    // streams were cut have no answer.
    let least = if version == SESSIONS { (CUTS + OTHERS) * 4 / 5 } else { OTHERS / 2 };
    assert!(good >= least, "{shown}: {good} good answers");
    assert!(world.upstream.requests().iter().all(|request| request.signature.is_ok()));
}

#[tokio::test]
async fn each_request_gets_its_own_answer_over_standard_input() {
    check(SIDES[0], SESSIONS).await;
}

#[tokio::test]
async fn each_request_gets_its_own_answer_over_http() {
    check(SIDES[1], SESSIONS).await;
}

#[tokio::test]
async fn each_request_gets_its_own_answer_without_sessions_over_standard_input() {
    check(SIDES[0], STATELESS).await;
}

#[tokio::test]
async fn each_request_gets_its_own_answer_without_sessions_over_http() {
    check(SIDES[1], STATELESS).await;
}
