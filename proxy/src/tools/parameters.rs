//! `x-mcp-header`: the parameters of a tool that are mirrored in HTTP headers.
//!
//! The rules are those of the specification (2026-07-28, Streamable HTTP, "Custom Headers from Tool
//! Parameters"). A schema that breaks a rule makes the whole tool invalid.

use std::collections::HashSet;

use http::HeaderName;

use crate::protocol::ParameterHeader;
use crate::wire::{self, Object};

const ANNOTATION: &str = "x-mcp-header";

/// The annotated parameters of an input schema, or the broken rule.
pub(super) fn headers(schema: &Object<'_>) -> Result<Vec<ParameterHeader>, &'static str> {
    if !schema.text().contains(ANNOTATION) {
        return Ok(Vec::new());
    }
    if schema.find(ANNOTATION).is_some() {
        return Err("it is on the schema itself, not on a property");
    }
    let mut found = Vec::new();
    collect(schema, &mut Vec::new(), &mut found)?;
    let mut seen = HashSet::new();
    if !found.iter().all(|parameter| seen.insert(parameter.header.clone())) {
        return Err("two parameters share one header");
    }
    Ok(found)
}

fn collect(
    schema: &Object<'_>,
    path: &mut Vec<String>,
    found: &mut Vec<ParameterHeader>,
) -> Result<(), &'static str> {
    for member in schema.members() {
        if member.name() != "properties" {
            // Not reachable through `properties`, but within another keyword of a schema.
            if member.name() != ANNOTATION && annotates(member.value) {
                return Err("it can't be reached by `properties` alone");
            }
            continue;
        }
        let Ok(properties) = Object::parse(member.value) else { continue };
        for property in properties.members() {
            let Ok(definition) = Object::parse(property.value) else { continue };
            path.push(property.name().into_owned());
            if let Some(header) = definition.find(ANNOTATION) {
                let kind = definition.find_string("type");
                if !matches!(kind.as_deref(), Some("string" | "integer" | "boolean")) {
                    return Err("its parameter is neither a string, an integer nor a boolean");
                }
                let header = wire::string(header)
                    .filter(|header| !header.is_empty())
                    .and_then(|header| HeaderName::try_from(format!("mcp-param-{header}")).ok())
                    .ok_or("it isn't a header name")?;
                found.push(ParameterHeader { path: path.clone(), header });
            }
            collect(&definition, path, found)?;
            path.pop();
        }
    }
    Ok(())
}

/// Whether a value contains an annotation anywhere, as a key.
fn annotates(value: &str) -> bool {
    // Quotes within strings are escaped, so this matches a whole token; it is a key if a colon follows.
    let token = format!("\"{ANNOTATION}\"");
    memchr::memmem::find_iter(value.as_bytes(), &token)
        .any(|at| value[at + token.len()..].trim_start().starts_with(':'))
}
