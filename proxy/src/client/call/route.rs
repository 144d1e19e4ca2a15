//! Whose call it is, and whether it may be made at all.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Failed, Outbound};
use crate::client::{Outlet, Relay, lock};
use crate::config::ProfileName;
use crate::error::Error;
use crate::exchange::Exchange;
use crate::profile::Choice;
use crate::protocol::{Generation, META_PREFIX, ParameterHeader};
use crate::request::Request;
use crate::session::Ownership;
use crate::tools::Tool;
use crate::upstream::Sent;
use crate::wire::{self, Envelope, Id, Object};

/// More pages of tools than any server has.
const MAX_PAGES: usize = 100;

/// Where a request goes.
pub(crate) struct Route {
    pub(crate) profile: ProfileName,
    /// What chose the profile, and must be cut out of the text.
    pub(crate) cut: Option<Range<usize>>,
    /// Whether it may be sent again after the server may have acted on it.
    pub(crate) repeatable: bool,
    /// The argument that is cut out.
    pub(crate) cut_argument: Option<String>,
    /// The parameters to mirror in headers.
    pub(super) headers: Vec<ParameterHeader>,
}

impl Relay {
    pub(super) async fn route(self: &Arc<Self>, call: &Request) -> Result<Route, Failed> {
        let method = call.method();
        let repeatable = method.ends_with("/list") || method == "server/discover";
        let default = || Choice { profile: self.shared.profiles.default().clone(), cut: None };
        let Choice { profile, cut } = match method.split('/').next().unwrap_or_default() {
            "tools" if call.is_tool_call() => return self.route_tool(call).await,
            "resources" | "prompts" | "completion" => {
                self.shared.offer.of_request(call).map_err(Failed::Params)?
            }
            "tasks" => Choice { profile: self.profile_of_task(call), cut: None },
            _ => default(),
        };
        Ok(Route { profile, cut, repeatable, cut_argument: None, headers: Vec::new() })
    }

    async fn route_tool(self: &Arc<Self>, call: &Request) -> Result<Route, Failed> {
        let name = call.tool().unwrap_or_default();
        self.check_name(call, name)?;
        let tool = self.facts(call, name).await?;
        self.catalog.check(name, tool.as_deref()).map_err(Failed::Tool)?;
        let argument = match &tool {
            Some(tool) => tool.argument.as_str(),
            None => self.shared.offer.argument(),
        };
        let Choice { profile, cut } =
            self.shared.offer.of_tool_call(call, argument).map_err(Failed::Tool)?;
        Ok(Route {
            profile,
            cut_argument: cut.is_some().then(|| argument.to_owned()),
            cut,
            repeatable: tool.as_ref().is_some_and(|tool| tool.read_only),
            headers: tool.map(|tool| tool.headers.clone()).unwrap_or_default(),
        })
    }

    /// What names alone decide, before anything is asked of anybody.
    fn check_name(&self, call: &Request, name: &str) -> Result<(), Failed> {
        // A server may read a name out of what is no string: an array of one, in some languages.
        if call.tool().is_none() && !self.catalog.is_open() {
            let why = "The call has no name that this proxy's rules for tools could judge.";
            return Err(Failed::Tool(why.to_owned()));
        }
        if self.catalog.judges_by_annotation() || call.tool().is_none() {
            return Ok(());
        }
        self.catalog.check(name, None).map_err(Failed::Tool)
    }

    /// What is known of a tool. Where it matters and nothing is known, the tools are listed first.
    async fn facts(
        self: &Arc<Self>,
        call: &Request,
        name: &str,
    ) -> Result<Option<Arc<Tool>>, Error> {
        let known = self.catalog.tool(name);
        let matters = call.is_stateless()
            || self.catalog.judges_by_annotation()
            || (self.shared.offer.is_choice() && self.shared.offer.may_choose(call));
        if known.is_some() || !matters {
            return Ok(known);
        }
        let known = || self.catalog.tool(name).map(Some);
        // Rare, and large: it holds an exchange of its own.
        let listing = Box::pin(async {
            self.list_tools(call).await?;
            Ok(self.catalog.tool(name))
        });
        self.listing.once(known, listing).await
    }

    /// Lists the tools for ourselves, all pages, in the generation of `call`.
    pub(super) async fn list_tools(self: &Arc<Self>, call: &Request) -> Result<(), Error> {
        let session = self.default_session();
        let out = self.outlet_of_our_own();
        let mut cursor = None;
        for page in 0..MAX_PAGES {
            let id = Id::from_token(&format!("\"sigward-tools-{page}\""));
            let text = wire::request(&id, "tools/list", &list_params(call, cursor.as_deref()));
            let text = wire::with_metadata(text, &self.shared.metadata.of(&session.profile));
            let listing = Request::own(text)
                .map_err(|_| Error::NotMessage("its cursor can't be sent back"))?;
            let sent = Sent::default();
            let (id, body) = (listing.id(), listing.bytes());
            let exchange = Exchange { session: &session, id, body, sent: &sent };
            let request = Outbound { call: &listing, exchange, out: &out };
            let response = match call.generation() {
                Generation::Sessions => self.over_session(&request, true).await?,
                Generation::Stateless(version) => self.once(&request, version, &[]).await?.message,
            };
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

    /// Where what a server says on the way to an answer for ourselves goes. A client that speaks HTTP
    /// may have no stream open for it, and a message that waits for one would hold up the answer.
    fn outlet_of_our_own(&self) -> Outlet {
        match self.context.ownership {
            Ownership::Proxy => self.out.clone(),
            Ownership::Client | Ownership::Nobody => mpsc::channel(1).0,
        }
    }

    fn profile_of_task(&self, call: &Request) -> ProfileName {
        let default = || self.shared.profiles.default().clone();
        let Some(task) = call.task() else { return default() };
        let tasks = lock(&self.tasks);
        tasks
            .iter()
            .find(|(id, _)| *id == task)
            .map_or_else(default, |(_, profile)| profile.clone())
    }
}

/// The params of a list of our own: in 2026-07-28 the sender describes itself in each request, so
/// ours says what the client's says.
fn list_params(call: &Request, cursor: Option<&str>) -> String {
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
