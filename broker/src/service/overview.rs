//! What an operator sees of a running broker: every profile, and who asks for signatures.
//!
//! Invariant: the names of other callers and profiles go to the broker's own user and to root alone, who can read all of
//! it anyway: for an agent they would be a list of what to attack.

use std::time::SystemTime;

use sigward_proto::v1;
use tonic::Status;

use super::current::Current;
use crate::peer::Peer;

/// Who has connections or calls in progress, as the intake counts them; put into an operator's request by the intake.
#[derive(Debug, Clone)]
pub(crate) struct Callers {
    /// The busiest first.
    pub(crate) named: Vec<v1::Caller>,
    /// How many more there are.
    pub(crate) others: u32,
}

/// The answer to a request with these callers; whoever is no operator has none. The profiles are those of `peer`, where a
/// rule matches them.
pub(super) async fn overview(
    current: &Current,
    callers: Option<Callers>,
    peer: Option<&Peer>,
    now: SystemTime,
) -> Result<v1::OverviewResponse, Status> {
    let Some(Callers { named, others }) = callers else {
        // Nothing was decided about a signature, so there is no record to quote.
        return Err(Status::permission_denied("for the broker's own user and root alone"));
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
