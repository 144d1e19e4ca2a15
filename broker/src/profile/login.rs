//! Signs a person in to IAM Identity Center: OAuth 2.0 device authorization, RFC 8628.
//!
//! Invariant: there is one sign-in per session at a time, for any number of callers, and it ends
//! with the last of them: a code that is no longer shown can't be used.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use aws_sdk_ssooidc::Client;
use aws_sdk_ssooidc::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ssooidc::operation::create_token::CreateTokenOutput;
use aws_sdk_ssooidc::operation::start_device_authorization::{
    StartDeviceAuthorizationError, StartDeviceAuthorizationOutput,
};
use aws_types::SdkConfig;
use aws_types::region::Region;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::token::{Renewal, Session, Token, Tokens};
use super::token_error::{self, TokenError};
use crate::clock;
use crate::error::{Denial, Reason, shown, with_causes};
use crate::secret::Secret;

const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// The name on the page where people allow the sign-in.
const CLIENT_NAME: &str = "sigward";
/// The default poll interval in seconds, and the increment for `slow_down` (RFC 8628, 3.5).
const INTERVAL: u32 = 5;
/// The time before its expiry from which a registration isn't used any more: renewals of the token
/// need it too.
const REGISTRATION_REST: Duration = Duration::from_secs(24 * 3600);

/// The prompt for the person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The URL for entering the code.
    pub uri: String,
    /// The same URL with the code filled in.
    pub uri_complete: String,
    /// The code.
    pub code: String,
    /// The expiry of the code.
    pub expiry: SystemTime,
}

/// A completed sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// The expiry of the token, unless it is renewed.
    pub expiry: SystemTime,
    /// Whether the token is kept only in memory.
    pub in_memory: bool,
}

/// The progress of a sign-in.
#[derive(Debug, Clone)]
pub enum Stage {
    /// A code was requested from the server.
    Asking,
    /// A person has to act.
    Prompted(Prompt),
    /// The sign-in has ended.
    Over(Result<Done, Denial>),
}

/// A sign-in; it continues until it is dropped by all holders.
#[derive(Debug)]
pub struct Login {
    stage: watch::Receiver<Stage>,
    task: AbortHandle,
}

/// The sign-ins in progress.
#[derive(Debug)]
pub(super) struct Logins {
    under_way: Mutex<HashMap<String, Weak<Login>>>,
    registrations: Arc<Registrations>,
    tokens: Arc<Tokens>,
    /// The length of a second of the server, which is shorter in tests.
    second: Duration,
}

impl Login {
    /// A receiver of the progress.
    #[must_use]
    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.clone()
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Logins {
    pub(super) fn new(tokens: Arc<Tokens>) -> Self {
        let (under_way, registrations) = (Mutex::default(), Arc::default());
        Self { under_way, registrations, tokens, second: Duration::from_secs(1) }
    }

    /// Joins the sign-in in progress for the session, or starts one. `done` is run to completion
    /// once there is a token, before the result is published.
    pub(super) fn join(
        &self,
        session: Session,
        config: &SdkConfig,
        done: impl Future<Output = ()> + Send + 'static,
    ) -> Arc<Login> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, login| login.strong_count() > 0);
        let entry = under_way.entry(session.key().to_owned());
        if let Entry::Occupied(entry) = &entry
            && let Some(login) = entry.get().upgrade()
            && !matches!(*login.stage.borrow(), Stage::Over(_))
        {
            return login;
        }
        let (progress, stage) = watch::channel(Stage::Asking);
        let region = Region::new(session.region.clone());
        let flow = Flow {
            client: Client::new(&config.to_builder().region(region).build()),
            session,
            registrations: Arc::clone(&self.registrations),
            tokens: Arc::clone(&self.tokens),
            second: self.second,
        };
        let task = tokio::spawn(async move {
            let outcome = flow.run(&progress).await;
            match &outcome {
                Ok(_) => done.await,
                Err(denial) => tracing::info!(%denial, "the sign-in failed"),
            }
            progress.send_replace(Stage::Over(outcome));
        });
        let login = Arc::new(Login { stage, task: task.abort_handle() });
        match entry {
            Entry::Occupied(mut entry) => drop(entry.insert(Arc::downgrade(&login))),
            Entry::Vacant(entry) => drop(entry.insert(Arc::downgrade(&login))),
        }
        login
    }
}

struct Flow {
    client: Client,
    session: Session,
    registrations: Arc<Registrations>,
    tokens: Arc<Tokens>,
    second: Duration,
}

/// The broker's registration at a server: valid for weeks, and for all people who sign in there.
#[derive(Debug, Clone)]
struct Registration {
    client_id: String,
    client_secret: Secret,
    expiry: SystemTime,
}

/// The registrations, by the region and the scopes that they were requested with.
#[derive(Debug, Default)]
struct Registrations(Mutex<HashMap<(String, Vec<String>), Registration>>);

impl Registrations {
    fn of(&self, session: &Session) -> Option<Registration> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, registration| clock::now() + REGISTRATION_REST < registration.expiry);
        known.get(&(session.region.clone(), session.scopes.clone())).cloned()
    }

    fn keep(&self, session: &Session, registration: Option<&Registration>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (session.region.clone(), session.scopes.clone());
        match registration {
            Some(registration) => drop(known.insert(key, registration.clone())),
            None => drop(known.remove(&key)),
        }
    }
}

impl Flow {
    async fn run(self, progress: &watch::Sender<Stage>) -> Result<Done, Denial> {
        let (registration, authorization) = match self.registrations.of(&self.session) {
            None => self.authorize_anew().await?,
            Some(known) => match self.authorize(&known).await {
                Ok(authorization) => (known, authorization),
                // The server may have forgotten the registration.
                Err(error) if !TokenError::of(&error).passes() => {
                    self.registrations.keep(&self.session, None);
                    self.authorize_anew().await?
                }
                Err(error) => return Err(not_started(&error, &known)),
            },
        };
        let started = Instant::now();
        let life = u32::try_from(authorization.expires_in).unwrap_or_default();
        let (Some(code), Some(device_code), Some(uri)) =
            (authorization.user_code, authorization.device_code, authorization.verification_uri)
        else {
            return Err(unreadable());
        };
        let uri_complete = authorization.verification_uri_complete.unwrap_or_else(|| uri.clone());
        let expiry = clock::now() + self.second * life;
        progress.send_replace(Stage::Prompted(Prompt { uri, uri_complete, code, expiry }));
        let deadline = started + self.second * life;
        let interval = u32::try_from(authorization.interval).ok().filter(|given| *given > 0);
        let device_code = Secret::new(device_code);
        let polling = self.poll(&registration, &device_code, interval.unwrap_or(INTERVAL));
        let late =
            |_| Denial::new(Reason::LoginExpired, "the code expired before anyone entered it");
        let answer = tokio::time::timeout_at(deadline, polling).await.map_err(late)??;
        self.keep(registration, answer).await
    }

    async fn authorize_anew(
        &self,
    ) -> Result<(Registration, StartDeviceAuthorizationOutput), Denial> {
        let registration = self.register().await?;
        let authorization = self.authorize(&registration).await;
        let authorization = authorization.map_err(|error| not_started(&error, &registration))?;
        self.registrations.keep(&self.session, Some(&registration));
        Ok((registration, authorization))
    }

    async fn authorize(
        &self,
        registration: &Registration,
    ) -> Result<StartDeviceAuthorizationOutput, SdkError<StartDeviceAuthorizationError>> {
        self.client
            .start_device_authorization()
            .client_id(&registration.client_id)
            .client_secret(registration.client_secret.expose())
            .start_url(&self.session.start_url)
            .send()
            .await
    }

    async fn register(&self) -> Result<Registration, Denial> {
        let scopes = Some(self.session.scopes.clone()).filter(|scopes| !scopes.is_empty());
        let answer = self
            .client
            .register_client()
            .client_name(CLIENT_NAME)
            .client_type("public")
            .set_scopes(scopes)
            .send()
            .await
            .map_err(|error| refused("RegisterClient", &error, &[]))?;
        let expiry = u64::try_from(answer.client_secret_expires_at).unwrap_or_default();
        let (Some(client_id), Some(client_secret)) = (answer.client_id, answer.client_secret)
        else {
            return Err(unreadable());
        };
        Ok(Registration {
            client_id,
            client_secret: Secret::new(client_secret),
            expiry: SystemTime::UNIX_EPOCH + Duration::from_secs(expiry),
        })
    }

    /// Polls for the token until the person has decided.
    async fn poll(
        &self,
        registration: &Registration,
        device_code: &Secret,
        interval: u32,
    ) -> Result<CreateTokenOutput, Denial> {
        let mut interval = interval;
        let secrets = [registration.client_secret.expose(), device_code.expose()];
        loop {
            tokio::time::sleep(self.second * interval).await;
            let asked = self
                .client
                .create_token()
                .client_id(&registration.client_id)
                .client_secret(registration.client_secret.expose())
                .grant_type(DEVICE_CODE)
                .device_code(device_code.expose())
                // The SDK would retry `slow_down` by itself.
                .customize()
                .config_override(
                    aws_sdk_ssooidc::config::Builder::new()
                        .retry_config(aws_sdk_ssooidc::config::retry::RetryConfig::disabled()),
                )
                .send()
                .await;
            let error = match asked {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match TokenError::of(&error) {
                TokenError::AuthorizationPending => {}
                TokenError::SlowDown => interval += INTERVAL,
                TokenError::AccessDenied => {
                    return Err(Denial::new(Reason::LoginDenied, "the user declined"));
                }
                TokenError::ExpiredToken => {
                    return Err(Denial::new(Reason::LoginExpired, "the code has expired"));
                }
                // The server has an error or can't be reached: the code may still be valid.
                other if other.passes() => {
                    let error = shown(&with_causes(&error), &secrets);
                    tracing::debug!(error, "the state of the sign-in can't be read");
                }
                _ => return Err(refused("CreateToken", &error, &secrets)),
            }
        }
    }

    async fn keep(
        &self,
        registration: Registration,
        answer: CreateTokenOutput,
    ) -> Result<Done, Denial> {
        let access = Secret::new(answer.access_token.ok_or_else(unreadable)?);
        let life = u64::try_from(answer.expires_in).unwrap_or_default();
        let expiry = clock::now() + Duration::from_secs(life);
        let renewal = answer.refresh_token.map(|refresh| Renewal {
            refresh: Secret::new(refresh),
            client_id: registration.client_id,
            client_secret: registration.client_secret,
            registration_expiry: registration.expiry,
        });
        let token = Token { access, expiry, renewal };
        let in_memory = self.tokens.store(&self.session, token).await;
        Ok(Done { expiry, in_memory })
    }
}

fn unreadable() -> Denial {
    Denial::new(Reason::CredentialsUnavailable, "the sign-in server's answer lacks a field")
}

fn not_started(
    error: &SdkError<StartDeviceAuthorizationError>,
    registration: &Registration,
) -> Denial {
    refused("StartDeviceAuthorization", error, &[registration.client_secret.expose()])
}

/// The denial for a refused step without the person: the start URL or the region is wrong, or the
/// server has an error. The step was called with `secrets`.
fn refused<E>(step: &str, error: &SdkError<E>, secrets: &[&str]) -> Denial
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let reason = match TokenError::of(error).passes() {
        true => Reason::CredentialsUnavailable,
        false => Reason::ProfileMisconfigured,
    };
    token_error::refused(reason, &format!("sso-oidc:{step}"), error, secrets)
}

#[cfg(test)]
mod tests;
