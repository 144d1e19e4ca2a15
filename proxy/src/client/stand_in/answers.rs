//! The proxy's own answers in place of a server that nobody can ask: a handshake, and a list with one tool.
//!
//! What the server can do beside tools isn't known, and isn't guessed.

use crate::client::failed::sentence;
use crate::config::ProfileName;
use crate::error::Error;
use crate::protocol::Generation;
use crate::request::Request;
use crate::tools::{Catalog, Tool};
use crate::wire::{self, Object};

/// The proxy's own tool.
pub(super) const TOOL: &str = "sigward_sign_in";
/// Versions with sessions, the newest first. The proxy's own answer has the one that the client asked for.
const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// Of what the proxy answers in 2026-07-28: it holds for this moment, and for this client.
const CACHED: &str = r#","resultType":"complete","ttlMs":0,"cacheScope":"private""#;

/// The result of the tool, once the profile can sign.
pub(super) fn tool_result(call: &Request, profile: &ProfileName) -> String {
    let text = format!(
        "The AWS profile {profile} can sign now. List the tools again: those of the server are there."
    );
    wire::tool_text(call.id(), &text, call.is_stateless())
}

/// The list of tools while nobody else has one. It holds for no time at all.
pub(super) fn tools(
    call: &Request,
    why: &Error,
    profile: &ProfileName,
    catalog: &Catalog,
) -> String {
    let tool = Tool { argument: String::new(), read_only: true, headers: Vec::new() };
    let (title, next) = match why.passes_by_itself() {
        true => ("Try AWS again", "Call this to try again."),
        false => (
            "Sign in to AWS",
            "Call this once that is done; where the client can open a page for its user, it signs in.",
        ),
    };
    let description = format!(
        "Makes the other tools of this server available: they need the AWS profile {profile}, which can't sign yet. {} {next}",
        sentence(&why.to_string())
    );
    let tools = match catalog.check(TOOL, Some(&tool)) {
        Ok(()) => format!(
            r#"{{"name":"{TOOL}","title":"{title}","description":{},"inputSchema":{{"type":"object","properties":{{}}}},"annotations":{{"readOnlyHint":true}}}}"#,
            wire::quote(&description)
        ),
        Err(_) => String::new(),
    };
    let cached = if call.is_stateless() { CACHED } else { "" };
    format!(r#"{{"tools":[{tools}]{cached}}}"#)
}

/// The answer to `initialize`.
pub(super) fn handshake_result(call: &Request, why: &Error) -> String {
    let params = call.params().and_then(|params| Object::parse(params).ok());
    let asked =
        params.and_then(|params| params.find_string("protocolVersion").map(|it| it.into_owned()));
    let version = VERSIONS.iter().find(|it| asked.as_deref() == Some(**it)).unwrap_or(&VERSIONS[0]);
    format!(
        r#"{{"protocolVersion":"{version}","capabilities":{{"tools":{{"listChanged":true}}}},"serverInfo":{},"instructions":{}}}"#,
        server_info(),
        instructions(why)
    )
}

/// The answer to `server/discover`: the version that the client speaks, and tools.
pub(super) fn discovery(call: &Request, why: &Error) -> Option<String> {
    let Generation::Stateless(version) = call.generation() else { return None };
    Some(format!(
        r#"{{"supportedVersions":[{}],"capabilities":{{"tools":{{}}}},"instructions":{},"_meta":{{"io.modelcontextprotocol/serverInfo":{}}}{CACHED}}}"#,
        wire::quote(version.to_str().ok()?),
        instructions(why),
        server_info()
    ))
}

/// What a model reads of the proxy in place of the server.
fn instructions(why: &Error) -> String {
    wire::quote(&format!(
        "The AWS MCP server behind this proxy can't be used yet: {} Its tools appear then.",
        sentence(&why.to_string())
    ))
}

fn server_info() -> String {
    format!(r#"{{"name":"sigward-proxy","version":"{}"}}"#, env!("CARGO_PKG_VERSION"))
}
