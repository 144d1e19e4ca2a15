//! Decides where a request is sent, and whether it may be made at all: the phase *route*.
//!
//! It decides by the request, the listed tools and the tasks; it sends nothing. For a tool that isn't known, it may ask
//! the caller to list the tools first.

use std::ops::Range;
use std::sync::Arc;

use crate::config::{ProfileName, Profiles};
use crate::profile::{Choice, Offer};
use crate::protocol::ParameterHeader;
use crate::request::Request;
use crate::tasks::{Ambiguous, Tasks};
use crate::tools::{Catalog, Tool};

/// The route of a request.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) profile: ProfileName,
    /// The range of the member that chose the profile, which must be removed from the text.
    pub(crate) cut: Option<Range<usize>>,
    /// Whether it may be repeated after the server may have acted on it.
    pub(crate) repeatable: bool,
    /// The name of the removed argument.
    pub(crate) cut_argument: Option<String>,
    /// The parameters to mirror in headers.
    pub(crate) headers: Vec<ParameterHeader>,
}

/// Why a request can't be routed.
#[derive(Debug)]
pub(crate) enum Unroutable {
    /// The call can't be made as requested; the text is for the model.
    Tool(String),
    /// The request is invalid; the text is for the client.
    Params(String),
}

/// The state that routing needs, for one client.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) profiles: Profiles,
    pub(crate) offer: Arc<Offer>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) tasks: Arc<Tasks>,
}

impl Router {
    /// Whether the tools must be listed before `call` can be routed.
    ///
    /// # Errors
    /// The call is refused whatever the list contains, so that no list is requested.
    pub(crate) fn needs_list(&self, call: &Request) -> Result<bool, Unroutable> {
        if !call.is_tool_call() {
            return Ok(false);
        }
        let name = call.tool().unwrap_or_default();
        self.check_name(call, name)?;
        let matters = call.is_stateless()
            || self.catalog.judges_by_annotation()
            || (self.offer.is_choice() && self.offer.may_choose(call));
        Ok(matters && self.catalog.tool(name).is_none())
    }

    /// The route of a call, by what is known.
    pub(crate) fn route(&self, call: &Request) -> Result<Route, Unroutable> {
        let method = call.method();
        let repeatable = method.ends_with("/list") || method == "server/discover";
        let default = || Choice { profile: self.profiles.default().clone(), cut: None };
        let Choice { profile, cut } = match method.split('/').next().unwrap_or_default() {
            "tools" if call.is_tool_call() => return self.route_tool(call),
            "resources" | "prompts" | "completion" => {
                self.offer.of_request(call).map_err(Unroutable::Params)?
            }
            "tasks" => self.of_task(call)?,
            _ => default(),
        };
        Ok(Route { profile, cut, repeatable, cut_argument: None, headers: Vec::new() })
    }

    fn route_tool(&self, call: &Request) -> Result<Route, Unroutable> {
        let name = call.tool().unwrap_or_default();
        self.check_name(call, name)?;
        let tool: Option<Arc<Tool>> = self.catalog.tool(name);
        self.catalog.check(name, tool.as_deref()).map_err(Unroutable::Tool)?;
        let argument = match &tool {
            Some(tool) => tool.argument.as_str(),
            None => self.offer.argument(),
        };
        let Choice { profile, cut } =
            self.offer.of_tool_call(call, argument).map_err(Unroutable::Tool)?;
        Ok(Route {
            profile,
            cut_argument: cut.is_some().then(|| argument.to_owned()),
            cut,
            repeatable: tool.as_ref().is_some_and(|tool| tool.read_only),
            headers: tool.map(|tool| tool.headers.clone()).unwrap_or_default(),
        })
    }

    /// Checks the name alone, before any list is requested.
    fn check_name(&self, call: &Request, name: &str) -> Result<(), Unroutable> {
        // The attack: a name that isn't a string, such as an array that contains one, which some servers accept.
        if call.tool().is_none() && !self.catalog.is_open() {
            let why = "The call has no name that this proxy's rules for tools could check.";
            return Err(Unroutable::Tool(why.to_owned()));
        }
        if self.catalog.judges_by_annotation() || call.tool().is_none() {
            return Ok(());
        }
        self.catalog.check(name, None).map_err(Unroutable::Tool)
    }

    /// Requests about a task use the profile that created it.
    fn of_task(&self, call: &Request) -> Result<Choice, Unroutable> {
        let chosen = self.offer.of_request(call).map_err(Unroutable::Params)?;
        let is_chosen = chosen.cut.is_some();
        let task = call.task().map(|task| (task, self.tasks.profile_of(task)));
        match task {
            None | Some((_, Ok(None))) => Ok(chosen),
            // The client chose one of several profiles.
            Some((task, _)) if is_chosen && self.tasks.is_of(task, &chosen.profile) => Ok(chosen),
            Some((_, Ok(Some(profile)))) => Ok(Choice { profile, cut: chosen.cut }),
            Some((task, Err(Ambiguous(makers)))) => {
                let makers: Vec<&str> = makers.iter().map(ProfileName::as_str).collect();
                Err(Unroutable::Params(format!(
                    "The servers of the profiles {} both have a task {task:?}; name the profile in \
                     _meta under \"{}\".",
                    makers.join(" and "),
                    crate::request::PROFILE_KEY
                )))
            }
        }
    }
}
