//! botocore, and so the AWS CLI, as the reference for AWS files.
//!
//! For the same files and environments, a Python process reports the identity that botocore uses, and one of ours the
//! identity that the broker uses. Each difference that isn't a refusal on our side is a failure: the worst error of
//! this product is to sign as another identity.

mod files;
mod identity;
mod refusals;
mod spelling;
mod twin;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};
use sigward_tests::keys::KeyTable;
use sigward_tests::known_aws::{Accepts, Answers, KnownAws};
use tempfile::TempDir;

use self::files::{Pair, SESSIONS};
use self::identity::{Difference, Identity, judge};
pub(crate) use self::twin::Botocore;
use self::twin::Ours;

/// The number of pairs of files per run, unless `SIGWARD_TEST_PAIRS` is set, as in CI.
const PAIRS: u64 = 600;
/// The number of pairs that are compared, and on the disk, at a time.
const BATCH: u64 = 200;
/// The seed of the first pair, unless `SIGWARD_TEST_SEED` is set. A failure names the seed of its pair.
const SEED: u64 = 20_261_126;
/// The number of failures of each kind that are shown in full.
const SHOWN: usize = 4;

/// The results of all pairs.
#[derive(Default)]
struct Tally {
    asked: usize,
    /// Both sign, as the same identity.
    same: usize,
    /// Neither signs.
    neither: usize,
    /// We ask the real AWS, which no test reaches: the profile names no other endpoint.
    out_of_reach: usize,
    /// We refuse and botocore signs: how often, by the message of the refusal, and the first seed.
    refused: BTreeMap<String, (usize, u64)>,
    /// By kind.
    failures: BTreeMap<String, Vec<String>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aws_files_give_the_same_identity_as_in_botocore() {
    let pairs = number("SIGWARD_TEST_PAIRS").unwrap_or(PAIRS);
    let seed = number("SIGWARD_TEST_SEED").unwrap_or(SEED);
    let keys = KeyTable::default();
    let aws = KnownAws::start(keys, Answers::default(), Accepts::AnyPair).await;
    let (mut botocore, mut ours) = (Botocore::start(), Ours::start(&aws.url()));
    let started = Instant::now();
    let mut tally = Tally::default();
    let mut first = seed;
    while first < seed + pairs {
        let last = (first + BATCH).min(seed + pairs);
        let batch: Vec<_> =
            (first..last).map(|seed| World::of(files::pair(seed), &aws.url())).collect();
        let questions: Vec<Value> = batch.iter().flat_map(World::questions).collect();
        let (theirs, answered) =
            tokio::join!(botocore.ask_all(&questions), ours.ask_all(&questions));
        let asked = aws.take_asked();
        let mut answers = theirs.iter().zip(&answered);
        for world in &batch {
            for profile in &world.pair.profiles {
                let (theirs, answer) = answers.next().expect("an answer for each question");
                let ours = Identity::ours(answer, &asked);
                let judged = judge(theirs, &ours, world.pair.names_endpoints);
                tally.count(world, profile.as_deref(), theirs, judged);
            }
        }
        first = last;
    }
    eprintln!("{}", tally.table(seed, pairs, started));
    let (theirs, ours) = (botocore.processor_time(), ours.processor_time());
    eprintln!("  processor time: botocore {theirs:.1} s, we {ours:.1} s");
    tally.verdict();
}

impl Tally {
    fn count(
        &mut self,
        world: &World,
        profile: Option<&str>,
        theirs: &Value,
        judged: Result<(), Difference>,
    ) {
        self.asked += 1;
        match judged {
            Ok(()) if theirs["error"].is_null() => self.same += 1,
            Ok(()) => self.neither += 1,
            Err(Difference::OutOfReach) => self.out_of_reach += 1,
            Err(Difference::Refused(words)) => {
                let seen = self.refused.entry(general(&words)).or_insert((0, world.pair.seed));
                seen.0 += 1;
            }
            Err(Difference::Wrong { kind, what }) => {
                let failure = format!("{what}\n{}", world.shown(profile));
                self.failures.entry(kind).or_default().push(failure);
            }
        }
    }

    fn table(&self, seed: u64, pairs: u64, started: Instant) -> String {
        let mut text = format!(
            "{pairs} pairs from seed {seed}, {} questions in {:.1} s: {} the same, {} refused by both",
            self.asked,
            started.elapsed().as_secs_f64(),
            self.same,
            self.neither,
        );
        let refused: usize = self.refused.values().map(|(count, _)| count).sum();
        let wrong: usize = self.failures.values().map(Vec::len).sum();
        let _ = write!(
            text,
            ", {refused} refused by us alone, {} out of reach, {wrong} wrong",
            self.out_of_reach
        );
        let mut rows: Vec<_> = self.refused.iter().collect();
        rows.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        for (words, (count, seed)) in rows {
            let _ = write!(text, "\n  {count:6}  {words} (seed {seed})");
        }
        for (kind, failures) in &self.failures {
            let _ = write!(text, "\n  wrong {:6}  {kind}", failures.len());
        }
        text
    }

    fn verdict(&self) {
        // The control: a broker that refuses everything is never wrong.
        let most = self.asked / 3;
        assert!(self.same > most, "only {} of {} sign as the same identity", self.same, self.asked);
        let out_of_reach = self.out_of_reach;
        assert!(out_of_reach < 5 + self.asked / 50, "{out_of_reach} ask the real AWS");
        let shown = self.failures.values().flat_map(|failures| failures.iter().take(SHOWN));
        let shown = shown.cloned().collect::<Vec<_>>().join("\n\n");
        assert!(self.failures.is_empty(), "differences from botocore:\n{shown}");
        let wrong = refusals::wrong(&self.refused, self.asked);
        let shown = |(what, seed): &(String, Option<u64>)| match seed {
            Some(seed) => format!("{what}\n{}", World::of(files::pair(*seed), "{aws}").shown(None)),
            None => what.clone(),
        };
        let shown: Vec<_> = wrong.iter().map(shown).collect();
        assert!(wrong.is_empty(), "refusals that aren't known:\n{}", shown.join("\n"));
    }
}

/// A pair of files, on the disk.
struct World {
    pair: Pair,
    directory: TempDir,
    /// The URL of the test AWS.
    aws: String,
}

impl World {
    fn of(pair: Pair, aws: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let world = Self { pair, directory, aws: aws.to_owned() };
        let path = world.directory.path();
        let aws = path.join("home/.aws");
        fs::create_dir_all(aws.join("sso/cache")).unwrap();
        fs::write(aws.join("config"), world.filled(&world.pair.config)).unwrap();
        if let Some(credentials) = &world.pair.credentials {
            fs::write(aws.join("credentials"), world.filled(credentials)).unwrap();
        }
        for (number, session) in SESSIONS.iter().enumerate() {
            let file = format!("sso/cache/{}.json", hex::encode(Sha1::digest(session)));
            let token = json!({
                "startUrl": SESSIONS[3], "region": "eu-west-1",
                "accessToken": format!("bearer{number}"), "expiresAt": "2099-01-01T00:00:00Z",
            });
            fs::write(aws.join(file), token.to_string()).unwrap();
        }
        fs::write(path.join("token"), "web-token").unwrap();
        let program = path.join("process");
        // A link, not a file: one written by this process may still be open in a child of another test, and can't be
        // run then.
        std::os::unix::fs::symlink(process(), program).unwrap();
        world
    }

    fn filled(&self, text: &[u8]) -> Vec<u8> {
        let mut text = text.to_owned();
        for (name, value) in self.names() {
            let mut filled = Vec::new();
            let mut rest = 0;
            for at in memchr::memmem::find_iter(&text, name) {
                filled.extend_from_slice(&text[rest..at]);
                filled.extend_from_slice(value.as_bytes());
                rest = at + name.len();
            }
            filled.extend_from_slice(&text[rest..]);
            text = filled;
        }
        text
    }

    fn names(&self) -> [(&str, &str); 2] {
        [("{dir}", self.directory.path().to_str().unwrap()), ("{aws}", &self.aws)]
    }

    fn questions(&self) -> Vec<Value> {
        let path = self.directory.path();
        let home = path.join("home");
        let mut environment = BTreeMap::from([
            ("HOME", home.to_str().unwrap().to_owned()),
            ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]);
        for (name, value) in &self.pair.environment {
            let value = self
                .names()
                .iter()
                .fold(value.clone(), |it, (name, value)| it.replace(name, value));
            environment.insert(name, value);
        }
        let bearers: Vec<_> = (0..SESSIONS.len()).map(|number| format!("bearer{number}")).collect();
        let question = |profile: &Option<String>| {
            json!({
                "home": home, "env": environment, "profile": profile, "repair": true,
                "names_endpoints": self.pair.names_endpoints,
                "aws": {"sso_tokens": bearers},
            })
        };
        self.pair.profiles.iter().map(question).collect()
    }

    /// Everything needed to analyze a failure.
    fn shown(&self, profile: Option<&str>) -> String {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string().replace("\\n", "\n    ");
        let credentials = self.pair.credentials.as_deref().map_or("(none)".to_owned(), text);
        format!(
            "  profile {profile:?}, seed {}, environment {:?}\n  config:\n    {}\n  credentials:\n    {credentials}",
            self.pair.seed,
            self.pair.environment,
            text(&self.pair.config),
        )
    }
}

fn process() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/botocore/process.sh")
}

/// The message of a refusal, without the parts that vary.
fn general(words: &str) -> String {
    let mut general = String::new();
    for word in words.split(' ') {
        let word = if word.contains("/home/.aws/") { "FILE" } else { word };
        let digits = word.chars().map(|c| if c.is_ascii_digit() { '#' } else { c });
        general.push_str(&digits.collect::<String>());
        general.push(' ');
    }
    general.trim_end().to_owned()
}

#[expect(clippy::disallowed_methods, reason = "a longer run of this test is requested by hand")]
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} isn't a number")))
}
