//! The few messages that the proxy writes itself.

use rmcp::model::ErrorCode;

use super::id::Id;
use super::text::quote;

/// A request of the proxy.
#[must_use]
pub fn request(id: &Id, method: &str, params: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{},"method":{},"params":{params}}}"#,
        id.token(),
        quote(method)
    )
}

/// A notification of the proxy.
#[must_use]
pub fn notification(method: &str, params: Option<&str>) -> String {
    match params {
        Some(params) => {
            format!(r#"{{"jsonrpc":"2.0","method":{},"params":{params}}}"#, quote(method))
        }
        None => format!(r#"{{"jsonrpc":"2.0","method":{}}}"#, quote(method)),
    }
}

/// A successful response; `result` is JSON text.
#[must_use]
pub fn result_response(id: &Id, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.token())
}

/// An error response.
#[must_use]
pub fn error_response(id: &Id, code: ErrorCode, message: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":{},"message":{}}}}}"#,
        id.token(),
        code.0,
        quote(message)
    )
}

/// A response with a tool result of one text.
#[must_use]
pub fn tool_text(id: &Id, text: &str, stateless: bool) -> String {
    tool_result(id, text, "", stateless)
}

/// A response with a tool result that the model reads as a failed call.
#[must_use]
pub fn tool_error(id: &Id, message: &str, stateless: bool) -> String {
    tool_result(id, message, r#","isError":true"#, stateless)
}

/// Results of 2026-07-28 contain their type (`Result.resultType` of the schema); earlier versions don't have this
/// field.
fn tool_result(id: &Id, text: &str, more: &str, stateless: bool) -> String {
    let kind = if stateless { r#""resultType":"complete","# } else { "" };
    let text = quote(text);
    result_response(id, &format!(r#"{{{kind}"content":[{{"type":"text","text":{text}}}]{more}}}"#))
}
