//! Tests of the text that a collector gets.

use std::time::{Duration, UNIX_EPOCH};

use sigward_proto::v1::ProfileState;

use super::{Metrics, Names, Phase};
use crate::audit::Health;
use crate::config::ProfileName;
use crate::error::{Denial, Reason};
use crate::profile::View;

fn health() -> Health {
    Health { head: "abc".to_owned(), failures: 3, queued: 0, summed_up: 0 }
}

#[test]
fn decisions_are_counted_by_profile_and_outcome() {
    let metrics = Metrics::default();
    metrics.decided("dev", ("agents", "bot"), Ok(()));
    metrics.decided("dev", ("agents", "bot"), Ok(()));
    metrics.decided("", ("", ""), Err(&Denial::new(Reason::ProfileNotAllowed, "no rule")));
    metrics.passed(Phase::Sign, Duration::from_micros(50));
    metrics.loaded("dev", Duration::from_millis(3), Ok(()));
    let late = Denial::new(Reason::CredentialsUnavailable, "late");
    metrics.loaded("dev", Duration::from_secs(60), Err(&late));
    let text = metrics.text(&[], &[], true, &health());
    for line in [
        r#"sigward_signatures_total{profile="dev",rule="agents",agent="bot",outcome="signed"} 2"#,
        r#"sigward_signatures_total{profile="",rule="",agent="",outcome="PROFILE_NOT_ALLOWED"} 1"#,
        "sigward_config_rejected 1",
        r#"sigward_phase_duration_seconds_bucket{le="0.00016",phase="sign"} 1"#,
        r#"sigward_phase_duration_seconds_count{phase="audit"} 0"#,
        r#"sigward_credential_loads_total{profile="dev",outcome="loaded"} 1"#,
        r#"sigward_credential_loads_total{profile="dev",outcome="CREDENTIALS_UNAVAILABLE"} 1"#,
        r#"sigward_credential_load_duration_seconds_count{profile="dev"} 2"#,
        r#"sigward_audit_head{sha256="abc"} 1"#,
        "sigward_audit_failures 3",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
    }
    assert!(metrics.text(&[], &[], false, &health()).contains("sigward_config_rejected 0"));
}

/// The agent of a rule.
fn agent_of(rule: &str) -> String {
    if rule.is_empty() { String::new() } else { format!("{rule}-bot") }
}

/// Programs may write configurations with names that are never used again.
#[test]
fn series_of_removed_names_are_dropped() {
    let names = |profiles: &[&str], rules: &[&str]| {
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let rules = rules.iter().map(|&rule| (rule.to_owned(), agent_of(rule)));
        Names { profiles: set(profiles), rules: rules.collect(), endpoints: set(profiles) }
    };
    let metrics = Metrics::default();
    let denial = Denial::new(Reason::ToolNotAllowed, "no rule");
    for profile in ["stays", "goes", ""] {
        for rule in ["lasting", "passing", ""] {
            metrics.decided(profile, (rule, &agent_of(rule)), Ok(()));
            metrics.decided(profile, (rule, &agent_of(rule)), Err(&denial));
        }
        metrics.loaded(profile, Duration::ZERO, Ok(()));
        metrics.loaded(profile, Duration::ZERO, Err(&denial));
    }
    let before = names(&["stays", "goes"], &["lasting", "passing"]);
    let count = |text: &str, series: &str| {
        text.lines().filter(|line| line.starts_with(&format!("sigward_{series}{{"))).count()
    };
    metrics.forget(&before, &before);
    assert_eq!(count(&metrics.text(&[], &[], false, &health()), "signatures_total"), 18);
    metrics.forget(&before, &names(&["stays", "new"], &["lasting"]));
    let text = metrics.text(&[], &[], false, &health());
    assert!(!text.contains("goes") && !text.contains("passing"), "{text}");
    assert_eq!(count(&text, "signatures_total"), 8);
    assert_eq!(count(&text, "credential_loads_total"), 4);
    assert_eq!(count(&text, "credential_load_duration_seconds_count"), 2);
    for outcome in ["signed", "TOOL_NOT_ALLOWED"] {
        let line = format!(
            "{{profile=\"stays\",rule=\"lasting\",agent=\"lasting-bot\",outcome=\"{outcome}\"}} 1"
        );
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    // A rule with a new agent is counted under the new one from then on.
    let mut other = names(&["stays", "new"], &[]);
    other.rules.insert(("lasting".to_owned(), "other".to_owned()));
    metrics.forget(&names(&["stays", "new"], &["lasting"]), &other);
    assert_eq!(count(&metrics.text(&[], &[], false, &health()), "signatures_total"), 4);
}

/// The series of the profiles are filled in for each collector: concurrent collectors must not see
/// partial ones.
#[test]
fn concurrent_collectors_all_get_every_series() {
    let view = |number: usize| View {
        name: ProfileName::parse(&format!("p{number}")).expect("a name"),
        description: String::new(),
        region: None,
        source: "",
        state: ProfileState::Fresh,
        failure: None,
        expiry: Some(UNIX_EPOCH),
        loaded: Some(UNIX_EPOCH),
        generation: 1,
        identity_arn: String::new(),
        account: String::new(),
        role: String::new(),
    };
    let (metrics, views) = (Metrics::default(), (0..50).map(view).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let text = metrics.text(&views, &[], false, &health());
                    for series in [
                        "sigward_profile_state{",
                        "sigward_credential_expiry_timestamp_seconds{",
                        "sigward_credential_loaded_timestamp_seconds{",
                        "sigward_audit_head{",
                    ] {
                        let found = text.lines().filter(|it| it.starts_with(series)).count();
                        let all = if series.contains("head") { 1 } else { views.len() };
                        assert_eq!(found, all, "{series}");
                    }
                }
            });
        }
    });
}
