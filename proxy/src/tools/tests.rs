use serde_json::{Value, json};

use super::*;
use crate::config::{Globs, ProfileArgument, ProfileName, Profiles};

fn globs(patterns: &[&str]) -> Globs {
    Globs::new(&patterns.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>())
}

fn offer(profiles: &[&str]) -> Offer {
    let profiles = profiles.iter().map(|name| ProfileName::parse(name).unwrap()).collect();
    let argument = ProfileArgument { name: "aws_profile".to_owned(), tools: globs(&[]) };
    Offer::new(Profiles::new(profiles), argument)
}

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[
 {"name":"read","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true},"x":1.10},
 {"name":"own","inputSchema":{"type":"object","properties":{"aws_profile":{"type":"string"}},"required":["aws_profile"]}},
 {"name":"region","inputSchema":{"properties":{"r":{"type":"string","x-mcp-header":"Region"}}}},
 {"name":"bad","inputSchema":{"properties":{"r":{"type":"number","x-mcp-header":"R"}}}}
],"nextCursor":"2","cacheScope":"public","ttlMs":5}}"#;

fn rewritten(catalog: &Catalog, stateless: bool, profiles: &[&str]) -> Option<Value> {
    let text = catalog.rewrite(LIST, stateless, &offer(profiles), |_| None)?;
    Some(serde_json::from_str(&text).unwrap())
}

#[test]
fn with_one_profile_a_list_is_stored_and_not_changed() {
    let catalog = Catalog::new(ToolPolicy::default());
    assert_eq!(rewritten(&catalog, false, &["dev"]), None);
    assert!(catalog.tool("read").unwrap().read_only);
    assert!(!catalog.tool("own").unwrap().read_only);
    assert_eq!(catalog.tool("region").unwrap().headers[0].header, "mcp-param-region");
    catalog.clear();
    assert_eq!(catalog.tool("read"), None);
}

#[test]
fn with_two_profiles_every_tool_offers_the_argument() {
    let catalog = Catalog::new(ToolPolicy::default());
    let list = rewritten(&catalog, false, &["prod", "dev"]).unwrap();
    let tools = &list["result"]["tools"];
    for (index, name) in [(0, "aws_profile"), (1, "proxy_aws_profile"), (2, "aws_profile")] {
        let property = &tools[index]["inputSchema"]["properties"][name];
        assert_eq!(property["enum"], json!(["prod", "dev"]), "{name}");
    }
    assert_eq!(tools[1]["inputSchema"]["properties"]["aws_profile"], json!({"type": "string"}));
    assert_eq!(tools[1]["inputSchema"]["required"], json!(["aws_profile"]));
    assert_eq!(catalog.tool("own").unwrap().argument, "proxy_aws_profile");
    assert_eq!(list["result"]["nextCursor"], "2");
    assert_eq!(list["result"]["cacheScope"], "private");
    let spelled = LIST.replace("public", r"p\u0075blic");
    let text = catalog.rewrite(&spelled, false, &offer(&["dev", "prod"]), |_| None).unwrap();
    assert!(text.contains(r#""cacheScope":"private""#), "{text}");
    assert_eq!(list["result"]["ttlMs"], 5);
}

#[test]
fn invalid_header_annotations_hide_a_tool_from_2026_on() {
    let names = |stateless| {
        let catalog = Catalog::new(ToolPolicy::default());
        let list = rewritten(&catalog, stateless, &["prod", "dev"]).unwrap();
        let tools = list["result"]["tools"].as_array().unwrap().clone();
        tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(true), ["read", "own", "region"]);
    assert_eq!(names(false), ["read", "own", "region", "bad"]);
}

#[test]
fn header_annotations_follow_the_rules_of_the_specification() {
    let headers = |schema: &str| parameters::headers(&Object::parse(schema).unwrap());
    let nested =
        r#"{"properties":{"a":{"properties":{"b":{"type":"integer","x-mcp-header":"B"}}}}}"#;
    assert_eq!(headers(nested).unwrap()[0].path, ["a", "b"]);
    for schema in [
        r#"{"x-mcp-header":"A"}"#,
        r#"{"properties":{"a":{"type":"string","x-mcp-header":""}}}"#,
        r#"{"properties":{"a":{"type":"string","x-mcp-header":"a b"}}}"#,
        r#"{"properties":{"a":{"type":"string","x-mcp-header":7}}}"#,
        r#"{"properties":{"a":{"type":"number","x-mcp-header":"A"}}}"#,
        r#"{"properties":{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}}}"#,
        r#"{"properties":{"a":{"type":"array","items":{"type":"string","x-mcp-header":"A"}}}}"#,
        r#"{"anyOf":[{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}]}"#,
    ] {
        assert!(headers(schema).is_err(), "{schema}");
    }
}

#[test]
fn the_policy_hides_and_refuses() {
    let policy = |allow: &[&str], deny: &[&str], read_only| {
        Catalog::new(ToolPolicy { allow: globs(allow), deny: globs(deny), read_only })
    };
    let tool = |read_only| Tool { argument: String::new(), read_only, headers: Vec::new() };
    let open = policy(&[], &[], false);
    assert!(open.check("any", None).is_ok());
    let allow = policy(&["aws_*"], &["aws_run*"], false);
    assert!(allow.check("aws_call", None).is_ok());
    assert!(allow.check("aws_run_script", None).unwrap_err().contains("--tools-deny"));
    assert!(allow.check("other", None).unwrap_err().contains("--tools-allow"));
    let reading = policy(&[], &[], true);
    assert!(reading.check("a", Some(&tool(true))).is_ok());
    assert!(reading.check("a", Some(&tool(false))).is_err());
    assert!(reading.check("a", None).is_err());

    let list = rewritten(&policy(&[], &["own"], false), false, &["prod", "dev"]).unwrap();
    assert_eq!(list["result"]["tools"].as_array().unwrap().len(), 3);
    let list = rewritten(&policy(&[], &[], true), false, &["one"]).unwrap();
    assert_eq!(list["result"]["tools"].as_array().unwrap().len(), 1);
    assert_eq!(list["result"]["tools"][0]["inputSchema"], json!({"type": "object"}));
}

/// The attack: a server whose definitions overflow the stack of a recursive reader, or keep it
/// busy.
#[test]
fn malicious_definitions_are_dropped() {
    let deep = |levels: usize, inside: &str| {
        format!("{}{inside}{}", r#"{"items":["#.repeat(levels), "]}".repeat(levels))
    };
    for schema in [
        deep(100_000, r#"{"x-mcp-header":"A"}"#),
        format!(r#"{{"anyOf":[{}]}}"#, deep(100_000, r#"{"properties":{"aws_profile":{}}}"#)),
        format!("{}1{}", r#"{"properties":{"a":"#.repeat(100_000), "}}".repeat(100_000)),
        r#"{"allOf":["#.repeat(50_000) + r#""aws_profile""# + &"]}".repeat(50_000),
    ] {
        let list = format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{{"name":"deep","inputSchema":{schema}}},{{"name":"plain","inputSchema":{{"type":"object"}}}}]}}}}"#
        );
        let catalog = Catalog::new(ToolPolicy::default());
        let text = catalog.rewrite(&list, true, &offer(&["dev", "prod"]), |_| None).unwrap();
        assert!(!text.contains("deep") && text.contains("plain"), "{}", &text[..200]);
        assert!(catalog.tool("plain").is_some() && catalog.tool("deep").is_none());
    }
}

#[test]
fn a_list_that_is_too_long_is_an_error() {
    let long = "x".repeat(MAX_LIST);
    let list = format!(r#"{{"jsonrpc":"2.0","id":"7","result":{{"tools":[],"x":"{long}"}}}}"#);
    let catalog = Catalog::new(ToolPolicy::default());
    let text = catalog.rewrite(&list, true, &offer(&["dev"]), |_| None).unwrap();
    assert!(text.starts_with(r#"{"jsonrpc":"2.0","id":"7","error":{"#), "{}", &text[..100]);
}

/// The attack: a server with new names in each list.
#[test]
fn stored_tools_are_bounded() {
    let (catalog, offer) = (Catalog::new(ToolPolicy::default()), offer(&["a"]));
    for list in 0..3 {
        let tools: Vec<String> =
            (0..MAX_TOOLS).map(|number| format!(r#"{{"name":"{list}-{number}"}}"#)).collect();
        let text = format!(r#"{{"id":1,"result":{{"tools":[{}]}}}}"#, tools.join(","));
        catalog.rewrite(&text, false, &offer, |_| None);
        assert!(catalog.tools.read().unwrap().len() <= MAX_TOOLS);
        assert!(catalog.tool(&format!("{list}-1")).is_some(), "the last list is known");
    }
    assert!(catalog.tool("0-1").is_none());
}
