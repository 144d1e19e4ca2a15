//! Sixteen proxies on one machine with 32 calls each, all sent at once, and a server with the quotas of AWS's MCP
//! server: 27 requests in progress, and 3 a second with a burst of 6. Here the rate is ten times AWS's, so that 512
//! calls take a quarter of a minute instead of three minutes.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use sigward_tests::processes::{StdioClient, call};
use sigward_tests::upstream::{Received, Reply, Step};

use crate::setup::{World, text};

const PROXIES: usize = 16;
const CALLS: usize = 32;
const PER_SECOND: f64 = 30.0;
const BURST: f64 = 6.0;
const PLACES: usize = 27;
/// How long a call takes at the server.
const WORK: Duration = Duration::from_millis(200);

/// A server's quota.
struct Quota(Mutex<Used>);

struct Used {
    tokens: f64,
    at: Instant,
    /// When the calls in progress will end.
    ends: Vec<Instant>,
    /// The proxies whose calls were accepted, in order.
    order: Vec<usize>,
    taken: usize,
    throttled: usize,
}

impl Quota {
    fn new() -> Arc<Self> {
        let (at, ends, order) = (Instant::now(), Vec::new(), Vec::new());
        let used = Used { tokens: BURST, at, ends, order, taken: 0, throttled: 0 };
        Arc::new(Self(Mutex::new(used)))
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.0.lock().unwrap()
    }

    /// The server's response: 429, or the usual one.
    fn answer(&self, request: &Received) -> Option<Reply> {
        let now = Instant::now();
        let mut used = self.used();
        let grown = now.duration_since(used.at).as_secs_f64() * PER_SECOND;
        used.tokens = (used.tokens + grown).min(BURST);
        used.at = now;
        used.ends.retain(|end| *end > now);
        if used.tokens < 1.0 || used.ends.len() >= PLACES {
            used.throttled += 1;
            return Some(Reply::Http(429, Vec::new(), String::new()));
        }
        used.tokens -= 1.0;
        used.taken += 1;
        if !request.calls("echo") {
            // Like AWS's server: there is no GET stream.
            let none = Reply::Http(405, Vec::new(), String::new());
            return (request.http_method == "GET").then_some(none);
        }
        used.ends.push(now + WORK);
        let proxy = request.param("/arguments/proxy").as_u64().expect("a number");
        used.order.push(usize::try_from(proxy).expect("a number"));
        Some(Reply::Stream(vec![Step::Pause(WORK), Step::UsualResponse]))
    }
}

/// Makes all calls, and returns the share of throttled requests.
async fn run(pace: &str) -> f64 {
    let world = World::new().await;
    let quota = Quota::new();
    let of_server = Arc::clone(&quota);
    world.upstream.hook(move |request| of_server.answer(request));
    let region = format!("region = \"{}\"\n", sigward_tests::upstream::REGION);
    let config = world.configuration("").replacen(&region, &format!("{region}{pace}\n"), 1);
    let broker = world.broker(&config).await;
    let mut clients = Vec::new();
    for _ in 0..PROXIES {
        clients.push(world.client_of(&world.socket(), &["dev"]).await);
    }
    let mut calling = tokio::task::JoinSet::new();
    for (number, client) in clients.into_iter().enumerate() {
        calling.spawn(async move { all_calls(number, client).await });
    }
    calling.join_all().await;
    drop(broker);

    let used = quota.used();
    let share = used.throttled as f64 / (used.taken + used.throttled) as f64;
    eprintln!("{pace:?}: {} taken, {} throttled: {share:.3}", used.taken, used.throttled);
    assert_eq!(used.order.len(), PROXIES * CALLS, "every call was taken once");
    assert_fair(&used.order);
    share
}

/// The first callers may use the burst. After it, calls are accepted in turns: until the first proxy has none left, no
/// other gets much less than it.
fn assert_fair(order: &[usize]) {
    let mut all = [0; PROXIES];
    let mut by_turns = [0; PROXIES];
    for (number, proxy) in order.iter().enumerate() {
        all[*proxy] += 1;
        let is_burst = number < BURST as usize;
        by_turns[*proxy] += usize::from(!is_burst);
        if all[*proxy] == CALLS && !is_burst {
            break;
        }
    }
    let rest = |proxy: &usize| all[*proxy] < CALLS || by_turns[*proxy] > 0;
    let turns: Vec<usize> = (0..PROXIES).filter(rest).map(|proxy| by_turns[proxy]).collect();
    let (least, most) = (turns.iter().min(), turns.iter().max());
    let (least, most) = (least.expect("there are some"), most.expect("there are some"));
    assert!(*most >= 4 && *least >= most / 3, "{turns:?} of {all:?}");
}

async fn all_calls(number: usize, mut client: StdioClient) {
    let arguments = format!(r#"{{"proxy":{number}}}"#);
    let mut ids = Vec::new();
    for _ in 0..CALLS {
        ids.push(client.start_request("tools/call", &call("echo", &arguments)).await);
    }
    for id in ids {
        text(&client.response(&id).await);
    }
}

#[tokio::test]
async fn sixteen_proxies_keep_a_configured_quota() {
    let share = run("pace = { per_second = 30, burst = 6, in_flight = 20, wait = \"2m\" }").await;
    assert!(share <= 0.02, "{share}");
}

/// Most of the throttled requests were signed before the first report came back; the slow start limits them.
#[tokio::test]
async fn sixteen_proxies_find_a_quota_that_is_not_configured_themselves() {
    let share = run("").await;
    assert!(share <= 0.20, "{share}");
}
