//! What holds for every pair of AWS files: the fuzz target `aws_files` looks for one where it doesn't. A NUL stands
//! between the config and the credentials file.

use sigward_broker::fuzz;

const PROFILES: [&str; 3] = ["default", "dev", "a b"];
const KEYS: [&str; 4] = ["region", "aws_access_key_id", "role_arn", "credential_process"];

/// Fails if something doesn't hold for `data`.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (config, credentials) = text.split_once('\0').unwrap_or((text, ""));
    // What is wrong with one profile touches no other, and no other touches what is right with it.
    let more = "\n[profile another-one]\nregion = mars-1\n";
    let with_more = format!("{config}{more}");
    let found = fuzz::aws_settings(config, credentials, &PROFILES, &KEYS);
    for value in found.iter().filter_map(|found| found.as_ref().ok()?.as_ref()) {
        assert!(text.contains(value.lines().next().unwrap_or_default()), "{value:?}");
    }
    // A last line without an end may go on in the first of what was added: there is an empty one between.
    assert_eq!(fuzz::aws_settings(&with_more, credentials, &PROFILES, &KEYS), found);
}
