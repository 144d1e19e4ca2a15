//! Credentials of an `aws login` session, which is renewed before its keys expire.
//!
//! The SDK's own provider renews the session for each profile separately, so that one uses a
//! refresh token that another one has just used; it loses renewals that it can't write, and panics
//! when the clock steps back.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_signin::operation::create_o_auth2_token::CreateOAuth2TokenOutput;
use aws_sdk_signin::types::CreateOAuth2TokenRequestBody;
use aws_types::SdkConfig;
use aws_types::region::Region;
use tokio::time::Instant;

use crate::error::{Denial, Reason};
use crate::profile::dpop::ProofKey;
use crate::profile::login_token::{LoginToken, LoginTokens};
use crate::profile::token_error::not_renewed;

/// The time before the expiry of its keys at which a session is renewed, like in the AWS CLI.
const EARLY: Duration = Duration::from_secs(5 * 60);

/// The session's credentials, from the cache in `directory`.
pub(super) async fn credentials(
    session: &str,
    directory: Option<&Path>,
    tokens: &Arc<LoginTokens>,
    config: &SdkConfig,
    now: SystemTime,
) -> Result<Credentials, Denial> {
    let Some(directory) = directory else {
        let detail = "aws login keeps its sessions below HOME, or in AWS_LOGIN_CACHE_DIRECTORY: \
                      neither is set";
        return Err(Denial::new(Reason::ProfileMisconfigured, detail));
    };
    let path = LoginTokens::path(directory, session);
    valid(&path, tokens, config, now).await.map(|token| token.keys)
}

/// The session with keys that are valid at `now`, renewed if necessary.
async fn valid(
    path: &Path,
    tokens: &Arc<LoginTokens>,
    config: &SdkConfig,
    now: SystemTime,
) -> Result<LoginToken, Denial> {
    let token = tokens.find(path).await?;
    if now + EARLY < token.expiry {
        return Ok(token);
    }
    let started = Instant::now();
    let alone = tokens.renewing(path).lock_owned().await;
    let now = now + started.elapsed();
    // Another profile, or the AWS CLI, may have renewed the session while waiting for the lock.
    let token = tokens.find(path).await?;
    if now + EARLY < token.expiry {
        return Ok(token);
    }
    let (before, store, file) = (token.clone(), Arc::clone(tokens), path.to_owned());
    let config = config.clone();
    // A separate task: if it were cancelled with the load, the refresh token that the server has
    // just issued could be lost.
    let renewing = tokio::spawn(async move {
        let _alone = alone;
        let renewed = renew(&before, &config, now).await?;
        store.store(&file, &before, renewed).await
    });
    let renewed = renewing.await.unwrap_or_else(|_| {
        Err(Denial::new(Reason::CredentialsUnavailable, "the renewal ended in a panic: a bug"))
    });
    let Err(denial) = renewed else { return renewed };
    // Another program may have renewed the session and used the refresh token before.
    let other = tokens.find(path).await?;
    if other.refresh != token.refresh && now < other.expiry {
        Ok(other)
    } else if now < token.expiry {
        tracing::warn!(%denial, "the login session wasn't renewed: its keys are used until they expire");
        Ok(token)
    } else {
        Err(denial)
    }
}

/// Exchanges the refresh token for the next keys, with a proof of possession of the session's
/// private key.
async fn renew(
    token: &LoginToken,
    config: &SdkConfig,
    now: SystemTime,
) -> Result<LoginToken, Denial> {
    let unusable = "the private key in the login session's cache can't be used";
    let key = ProofKey::of(token.dpop_key.expose())
        .ok_or_else(|| Denial::new(Reason::LoginRequired, unusable))?;
    let region = token.region.clone().map(Region::new).or_else(|| config.region().cloned());
    let config = config.to_builder().region(region).build();
    let body = CreateOAuth2TokenRequestBody::builder()
        .client_id(&token.client_id)
        .grant_type("refresh_token")
        .refresh_token(token.refresh.expose())
        .build()
        .map_err(|_| unreadable("the login session's cache"))?;
    let started = Instant::now();
    let answer = aws_sdk_signin::Client::new(&config)
        .create_o_auth2_token()
        .token_input(body)
        .customize()
        // A new proof for each attempt, because it is valid for one request.
        .map_request(move |mut request| {
            let proof = key.proof(request.uri(), now + started.elapsed());
            let proof = proof.ok_or_else(|| io::Error::other("no proof can be made"))?;
            request.headers_mut().try_insert("dpop", proof).map_err(io::Error::other)?;
            Ok::<_, io::Error>(request)
        })
        .send()
        .await
        .map_err(|error| {
            let secrets = [token.refresh.expose(), token.dpop_key.expose()];
            not_renewed(&error, "signin:CreateOAuth2Token", &secrets)
        })?;
    next(token, answer, now).ok_or_else(|| unreadable("the sign-in server's answer"))
}

/// The renewed session; `None` if the response is incomplete.
fn next(
    token: &LoginToken,
    answer: CreateOAuth2TokenOutput,
    now: SystemTime,
) -> Option<LoginToken> {
    let answer = answer.token_output?;
    let access = answer.access_token?;
    let keys = [access.access_key_id(), access.secret_access_key(), access.session_token()];
    let life = u64::try_from(answer.expires_in).ok().filter(|life| *life > 0)?;
    if keys.iter().any(|part| part.is_empty()) || answer.refresh_token.is_empty() {
        return None;
    }
    let expiry = now + Duration::from_secs(life);
    token.renewed(keys, answer.refresh_token, expiry).ok()
}

fn unreadable(what: &str) -> Denial {
    Denial::new(Reason::CredentialsUnavailable, format!("{what} lacks a field"))
}
