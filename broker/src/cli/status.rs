//! `status`: what a running broker says about its profiles, and to an operator about its callers.

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
use super::connection::{PATIENCE, Which, connect, in_time, late, refused};
use super::table::{print, reader_gone};
use crate::clock;
use crate::error::Error;

/// How often a table on a terminal is drawn again, for the time that is left.
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
    /// Show every profile, whoever may use it; only for the broker's own user and root
    #[arg(long, conflicts_with = "watch")]
    all: bool,
}

/// Prints the caller's profiles, and for an operator the callers; with `--watch` the profiles until the broker ends. An
/// operator whom no rule gives a profile sees all of them.
pub(super) async fn run(options: Options, sockets: &[PathBuf]) -> Result<ExitCode, Error> {
    let mut broker = connect(options.broker, sockets).await?;
    let redraws = options.watch && !options.json && std::io::stdout().is_terminal();
    let show = |answer: &Answer| {
        let text = if options.json { json(answer) } else { table(answer, clock::now()) };
        // Home, and clear to the end: no flicker.
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
        // Time goes on between two changes.
        let change = tokio::select! {
            change = tokio::time::timeout(REDRAW, changes.message()) => change,
            () = &mut gone => break,
        };
        match change {
            Ok(change) => match change.map_err(refused)? {
                Some(change) => shown = Some(change.into()),
                None => break,
            },
            // The broker reports that an endpoint is paced, and not each number of it.
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

/// Asks for what an operator may see; others get their own profiles, unless that isn't what they want.
async fn ask(broker: &mut BrokerClient<Channel>, all: bool) -> Result<Answer, Error> {
    let asked = tokio::time::timeout(PATIENCE, broker.overview(OverviewRequest { all })).await;
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

/// What everybody may ask: which profiles are the caller's.
async fn own_profiles(broker: &mut BrokerClient<Channel>) -> Result<Answer, Error> {
    let own = in_time(broker.list_profiles(ListProfilesRequest {})).await?.into_inner();
    let (profiles, config_rejected) = (own.profiles, own.config_rejected);
    Ok(Answer { profiles, config_rejected, callers: None })
}

/// Whether only operators are told, or nobody by an older broker; the refusal of a caller has details.
fn is_for_others(status: &Status) -> bool {
    let has_details = status.get_details_error_info().is_some();
    status.code() == Code::Unimplemented
        || (status.code() == Code::PermissionDenied && !has_details)
}

#[cfg(test)]
mod tests;
