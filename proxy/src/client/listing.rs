//! Lists the server's tools for the proxy itself, which needs the list to route calls.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::outbound::Outbound;
use super::sender::Sender;
use super::sessions::Sessions;
use super::shared::{Outlet, Shared};
use super::stand_in::StandIns;
use crate::attempt::Attempt;
use crate::budget::Message;
use crate::error::Error;
use crate::exchange::{Deadline, Exchange, Patience};
use crate::protocol::{Generation, META_PREFIX};
use crate::request::Request;
use crate::session::{Context, Ownership, Session};
use crate::tools::Catalog;
use crate::upstream::Sent;
use crate::wire::{self, Envelope, Id, Object};

/// The limit for pages of tools: more than any real server has.
const MAX_PAGES: usize = 100;

/// Which profile signs for a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signer {
    /// Only the default profile: where it can list the server's tools, it can sign.
    Default,
    /// A stand-in, if the default profile can't sign. The list itself needs no identity, and the call that waits for it
    /// may name another profile.
    Anyone,
}

/// Lists the tools for one client.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) shared: Arc<Shared>,
    pub(super) context: Arc<Context>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) sender: Arc<Sender>,
    pub(super) stand_ins: Arc<StandIns>,
    /// The channel for messages that belong to no call of the client.
    pub(super) out: Outlet,
    pub(super) attempt: Attempt,
}

impl Listing {
    /// Lists the tools, unless the tool of `call` is already known. Concurrent calls share one listing.
    pub(super) async fn know(&self, call: &Request) -> Result<(), Error> {
        let known = || call.tool().and_then(|name| self.catalog.tool(name)).map(drop);
        // Boxed because it is rare and large: it holds an exchange.
        self.attempt.once(known, Box::pin(self.list(call, Signer::Anyone))).await
    }

    /// Lists all pages, with the protocol generation of `call`.
    pub(super) async fn list(&self, call: &Request, signer: Signer) -> Result<(), Error> {
        let session = self.sessions.of_default();
        let out = self.outlet();
        let mut cursor = None;
        for page in 0..MAX_PAGES {
            let response = self.page(call, signer, (&session, &out), page, cursor).await?;
            let envelope = Envelope::parse(&response.text).ok();
            let result = envelope.and_then(|it| it.result).and_then(|it| Object::parse(it).ok());
            let Some(result) = result else {
                return Err(Error::NotMessage("it can't list its tools"));
            };
            cursor = result.find_string("nextCursor").map(Cow::into_owned);
            if cursor.is_none() {
                return Ok(());
            }
        }
        Err(Error::NotMessage("its list of tools never ends"))
    }

    async fn page(
        &self,
        call: &Request,
        signer: Signer,
        (session, out): (&Arc<Session>, &Outlet),
        number: usize,
        cursor: Option<String>,
    ) -> Result<Message, Error> {
        let id = Id::from_token(&format!("\"sigward-tools-{number}\""));
        let text = wire::request(&id, "tools/list", &params(call, cursor.as_deref()));
        let text = wire::with_metadata(text, &self.shared.metadata.of(&session.profile));
        let listing = Request::from_proxy(text)
            .map_err(|_| Error::NotMessage("its cursor can't be sent back"))?;
        let sent = Sent::default();
        let (id, body) = (listing.id(), listing.bytes());
        let exchange = Exchange { session, id, body, sent: &sent, headers: None };
        let request = Outbound { call: &listing, exchange, out };
        let limit = self.shared.tool_timeout;
        let mut patience = Patience::new(&listing, out, Deadline::none(), limit);
        let listed = match call.generation() {
            Generation::Sessions => {
                self.sender.over_session(&request, true, &mut patience, None).await
            }
            Generation::Stateless(version) => {
                let once = self.sender.once(&request, version, &[], &mut patience, None).await;
                once.map(|response| response.message)
            }
        };
        match listed {
            Err(why) if signer == Signer::Anyone && why.cannot_sign() => {
                Box::pin(self.stand_ins.answer_by_others(&request, why)).await
            }
            listed => listed,
        }
    }

    /// The channel for messages that a server sends before the response to the proxy's own request. An HTTP client may
    /// have no stream open for such a message, and a message that waits for one would block the response, so there it
    /// is closed.
    fn outlet(&self) -> Outlet {
        match self.context.ownership {
            Ownership::Proxy => self.out.clone(),
            Ownership::Hosted | Ownership::Client | Ownership::Nobody => mpsc::channel(1).0,
        }
    }
}

/// The params of the proxy's own list request. In 2026-07-28 each request describes its sender, so
/// it repeats what the client's request says.
fn params(call: &Request, cursor: Option<&str>) -> String {
    let mut members = Vec::new();
    if let Some(cursor) = cursor {
        members.push(format!(r#""cursor":{}"#, wire::quote(cursor)));
    }
    if call.is_stateless()
        && let Some(meta) = call.meta().and_then(|meta| Object::parse(meta).ok())
    {
        let sender: Vec<String> = meta
            .members()
            .iter()
            .filter(|member| member.name().starts_with(META_PREFIX))
            .map(|member| format!("{}:{}", member.key, member.value))
            .collect();
        members.push(format!(r#""_meta":{{{}}}"#, sender.join(",")));
    }
    format!("{{{}}}", members.join(","))
}
