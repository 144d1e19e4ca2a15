//! Why a request has no response from upstream, and the error response for the client.

use std::time::Duration;

use rmcp::model::ErrorCode;
use sigward_proto::v1::Reason;

use crate::config::ProfileName;
use crate::error::Error;
use crate::request::Request;
use crate::route::Unroutable;
use crate::wire::{self, Fault, Id, Object};

/// Why a request has no response from upstream.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The call can't be made as requested; the text is for the model.
    Tool(String),
    /// The request is invalid; the text is for the client.
    Params(String),
    /// The exchange failed.
    Exchange(Error),
    /// The call exceeded `--tool-timeout`. The flag tells whether it may have reached the server.
    TimedOut(Duration, bool),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Exchange(error)
    }
}

impl From<Unroutable> for Failed {
    fn from(why: Unroutable) -> Self {
        match why {
            Unroutable::Tool(why) => Self::Tool(why),
            Unroutable::Params(why) => Self::Params(why),
        }
    }
}

impl Failed {
    /// The profile that needs a sign-in, if that is the cause.
    pub(crate) fn login_required(&self) -> Option<&ProfileName> {
        match self {
            Self::Exchange(error) => error.login_required(),
            Self::Tool(_) | Self::Params(_) | Self::TimedOut(..) => None,
        }
    }

    /// The broker's reason code of a refusal.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Exchange(error) => error.reason().map(Reason::name),
            Self::Tool(_) | Self::Params(_) | Self::TimedOut(..) => None,
        }
    }

    /// The error response, which is also recorded in the request's span. The model reads the text of a failed tool
    /// call; other requests get a JSON-RPC error.
    pub(crate) fn into_response(self, call: &Request) -> String {
        let span = tracing::Span::current();
        span.record("otel.status_code", "ERROR").record("sigward.reason", self.reason());
        let (message, code) = match self {
            Self::Tool(message) => (message, ErrorCode::INVALID_PARAMS),
            Self::Params(message) => (message, ErrorCode::INVALID_PARAMS),
            Self::Exchange(error) => {
                if !error.is_logged() {
                    tracing::error!(method = %call.method(), %error, "a request failed");
                }
                (sentence(&error.to_string()), ErrorCode::INTERNAL_ERROR)
            }
            Self::TimedOut(limit, sent) => {
                let limit = limit.as_secs_f64();
                let end = if sent { "it was cancelled" } else { "nothing was sent" };
                let why = format!("The call took longer than {limit} s (--tool-timeout); {end}.");
                (why, ErrorCode::INTERNAL_ERROR)
            }
        };
        let id = call.id();
        if call.is_tool_call() {
            wire::tool_error(id, &message, call.is_stateless())
        } else {
            wire::error_response(id, code, &message)
        }
    }
}

/// Makes an error's text a sentence: capitalised, with a full stop.
pub(crate) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let end = if text.ends_with(['.', ')', '?', '!', '…']) { "" } else { "." };
    format!("{first}{}{end}", chars.as_str())
}

/// Longer ids aren't repeated in refusals.
const MAX_ECHO: usize = 1024;

/// The error response to a text that is no valid message, under its id if that can be read.
pub(crate) fn fault_response(text: &str, fault: &Fault) -> String {
    let (code, kind) = if fault.is_parse_error() {
        (ErrorCode::PARSE_ERROR, "Parse error")
    } else {
        (ErrorCode::INVALID_REQUEST, "Invalid request")
    };
    let id = Object::parse(text).ok().and_then(|object| object.find("id").map(Id::from_token));
    let id = id.map_or_else(Id::null, echoed);
    wire::error_response(&id, code, &format!("{kind}: {fault}"))
}

/// The id for a refusal. A refused request is no longer counted, so a long id must not be kept.
pub(crate) fn echoed(id: Id) -> Id {
    if id.token().len() <= MAX_ECHO { id } else { Id::null() }
}
