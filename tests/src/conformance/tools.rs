//! The tools of the suite, and the results of those that don't ask.

use serde_json::{Value, json};

use super::contents::{PICTURE, sound};

/// Name and purpose of every tool without arguments.
const PLAIN: &[(&str, &str)] = &[
    ("test_simple_text", "Answers a text"),
    ("test_image_content", "Answers a picture"),
    ("test_audio_content", "Answers a sound"),
    ("test_embedded_resource", "Answers a resource"),
    ("test_multiple_content_types", "Answers a text, a picture and a resource"),
    ("test_error_handling", "Always fails"),
    ("test_tool_with_logging", "Logs three messages on its way"),
    ("test_tool_with_progress", "Reports its progress"),
    ("test_elicitation_sep1034_defaults", "Asks the user, with defaults"),
    ("test_elicitation_sep1330_enums", "Asks the user to choose, in five ways"),
    ("test_missing_capability", "Wants a client that samples"),
    ("test_streaming_elicitation", "Asks the user, in its result"),
    ("test_logging_tool", "Logs one message, for a client that wants it"),
    ("test_trigger_tool_change", "Announces a change of the tools"),
    ("test_trigger_prompt_change", "Announces a change of the prompts"),
    ("test_input_required_result_elicitation", "Asks for a name"),
    ("test_input_required_result_sampling", "Asks the model"),
    ("test_input_required_result_list_roots", "Asks for the roots"),
    ("test_input_required_result_request_state", "Asks with a state"),
    ("test_input_required_result_multiple_inputs", "Asks three questions"),
    ("test_input_required_result_multi_round", "Asks twice"),
    ("test_input_required_result_tampered_state", "Asks, and sees a forged state"),
    ("test_input_required_result_capabilities", "Asks only what the client can answer"),
];

/// The tools, as they are listed.
pub(super) fn tools() -> Value {
    let mut tools: Vec<_> = PLAIN
        .iter()
        .map(|(name, purpose)| {
            let schema = json!({"type": "object", "properties": {}});
            json!({"name": name, "description": purpose, "inputSchema": schema})
        })
        .collect();
    let one_text = |name: &str, purpose: &str, argument: &str| {
        let schema = json!({
            "type": "object",
            "properties": {argument: {"type": "string"}},
            "required": [argument],
        });
        json!({"name": name, "description": purpose, "inputSchema": schema})
    };
    tools.push(one_text("test_sampling", "Asks the client's model", "prompt"));
    tools.push(one_text("test_elicitation", "Asks the client's user", "message"));
    tools.push(json!({
        "name": "json_schema_2020_12_tool",
        "description": "Has a schema that a relay must not touch",
        "inputSchema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "$defs": {
                "address": {
                    "$anchor": "addressDef",
                    "type": "object",
                    "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
                },
            },
            "properties": {
                "name": {"type": "string"},
                "address": {"$ref": "#/$defs/address"},
                "contactMethod": {"type": "string", "enum": ["phone", "email"]},
                "phone": {"type": "string"},
                "email": {"type": "string"},
            },
            "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
            "if": {
                "properties": {"contactMethod": {"const": "phone"}},
                "required": ["contactMethod"],
            },
            "then": {"required": ["phone"]},
            "else": {"required": ["email"]},
            "additionalProperties": false,
        },
    }));
    Value::from(tools)
}

/// The result of a tool that depends only on its name.
pub(super) fn at_once(name: &str) -> Option<Value> {
    let picture = json!({"type": "image", "data": PICTURE, "mimeType": "image/png"});
    Some(match name {
        "test_simple_text" => text("This is a simple text response for testing."),
        "test_image_content" => json!({"content": [picture]}),
        "test_audio_content" => {
            json!({"content": [{"type": "audio", "data": sound(), "mimeType": "audio/wav"}]})
        }
        "test_embedded_resource" => {
            let resource = json!({
                "uri": "test://embedded-resource",
                "mimeType": "text/plain",
                "text": "This is an embedded resource content.",
            });
            json!({"content": [{"type": "resource", "resource": resource}]})
        }
        "test_multiple_content_types" => {
            let resource = json!({
                "uri": "test://mixed-content-resource",
                "mimeType": "application/json",
                "text": r#"{"test":"data","value":123}"#,
            });
            json!({"content": [
                {"type": "text", "text": "Multiple content types test:"},
                picture,
                {"type": "resource", "resource": resource},
            ]})
        }
        "test_error_handling" => {
            let mut result = text("This tool intentionally returns an error for testing");
            result["isError"] = Value::Bool(true);
            result
        }
        "json_schema_2020_12_tool" => text("The schema is what matters."),
        _ => return None,
    })
}

/// A result of one text.
pub(super) fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}
