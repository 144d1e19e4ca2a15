//! The operator's overview of a running broker: every profile, and the callers.
//!
//! Invariant: the names of other callers and profiles are sent only to the broker's own user and to
//! root, who can read all broker data anyway. For an agent they would be a list of targets.

use std::time::SystemTime;

use sigward_proto::v1;
use tonic::Status;

use super::current::Current;
use crate::peer::Peer;

/// The callers with connections or calls in progress, as the intake counts them. The intake adds them to an operator's
/// request.
#[derive(Debug, Clone)]
pub(crate) struct Callers {
    /// The named callers, the busiest first.
    pub(crate) named: Vec<v1::Caller>,
    /// The number of further callers.
    pub(crate) others: u32,
}

/// The response to an overview request with these callers; requests of others have none. The
/// profiles are those of `peer`, if a rule matches it.
pub(super) async fn overview(
    current: &Current,
    callers: Option<Callers>,
    peer: Option<&Peer>,
    now: SystemTime,
) -> Result<v1::OverviewResponse, Status> {
    let Some(Callers { named, others }) = callers else {
        // No decision about a signature was made, so there is no record to quote.
        return Err(Status::permission_denied("only for the broker's own user and root"));
    };
    let state = current.state();
    let profiles = match peer.filter(|peer| state.policy.admit(peer).is_ok()) {
        Some(peer) => state.visible_profiles(peer, now).await,
        None => state.all_profiles(now).await,
    };
    Ok(v1::OverviewResponse {
        profiles,
        config_rejected: current.rejected(),
        callers: named,
        other_callers: others,
    })
}
