//! The known tools of the server, and the list that the client gets.
//!
//! Lists are rewritten by [`Catalog::rewrite`], which hides denied tools, adds the profile
//! argument, and stores what a later call needs: the argument's name on that tool, whether the tool
//! is read-only, and which parameters are mirrored in headers.

mod parameters;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rmcp::model::ErrorCode;

use crate::config::{ProfileName, ToolPolicy};
use crate::profile::Offer;
use crate::protocol::ParameterHeader;
use crate::wire::{self, Edits, Envelope, Object};

/// The largest page of tools that is processed. Those of real servers are a hundred times smaller.
const MAX_LIST: usize = 32 << 20;
/// The most tools that are stored.
const MAX_TOOLS: usize = 1 << 17;
/// The deepest nesting of a tool's definition; the limit of most JSON parsers.
const MAX_DEPTH: usize = 128;

/// The stored properties of one tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// The name of its profile argument.
    pub argument: String,
    /// Whether `annotations.readOnlyHint` is true.
    pub read_only: bool,
    /// Its `x-mcp-header` parameters.
    pub headers: Vec<ParameterHeader>,
}

/// The tools as last listed.
#[derive(Debug)]
pub struct Catalog {
    policy: ToolPolicy,
    tools: RwLock<HashMap<String, Arc<Tool>>>,
}

impl Catalog {
    /// Makes an empty catalog.
    #[must_use]
    pub fn new(policy: ToolPolicy) -> Self {
        Self { policy, tools: RwLock::default() }
    }

    /// A listed tool; `None` if it isn't known.
    #[must_use]
    pub fn tool(&self, name: &str) -> Option<Arc<Tool>> {
        self.tools.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Forgets all tools, because the server has reported that they changed.
    pub fn clear(&self) {
        self.tools.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether any tool may be called.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.policy.allow.is_empty() && self.policy.deny.is_empty() && !self.policy.read_only
    }

    /// Whether the rules need more than a tool's name.
    #[must_use]
    pub fn judges_by_annotation(&self) -> bool {
        self.policy.read_only
    }

    /// Refuses a tool that the policy denies. `tool` is its entry, if it was listed. The error is a
    /// sentence for the model.
    pub fn check(&self, name: &str, tool: Option<&Tool>) -> Result<(), String> {
        if self.policy.deny.matches(name) {
            return Err(format!("The tool {name:?} is denied by this proxy (--tools-deny)."));
        }
        if !self.policy.allow.is_empty() && !self.policy.allow.matches(name) {
            return Err(format!("The tool {name:?} isn't allowed by this proxy (--tools-allow)."));
        }
        if self.policy.read_only && !tool.is_some_and(|tool| tool.read_only) {
            return Err(format!(
                "The tool {name:?} isn't available in read-only mode: the server doesn't mark it \
                 as read-only."
            ));
        }
        Ok(())
    }

    /// The client's version of a `tools/list` response; `None` if it is unchanged.
    pub fn rewrite(
        &self,
        text: &str,
        stateless: bool,
        offer: &Offer,
        describe: impl Fn(&ProfileName) -> Option<String>,
    ) -> Option<String> {
        let envelope = Envelope::parse(text).ok()?;
        if text.len() > MAX_LIST {
            let why = format!("The server's list of tools is larger than {} MiB.", MAX_LIST >> 20);
            let code = ErrorCode::INTERNAL_ERROR;
            return Some(wire::error_response(&envelope.owned_id(), code, &why));
        }
        let result = Object::parse(envelope.result?).ok()?;
        let spans = wire::elements(result.find("tools")?).ok()?;
        let mut edits = Edits::new(text);
        let mut hidden = vec![false; spans.len()];
        let mut learned = Vec::with_capacity(spans.len());
        let property = offer.is_choice().then(|| offer.schema(describe));
        for (index, span) in spans.iter().enumerate() {
            // The functions that process schemas are recursive.
            if wire::check_depth_to(MAX_DEPTH, span).is_err() {
                tracing::warn!("dropped a tool: its definition is nested too deeply");
                hidden[index] = true;
                continue;
            }
            let Ok(definition) = Object::parse(span) else { continue };
            let Some(name) = definition.find_string("name") else { continue };
            let schema = definition.find_object("inputSchema");
            let headers = schema.as_ref().map_or(Ok(Vec::new()), parameters::headers);
            let (headers, invalid) = match headers {
                Ok(headers) => (headers, false),
                Err(fault) => {
                    tracing::warn!(tool = %name, %fault, "x-mcp-header is invalid");
                    // By the specification, HTTP clients drop such a tool.
                    (Vec::new(), stateless)
                }
            };
            let argument = offer.argument_on(schema.as_ref());
            let is_unusable = argument.is_none();
            if is_unusable {
                tracing::warn!(tool = %name, "dropped a tool: its own arguments use all names of the profile argument");
            }
            let tool = Tool {
                // If the tool is called nevertheless, no argument has this empty name, and nothing
                // is removed.
                argument: argument.unwrap_or_default(),
                read_only: is_read_only(&definition),
                headers,
            };
            hidden[index] = invalid || is_unusable || self.check(&name, Some(&tool)).is_err();
            if let (false, Some(property), Some(schema), true) =
                (hidden[index], &property, &schema, offer.is_offered_on(&name))
            {
                add_property(&mut edits, schema, &tool.argument, property);
            }
            learned.push((name.into_owned(), Arc::new(tool)));
        }
        if hidden.contains(&true) {
            edits.elements(&spans, |index| hidden[index]);
        }
        // The list now contains the user's profiles, and must not be cached for other users.
        if offer.is_choice()
            && result.find_string("cacheScope").as_deref() == Some("public")
            && let Some(scope) = result.find("cacheScope")
        {
            edits.replace(scope, "\"private\"");
        }
        let mut tools = self.tools.write().unwrap_or_else(PoisonError::into_inner);
        // The attack: a server with new names in each list would fill the memory. Dropped tools are
        // listed again.
        if tools.len() + learned.len() > MAX_TOOLS {
            tools.clear();
        }
        tools.extend(learned.into_iter().take(MAX_TOOLS));
        drop(tools);
        let rewritten = (!edits.is_empty()).then(|| edits.apply())?;
        Some(rewritten.unwrap_or_else(|fault| {
            let why = format!("The server's list of tools can't be forwarded: {fault}.");
            wire::error_response(&envelope.owned_id(), ErrorCode::INTERNAL_ERROR, &why)
        }))
    }
}

fn is_read_only(definition: &Object<'_>) -> bool {
    let annotations = definition.find_object("annotations");
    // A duplicate is ambiguous, and counts as not read-only.
    annotations.is_some_and(|it| it.get("readOnlyHint") == Ok(Some("true")))
}

fn add_property(edits: &mut Edits<'_>, schema: &Object<'_>, name: &str, property: &str) {
    match schema.find_object("properties") {
        Some(properties) => edits.members(&properties, |_| false, &[(name, property)]),
        None => {
            let properties = format!("{{{}:{property}}}", wire::quote(name));
            edits.members(schema, |_| false, &[("properties", &properties)]);
        }
    }
}

#[cfg(test)]
mod tests;
