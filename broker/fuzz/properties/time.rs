//! What holds for every point in time: the fuzz target `time` looks for one where it doesn't.

use std::time::{Duration, SystemTime};

use sigward_broker::fuzz;

/// 10000-01-02: the last day that can be written, in the last zone.
const LAST: u64 = 253_402_387_200;

/// Fails if something doesn't hold for `data`.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(time) = fuzz::point_in_time(text) else { return };
    let since = time.duration_since(SystemTime::UNIX_EPOCH).expect("not before 1970");
    assert!(since < Duration::from_secs(LAST), "{text:?} is {since:?}");
    // Without its end, which names the zone, it is no point in time, or another text for one.
    assert!(text.bytes().any(|byte| byte.is_ascii_digit()));
    assert_eq!(fuzz::point_in_time(&format!("  {text}\n")), Some(time), "space around it");
    assert_eq!(fuzz::point_in_time(&format!("{text} x")), None, "something behind it");
}
