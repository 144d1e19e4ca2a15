//! Contents for the suite: prompts, resources, and a minimal picture and sound.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// One red pixel, as a PNG in base64.
pub(super) const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";

/// A WAV without samples, in base64: a header of 44 bytes.
pub(super) fn sound() -> String {
    let mut file = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    file.extend(8000_u32.to_le_bytes());
    file.extend(8000_u32.to_le_bytes());
    file.extend(b"\x01\0\x08\0data\0\0\0\0");
    STANDARD.encode(file)
}

/// The prompts, as they are listed.
pub(super) fn prompts() -> Value {
    json!([
        {"name": "test_simple_prompt", "description": "A prompt without arguments"},
        {
            "name": "test_prompt_with_arguments",
            "description": "A prompt that repeats its arguments",
            "arguments": [
                {"name": "arg1", "description": "The first argument", "required": true},
                {"name": "arg2", "description": "The second argument", "required": true},
            ],
        },
        {
            "name": "test_prompt_with_embedded_resource",
            "description": "A prompt that embeds a resource",
            "arguments": [
                {"name": "resourceUri", "description": "The resource to embed", "required": true},
            ],
        },
        {"name": "test_prompt_with_image", "description": "A prompt with a picture"},
        {
            "name": "test_input_required_result_prompt",
            "description": "A prompt that asks for its context first",
        },
    ])
}

/// The messages of a prompt that doesn't ask; `argument` returns the value of an argument.
pub(super) fn prompt<'a>(name: &str, argument: impl Fn(&str) -> &'a str) -> Option<Value> {
    let text = |text: &str| json!({"role": "user", "content": {"type": "text", "text": text}});
    Some(match name {
        "test_simple_prompt" => json!([text("This is a simple prompt for testing.")]),
        "test_prompt_with_arguments" => {
            let (first, second) = (argument("arg1"), argument("arg2"));
            json!([text(&format!("Prompt with arguments: arg1='{first}', arg2='{second}'"))])
        }
        "test_prompt_with_embedded_resource" => {
            let resource = json!({
                "uri": argument("resourceUri"),
                "mimeType": "text/plain",
                "text": "Embedded resource content for testing.",
            });
            json!([
                {"role": "user", "content": {"type": "resource", "resource": resource}},
                text("Please process the embedded resource above."),
            ])
        }
        "test_prompt_with_image" => {
            let picture = json!({"type": "image", "data": PICTURE, "mimeType": "image/png"});
            json!([
                {"role": "user", "content": picture},
                text("Please analyze the image above."),
            ])
        }
        _ => return None,
    })
}

/// The resources, as they are listed.
pub(super) fn resources() -> Value {
    json!([
        {"uri": "test://static-text", "name": "static-text", "mimeType": "text/plain"},
        {"uri": "test://static-binary", "name": "static-binary", "mimeType": "image/png"},
        {"uri": "test://watched-resource", "name": "watched-resource", "mimeType": "text/plain"},
    ])
}

/// The resource templates, as they are listed.
pub(super) fn templates() -> Value {
    json!([{
        "uriTemplate": "test://template/{id}/data",
        "name": "template",
        "mimeType": "application/json",
    }])
}

/// The contents of a resource.
pub(super) fn resource(uri: &str) -> Option<Value> {
    let content = |kind: &str, key: &str, value: &str| json!({"contents": [{"uri": uri, "mimeType": kind, key: value}]});
    Some(match uri {
        "test://static-text" => {
            content("text/plain", "text", "This is the content of the static text resource.")
        }
        "test://static-binary" => content("image/png", "blob", PICTURE),
        "test://watched-resource" => content("text/plain", "text", "Watched."),
        _ => {
            let id = uri.strip_prefix("test://template/")?.strip_suffix("/data")?;
            let data =
                json!({"id": id, "templateTest": true, "data": format!("Data for ID: {id}")});
            content("application/json", "text", &data.to_string())
        }
    })
}
