//! Requests of tools and prompts to their client: sent as requests up to 2025-11-25, and in results since 2026-07-28.
//!
//! The state that a client carries from one round to the next is sealed: it must come back unchanged, to the tool that
//! issued it, or the call is refused.

use hmac::{Hmac, Mac as _};
use rmcp::ErrorData;
use rmcp::model::{ClientCapabilities, InputResponses};
use serde_json::{Value, json};
use sha2::Sha256;

use super::tools::text;

/// The key of the seals. It has no value outside of the tests.
const SEAL: &[u8] = b"the states of the conformance server";

/// The response of a tool to a call, or to a repeated call with answers.
pub(super) enum Said {
    /// The result.
    Complete(Value),
    /// Questions first: an `InputRequiredResult`.
    Asked(Value),
}

/// The input of one round.
pub(super) struct Round<'a> {
    /// The answers, by the names of their questions.
    pub(super) answers: Option<&'a InputResponses>,
    /// The state of the previous round.
    pub(super) state: Option<&'a str>,
    /// The client's capabilities.
    pub(super) client: ClientCapabilities,
}

impl Round<'_> {
    /// The answer to a question, if it is an object.
    fn answer(&self, question: &str) -> Option<&Value> {
        self.answers?.get(question).filter(|answer| answer.is_object())
    }

    /// The text that the user entered for `field`.
    fn given(&self, question: &str, field: &str) -> Option<&str> {
        self.answer(question)?["content"][field].as_str()
    }
}

/// One round of a tool that asks in its results; `None` for any other tool.
pub(super) fn tool(name: &str, round: &Round<'_>) -> Option<Result<Said, ErrorData>> {
    let Some(kind) = name.strip_prefix("test_input_required_result_") else {
        return (name == "test_streaming_elicitation").then(|| Ok(name_first(round)));
    };
    Some(match kind {
        "elicitation" => Ok(name_first(round)),
        "sampling" => Ok(match round.answer("capital_question") {
            Some(answer) => complete(answer["content"]["text"].as_str().unwrap_or_default()),
            None => {
                asked(json!({"capital_question": sample("What is the capital of France?", 100)}))
            }
        }),
        "list_roots" => Ok(match round.answer("client_roots") {
            Some(answer) => complete(&format!("The roots are {}", answer["roots"])),
            None => asked(json!({"client_roots": roots()})),
        }),
        "request_state" | "tampered_state" => confirm(name, round),
        "multiple_inputs" => several(name, round),
        "multi_round" => twice(name, round),
        "capabilities" => Ok(what_it_can(round)),
        _ => return None,
    })
}

/// One round of the prompt that asks.
pub(super) fn prompt(round: &Round<'_>) -> Said {
    match round.given("user_context", "context") {
        Some(context) => {
            let content = json!({"type": "text", "text": format!("The context is: {context}")});
            Said::Complete(json!({"messages": [{"role": "user", "content": content}]}))
        }
        None => {
            let question = elicit("What context should the prompt use?", "context", "string");
            asked(json!({"user_context": question}))
        }
    }
}

fn name_first(round: &Round<'_>) -> Said {
    match round.given("user_name", "name") {
        Some(name) => complete(&format!("Hello, {name}!")),
        None => asked(json!({"user_name": elicit("What is your name?", "name", "string")})),
    }
}

fn confirm(name: &str, round: &Round<'_>) -> Result<Said, ErrorData> {
    let opened = opened(name, round)?;
    if opened.is_some() && round.answer("confirm").is_some() {
        return Ok(complete("state-ok"));
    }
    let question = elicit("Please confirm", "ok", "boolean");
    Ok(asked_with(json!({"confirm": question}), &sealed(name, "asked")))
}

fn several(name: &str, round: &Round<'_>) -> Result<Said, ErrorData> {
    let questions = json!({
        "user_name": elicit("What is your name?", "name", "string"),
        "greeting": sample("Generate a greeting", 50),
        "client_roots": roots(),
    });
    let opened = opened(name, round)?;
    let all = ["user_name", "greeting", "client_roots"];
    if opened.is_some() && all.iter().all(|question| round.answer(question).is_some()) {
        return Ok(complete("All three are answered."));
    }
    Ok(asked_with(questions, &sealed(name, "asked")))
}

/// The state of each round contains the answers so far.
fn twice(name: &str, round: &Round<'_>) -> Result<Said, ErrorData> {
    let state = opened(name, round)?;
    if let Some(known) = state.as_deref().and_then(|state| state.strip_prefix("2 "))
        && let Some(color) = round.given("step2", "color")
    {
        return Ok(complete(&format!("{known} likes {color}.")));
    }
    if state.as_deref() == Some("1")
        && let Some(given) = round.given("step1", "name")
    {
        let question = elicit("Step 2: What is your favorite color?", "color", "string");
        return Ok(asked_with(json!({"step2": question}), &sealed(name, &format!("2 {given}"))));
    }
    let question = elicit("Step 1: What is your name?", "name", "string");
    Ok(asked_with(json!({"step1": question}), &sealed(name, "1")))
}

fn what_it_can(round: &Round<'_>) -> Said {
    let mut questions = json!({});
    if round.client.sampling.is_some() {
        questions["greeting"] = sample("Generate a greeting", 50);
    }
    if round.client.elicitation.is_some() {
        questions["user_name"] = elicit("What is your name?", "name", "string");
    }
    let unanswered = questions
        .as_object()
        .is_some_and(|all| all.keys().any(|question| round.answer(question).is_none()));
    if unanswered { asked(questions) } else { complete("Nothing is left to ask.") }
}

fn complete(said: &str) -> Said {
    Said::Complete(text(said))
}

fn asked(questions: Value) -> Said {
    Said::Asked(json!({"resultType": "input_required", "inputRequests": questions}))
}

fn asked_with(questions: Value, state: &str) -> Said {
    Said::Asked(json!({
        "resultType": "input_required",
        "inputRequests": questions,
        "requestState": state,
    }))
}

/// A form with one field.
fn elicit(message: &str, field: &str, kind: &str) -> Value {
    let schema = json!({
        "type": "object",
        "properties": {field: {"type": kind}},
        "required": [field],
    });
    elicitation(message, &schema)
}

/// A request to the client's user.
pub(super) fn elicitation(message: &str, schema: &Value) -> Value {
    json!({
        "method": "elicitation/create",
        "params": {"mode": "form", "message": message, "requestedSchema": schema},
    })
}

/// A request to the client's model.
pub(super) fn sample(prompt: &str, tokens: u32) -> Value {
    let message = json!({"role": "user", "content": {"type": "text", "text": prompt}});
    json!({
        "method": "sampling/createMessage",
        "params": {"messages": [message], "maxTokens": tokens},
    })
}

fn roots() -> Value {
    json!({"method": "roots/list", "params": {}})
}

/// Message and schema of the forms of the tools of 2025-11-25.
pub(super) fn form(tool: &str, message: &str) -> Option<(String, Value)> {
    Some(match tool {
        "test_elicitation" => {
            let text = |purpose: &str| json!({"type": "string", "description": purpose});
            let schema = json!({
                "type": "object",
                "properties": {
                    "username": text("User's response"),
                    "email": text("User's email address"),
                },
                "required": ["username", "email"],
            });
            (message.to_owned(), schema)
        }
        "test_elicitation_sep1034_defaults" => {
            let states = ["active", "inactive", "pending"];
            let properties = json!({
                "name": {"type": "string", "default": "John Doe"},
                "age": {"type": "integer", "default": 30},
                "score": {"type": "number", "default": 95.5},
                "status": {"type": "string", "enum": states, "default": "active"},
                "verified": {"type": "boolean", "default": true},
            });
            let schema = json!({"type": "object", "properties": properties});
            ("Please look the values through".to_owned(), schema)
        }
        "test_elicitation_sep1330_enums" => {
            let options = ["option1", "option2", "option3"];
            let titled = json!([
                {"const": "value1", "title": "First Option"},
                {"const": "value2", "title": "Second Option"},
                {"const": "value3", "title": "Third Option"},
            ]);
            let properties = json!({
                "untitledSingle": {"type": "string", "enum": options},
                "titledSingle": {"type": "string", "oneOf": titled},
                "legacyEnum": {
                    "type": "string",
                    "enum": ["opt1", "opt2", "opt3"],
                    "enumNames": ["Option One", "Option Two", "Option Three"],
                },
                "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
                "titledMulti": {"type": "array", "items": {"anyOf": titled}},
            });
            let schema = json!({"type": "object", "properties": properties});
            ("Please choose".to_owned(), schema)
        }
        _ => return None,
    })
}

/// `state` with a seal that only `tool` accepts.
fn sealed(tool: &str, state: &str) -> String {
    format!("{}.{}", hex::encode(state), hex::encode(seal(tool, state).finalize().into_bytes()))
}

/// The state in the call, if there is one.
fn opened(tool: &str, round: &Round<'_>) -> Result<Option<String>, ErrorData> {
    let Some(token) = round.state else { return Ok(None) };
    let opened = || {
        let (state, tag) = token.split_once('.')?;
        let state = String::from_utf8(hex::decode(state).ok()?).ok()?;
        seal(tool, &state).verify_slice(&hex::decode(tag).ok()?).ok()?;
        Some(state)
    };
    match opened() {
        Some(state) => Ok(Some(state)),
        None => Err(ErrorData::invalid_params("requestState is not what this tool gave", None)),
    }
}

fn seal(tool: &str, state: &str) -> Hmac<Sha256> {
    let mut seal = Hmac::<Sha256>::new_from_slice(SEAL).expect("HMAC takes keys of any length");
    for part in [tool, "\0", state] {
        seal.update(part.as_bytes());
    }
    seal
}
