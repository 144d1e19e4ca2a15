//! Why a request has no response from upstream, and the error response that the client gets.

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
    /// For the model: the call can't be made as it was asked for.
    Tool(String),
    /// For the client: the request is wrong.
    Params(String),
    /// The exchange failed.
    Exchange(Error),
    /// `--tool-timeout`; whether the server may know of the call.
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

    /// The reason of a refusal, by the broker's name for it.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Exchange(error) => error.reason().map(Reason::name),
            Self::Tool(_) | Self::Params(_) | Self::TimedOut(..) => None,
        }
    }

    /// The response that says it, which the request's span says too. A failed tool call is one that the model has to
    /// read; other requests have JSON-RPC errors for that.
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

/// An error's text, from lower case to a sentence.
pub(crate) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let end = if text.ends_with(['.', ')', '?', '!', '…']) { "" } else { "." };
    format!("{first}{}{end}", chars.as_str())
}

/// Longer ids aren't repeated in refusals.
const MAX_ECHO: usize = 1024;

/// The answer to a text that is no message, under its id where that can be seen.
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

/// The id of a refusal. What was refused no longer counts, and a long id must not outlive it.
pub(crate) fn echoed(id: Id) -> Id {
    if id.token().len() <= MAX_ECHO { id } else { Id::null() }
}
