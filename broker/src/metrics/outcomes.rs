//! The outcomes of decisions and loads, which are values of a label.

use sigward_proto::v1::Reason;

use crate::error::Denial;

/// The label of an outcome: `done`, or the reason of the denial.
pub(super) fn name(done: &'static str, outcome: Result<(), &Denial>) -> &'static str {
    outcome.map_or_else(|denial| denial.reason().name(), |()| done)
}

/// All outcomes, with `done` as the label of success.
pub(super) fn all(done: &'static str) -> impl Iterator<Item = &'static str> {
    let reasons = (0..128).filter_map(|number| Reason::try_from(number).ok()).map(Reason::name);
    reasons.chain([done])
}
