//! Asks the user to sign in during a call, and then continues the call.
//!
//! If a profile needs a sign-in and the client can open a URL for its user (elicitation in mode
//! `url`), the broker starts the device flow, the client shows the URL, and the call waits. Up to
//! 2025-11-25 the proxy sends `elicitation/create`; in 2026-07-28 it answers the call with an input
//! request, and the client repeats the call with its user's answer.
//!
//! There is one device flow at the broker for each profile, however many calls wait for it. Each waiting client asks
//! its own user once. If a client declines, its own calls fail; the flow ends when no client waits for it. The URL and
//! the code come from AWS through the broker; the proxy never gets a token.

mod state;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use sigward_proto::v1::login_response::Event;
use sigward_proto::v1::{LoginPrompt, LoginResponse, Reason};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::failed::{Failed, sentence};
use super::questions::Questions;
use super::shared::Outlet;
use crate::attempt::Attempt;
use crate::broker::Broker;
use crate::config::{ProfileName, Profiles};
use crate::error::Error;
use crate::protocol::Generation;
use crate::request::Request;
use crate::session::Handshake;
use crate::sync::lock;
use crate::wire::{self, Envelope, Object};

/// The longest wait for a user.
const LIMIT: Duration = Duration::from_secs(600);

/// The sign-ins in flight, of all clients.
#[derive(Debug)]
pub(super) struct SignIns {
    enabled: bool,
    broker: Broker,
    by_profile: Mutex<HashMap<ProfileName, Arc<Slot>>>,
}

/// The sign-in of one profile.
#[derive(Debug, Default)]
struct Slot {
    beginning: Attempt,
    flow: Mutex<Weak<Flow>>,
}

type Done = Shared<BoxFuture<'static, Result<(), Arc<Error>>>>;

/// One device flow at the broker. It ends when its last waiting call is dropped.
#[derive(Debug)]
struct Flow {
    prompt: LoginPrompt,
    done: Done,
    unwanted: CancellationToken,
    /// Whether the flow continues while no call waits.
    is_kept: AtomicBool,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.unwanted.cancel();
    }
}

/// The question to one client's user; all calls of the client that wait for the sign-in share it.
#[derive(Debug)]
pub(super) struct Asked {
    flow: Arc<Flow>,
    declined: CancellationToken,
    /// Cancelled when no call waits any more.
    no_call_waits: CancellationToken,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.no_call_waits.cancel();
    }
}

/// How a call continues.
pub(crate) enum Next {
    /// Repeats the call: its user has signed in.
    Again,
    /// Ends the call with this response, which asks the client for its user's answer.
    Respond(String),
    /// Ends the call with this failure.
    Fail(Failed),
}

impl Flow {
    fn is_running(&self) -> bool {
        self.done.peek().is_none()
    }

    /// Keeps the flow running until it is done, even while no call waits.
    fn keep(self: &Arc<Self>) {
        if !self.is_kept.swap(true, Ordering::Relaxed) {
            let flow = Arc::clone(self);
            tokio::spawn(async move { flow.done.clone().await });
        }
    }
}

impl SignIns {
    pub(super) fn new(enabled: bool, broker: Broker) -> Self {
        Self { enabled, broker, by_profile: Mutex::default() }
    }

    /// Returns the running sign-in of a profile, or starts one.
    async fn begin(&self, profile: &ProfileName) -> Result<Arc<Flow>, Error> {
        let slot = Arc::clone(lock(&self.by_profile).entry(profile.clone()).or_default());
        let running = || lock(&slot.flow).upgrade().filter(|flow| flow.is_running());
        let begin = async {
            let flow = Arc::new(self.start(profile).await?);
            *lock(&slot.flow) = Arc::downgrade(&flow);
            Ok(flow)
        };
        slot.beginning.once(running, begin).await
    }

    /// The running sign-in of a profile.
    fn running(&self, profile: &ProfileName) -> Option<Arc<Flow>> {
        let slot = lock(&self.by_profile).get(profile).cloned()?;
        let flow = lock(&slot.flow).upgrade();
        flow.filter(|flow| flow.is_running())
    }

    /// The error of a call whose user declined to sign in.
    fn declined(&self, profile: &ProfileName) -> Error {
        self.broker.refused(Reason::LoginDenied, profile)
    }

    async fn start(&self, profile: &ProfileName) -> Result<Flow, Error> {
        let mut events = self.broker.login(profile).await?;
        let prompt = match next(&self.broker, profile, &mut events).await? {
            Some(Event::Prompt(prompt)) => prompt,
            // The profile was signed in by another process in the meantime.
            Some(Event::Done(_)) | None => LoginPrompt::default(),
        };
        let unwanted = CancellationToken::new();
        let finish = finish(self.broker.clone(), profile.clone(), events, unwanted.clone());
        let done = tokio::spawn(finish)
            .map(|done| done.unwrap_or_else(|_| Err(Arc::new(Error::NoAnswer))))
            .boxed()
            .shared();
        Ok(Flow { prompt, done, unwanted, is_kept: AtomicBool::new(false) })
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

/// Waits for the end of a sign-in. Dropping the stream ends it at the broker, too.
async fn finish(
    broker: Broker,
    profile: ProfileName,
    mut events: Streaming<LoginResponse>,
    unwanted: CancellationToken,
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
        () = unwanted.cancelled() => refused(Reason::LoginDenied),
        () = tokio::time::sleep(LIMIT) => refused(Reason::LoginExpired),
    };
    outcome.map_err(Arc::new)
}

/// The sign-ins that one client's user is asked for.
#[derive(Debug)]
pub(super) struct UserSignIns {
    all: Arc<SignIns>,
    profiles: Profiles,
    questions: Arc<Questions>,
    asked: Mutex<HashMap<ProfileName, Weak<Asked>>>,
}

impl UserSignIns {
    pub(super) fn new(all: Arc<SignIns>, profiles: Profiles, questions: Arc<Questions>) -> Self {
        Self { all, profiles, questions, asked: Mutex::default() }
    }

    /// Signs in for a call that failed because `profile` needs it, and returns how to continue.
    pub(super) async fn sign_in(
        &self,
        call: &Request,
        profile: &ProfileName,
        out: &Outlet,
    ) -> Next {
        let flow = match self.all.begin(profile).await {
            Ok(flow) => flow,
            Err(error) => return Next::Fail(error.into()),
        };
        let asks = flow.is_running() && !flow.prompt.verification_uri.is_empty();
        if asks && call.is_stateless() {
            flow.keep();
            let params = elicitation(profile, &flow.prompt, None);
            let result = state::input_required(call.text(), profile, &params);
            return Next::Respond(wire::result_response(call.id(), &result));
        }
        let asked = asks.then(|| self.asked(profile, &flow, out));
        let declined = async {
            match &asked {
                Some(asked) => asked.declined.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = flow.done.clone() => match done {
                Ok(()) => Next::Again,
                Err(error) => Next::Fail(Error::Shared(error).into()),
            },
            () = declined => Next::Fail(self.all.declined(profile).into()),
        }
    }

    /// The client's open question about a sign-in, or a new one.
    fn asked(&self, profile: &ProfileName, flow: &Arc<Flow>, out: &Outlet) -> Arc<Asked> {
        let mut all = lock(&self.asked);
        let open = all.get(profile).and_then(Weak::upgrade);
        if let Some(open) = open
            && Arc::ptr_eq(&open.flow, flow)
            && !open.declined.is_cancelled()
        {
            return open;
        }
        let (declined, no_call_waits) = (CancellationToken::new(), CancellationToken::new());
        let asked = Arc::new(Asked { flow: Arc::clone(flow), declined, no_call_waits });
        all.insert(profile.clone(), Arc::downgrade(&asked));
        let question = self.ask(profile, &asked, out);
        tokio::spawn(question);
        asked
    }

    /// If `call` continues a request that was answered with an input request of the proxy, waits
    /// for its sign-in and returns the original request; otherwise `None`.
    pub(super) async fn resumed(&self, call: &Request) -> Result<Option<Request>, Failed> {
        if !call.is_stateless() {
            return Ok(None);
        }
        let Some(resumed) = state::resumed(call.text()) else { return Ok(None) };
        if let Some(profile) = self.profiles.named(&resumed.profile) {
            self.signed_in(profile, resumed.accepted).await?;
        }
        let resumed = call.with_text(resumed.text);
        resumed.map(Some).map_err(|fault| Failed::Params(sentence(&fault.to_string())))
    }

    /// Waits for the sign-in that an earlier answer asked the client for.
    async fn signed_in(&self, profile: &ProfileName, accepted: bool) -> Result<(), Failed> {
        if !accepted {
            return Err(self.all.declined(profile).into());
        }
        // If none is running, the next signature shows how it ended.
        let Some(flow) = self.all.running(profile) else { return Ok(()) };
        flow.done.clone().await.map_err(|error| Error::Shared(error).into())
    }

    /// Whether the client can send the user behind a call to a sign-in page.
    pub(super) fn can_sign_in(&self, call: &Request, handshake: &Handshake) -> bool {
        if !self.all.enabled || call.method() == "initialize" {
            return false;
        }
        match call.generation() {
            Generation::Sessions => handshake.params().is_some_and(|params| {
                let params = Object::parse(&params).ok();
                opens_urls(params.and_then(|params| params.find_object("capabilities")))
            }),
            Generation::Stateless(_) => {
                opens_urls(call.capabilities().and_then(|text| Object::parse(text).ok()))
            }
        }
    }

    /// Asks the client to send its user to the page (2025-11-25, Elicitation, "URL Mode").
    fn ask(
        &self,
        profile: &ProfileName,
        asked: &Asked,
        out: &Outlet,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (answer, mut answered) = oneshot::channel();
        let id = self.questions.ask_for_proxy(answer);
        let elicitation_id = format!("sigward-sign-in-{}", id.token());
        let params = elicitation(profile, &asked.flow.prompt, Some(&elicitation_id));
        let (mut done, out) = (asked.flow.done.clone(), out.clone());
        let (declined, no_call_waits) = (asked.declined.clone(), asked.no_call_waits.clone());
        // The question must not keep the flow alive: a user who doesn't answer doesn't want it.
        let flow = Arc::downgrade(&asked.flow);
        async move {
            let _ = out.send(wire::request(&id, "elicitation/create", &params).into()).await;
            tokio::select! {
                answer = &mut answered => {
                    if !answer.is_ok_and(|answer| is_accepted(&answer)) {
                        declined.cancel();
                        return;
                    }
                    // A user who has opened the page can finish there, whatever happens to the
                    // call.
                    if let Some(flow) = flow.upgrade() {
                        flow.keep();
                    }
                }
                _ = &mut done => {}
                () = no_call_waits.cancelled() => {
                    let params = format!(
                        r#"{{"requestId":{},"reason":"no call waits for the sign-in any more"}}"#,
                        id.token()
                    );
                    let end = wire::notification("notifications/cancelled", Some(&params));
                    let _ = out.send(end.into()).await;
                    return;
                }
            }
            if done.await.is_ok() {
                let params = format!(r#"{{"elicitationId":{}}}"#, wire::quote(&elicitation_id));
                let complete =
                    wire::notification("notifications/elicitation/complete", Some(&params));
                let _ = out.send(complete.into()).await;
            }
        }
    }
}

/// Whether a response to an elicitation is `accept`.
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
