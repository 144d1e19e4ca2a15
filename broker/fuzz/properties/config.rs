//! What holds for every configuration: the fuzz target `config` looks for one where it doesn't.

use std::path::Path;

use sigward_broker::config;

/// Fails if something doesn't hold for `data`.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.lines().count().max(1) + 1;
    match config::parse(text, Path::new("f"), 1000) {
        Ok(config) => {
            // Every name that it mentions exists, and without a rule it is for one user.
            assert!(!config.rules.is_empty());
            for (index, profile) in config.profiles.iter().enumerate() {
                let twice =
                    config.profiles.iter().skip(index + 1).any(|it| it.name == profile.name);
                assert!(!twice, "two profiles of one name");
            }
            // A key that nobody knows is an error, wherever else the text is right.
            let more = format!("unknown-key = 1\n{text}");
            assert!(config::parse(&more, Path::new("f"), 1000).is_err());
        }
        Err(faults) => {
            assert!(!faults.faults.is_empty());
            for fault in &faults.faults {
                assert!((1..=lines).contains(&fault.line), "line {} of {lines}", fault.line);
                assert!(!fault.message.is_empty());
            }
            assert!(faults.faults.is_sorted_by_key(|fault| fault.line), "not in their order");
        }
    }
}
