//! Role credentials of IAM Identity Center, with the token that we hold.
//!
//! The SDK's own provider loses a renewed token where the cache can't be written, and panics when the
//! clock steps back.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_types::SdkConfig;
use aws_types::region::Region;
use sigward_proto::v1::Reason;

use super::chain::SsoRole;
use crate::error::Denial;
use crate::profile::failure;
use crate::profile::token::{Renewal, Session, Token, Tokens};
use crate::profile::token_error::not_renewed;
use crate::secret::Secret;

/// A token is renewed so long before its end.
const EARLY: Duration = Duration::from_secs(5 * 60);

/// The role's credentials.
pub(super) async fn credentials(
    role: &SsoRole,
    tokens: &Tokens,
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

/// Why there can't be credentials, as far as the token tells that was found for the session.
pub(super) fn hindrance(token: Option<&Token>, now: SystemTime) -> Option<Denial> {
    match token {
        None => Some(needs_login("nobody has signed in")),
        Some(token) if now < token.expiry || token.renewable(now).is_some() => None,
        Some(_) => Some(needs_login("the sign-in has ended")),
    }
}

/// A token that is good at `now`, renewed if it has to be.
async fn valid(
    session: &Session,
    tokens: &Tokens,
    config: &SdkConfig,
    now: SystemTime,
) -> Result<Token, Denial> {
    let found = || tokens.find(session).ok_or_else(|| needs_login("nobody has signed in"));
    if let Some(token) = Some(found()?).filter(|token| now + EARLY < token.expiry) {
        return Ok(token);
    }
    let renewing = tokens.renewing(session);
    let _alone = renewing.lock().await;
    // Someone may have renewed it while we waited.
    let token = found()?;
    if now + EARLY < token.expiry {
        return Ok(token);
    }
    let alive = now < token.expiry;
    let renewed = match token.renewable(now) {
        Some(renewal) => renew(renewal, config, now).await,
        None => Err(needs_login("the sign-in has ended")),
    };
    match renewed {
        Ok(renewed) => {
            tokens.store(session, renewed.clone());
            Ok(renewed)
        }
        // The AWS CLI may have been quicker, and used the refresh token up.
        Err(denial) => match tokens.find(session).filter(|other| other.access != token.access) {
            Some(other) if now < other.expiry => Ok(other),
            _ if alive => Ok(token),
            _ => Err(denial),
        },
    }
}

fn needs_login(why: &'static str) -> Denial {
    Denial::new(Reason::LoginRequired, why)
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
