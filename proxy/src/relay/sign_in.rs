//! Sending a person to sign in, in the middle of a call, and going on with the call.
//!
//! Where a profile needs a sign-in and the client can open a URL for its user (elicitation in mode
//! `url`), the broker starts the device flow, the client shows where to go, and the call waits. Up
//! to 2025-11-25 the proxy asks by `elicitation/create`; in 2026-07-28 it answers the call with an
//! input request, and the client repeats the call with what its user said.
//!
//! However many calls wait for a profile, its person is sent once. The URL and the code come from
//! AWS through the broker; the proxy never sees a token.

mod state;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use sigward_proto::v1::login_response::Event;
use sigward_proto::v1::{LoginPrompt, LoginResponse, Reason};
use tokio::sync::{Mutex, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::call::{Call, Failed};
use super::{Outlet, Relay};
use crate::broker::Broker;
use crate::config::ProfileName;
use crate::error::Error;
use crate::protocol::{Generation, META_CAPABILITIES};
use crate::wire::{self, Envelope, Object};

/// Nobody waits longer for a person.
const LIMIT: Duration = Duration::from_secs(600);

/// The sign-ins that are under way.
#[derive(Debug)]
pub(super) struct SignIns {
    enabled: bool,
    broker: Broker,
    running: Mutex<HashMap<ProfileName, SignIn>>,
}

type Done = Shared<BoxFuture<'static, Result<(), Arc<Error>>>>;

/// One of them.
#[derive(Debug, Clone)]
struct SignIn {
    prompt: Arc<LoginPrompt>,
    done: Done,
    declined: CancellationToken,
    /// Whether this is whose caller asks the person.
    is_new: bool,
}

/// How a call goes on.
pub(crate) enum Next {
    /// Once more: its person has signed in.
    Again,
    /// With this response, which asks the client for what its person says.
    Respond(String),
    /// Not at all.
    Fail(Failed),
}

impl SignIns {
    pub(super) fn new(enabled: bool, broker: Broker) -> Self {
        Self { enabled, broker, running: Mutex::default() }
    }

    /// The sign-in of a profile, begun if there is none.
    async fn begin(&self, profile: &ProfileName) -> Result<SignIn, Error> {
        let mut running = self.running.lock().await;
        running.retain(|_, sign_in| sign_in.done.peek().is_none());
        if let Some(sign_in) = running.get(profile) {
            return Ok(SignIn { is_new: false, ..sign_in.clone() });
        }
        let mut events = self.broker.login(profile).await?;
        let prompt = match self.next(profile, &mut events).await? {
            Some(Event::Prompt(prompt)) => prompt,
            // Signed in already, by somebody else, in this moment.
            Some(Event::Done(_)) | None => LoginPrompt::default(),
        };
        let declined = CancellationToken::new();
        let task =
            tokio::spawn(finish(self.broker.clone(), profile.clone(), events, declined.clone()));
        let done = task.map(|done| done.unwrap_or_else(|_| Err(Arc::new(Error::NoAnswer))));
        let done = done.boxed().shared();
        let sign_in = SignIn { prompt: Arc::new(prompt), done, declined, is_new: true };
        running.insert(profile.clone(), SignIn { is_new: false, ..sign_in.clone() });
        Ok(sign_in)
    }

    async fn next(
        &self,
        profile: &ProfileName,
        events: &mut Streaming<LoginResponse>,
    ) -> Result<Option<Event>, Error> {
        next(&self.broker, profile, events).await
    }
}

async fn next(
    broker: &Broker,
    profile: &ProfileName,
    events: &mut Streaming<LoginResponse>,
) -> Result<Option<Event>, Error> {
    match events.message().await {
        Ok(response) => Ok(response.and_then(|response| response.event)),
        Err(status) => Err(broker.error(profile, &status).await),
    }
}

/// Waits for the end of a sign-in. To drop the stream is to end it at the broker, too.
async fn finish(
    broker: Broker,
    profile: ProfileName,
    mut events: Streaming<LoginResponse>,
    declined: CancellationToken,
) -> Result<(), Arc<Error>> {
    let done = async {
        loop {
            match next(&broker, &profile, &mut events).await? {
                Some(Event::Prompt(_)) => {}
                Some(Event::Done(_)) | None => return Ok(()),
            }
        }
    };
    let refused = |reason| Err(broker.refused(reason, &profile));
    let outcome = tokio::select! {
        done = done => done,
        () = declined.cancelled() => refused(Reason::LoginDenied),
        () = tokio::time::sleep(LIMIT) => refused(Reason::LoginExpired),
    };
    outcome.map_err(Arc::new)
}

impl Relay {
    /// What becomes of a call that failed for want of a sign-in of `profile`.
    pub(crate) async fn sign_in(
        self: &Arc<Self>,
        call: &Call,
        profile: &ProfileName,
        out: &Outlet,
    ) -> Next {
        let sign_in = match self.shared.sign_ins.begin(profile).await {
            Ok(sign_in) => sign_in,
            Err(error) => return Next::Fail(error.into()),
        };
        if sign_in.done.peek().is_none() && !sign_in.prompt.verification_uri.is_empty() {
            if call.head.generation.is_stateless() {
                let result = state::input_required(
                    call.text(),
                    profile,
                    &elicitation(profile, &sign_in.prompt, None),
                );
                return Next::Respond(wire::result_response(&call.head.id, &result));
            }
            if sign_in.is_new {
                let relay = Arc::clone(self);
                let (profile, sign_in, out) = (profile.clone(), sign_in.clone(), out.clone());
                tokio::spawn(async move { relay.ask(&profile, &sign_in, &out).await });
            }
        }
        match sign_in.done.await {
            Ok(()) => Next::Again,
            Err(error) => Next::Fail(Error::Shared(error).into()),
        }
    }

    /// The call that was answered with an input request of ours, as it was before; none if `call`
    /// is another. Waits for the sign-in that it was about.
    pub(crate) async fn resumed(&self, call: &Call) -> Result<Option<Call>, Failed> {
        if !call.head.generation.is_stateless() {
            return Ok(None);
        }
        let Some(resumed) = state::resumed(call.text()) else { return Ok(None) };
        if let Some(profile) = self.shared.profiles.named(&resumed.profile) {
            self.signed_in(profile, resumed.accepted).await?;
        }
        Ok(Some(call.with_text(resumed.text)))
    }

    /// Waits for the sign-in that the client was asked for in an earlier answer.
    async fn signed_in(&self, profile: &ProfileName, accepted: bool) -> Result<(), Failed> {
        let sign_in = self.shared.sign_ins.running.lock().await.get(profile).cloned();
        // None is under way any more: the signature will tell how it ended.
        let Some(sign_in) = sign_in else { return Ok(()) };
        if !accepted {
            sign_in.declined.cancel();
        }
        sign_in.done.await.map_err(|error| Error::Shared(error).into())
    }

    /// Whether the person behind a call can be sent somewhere.
    pub(crate) fn can_sign_in(&self, call: &Call) -> bool {
        if !self.shared.sign_ins.enabled || call.head.method == "initialize" {
            return false;
        }
        match &call.head.generation {
            Generation::Sessions => self.context.handshake.params().is_some_and(|params| {
                let params = Object::parse(&params).ok();
                opens_urls(params.and_then(|params| params.find_object("capabilities")))
            }),
            Generation::Stateless(_) => {
                let params = Envelope::parse(call.text()).ok().and_then(|it| it.params_object());
                let meta = params.and_then(|params| params.find_object("_meta"));
                opens_urls(meta.and_then(|meta| meta.find_object(META_CAPABILITIES)))
            }
        }
    }

    /// Asks the client to send its person (2025-11-25, Elicitation, "URL Mode").
    async fn ask(self: Arc<Self>, profile: &ProfileName, sign_in: &SignIn, out: &Outlet) {
        let (answer, mut answered) = oneshot::channel();
        let id = self.questions.ask_ourselves(answer);
        let elicitation_id = format!("sigward-sign-in-{}", id.token());
        let params = elicitation(profile, &sign_in.prompt, Some(&elicitation_id));
        let _ = out.send(wire::request(&id, "elicitation/create", &params).into()).await;
        let mut done = sign_in.done.clone();
        tokio::select! {
            answer = &mut answered => {
                if !answer.is_ok_and(|answer| is_accepted(&answer)) {
                    sign_in.declined.cancel();
                }
            }
            _ = &mut done => {}
        }
        if done.await.is_ok() {
            let params = format!(r#"{{"elicitationId":{}}}"#, wire::quote(&elicitation_id));
            let complete = wire::notification("notifications/elicitation/complete", Some(&params));
            let _ = out.send(complete.into()).await;
        }
    }
}

/// Whether a response to an elicitation says yes.
fn is_accepted(response: &str) -> bool {
    let envelope = Envelope::parse(response).ok();
    let result =
        envelope.and_then(|envelope| envelope.result).and_then(|it| Object::parse(it).ok());
    result.is_some_and(|result| result.find_string("action").as_deref() == Some("accept"))
}

/// The params of `elicitation/create`.
fn elicitation(profile: &ProfileName, prompt: &LoginPrompt, id: Option<&str>) -> String {
    let complete = &prompt.verification_uri_complete;
    let url = if complete.is_empty() { &prompt.verification_uri } else { complete };
    let message = format!(
        "Sign in to AWS for the profile {profile}. Check that the page shows the code {}.",
        prompt.user_code
    );
    let id = id.map(|id| format!(r#""elicitationId":{},"#, wire::quote(id))).unwrap_or_default();
    format!(
        r#"{{"mode":"url",{id}"url":{},"message":{}}}"#,
        wire::quote(url),
        wire::quote(&message)
    )
}

fn opens_urls(capabilities: Option<Object<'_>>) -> bool {
    let elicitation = capabilities.and_then(|it| it.find_object("elicitation"));
    elicitation.is_some_and(|elicitation| elicitation.find_object("url").is_some())
}

#[cfg(test)]
mod tests;
