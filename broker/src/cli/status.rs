//! `status`: shows the state of a running broker's profiles, and for operators its callers.

mod answer;
mod json;
mod state;
mod text;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use sigward_proto::v1::broker_client::BrokerClient;
use sigward_proto::v1::{ListProfilesRequest, OverviewRequest, WatchProfilesRequest};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use self::answer::Answer;
use self::json::json;
use self::text::table;
use super::connection::{TIMEOUT, Which, connect, in_time, late, refused};
use super::table::{print, reader_gone};
use crate::clock;
use crate::error::Error;

/// The interval of redrawing a table on a terminal, because it shows the time left.
const REDRAW: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    broker: Which,
    /// Print JSON, one object for each answer of the broker
    #[arg(long)]
    json: bool,
    /// Print again after each change of a profile that you may use, or of the pace of its endpoints
    #[arg(long)]
    watch: bool,
    /// Show every profile, even if no rule allows you to use it; only for the broker's own user and
    /// root
    #[arg(long, conflicts_with = "watch")]
    all: bool,
}

/// Prints the caller's profiles, and for an operator the callers; with `--watch` the profiles until
/// the broker ends. An operator who has no profile sees all of them.
pub(super) async fn run(options: Options, sockets: &[PathBuf]) -> Result<ExitCode, Error> {
    let mut broker = connect(options.broker, sockets).await?;
    let redraws = options.watch && !options.json && std::io::stdout().is_terminal();
    let show = |answer: &Answer| {
        let text = if options.json { json(answer) } else { table(answer, clock::now()) };
        // Moves to the top and clears to the end, which doesn't flicker.
        print(&if redraws { format!("\x1b[H\x1b[J{text}") } else { text })
    };
    if !options.watch {
        show(&ask(&mut broker, options.all).await?);
        return Ok(ExitCode::SUCCESS);
    }
    let changes = in_time(broker.watch_profiles(WatchProfilesRequest {})).await?;
    let mut changes = changes.into_inner();
    let mut shown: Option<Answer> = None;
    let mut gone = std::pin::pin!(reader_gone());
    loop {
        // The time left changes between two updates.
        let change = tokio::select! {
            change = tokio::time::timeout(REDRAW, changes.message()) => change,
            () = &mut gone => break,
        };
        match change {
            Ok(change) => match change.map_err(refused)? {
                Some(change) => shown = Some(change.into()),
                None => break,
            },
            // The broker reports that an endpoint is paced, but not each change of its numbers.
            Err(_) if shown.as_ref().is_some_and(Answer::is_paced) => {
                let now = Some(own_profiles(&mut broker).await?);
                if now == shown && !redraws {
                    continue;
                }
                shown = now;
            }
            Err(_) if !redraws => continue,
            Err(_) => {}
        }
        if shown.as_ref().is_some_and(|answer| !show(answer)) {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Queries the overview for operators; others get their own profiles, except with `--all`.
async fn ask(broker: &mut BrokerClient<Channel>, all: bool) -> Result<Answer, Error> {
    let asked = tokio::time::timeout(TIMEOUT, broker.overview(OverviewRequest { all })).await;
    match asked.map_err(|_| late())? {
        Ok(overview) => {
            let overview = overview.into_inner();
            let callers = Some((overview.callers, overview.other_callers));
            let (profiles, config_rejected) = (overview.profiles, overview.config_rejected);
            Ok(Answer { profiles, config_rejected, callers })
        }
        Err(status) if !all && is_for_others(&status) => own_profiles(broker).await,
        Err(status) => Err(refused(status)),
    }
}

/// Queries the caller's own profiles, which every caller may do.
async fn own_profiles(broker: &mut BrokerClient<Channel>) -> Result<Answer, Error> {
    let own = in_time(broker.list_profiles(ListProfilesRequest {})).await?.into_inner();
    let (profiles, config_rejected) = (own.profiles, own.config_rejected);
    Ok(Answer { profiles, config_rejected, callers: None })
}

/// Whether the overview is refused because the caller isn't an operator, or isn't known to an older
/// broker. A refused peer's status has details.
fn is_for_others(status: &Status) -> bool {
    let has_details = status.get_details_error_info().is_some();
    status.code() == Code::Unimplemented
        || (status.code() == Code::PermissionDenied && !has_details)
}

#[cfg(test)]
mod tests;
