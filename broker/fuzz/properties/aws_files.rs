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
    for profile in PROFILES {
        for key in KEYS {
            let found = fuzz::aws_setting(config, credentials, profile, key);
            if let Ok(Some(value)) = &found {
                assert!(text.contains(value.lines().next().unwrap_or_default()), "{value:?}");
            }
            let beside = fuzz::aws_setting(&with_more, credentials, profile, key);
            // A last line without an end may go on in the first of what was added: there is an empty one between.
            assert_eq!(beside, found, "{profile} {key}");
        }
    }
}
