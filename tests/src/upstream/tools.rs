//! The tools of the server, their definitions and their results.

use serde_json::{Value, json};

use super::message::Message;
use super::reply::Gate;

/// The cursor of the second page of the list.
const NEXT_CURSOR: &str = "page 2/+=";

/// The first page. A typed parser would change the spelling of its numbers.
const PAGE_1: &[&str] = &[
    r#"{"name":"whoami","title":"Who am I","description":"The identity that signed this call.","inputSchema":{"type":"object","properties":{},"additionalProperties":false},"outputSchema":{"type":"object","properties":{"identity":{"type":"string"},"region":{"type":["string","null"]}},"required":["identity"]},"annotations":{"readOnlyHint":true,"x-odd":1.10}}"#,
    r#"{"name":"echo","description":"The arguments, exactly as received.","inputSchema":{"type":"object","properties":{"text":{"type":"string"},"limit":{"type":"number","maximum":1e2}},"required":[]},"execution":{"taskSupport":"optional"}}"#,
    r#"{"name":"slow","description":"Answers when it is let, or after some milliseconds.","inputSchema":{"type":"object","properties":{"milliseconds":{"type":"integer"}}},"annotations":{"readOnlyHint":true}}"#,
];

/// The second page.
const PAGE_2: &[&str] = &[
    r#"{"name":"switch_account","description":"Has an argument of its own that is called aws_profile.","inputSchema":{"type":"object","properties":{"aws_profile":{"type":"string","description":"the server's own meaning"}},"required":["aws_profile"]}}"#,
    r#"{"name":"write_note","description":"Changes something.","inputSchema":{"type":"object","properties":{"note":{"type":"string"}}},"annotations":{"readOnlyHint":false,"destructiveHint":true}}"#,
    r#"{"name":"lookup","description":"Wants its region in a header too.","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"query":{"type":"string"}},"required":["region"]},"annotations":{"readOnlyHint":true}}"#,
];

/// The tools of the server: the definitions by page, and the gate of the tool `slow`.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    pub(super) pages: Vec<Vec<String>>,
    pub(super) slow: Gate,
}

impl Default for Tools {
    fn default() -> Self {
        let page = |tools: &[&str]| tools.iter().map(|&tool| tool.to_owned()).collect();
        Self { pages: vec![page(PAGE_1), page(PAGE_2)], slow: Gate::default() }
    }
}

impl Tools {
    /// The result of `tools/list`; `extra` is appended after the tools, as `,"name":value`.
    pub(super) fn list(&self, message: &Message, extra: &str) -> Result<String, String> {
        let cursor = message.param("/cursor");
        let page = match &cursor {
            Value::Null => 0,
            Value::String(text) if text == NEXT_CURSOR => 1,
            _ => return Err(message.error(-32602, "unknown cursor", None)),
        };
        let tools = self.pages.get(page).map(|tools| tools.join(",")).unwrap_or_default();
        let next = if page + 1 < self.pages.len() {
            format!(r#","nextCursor":{}"#, Value::from(NEXT_CURSOR))
        } else {
            String::new()
        };
        Ok(format!(r#"{{"tools":[{tools}]{next}{extra}}}"#))
    }

    /// The result of `tools/call` for the caller `identity`; `extra` as in [`Tools::list`].
    pub(super) async fn call(
        &self,
        message: &Message,
        identity: &str,
        extra: &str,
    ) -> Result<String, String> {
        let text = |text: &str| {
            let text = Value::from(text);
            format!(r#"{{"content":[{{"type":"text","text":{text}}}],"isError":false{extra}}}"#)
        };
        let name = message.param("/name");
        match name.as_str().unwrap_or_default() {
            "whoami" => {
                let region = message.param("/_meta/AWS_REGION");
                let shown = format!("AWS_REGION={}", region.as_str().unwrap_or_default());
                let content =
                    json!([{"type": "text", "text": identity}, {"type": "text", "text": shown}]);
                let structured = json!({"identity": identity, "region": region});
                Ok(format!(
                    r#"{{"content":{content},"structuredContent":{structured},"_meta":{{"example.com/odd":1.10}}{extra}}}"#
                ))
            }
            "echo" | "switch_account" | "write_note" | "lookup" => Ok(text(&message.arguments())),
            "slow" => {
                match message.param("/arguments/milliseconds").as_u64() {
                    Some(time) => tokio::time::sleep(std::time::Duration::from_millis(time)).await,
                    None => self.slow.opened().await,
                }
                Ok(text("done"))
            }
            other => Err(message.error(-32602, &format!("Unknown tool: {other}"), None)),
        }
    }

    /// The header names and parameters that a tool requires to be mirrored in `Mcp-Param-*` headers.
    pub(super) fn mirrored(&self, tool: &str) -> Vec<(String, String)> {
        let definitions = self.pages.iter().flatten();
        let mut definitions =
            definitions.filter_map(|text| serde_json::from_str::<Value>(text).ok());
        let definition = definitions.find(|definition| definition["name"] == tool);
        let definition = definition.unwrap_or_default();
        let properties = definition["inputSchema"]["properties"].as_object().cloned();
        properties
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(name, schema)| Some((schema["x-mcp-header"].as_str()?.to_owned(), name)))
            .collect()
    }
}

/// The results that don't depend on the caller; `None` for unknown methods. `extra` as in [`Tools::list`].
pub(super) fn fixed(method: &str, extra: &str) -> Option<String> {
    let body = match method {
        "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => "",
        "resources/list" => r#""resources":[{"uri":"test://note","name":"note"}]"#,
        "resources/templates/list" => r#""resourceTemplates":[]"#,
        "resources/read" => r#""contents":[{"uri":"test://note","text":"a note"}]"#,
        "prompts/list" => r#""prompts":[{"name":"greet"}]"#,
        "prompts/get" => r#""messages":[{"role":"user","content":{"type":"text","text":"Hello"}}]"#,
        "completion/complete" => r#""completion":{"values":["a"],"total":1}"#,
        _ => return None,
    };
    let extra = if body.is_empty() { extra.trim_start_matches(',') } else { extra };
    Some(format!("{{{body}{extra}}}"))
}
