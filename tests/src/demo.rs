//! The demo: all parts of Sigward on one machine, without an AWS account.
//!
//! It has a server that verifies every signature itself, a broker with three profiles, a proxy, and rmcp's own client.
//! It prints only what it observed: each line with a mark is a check, and the program fails if one of them does.

mod paper;
mod picture;
mod scene;

use std::io;
use std::path::Path;

use rmcp::model::{CallToolRequestParams, CallToolResult, Tool};
use rmcp::service::ServiceError;
use serde_json::{Value, json};

use self::paper::Paper;
use self::scene::Scene;
use crate::keys::CANARY;
use crate::{memory, processes};

/// The profiles of the broker, the default first, with their descriptions for the model.
const PROFILES: [(&str, &str); 3] = [
    ("dev", "Development, everything goes"),
    ("staging", "Staging, as production but empty"),
    ("prod", "Production, look but don't touch"),
];
/// A profile that isn't offered.
const STRANGER: &str = "admin";

/// The file names of the pictures: for a light page, and for a dark one.
pub const PICTURES: [&str; 2] = ["light.svg", "dark.svg"];

/// Runs the demo. Returns whether all checks succeeded; only then it writes pictures, into the directory `pictures`.
///
/// # Errors
/// If the parts don't start, or stop talking; the message has the cause.
pub async fn run(colours: bool, pictures: Option<&Path>) -> Result<bool, String> {
    let mut paper = Paper::new(colours);
    paper.title("Sigward: AI agents that act in AWS, without ever holding a key");
    paper.note("Building sigward-broker and sigward-proxy; the first time takes some minutes.");
    let binaries = tokio::task::spawn_blocking(processes::binaries).await;
    let binaries = binaries.map_err(|_| "the two programs don't build; see above".to_owned())?;

    let scene = Scene::start(binaries).await?;
    introduce(&mut paper, &scene);
    show_tools(&mut paper, &scene).await?;
    call_each(&mut paper, &scene).await?;
    refuse(&mut paper, &scene).await?;
    prove(&mut paper, &scene).map_err(|error| format!("can't read from /proc: {error}"))?;
    scene.end().await?;
    let good = paper.verdict();
    if let Some(directory) = pictures.filter(|_| good) {
        draw(&paper, directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    Ok(good)
}

/// Draws the printed lines.
fn draw(paper: &Paper, directory: &Path) -> io::Result<()> {
    let title = "A terminal with the demo of Sigward: an agent calls a tool under three AWS profiles, a fourth is \
                 refused, and no key is found in the memory of the proxy";
    let command = "cargo run --release --bin demo";
    for (name, theme) in PICTURES.into_iter().zip([picture::LIGHT, picture::DARK]) {
        let svg = picture::svg(title, command, paper.lines(), &theme);
        std::fs::write(directory.join(name), svg)?;
    }
    Ok(())
}

fn introduce(paper: &mut Paper, scene: &Scene) {
    paper.section("Who is who");
    let pid = |pid: u32| format!("pid {pid}");
    let agent = std::process::id();
    paper.table(
        &["", "", "WHAT IT DOES", "KEYS"],
        &[
            vec!["agent".into(), pid(agent), "rmcp's own client, over stdio".into(), "-".into()],
            vec![
                "proxy".into(),
                pid(scene.proxy),
                "routes by profile, asks for each signature".into(),
                "none".into(),
            ],
            vec![
                "broker".into(),
                pid(scene.broker()),
                "keeps the keys, signs, decides".into(),
                "3".into(),
            ],
            vec![
                "server".into(),
                pid(agent),
                format!("{} verifies SigV4 by its own code", scene.upstream.url()),
                "to compare".into(),
            ],
        ],
    );
}

async fn show_tools(paper: &mut Paper, scene: &Scene) -> Result<(), String> {
    paper.section("The tools, with what the model may choose");
    let tools = scene.client.list_all_tools().await.map_err(told)?;
    let mut rows = Vec::new();
    for tool in &tools {
        let (argument, names) = offered(tool).unwrap_or_default();
        let good = names == PROFILES.map(|(name, _)| name);
        rows.push(vec![paper.mark(good), tool.name.to_string(), argument, names.join(" | ")]);
    }
    paper.check(!tools.is_empty());
    paper.table(&["", "TOOL", "ARGUMENT", "PROFILES, THE DEFAULT FIRST"], &rows);
    Ok(())
}

/// The argument of a tool that offers profiles, and its profiles.
fn offered(tool: &Tool) -> Option<(String, Vec<String>)> {
    let properties = tool.input_schema.get("properties")?.as_object()?;
    let (name, schema) = properties
        .iter()
        .find(|(name, schema)| name.ends_with("aws_profile") && schema.get("enum").is_some())?;
    let names = serde_json::from_value(schema["enum"].clone()).ok()?;
    Some((name.clone(), names))
}

async fn call_each(paper: &mut Paper, scene: &Scene) -> Result<(), String> {
    paper.section("One call per profile, and whom the server saw");
    let mut rows = Vec::new();
    let named = PROFILES.map(|(name, _)| (json!({"aws_profile": name}), name));
    let calls = [(json!({}), PROFILES[0].0)].into_iter().chain(named);
    for (arguments, expected) in calls {
        let result = call(scene, &arguments).await.map_err(told)?;
        let seen = result.structured_content.clone().unwrap_or_default();
        let identity = seen["identity"].as_str().unwrap_or("?").to_owned();
        let good = result.is_error != Some(true) && identity == scene.home.identity(expected);
        let region = seen["region"].as_str().unwrap_or("?").to_owned();
        rows.push(vec![paper.mark(good), format!("whoami {arguments}"), identity, region]);
    }
    paper.table(&["", "CALL", "IDENTITY THAT THE SERVER VERIFIED", "REGION"], &rows);
    Ok(())
}

async fn refuse(paper: &mut Paper, scene: &Scene) -> Result<(), String> {
    paper.section("A profile that nobody offered");
    // Counts only calls, since the stream of a new session may be requested at any time.
    let before = scene.upstream.requests_of("tools/call").len();
    let arguments = json!({ "aws_profile": STRANGER });
    let result = call(scene, &arguments).await.map_err(told)?;
    let sent = scene.upstream.requests_of("tools/call").len() - before;
    let text = result.content.first().and_then(|content| content.as_text());
    let text = text.map(|text| text.text.clone()).unwrap_or_default();
    let refused = result.is_error == Some(true) && text.contains(STRANGER);
    paper.line(refused, &format!("whoami {arguments} is an error for the model:"));
    paper.quote(&text);
    paper.line(sent == 0, &format!("calls that reached the server: {sent}"));
    let again = call(scene, &json!({})).await.map_err(told)?;
    paper.line(again.is_error != Some(true), "the next good call works");
    Ok(())
}

/// Searches for the secrets where they must not be, and for something else in the same place, as a control of the
/// search.
fn prove(paper: &mut Paper, scene: &Scene) -> io::Result<()> {
    paper.section("Where the keys are, read from /proc");
    let secrets: Vec<_> =
        PROFILES.iter().map(|(name, _)| scene.home.key(name).secret.clone()).collect();
    // The random part of each secret: their common prefix is searched for separately.
    let mut needles: Vec<&[u8]> =
        secrets.iter().map(|secret| &secret.as_bytes()[CANARY.len()..]).collect();
    needles.push(CANARY.as_bytes());
    let url = scene.upstream.url();
    needles.push(url.as_bytes());

    let counts = memory::count(scene.proxy, &needles)?;
    let found = counts[..3].iter().filter(|count| **count > 0).count();
    let variables = memory::environment(scene.proxy)?;
    let leaked = variables.iter().filter(|variable| variable.contains(CANARY)).count();
    let mut rows = vec![vec![
        paper.mark(found == 0 && counts[3] == 0 && leaked == 0 && counts[4] > 0),
        "proxy".to_owned(),
        format!("{found} of 3 secrets"),
        format!("{leaked} of {} variables", variables.len()),
        format!("the endpoint's URL: found {} times", counts[4]),
    ]];
    rows.push(match memory::count(scene.broker(), &needles) {
        Ok(counts) => {
            let found = counts[..3].iter().filter(|count| **count > 0).count();
            vec![
                paper.mark(found == 3),
                "broker".to_owned(),
                format!("{found} of 3 secrets"),
                "-".to_owned(),
                "readable because you are root".to_owned(),
            ]
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => vec![
            paper.mark(true),
            "broker".to_owned(),
            "closed by the kernel".to_owned(),
            "closed too".to_owned(),
            "not even its own user may look".to_owned(),
        ],
        Err(error) => return Err(error),
    });
    paper.table(&["", "PROCESS", "MEMORY", "ENVIRONMENT", "CONTROL"], &rows);
    let unsigned = scene.upstream.requests().iter().filter(|it| it.signature.is_err()).count();
    let all = scene.upstream.requests().len();
    paper.line(
        unsigned == 0,
        &format!("{all} requests reached the server, {unsigned} without a valid signature"),
    );
    Ok(())
}

async fn call(scene: &Scene, arguments: &Value) -> Result<CallToolResult, ServiceError> {
    let arguments = arguments.as_object().cloned().unwrap_or_default();
    scene.client.call_tool(CallToolRequestParams::new("whoami").with_arguments(arguments)).await
}

fn told(error: ServiceError) -> String {
    format!("the proxy and the client don't understand each other: {error}")
}
