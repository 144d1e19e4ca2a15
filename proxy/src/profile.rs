//! The profile of a call: offers the argument, reads and checks it, and removes it from the text.
//!
//! This is the only module that knows the argument. Invariants: a call is signed with the profile that it names or with
//! the default, never with another one; a value that chose a profile never reaches upstream.

use std::borrow::Cow;
use std::ops::Range;

use crate::config::{Globs, ProfileArgument, ProfileName, Profiles};
use crate::error::printable;
use crate::request::{PROFILE_KEY, Request};
use crate::wire::{self, Fault, Object};

/// The most names that are tried for the argument of one tool.
const MAX_NAMES: usize = 8;

/// The profiles that a client can choose from, and the argument for it.
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
    /// The range of the member that chose it, which must be removed from the text.
    pub cut: Option<Range<usize>>,
}

impl Offer {
    /// Offers `profiles` through `argument`.
    #[must_use]
    pub fn new(profiles: Profiles, argument: ProfileArgument) -> Self {
        let ProfileArgument { name, tools } = argument;
        Self { profiles, argument: name, tools }
    }

    /// Whether there is more than one profile. If not, messages aren't changed.
    #[must_use]
    pub fn is_choice(&self) -> bool {
        self.profiles.is_choice()
    }

    /// The argument's name, unless a tool has an argument of the same name.
    #[must_use]
    pub fn argument(&self) -> &str {
        &self.argument
    }

    /// The argument's name on one tool: prefixed with `proxy_` if the tool has its own argument of that name. `None` if
    /// the tool uses so many of these names that it must be malicious.
    #[must_use]
    pub fn argument_on(&self, schema: Option<&Object<'_>>) -> Option<String> {
        if !self.is_choice() {
            return Some(self.argument.clone());
        }
        let mut names = (0..MAX_NAMES).map(|taken| "proxy_".repeat(taken) + &self.argument);
        names.find(|name| !schema.is_some_and(|schema| declares(schema.text(), name)))
    }

    /// Whether a tool with this name offers the argument.
    #[must_use]
    pub fn is_offered_on(&self, tool: &str) -> bool {
        self.is_choice() && (self.tools.is_empty() || self.tools.matches(tool))
    }

    /// Whether a call can contain the argument at all, under any name.
    #[must_use]
    pub fn may_choose(&self, request: &Request) -> bool {
        let arguments = request.arguments();
        arguments.is_some_and(|(text, _)| text.contains(&self.argument) || text.contains("\\u"))
    }

    /// The argument's schema. `describe` returns the broker's description of a profile.
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
        // An agent that names a profile where none can be chosen must not believe that it was used.
        let tool = request.tool().unwrap_or_default();
        if !self.is_offered_on(tool) && profile != self.profiles.default() {
            return Err(format!(
                "The tool {tool:?} always uses the profile {}: {name} can't be chosen for it.",
                shown(self.profiles.default())
            ));
        }
        let member = arguments.range_of(name);
        let cut = member.map(|member| start + member.start..start + member.end);
        // The value must not be sent. If it can't be removed, nothing is sent.
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

    /// The profile that a JSON value names; `null` means the default.
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

/// A name for use in a sentence: quoted if it could be read as more than a name.
fn shown(profile: &ProfileName) -> Cow<'_, str> {
    let name = profile.as_str();
    let plain = |c: char| c.is_alphanumeric() || "_-.@/+".contains(c);
    if name.chars().all(plain) { name.into() } else { format!("\"{name}\"").into() }
}

/// Whether a schema declares a property, in itself or in one of its branches.
fn declares(schema: &str, name: &str) -> bool {
    // A fast path for nearly every schema: it contains neither the name nor an escape that could
    // spell it.
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
