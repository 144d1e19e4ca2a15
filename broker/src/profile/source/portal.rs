//! Role credentials of IAM Identity Center, with the stored token.
//!
//! The SDK's own provider loses a renewed token if the cache can't be written, and panics when the
//! clock steps back.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_types::SdkConfig;
use aws_types::region::Region;
use tokio::time::Instant;

use super::base::SsoRole;
use crate::error::{Denial, Reason};
use crate::profile::failure;
use crate::profile::token::{Renewal, Session, Token, Tokens};
use crate::profile::token_error::not_renewed;
use crate::secret::Secret;

/// The time before the expiry at which a token is renewed.
const EARLY: Duration = Duration::from_secs(5 * 60);

/// The role's credentials.
pub(super) async fn credentials(
    role: &SsoRole,
    tokens: &Arc<Tokens>,
    config: &SdkConfig,
    now: SystemTime,
) -> Result<Credentials, Denial> {
    let config = config.to_builder().region(Region::new(role.session.region.clone())).build();
    let token = valid(&role.session, tokens, &config, now).await?;
    let answer = aws_sdk_sso::Client::new(&config)
        .get_role_credentials()
        .account_id(&role.account)
        .role_name(&role.role)
        .access_token(token.access.expose())
        .send()
        .await
        .map_err(|error| failure::of_portal(&error, token.access.expose()))?;
    let answer = answer.role_credentials.and_then(|answer| {
        let expiry = u64::try_from(answer.expiration).ok().filter(|expiry| *expiry > 0)?;
        let expiry = SystemTime::UNIX_EPOCH + Duration::from_millis(expiry);
        let (id, secret) = (answer.access_key_id?, answer.secret_access_key?);
        Some(Credentials::new(id, secret, answer.session_token, Some(expiry), "sso"))
    });
    let unreadable = "the portal gave no credentials";
    answer.ok_or_else(|| Denial::new(Reason::CredentialsUnavailable, unreadable))
}

/// The reason why the session's token can't be used, if so.
pub(super) fn hindrance(token: &Token, now: SystemTime) -> Option<Denial> {
    let usable = now < token.expiry || token.renewable(now).is_some();
    (!usable).then(ended)
}

fn ended() -> Denial {
    Denial::new(Reason::LoginRequired, "the sign-in has ended")
}

/// A token that is valid at `now`, renewed if necessary.
async fn valid(
    session: &Session,
    tokens: &Arc<Tokens>,
    config: &SdkConfig,
    now: SystemTime,
) -> Result<Token, Denial> {
    let token = tokens.find(session).await?;
    if now + EARLY < token.expiry {
        return Ok(token);
    }
    let started = Instant::now();
    let alone = tokens.renewing(session).lock_owned().await;
    let now = now + started.elapsed();
    // Another caller may have renewed it while waiting for the lock.
    let token = tokens.find(session).await?;
    if now + EARLY < token.expiry {
        return Ok(token);
    }
    let renewed = match token.renewable(now).cloned() {
        Some(renewal) => {
            let (session, tokens) = (session.clone(), Arc::clone(tokens));
            let before = token.clone();
            let config = config.clone();
            // A separate task: if it were cancelled with the load, the refresh token that the
            // server has just issued could be lost.
            let renewing = tokio::spawn(async move {
                let _alone = alone;
                let renewed = renew(&renewal, &config, now).await?;
                tokens.store_renewed(&session, &before, renewed.clone()).await;
                Ok(renewed)
            });
            renewing.await.unwrap_or_else(|_| Err(panicked()))
        }
        None => Err(ended()),
    };
    let Err(denial) = renewed else { return renewed };
    // The AWS CLI may have renewed the token and used the refresh token before.
    let other = tokens.find(session).await.ok();
    match other.filter(|other| other.access != token.access) {
        Some(other) if now < other.expiry => Ok(other),
        _ if now < token.expiry => Ok(token),
        _ => Err(denial),
    }
}

fn panicked() -> Denial {
    Denial::new(Reason::CredentialsUnavailable, "the renewal ended in a panic: a bug")
}

async fn renew(renewal: &Renewal, config: &SdkConfig, now: SystemTime) -> Result<Token, Denial> {
    let answer = aws_sdk_ssooidc::Client::new(config)
        .create_token()
        .client_id(&renewal.client_id)
        .client_secret(renewal.client_secret.expose())
        .grant_type("refresh_token")
        .refresh_token(renewal.refresh.expose())
        .send()
        .await
        .map_err(|error| {
            let secrets = [renewal.refresh.expose(), renewal.client_secret.expose()];
            not_renewed(&error, "sso-oidc:CreateToken", &secrets)
        })?;
    let unreadable = "the renewal brought no token";
    let access = answer
        .access_token
        .ok_or_else(|| Denial::new(Reason::CredentialsUnavailable, unreadable))?;
    let life = Duration::from_secs(u64::try_from(answer.expires_in).unwrap_or_default());
    let refresh = answer.refresh_token.map_or_else(|| renewal.refresh.clone(), Secret::new);
    let renewal = Renewal { refresh, ..renewal.clone() };
    Ok(Token { access: Secret::new(access), expiry: now + life, renewal: Some(renewal) })
}
