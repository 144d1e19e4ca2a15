//! `login`: signs a person in through the running broker.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use sigward_proto::v1::login_response::Event;
use sigward_proto::v1::{ListProfilesRequest, LoginDone, LoginPrompt, LoginRequest, Reason};
use tonic::Status;
use tonic_types::StatusExt;

use super::connection::{TIMEOUT, Which, connect, in_time, late, refused};
use super::table::{print, shown, time_left};
use crate::clock;
use crate::error::Error;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Profile to sign in for, by its name in the broker
    profile: String,
    #[command(flatten)]
    broker: Which,
}

/// Shows the code, and waits until the sign-in has ended.
pub(super) async fn run(options: Options, sockets: &[PathBuf]) -> Result<ExitCode, Error> {
    let Options { profile, broker } = options;
    let mut broker = connect(broker, sockets).await?;
    let failed = |status: Status| Error::Broker(explain(&profile, &status));
    let request = LoginRequest { profile: profile.clone() };
    let begun = tokio::time::timeout(TIMEOUT, broker.login(request)).await.map_err(|_| late())?;
    let mut events = begun.map_err(failed)?.into_inner();
    while let Some(message) = events.message().await.map_err(failed)? {
        match message.event {
            Some(Event::Prompt(prompt)) => {
                print(&invite(&profile, &prompt, clock::now()));
            }
            Some(Event::Done(done)) => {
                let profiles = in_time(broker.list_profiles(ListProfilesRequest {})).await?;
                let profiles = profiles.into_inner().profiles.into_iter();
                let identity = profiles
                    .filter(|listed| listed.name == profile)
                    .map(|listed| listed.identity_arn)
                    .next();
                print(&report(&profile, &done, identity.as_deref(), clock::now()));
                return Ok(ExitCode::SUCCESS);
            }
            // A message of a newer broker.
            None => {}
        }
    }
    Err(Error::Broker("the broker ended before the sign-in was done: try again".to_owned()))
}

fn invite(profile: &str, prompt: &LoginPrompt, now: SystemTime) -> String {
    let expiry = prompt.expiry.and_then(|expiry| expiry.try_into().ok());
    format!(
        "To sign in for the profile {profile}, open\n\n    {}\n\nand check that it shows the code {}. \
         Without a browser on this machine: open\n{} elsewhere, and enter it there.\n\nWaiting, for {} at \
         most …\n",
        shown(&prompt.verification_uri_complete),
        shown(&prompt.user_code),
        shown(&prompt.verification_uri),
        time_left(expiry, now),
    )
}

fn report(profile: &str, done: &LoginDone, identity: Option<&str>, now: SystemTime) -> String {
    let expiry: Option<SystemTime> = done.expiry.and_then(|expiry| expiry.try_into().ok());
    let until = expiry.map(|expiry| crate::log::timestamp(expiry, " ")).unwrap_or_default();
    let who = identity.filter(|identity| !identity.is_empty());
    let who = who.map(|identity| format!(" as {}", shown(identity))).unwrap_or_default();
    let left = time_left(expiry, now);
    let mut text = format!("Signed in for {profile}{who}, until {until} UTC ({left}).\n");
    if done.in_memory {
        text += "The SSO cache can't be written: the broker keeps the token in memory, and needs another \
                 sign-in after a restart.\n";
    }
    text
}

/// The failure, and what to do next.
fn explain(profile: &str, status: &Status) -> String {
    let details = status.get_error_details();
    let reason = details.error_info().and_then(|info| Reason::from_name(&info.reason));
    match reason {
        Some(Reason::ProfileNotAllowed) => {
            format!("the broker has no profile {profile} for you: see sigward-broker status")
        }
        Some(Reason::LoginNotAllowed) => {
            "no rule of the broker lets you sign in: its configuration needs login = true in one of your rules"
                .to_owned()
        }
        Some(Reason::NotALoginProfile) => {
            format!(
                "sign-ins for {profile} aren't possible here: its credentials don't come from IAM Identity Center. If it has a \
                 login_session, run aws login as the broker's user"
            )
        }
        Some(Reason::LoginDenied) => "the sign-in was declined".to_owned(),
        Some(Reason::LoginExpired) => {
            format!("the code expired before anyone signed in; for a new one: sigward-broker login {profile}")
        }
        Some(Reason::ProfileMisconfigured) => format!(
            "sign-ins for the profile {profile} aren't possible: check its sso_session, sso_start_url and sso_region; the \
             broker's log says more"
        ),
        Some(Reason::CredentialsUnavailable) => {
            "IAM Identity Center can't be reached: the broker's log says why".to_owned()
        }
        _ => refused(status.clone()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_prompt_has_the_url_and_the_code() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let prompt = LoginPrompt {
            verification_uri: "https://x/device".to_owned(),
            verification_uri_complete: "https://x/device?user_code=AB\u{1b}[2J".to_owned(),
            user_code: "ABCD-EFGH".to_owned(),
            expiry: Some((now + Duration::from_secs(600)).into()),
        };
        let text = invite("dev", &prompt, now);
        for part in ["the profile dev", "user_code=AB[2J\n", "ABCD-EFGH", "for 10m at most"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn the_result_has_the_expiry_and_where_the_token_is_kept() {
        let now = SystemTime::UNIX_EPOCH;
        let expiry = Some((now + Duration::from_secs(3600)).into());
        let shared = report("dev", &LoginDone { expiry, in_memory: false }, Some("arn:x"), now);
        assert_eq!(shared, "Signed in for dev as arn:x, until 1970-01-01 01:00:00 UTC (1h 00m).\n");
        let kept = report("dev", &LoginDone { expiry, in_memory: true }, None, now);
        assert!(
            kept.starts_with("Signed in for dev, until") && kept.contains("in memory"),
            "{kept}"
        );
    }
}
