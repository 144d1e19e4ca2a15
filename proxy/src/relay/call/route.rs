//! Whose call it is, and whether it may be made at all.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::mpsc;

use super::{Call, Failed, Request};
use crate::config::ProfileName;
use crate::error::Error;
use crate::profile::Choice;
use crate::protocol::{Generation, META_PREFIX, ParameterHeader};
use crate::relay::{Outlet, Relay, lock};
use crate::session::Ownership;
use crate::tools::Tool;
use crate::wire::{self, Envelope, Id, Object};

/// More pages of tools than any server has.
const MAX_PAGES: usize = 100;

/// Where a request goes.
pub(crate) struct Route<'a> {
    pub(crate) profile: ProfileName,
    /// The text without what chose the profile.
    pub(crate) text: Cow<'a, str>,
    /// Whether it may be sent again after the server may have acted on it.
    pub(crate) repeatable: bool,
    /// The argument that was cut out of it.
    pub(crate) cut: Option<String>,
    /// The parameters to mirror in headers.
    pub(super) headers: Vec<ParameterHeader>,
}

impl Relay {
    pub(super) async fn route<'a>(self: &Arc<Self>, call: &'a Call) -> Result<Route<'a>, Failed> {
        let method = call.head.method.as_str();
        let repeatable = method.ends_with("/list") || method == "server/discover";
        let choice = match method.split('/').next().unwrap_or_default() {
            "tools" if call.is_tool_call() => return self.route_tool(call).await,
            "resources" | "prompts" | "completion" => {
                self.shared.offer.of_request(call.text()).map_err(Failed::Params)?
            }
            "tasks" => Choice { profile: self.profile_of_task(call.text()), text: None },
            _ => Choice { profile: self.shared.profiles.default().clone(), text: None },
        };
        Ok(Route {
            profile: choice.profile,
            text: choice.text.map_or(Cow::Borrowed(call.text()), Cow::Owned),
            repeatable,
            cut: None,
            headers: Vec::new(),
        })
    }

    async fn route_tool<'a>(self: &Arc<Self>, call: &'a Call) -> Result<Route<'a>, Failed> {
        let name = call.head.tool.as_deref().unwrap_or_default();
        self.check_name(call, name)?;
        // Two names: policy would judge one, and the server might run the other.
        if let Some(params) = Envelope::parse(call.text()).ok().and_then(|it| it.params_object())
            && let Err(fault) = params.get("name")
        {
            return Err(Failed::Tool(format!("The call is ambiguous: {fault}.")));
        }
        let tool = self.facts(call, name).await?;
        self.catalog.check(name, tool.as_deref()).map_err(Failed::Tool)?;
        let argument = match &tool {
            Some(tool) => tool.argument.clone(),
            None => self.shared.offer.argument_on(None),
        };
        let choice =
            self.shared.offer.of_tool_call(call.text(), name, &argument).map_err(Failed::Tool)?;
        Ok(Route {
            profile: choice.profile,
            cut: choice.text.is_some().then_some(argument),
            text: choice.text.map_or(Cow::Borrowed(call.text()), Cow::Owned),
            repeatable: tool.as_ref().is_some_and(|tool| tool.read_only),
            headers: tool.map(|tool| tool.headers.clone()).unwrap_or_default(),
        })
    }

    /// What names alone decide, before anything is asked of anybody.
    fn check_name(&self, call: &Call, name: &str) -> Result<(), Failed> {
        // A server may read a name out of what is no string: an array of one, in some languages.
        if call.head.tool.is_none() && !self.catalog.is_open() {
            let why = "The call has no name that this proxy's rules for tools could judge.";
            return Err(Failed::Tool(why.to_owned()));
        }
        if self.catalog.judges_by_annotation() || call.head.tool.is_none() {
            return Ok(());
        }
        self.catalog.check(name, None).map_err(Failed::Tool)
    }

    /// What is known of a tool. Where it matters and nothing is known, the tools are listed first.
    async fn facts(self: &Arc<Self>, call: &Call, name: &str) -> Result<Option<Arc<Tool>>, Error> {
        let known = self.catalog.tool(name);
        let matters = call.head.generation.is_stateless()
            || self.catalog.judges_by_annotation()
            || (self.shared.offer.is_choice() && self.shared.offer.may_choose(call.text()));
        if known.is_some() || !matters {
            return Ok(known);
        }
        let _one_at_a_time = self.listing.lock().await;
        if let Some(tool) = self.catalog.tool(name) {
            return Ok(Some(tool));
        }
        self.list_tools(call).await?;
        Ok(self.catalog.tool(name))
    }

    /// Lists the tools for ourselves, all pages, in the generation of `call`.
    pub(super) async fn list_tools(self: &Arc<Self>, call: &Call) -> Result<(), Error> {
        let session = self.default_session();
        let out = self.outlet_of_our_own();
        let mut cursor = None;
        for page in 0..MAX_PAGES {
            let id = Id::from_token(&format!("\"sigward-tools-{page}\""));
            let text = wire::request(&id, "tools/list", &list_params(call, cursor.as_deref()));
            let text = wire::with_metadata(text, &self.shared.metadata.of(&session.profile));
            let head = super::Head {
                id,
                method: "tools/list".to_owned(),
                generation: call.head.generation.clone(),
                tool: None,
            };
            let listing = head.with(text.clone().into());
            let body = text.into();
            let request = Request { call: &listing, session: &session, body, out: &out };
            let sent = AtomicBool::new(false);
            let response = match &call.head.generation {
                Generation::Sessions => self.over_session(&request, true, &sent).await?,
                Generation::Stateless(version) => {
                    let headers = request.headers(version, &[]);
                    let body = request.body.clone();
                    let answer = session.post_unbound(headers, body, false, &sent).await?;
                    match self.follow(&request, None, answer).await? {
                        super::Followed::Answered(response, _) => response,
                        super::Followed::Failed(failure) => return Err(failure.into()),
                        super::Followed::Expired => return Err(Error::NoAnswer),
                    }
                }
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

    fn profile_of_task(&self, text: &str) -> ProfileName {
        let default = || self.shared.profiles.default().clone();
        let params = Envelope::parse(text).ok().and_then(|envelope| envelope.params_object());
        let Some(task) = params.as_ref().and_then(|params| params.find_string("taskId")) else {
            return default();
        };
        let tasks = lock(&self.tasks);
        tasks
            .iter()
            .find(|(id, _)| *id == task)
            .map_or_else(default, |(_, profile)| profile.clone())
    }
}

/// The params of a list of our own: in 2026-07-28 the sender describes itself in each request, so
/// ours says what the client's says.
fn list_params(call: &Call, cursor: Option<&str>) -> String {
    let mut members = Vec::new();
    if let Some(cursor) = cursor {
        members.push(format!(r#""cursor":{}"#, wire::quote(cursor)));
    }
    if call.head.generation.is_stateless()
        && let Ok(envelope) = Envelope::parse(call.text())
        && let Some(meta) = envelope.params_object().and_then(|it| it.find_object("_meta"))
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
