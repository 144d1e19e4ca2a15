//! One JSON-RPC message, parsed only as far as the server needs: ids and arguments stay text.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// The envelope of a message; every part is the text as received.
#[derive(Clone, Debug)]
pub struct Message {
    /// The id's own text: `1`, `"1"`, `1.0`.
    pub id: Option<String>,
    /// The method of a request or a notification.
    pub method: Option<String>,
    /// The text of `params`.
    pub params: Option<String>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<String>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

/// The parts of `params` that stay text.
#[derive(Default, Deserialize)]
pub(super) struct Params<'a> {
    /// `tools/call`: the text of the arguments.
    #[serde(borrow)]
    pub(super) arguments: Option<&'a RawValue>,
}

impl Message {
    /// The message in `body`, or `None` if that isn't a JSON object.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let envelope: Envelope<'_> = serde_json::from_slice(body).ok()?;
        let text = |raw: &RawValue| raw.get().to_owned();
        Some(Self {
            id: envelope.id.map(text),
            method: envelope.method,
            params: envelope.params.map(text),
        })
    }

    /// Whether it needs a response.
    #[must_use]
    pub fn is_request(&self) -> bool {
        self.id.is_some() && self.method.is_some()
    }

    /// The parameter at a JSON pointer (`/name`), or null. Other parameters may have any numbers.
    #[must_use]
    pub fn param(&self, pointer: &str) -> Value {
        let mut text = self.params.clone().unwrap_or_default();
        for step in pointer.split('/').skip(1) {
            let name = step.replace("~1", "/").replace("~0", "~");
            let members: BTreeMap<String, &RawValue> =
                serde_json::from_str(&text).unwrap_or_default();
            let Some(value) = members.get(&name) else { return Value::Null };
            text = value.get().to_owned();
        }
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The text of `params.arguments`, exactly as received; `{}` if there are none.
    #[must_use]
    pub fn arguments(&self) -> String {
        let params: Params<'_> = self
            .params
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        params.arguments.map_or_else(|| "{}".to_owned(), |raw| raw.get().to_owned())
    }

    /// A response to this message with `result`, which is JSON text.
    #[must_use]
    pub fn result(&self, result: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, self.id_text())
    }

    /// An error response to this message; `data` is JSON text.
    #[must_use]
    pub fn error(&self, code: i64, message: &str, data: Option<&str>) -> String {
        let message = Value::from(message);
        let data = data.map(|data| format!(r#","data":{data}"#)).unwrap_or_default();
        let id = self.id_text();
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{message}{data}}}}}"#
        )
    }

    /// The id's text; `null` if there is none.
    #[must_use]
    pub fn id_text(&self) -> &str {
        self.id.as_deref().unwrap_or("null")
    }
}
