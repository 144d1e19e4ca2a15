//! Lists the tools of the server for the proxy itself: without the list, it doesn't know where a call goes.

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

/// More pages of tools than any server has.
const MAX_PAGES: usize = 100;

/// Who signs for a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signer {
    /// The default profile, or the list fails: whoever can list the server's tools can sign.
    Default,
    /// Whoever stands in for it, where it can't. What tools there are needs no identity, and the call that waits for the
    /// list may name another profile.
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
    /// Where messages go that belong to no call of the client.
    pub(super) out: Outlet,
    pub(super) attempt: Attempt,
}

impl Listing {
    /// Lists the tools unless the one that `call` is for is known by now: once, however many calls wait.
    pub(super) async fn know(&self, call: &Request) -> Result<(), Error> {
        let known = || call.tool().and_then(|name| self.catalog.tool(name)).map(drop);
        // Rare, and large: it holds an exchange of its own.
        self.attempt.once(known, Box::pin(self.list(call, Signer::Anyone))).await
    }

    /// Lists all pages, in the generation of `call`.
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
        let listing =
            Request::own(text).map_err(|_| Error::NotMessage("its cursor can't be sent back"))?;
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

    /// Where what a server says on the way to an answer for ourselves goes. A client that speaks HTTP
    /// may have no stream open for it, and a message that waits for one would hold up the answer.
    fn outlet(&self) -> Outlet {
        match self.context.ownership {
            Ownership::Proxy => self.out.clone(),
            Ownership::Hosted | Ownership::Client | Ownership::Nobody => mpsc::channel(1).0,
        }
    }
}

/// The params of a list of our own: in 2026-07-28 the sender describes itself in each request, so
/// ours says what the client's says.
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
