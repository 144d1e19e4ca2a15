//! The profile of a call: the argument that is offered, cut out, checked and obeyed.
//!
//! The only module that knows the argument. What it keeps: a call is signed with the profile that it
//! names or with the default, never with another one than the model asked for; and a value that
//! chose a profile never reaches upstream.

use std::borrow::Cow;
use std::ops::Range;

use crate::config::{Globs, ProfileArgument, ProfileName, Profiles};
use crate::error::printable;
use crate::request::{PROFILE_KEY, Request};
use crate::wire::{self, Fault, Object};

/// How many names are tried for the argument of one tool.
const MAX_NAMES: usize = 8;

/// What a client is offered.
#[derive(Debug)]
pub struct Offer {
    profiles: Profiles,
    argument: String,
    tools: Globs,
}

/// The profile of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    /// The profile that signs.
    pub profile: ProfileName,
    /// Where the member stands that chose it, and that must be cut out of the text.
    pub cut: Option<Range<usize>>,
}

impl Offer {
    /// The offer of `profiles` by `argument`.
    #[must_use]
    pub fn new(profiles: Profiles, argument: ProfileArgument) -> Self {
        let ProfileArgument { name, tools } = argument;
        Self { profiles, argument: name, tools }
    }

    /// Whether there is anything to choose. If not, messages are left alone.
    #[must_use]
    pub fn is_choice(&self) -> bool {
        self.profiles.is_choice()
    }

    /// The argument's name where no tool takes it.
    #[must_use]
    pub fn argument(&self) -> &str {
        &self.argument
    }

    /// The argument's name on one tool: with `proxy_` in front where the tool has an argument of
    /// that name itself, which stays the tool's. `None` where the tool leaves no name: it takes as many
    /// as only somebody with bad intentions gives it.
    #[must_use]
    pub fn argument_on(&self, schema: Option<&Object<'_>>) -> Option<String> {
        if !self.is_choice() {
            return Some(self.argument.clone());
        }
        let mut names = (0..MAX_NAMES).map(|taken| "proxy_".repeat(taken) + &self.argument);
        names.find(|name| !schema.is_some_and(|schema| declares(schema.text(), name)))
    }

    /// Whether a tool of that name offers the argument.
    #[must_use]
    pub fn is_offered_on(&self, tool: &str) -> bool {
        self.is_choice() && (self.tools.is_empty() || self.tools.matches(tool))
    }

    /// Whether a call could carry the argument at all, under whatever name.
    #[must_use]
    pub fn may_choose(&self, request: &Request) -> bool {
        let arguments = request.arguments();
        arguments.is_some_and(|(text, _)| text.contains(&self.argument) || text.contains("\\u"))
    }

    /// The argument's schema. `describe` tells what the broker says of a profile.
    #[must_use]
    pub fn schema(&self, describe: impl Fn(&ProfileName) -> Option<String>) -> String {
        let names: Vec<&str> = self.profiles.all().iter().map(ProfileName::as_str).collect();
        let default = self.profiles.default();
        let mut description =
            format!("AWS profile to make this call with. Default: {}.", shown(default));
        for profile in self.profiles.all() {
            if let Some(text) = describe(profile).filter(|text| !text.is_empty()) {
                let text = text.trim_end_matches('.');
                description.push_str(&format!(" {}: {text}", shown(profile)));
                description.push('.');
            }
        }
        let names = serde_json::Value::from(names);
        format!(r#"{{"type":"string","enum":{names},"description":{}}}"#, wire::quote(&description))
    }

    /// The profile of a `tools/call`, by the argument `name`. The error is a sentence for the model.
    pub fn of_tool_call(&self, request: &Request, name: &str) -> Result<Choice, String> {
        let default = Choice { profile: self.profiles.default().clone(), cut: None };
        if !self.is_choice() || !self.may_choose(request) {
            return Ok(default);
        }
        let Some((text, start)) = request.arguments() else { return Ok(default) };
        let Ok(arguments) = Object::parse(text) else { return Ok(default) };
        let value = match arguments.get(name) {
            Ok(None) => return Ok(default),
            Ok(Some(value)) => value,
            Err(Fault::DuplicateKey(_)) => {
                return Err(format!("The argument {name} is given more than once."));
            }
            Err(fault) => return Err(fault.to_string()),
        };
        let profile = self.validate(value, name)?;
        // An agent that names a profile where none can be chosen must not believe that it got it.
        let tool = request.tool().unwrap_or_default();
        if !self.is_offered_on(tool) && profile != self.profiles.default() {
            return Err(format!(
                "The tool {tool:?} always uses the profile {}: {name} can't be chosen for it.",
                shown(self.profiles.default())
            ));
        }
        let member = arguments.range_of(name);
        let cut = member.map(|member| start + member.start..start + member.end);
        // The value must not be sent, and nothing is sent whose value can't be cut.
        let cut = Some(cut.ok_or_else(|| Fault::BadEdit.to_string())?);
        Ok(Choice { profile: profile.clone(), cut })
    }

    /// The profile of another request, by `_meta`. The error is a sentence for the client.
    pub fn of_request(&self, request: &Request) -> Result<Choice, String> {
        let default = Choice { profile: self.profiles.default().clone(), cut: None };
        if !self.is_choice() {
            return Ok(default);
        }
        match request.profile() {
            Ok(None) => Ok(default),
            Ok(Some((value, member))) => {
                let profile = self.validate(value, PROFILE_KEY)?.clone();
                Ok(Choice { profile, cut: Some(member) })
            }
            Err(fault) => Err(format!("_meta is ambiguous: {fault}")),
        }
    }

    /// The profile that a JSON value names; `null` is the default.
    fn validate(&self, value: &str, name: &str) -> Result<&ProfileName, String> {
        if value == "null" {
            return Ok(self.profiles.default());
        }
        let named = wire::string(value);
        named.as_deref().and_then(|given| self.profiles.named(given)).ok_or_else(|| {
            let allowed: Vec<Cow<'_, str>> = self.profiles.all().iter().map(shown).collect();
            let given = printable(value, 80);
            format!(
                "{name} is {given}, which isn't one of the allowed profiles: {}. Nothing was \
                 called.",
                allowed.join(", ")
            )
        })
    }
}

/// A name in a sentence: in quotes where it could be read as more than a name.
fn shown(profile: &ProfileName) -> Cow<'_, str> {
    let name = profile.as_str();
    let plain = |c: char| c.is_alphanumeric() || "_-.@/+".contains(c);
    if name.chars().all(plain) { name.into() } else { format!("\"{name}\"").into() }
}

/// Whether a schema declares a property, in itself or in any of its branches.
fn declares(schema: &str, name: &str) -> bool {
    // Nearly every schema is done here: neither the name nor an escape that could spell it.
    if !schema.contains(name) && !schema.contains("\\u") {
        return false;
    }
    let Ok(object) = Object::parse(schema) else { return false };
    object.members().iter().any(|member| match member.name().as_ref() {
        "properties" => Object::parse(member.value).is_ok_and(|properties| {
            properties.members().iter().any(|property| property.name() == name)
        }),
        "allOf" | "anyOf" | "oneOf" => wire::elements(member.value)
            .is_ok_and(|branches| branches.iter().any(|branch| declares(branch, name))),
        "if" | "then" | "else" => declares(member.value, name),
        "$defs" | "definitions" | "dependentSchemas" => Object::parse(member.value)
            .is_ok_and(|branches| branches.members().iter().any(|it| declares(it.value, name))),
        _ => false,
    })
}

#[cfg(test)]
mod tests;
