//! The steps of a check and their results, as a table for people and as JSON for programs.
//!
//! Text of a server or a broker is always shown on one line, without control characters, and with a limited length. A
//! report never contains a signature or a token.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use crate::config::is_control;

/// The steps, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Broker,
    Resolution,
    Connection,
    Tls,
    Credentials,
    Clock,
    Signature,
    Initialize,
    ToolsList,
}

impl Name {
    /// The name as it is shown.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Resolution => "name resolution",
            Self::Connection => "connection",
            Self::Tls => "TLS",
            Self::Credentials => "credentials",
            Self::Clock => "clock",
            Self::Signature => "signature",
            Self::Initialize => "initialize",
            Self::ToolsList => "tools/list",
        }
    }
}

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Passed,
    /// It works now, but may fail later.
    Warned,
    Failed,
    /// An earlier step failed, or there is nothing to do.
    Skipped,
}

impl Mark {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Warned => "warning",
            Self::Failed => "FAILED",
            Self::Skipped => "-",
        }
    }

    fn json(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Warned => "warned",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One step.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) name: Name,
    pub(super) mark: Mark,
    pub(super) time: Option<Duration>,
    /// What was found, or the error.
    pub(super) detail: String,
    /// What to do.
    pub(super) advice: Option<String>,
}

impl Step {
    pub(super) fn passed(name: Name, time: Duration, detail: impl Into<String>) -> Self {
        Self { name, mark: Mark::Passed, time: Some(time), detail: detail.into(), advice: None }
    }

    pub(super) fn failed(
        name: Name,
        time: Option<Duration>,
        detail: impl Into<String>,
        advice: Option<String>,
    ) -> Self {
        Self { name, mark: Mark::Failed, time, detail: detail.into(), advice }
    }

    pub(super) fn warned(name: Name, detail: impl Into<String>, advice: String) -> Self {
        let detail = detail.into();
        Self { name, mark: Mark::Warned, time: None, detail, advice: Some(advice) }
    }

    pub(super) fn skipped(name: Name, detail: impl Into<String>) -> Self {
        Self { name, mark: Mark::Skipped, time: None, detail: detail.into(), advice: None }
    }
}

/// What was found about one profile.
#[derive(Debug, Default)]
pub(super) struct Profile {
    pub(super) name: String,
    /// Its ARN, if the broker has looked it up.
    pub(super) identity: String,
    pub(super) source: String,
    pub(super) region: String,
    pub(super) access_key_id: String,
    /// The negotiated protocol version.
    pub(super) protocol: String,
    /// The server's own name.
    pub(super) server: String,
    /// `None` if they couldn't be listed.
    pub(super) tools: Option<Vec<String>>,
    pub(super) steps: Vec<Step>,
}

/// A whole check.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) endpoint: String,
    pub(super) broker: String,
    /// The steps that all profiles share.
    pub(super) steps: Vec<Step>,
    pub(super) profiles: Vec<Profile>,
}

impl Report {
    /// Whether no step failed.
    pub(super) fn is_good(&self) -> bool {
        self.first_failure().is_none()
    }

    /// The first failed step, and its profile.
    fn first_failure(&self) -> Option<(Option<&str>, &Step)> {
        self.all().find(|(_, step)| step.mark == Mark::Failed)
    }

    fn all(&self) -> impl Iterator<Item = (Option<&str>, &Step)> {
        let shared = self.steps.iter().map(|step| (None, step));
        let own = self.profiles.iter().flat_map(|profile| {
            profile.steps.iter().map(|step| (Some(profile.name.as_str()), step))
        });
        shared.chain(own)
    }

    /// The table for people.
    pub(super) fn table(&self) -> String {
        let mut rows = vec![["step", "result", "time", ""].map(str::to_owned)];
        for (profile, step) in self.all() {
            let name = match profile {
                Some(profile) => format!("{profile}: {}", step.name.word()),
                None => step.name.word().to_owned(),
            };
            let time = step.time.map(shown_time).unwrap_or_default();
            rows.push([name, step.mark.word().to_owned(), time, step.detail.clone()]);
        }
        let width = |column: usize| {
            rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
        };
        let widths = [width(0), width(1), width(2)];
        let mut text = format!("{} through {}\n\n", self.endpoint, self.broker);
        for [name, result, time, detail] in &rows {
            let line = format!(
                "{name:0$}  {result:1$}  {time:>2$}  {detail}",
                widths[0], widths[1], widths[2]
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        for profile in &self.profiles {
            text.push_str(&profile.text());
        }
        for (profile, step) in self.all().filter(|(_, step)| step.mark == Mark::Warned) {
            let _ = writeln!(text, "\nWarning: {}", sentence(profile, step));
        }
        match self.first_failure() {
            None => text.push_str("\nEverything works.\n"),
            Some((profile, step)) => {
                let _ = writeln!(text, "\nFirst problem: {}", sentence(profile, step));
            }
        }
        printable(&text)
    }

    /// One JSON document for programs.
    pub(super) fn json(&self) -> String {
        let step = |profile: Option<&str>, step: &Step| {
            json!({
                "step": step.name.word(),
                "profile": profile,
                "result": step.mark.json(),
                "ms": step.time.map(|time| (time.as_secs_f64() * 1e6).round() / 1e3),
                "detail": step.detail,
                "advice": step.advice,
            })
        };
        let profiles: Vec<_> = self
            .profiles
            .iter()
            .map(|profile| {
                json!({
                    "name": profile.name,
                    "identity": filled(&profile.identity),
                    "source": filled(&profile.source),
                    "region": filled(&profile.region),
                    "access_key_id": filled(&profile.access_key_id),
                    "protocol": filled(&profile.protocol),
                    "server": filled(&profile.server),
                    "tools": profile.tools,
                })
            })
            .collect();
        let document = json!({
            "ok": self.is_good(),
            "version": crate::VERSION,
            "endpoint": self.endpoint,
            "broker": self.broker,
            "steps": self.all().map(|(profile, it)| step(profile, it)).collect::<Vec<_>>(),
            "profiles": profiles,
            "problem": self.first_failure().map(|(profile, it)| step(profile, it)),
        });
        format!("{document}\n")
    }
}

impl Profile {
    fn text(&self) -> String {
        let known = [&self.identity, &self.source, &self.region];
        let known: Vec<&str> =
            known.iter().map(|it| it.as_str()).filter(|it| !it.is_empty()).collect();
        let Some(tools) = &self.tools else { return String::new() };
        let count =
            if tools.len() == 1 { "1 tool".to_owned() } else { format!("{} tools", tools.len()) };
        let mut text = format!("\n{}", self.name);
        if !known.is_empty() {
            let _ = write!(text, " ({})", known.join(", "));
        }
        let _ = writeln!(text, ": {count}");
        for name in tools {
            let _ = writeln!(text, "  {name}");
        }
        text
    }
}

/// The step, what is wrong, and what to do.
fn sentence(profile: Option<&str>, step: &Step) -> String {
    let place = match profile {
        Some(profile) => format!("{} of profile {profile:?}", step.name.word()),
        None => step.name.word().to_owned(),
    };
    match &step.advice {
        Some(advice) => format!("{place}: {}\nWhat to do: {advice}", step.detail),
        None => format!("{place}: {}", step.detail),
    }
}

fn filled(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn shown_time(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

/// Removes control characters from inserted text; only the report's own line breaks remain.
fn printable(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !is_control(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(mark: Mark) -> Report {
        let time = Some(Duration::from_micros(2500));
        let step = Step {
            name: Name::Signature,
            mark,
            time,
            detail: "h answered 403".to_owned(),
            advice: Some("set the clock".to_owned()),
        };
        let profile = Profile {
            name: "dev".to_owned(),
            identity: "arn:aws:iam::1:user/dev".to_owned(),
            tools: Some(vec!["whoami".to_owned(), "odd\u{1b}[2K".to_owned()]),
            steps: vec![step],
            ..Profile::default()
        };
        Report {
            endpoint: "https://h/mcp".to_owned(),
            broker: "the private broker".to_owned(),
            steps: vec![Step::passed(Name::Broker, Duration::from_millis(12), "2 profiles")],
            profiles: vec![profile],
        }
    }

    #[test]
    fn a_table_has_a_line_for_each_step() {
        let text = report(Mark::Passed).table();
        let expected = "https://h/mcp through the private broker\n\n\
            step            result    time\n\
            broker          ok       12 ms  2 profiles\n\
            dev: signature  ok      2.5 ms  h answered 403\n\n\
            dev (arn:aws:iam::1:user/dev): 2 tools\n  whoami\n  odd[2K\n\n\
            Everything works.\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_first_problem_is_shown_with_advice() {
        let report = report(Mark::Failed);
        assert!(!report.is_good());
        let end = "\nFirst problem: signature of profile \"dev\": h answered 403\nWhat to do: set the clock\n";
        assert!(report.table().ends_with(end), "{}", report.table());
        let document: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(document["ok"], false);
        assert_eq!(document["problem"]["step"], "signature");
        assert_eq!(document["problem"]["profile"], "dev");
        assert_eq!(document["steps"][1]["ms"], 2.5);
        assert_eq!(document["profiles"][0]["tools"][0], "whoami");
        assert_eq!(document["profiles"][0]["server"], serde_json::Value::Null);
    }

    #[test]
    fn a_warning_is_not_a_failure() {
        let report = report(Mark::Warned);
        assert!(report.is_good());
        let text = report.table();
        assert!(
            text.contains("Warning: signature of profile \"dev\"")
                && text.contains("Everything works")
        );
    }
}
