//! The proxy's own answers while no server can be reached: a handshake, and a list with one tool.
//!
//! The server's other capabilities are unknown, so only tools are announced.

use crate::client::failed::sentence;
use crate::config::ProfileName;
use crate::error::Error;
use crate::protocol::Generation;
use crate::request::Request;
use crate::tools::{Catalog, Tool};
use crate::wire::{self, Object};

/// The proxy's own tool.
pub(super) const TOOL: &str = "sigward_sign_in";
/// Protocol versions with sessions, the newest first. The proxy's own answer uses the version that the client
/// requested.
const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// Cache members of the proxy's answers in 2026-07-28: no caching, for this client only.
const CACHED: &str = r#","resultType":"complete","ttlMs":0,"cacheScope":"private""#;

/// The result of the tool, once the profile can sign.
pub(super) fn tool_result(call: &Request, profile: &ProfileName) -> String {
    let text = format!(
        "The AWS profile {profile} can sign now. List the tools again: those of the server are there."
    );
    wire::tool_text(call.id(), &text, call.is_stateless())
}

/// The list of tools while no other session can list them. It must not be cached.
pub(super) fn tools(
    call: &Request,
    why: &Error,
    profile: &ProfileName,
    catalog: &Catalog,
) -> String {
    let tool = Tool { argument: String::new(), read_only: true, headers: Vec::new() };
    let (title, next) = match why.recovers_by_itself() {
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

/// The result of `initialize`.
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

/// The result of `server/discover`: the version that the client uses, and tools.
pub(super) fn discovery(call: &Request, why: &Error) -> Option<String> {
    let Generation::Stateless(version) = call.generation() else { return None };
    Some(format!(
        r#"{{"supportedVersions":[{}],"capabilities":{{"tools":{{}}}},"instructions":{},"_meta":{{"io.modelcontextprotocol/serverInfo":{}}}{CACHED}}}"#,
        wire::quote(version.to_str().ok()?),
        instructions(why),
        server_info()
    ))
}

/// The instructions that a model gets in place of the server's.
fn instructions(why: &Error) -> String {
    wire::quote(&format!(
        "The AWS MCP server behind this proxy can't be used yet: {} Its tools appear then.",
        sentence(&why.to_string())
    ))
}

fn server_info() -> String {
    format!(r#"{{"name":"sigward-proxy","version":"{}"}}"#, env!("CARGO_PKG_VERSION"))
}
