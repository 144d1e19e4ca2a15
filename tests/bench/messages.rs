//! Large messages of every nasty shape: read, refused, or the profile cut out and the metadata put in. A proxy has one
//! thread, and whatever takes it long stops all other calls.

use std::time::{Duration, Instant};

use sigward_proxy::config::{Globs, ProfileArgument, ProfileName, Profiles};
use sigward_proxy::profile::Offer;
use sigward_proxy::request::Incoming;

/// The size of each message, in bytes.
const SIZE: usize = 16 << 20;

/// How long the slowest shape takes, and which it is: the shortest of three runs of each.
pub(crate) fn slowest() -> (&'static str, Duration) {
    shapes()
        .into_iter()
        .map(|(name, arguments)| {
            let text = format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo","arguments":{{"aws_profile":"prod","a":{arguments}}}}}}}"#
            );
            let time = (0..3).map(|_| time(&text)).min().unwrap();
            eprintln!("  {name}: {:.0} ms", time.as_secs_f64() * 1000.0);
            (name, time)
        })
        .max_by_key(|(_, time)| *time)
        .unwrap()
}

fn time(text: &str) -> Duration {
    let argument = ProfileArgument { name: "aws_profile".to_owned(), tools: Globs::default() };
    let names = ["dev", "prod"].map(|name| ProfileName::parse(name).unwrap());
    let offer = Offer::new(Profiles::new(names.to_vec()), argument);
    let metadata = [("AWS_REGION".to_owned(), "\"eu-west-1\"".to_owned())];
    let message = text.to_owned().into();
    let started = Instant::now();
    if let Ok(Incoming::Request(request)) = Incoming::read(message)
        && let Ok(choice) = offer.of_tool_call(&request, "aws_profile")
    {
        std::hint::black_box(request.finish(choice.cut, &metadata).unwrap());
    }
    started.elapsed()
}

/// JSON values of [`SIZE`] bytes.
fn shapes() -> Vec<(&'static str, String)> {
    let list = |one: &str| format!("[{}0]", one.repeat(SIZE / one.len()));
    let keys = |key: &dyn Fn(usize) -> String| {
        let (mut text, mut number) = ("{".to_owned(), 0);
        while text.len() < SIZE {
            text += &key(number);
            number += 1;
        }
        text + "\"end\":0}"
    };
    let text = |of: &str| format!("\"{}\"", of.repeat(SIZE / of.len()));
    vec![
        ("plain text", text("x")),
        ("escapes", text("\\n\\\"")),
        ("surrogate pairs", text("\\ud83d\\ude00")),
        ("half pairs", text("\\ud83d")),
        ("text that isn't ASCII", text("ü漢")),
        ("small numbers", list("1,")),
        ("long numbers", list("1234567890.1234567890e-123,")),
        ("empty objects", list("{},")),
        ("nested as deep as may be", list(&format!("{}{},", "[".repeat(100), "]".repeat(100)))),
        ("too deep", "[".repeat(SIZE)),
        ("objects in objects, too deep", "{\"a\":".repeat(SIZE / 5)),
        ("many keys", keys(&|number| format!("\"key-{number}\":{number},"))),
        ("one key over and over", keys(&|_| "\"k\":1,".to_owned())),
        ("escaped keys", keys(&|_| "\"\\u006b\":1,".to_owned())),
        ("keys like the profile's", keys(&|_| "\"AWS_PROFILE\":\"x\",".to_owned())),
        ("blanks", format!("{}1", " ".repeat(SIZE))),
        ("no JSON", "x".repeat(SIZE)),
    ]
}
