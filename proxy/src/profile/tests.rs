use super::*;
use crate::request::Incoming;

fn offer(names: &[&str], tools: &[&str]) -> Offer {
    let own = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let argument =
        ProfileArgument { name: "aws_profile".to_owned(), tools: Globs::new(&own(tools)) };
    let names = names.iter().map(|name| ProfileName::parse(name).unwrap()).collect();
    Offer::new(Profiles::new(names), argument)
}

fn call(arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{arguments}}}}}"#
    )
}

fn request(text: &str) -> Request {
    match Incoming::read(text.to_owned().into()) {
        Ok(Incoming::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// The text that is sent.
fn sent(choice: &Choice, request: &Request) -> String {
    String::from_utf8(request.finish(choice.cut.clone(), &[]).unwrap().to_vec()).unwrap()
}

fn choose(arguments: &str) -> Result<(String, String), String> {
    let request = request(&call(arguments));
    let choice = offer(&["prod", "dev"], &[]).of_tool_call(&request, "aws_profile")?;
    Ok((choice.profile.as_str().to_owned(), sent(&choice, &request)))
}

#[test]
fn absent_null_and_the_default_by_name_are_the_default() {
    for (given, sent) in [
        (r#"{"a":1}"#, r#"{"a":1}"#),
        (r#"{"a":1,"aws_profile":null}"#, r#"{"a":1}"#),
        (r#"{"aws_profile":"prod","a":1}"#, r#"{"a":1}"#),
        (r#"{}"#, r#"{}"#),
    ] {
        assert_eq!(choose(given), Ok(("prod".to_owned(), call(sent))));
    }
}

#[test]
fn a_listed_name_chooses_the_profile_and_is_removed() {
    for (given, sent) in [
        (r#"{"aws_profile":"dev"}"#, r#"{}"#),
        (
            r#"{"b":1.10,"aws_profile":"dev","a":123456789012345678901,"e":1e400}"#,
            r#"{"b":1.10,"a":123456789012345678901,"e":1e400}"#,
        ),
        (
            r#"{"aws\u005fprofile":"d\u0065v","x":{"aws_profile":"keep"}}"#,
            r#"{"x":{"aws_profile":"keep"}}"#,
        ),
    ] {
        assert_eq!(choose(given), Ok(("dev".to_owned(), call(sent))));
    }
}

#[test]
fn an_unknown_profile_is_an_error_with_the_given_and_the_allowed_names() {
    for (given, shown) in [
        (r#"{"aws_profile":"staging"}"#, r#""staging""#),
        (r#"{"aws_profile":"Prod"}"#, r#""Prod""#),
        (r#"{"aws_profile":["dev"]}"#, r#"["dev"]"#),
        (r#"{"aws_profile":{}}"#, "{}"),
        (r#"{"aws_profile":7}"#, "7"),
        (r#"{"aws_profile":""}"#, r#""""#),
        (r#"{"aws_profile":"\ud800"}"#, r"\ud800"),
    ] {
        let error = choose(given).expect_err(given);
        assert!(error.contains(shown) && error.contains("prod, dev"), "{error}");
    }
    assert!(choose(r#"{"aws_profile":"dev","aws_profile":"prod"}"#).is_err());
    assert!(choose(r#"{"aws_profile":"dev","aws\u005fprofile":"dev"}"#).is_err());
}

#[test]
fn with_one_profile_the_argument_is_ignored() {
    let request = request(&call(r#"{"aws_profile":"anything"}"#));
    let choice = offer(&["prod"], &[]).of_tool_call(&request, "aws_profile").unwrap();
    assert_eq!((choice.profile.as_str(), choice.cut), ("prod", None));
    assert!(!offer(&["prod"], &[]).is_offered_on("t"));
}

#[test]
fn tools_outside_the_globs_use_only_the_default() {
    let offer = offer(&["prod", "dev"], &["aws_*"]);
    let choose = |arguments: &str| offer.of_tool_call(&request(&call(arguments)), "aws_profile");
    assert!(offer.is_offered_on("aws_call") && !offer.is_offered_on("t"));
    assert!(choose(r#"{"aws_profile":"dev"}"#).unwrap_err().contains("always uses"));
    let by_name = call(r#"{"aws_profile":"prod"}"#);
    let choice = choose(r#"{"aws_profile":"prod"}"#).unwrap();
    assert_eq!(sent(&choice, &request(&by_name)), call("{}"));
}

#[test]
fn a_tool_keeps_its_own_argument() {
    let offer = offer(&["prod", "dev"], &[]);
    let on = |schema: &str| offer.argument_on(Object::parse(schema).ok().as_ref());
    let on = |schema: &str| on(schema).unwrap();
    assert_eq!(on(r#"{"type":"object"}"#), "aws_profile");
    assert_eq!(on(r#"{"properties":{"x":{"default":"aws_profile"}}}"#), "aws_profile");
    assert_eq!(on(r#"{"properties":{"aws_profile":{}}}"#), "proxy_aws_profile");
    assert_eq!(on(r#"{"properties":{"aws\u005fprofile":{}}}"#), "proxy_aws_profile");
    assert_eq!(on(r#"{"anyOf":[{},{"properties":{"aws_profile":{}}}]}"#), "proxy_aws_profile");
    assert_eq!(
        on(r#"{"properties":{"aws_profile":{},"proxy_aws_profile":{}}}"#),
        "proxy_proxy_aws_profile"
    );
    let all =
        (0..MAX_NAMES).map(|taken| format!(r#""{}aws_profile":{{}}"#, "proxy_".repeat(taken)));
    let all = format!(r#"{{"properties":{{{}}}}}"#, all.collect::<Vec<_>>().join(","));
    assert_eq!(offer.argument_on(Object::parse(&all).ok().as_ref()), None);
}

#[test]
fn other_requests_choose_in_meta() {
    let offer = offer(&["prod", "dev"], &[]);
    let read = |meta: &str| {
        format!(r#"{{"id":1,"method":"resources/read","params":{{"uri":"a","_meta":{meta}}}}}"#)
    };
    let before = request(&read(r#"{"sigward/profile":"dev","k":1}"#));
    let choice = offer.of_request(&before).unwrap();
    assert_eq!((choice.profile.as_str(), sent(&choice, &before)), ("dev", read(r#"{"k":1}"#)));
    assert_eq!(offer.of_request(&request(&read("{}"))).unwrap().cut, None);
    assert!(offer.of_request(&request(&read(r#"{"sigward/profile":"x"}"#))).is_err());
    for ambiguous in
        [r#"{"sigward/profile":"dev","sigward/profile":"prod"}"#, r#"{"Sigward/Profile":"dev"}"#]
    {
        let refused = offer.of_request(&request(&read(ambiguous)));
        assert!(refused.unwrap_err().contains("_meta"), "{ambiguous}");
    }
}

#[test]
fn the_schema_lists_the_default_first_and_describes() {
    let schema = offer(&["prod", "dev"], &[])
        .schema(|profile| (profile.as_str() == "dev").then(|| "Sandbox \"A\".".to_owned()));
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["type"], "string");
    assert_eq!(schema["enum"], serde_json::json!(["prod", "dev"]));
    assert_eq!(
        schema["description"],
        "AWS profile to make this call with. Default: prod. dev: Sandbox \"A\"."
    );
}

#[test]
fn names_with_special_characters_are_offered_and_accepted() {
    let names = ["my profile", "Zürich", "a, b", "it's \"x\""];
    let offer = offer(&names, &[]);
    let schema: serde_json::Value = serde_json::from_str(&offer.schema(|_| None)).unwrap();
    assert_eq!(schema["enum"], serde_json::json!(names));
    assert!(schema["description"].as_str().unwrap().ends_with("Default: \"my profile\"."));
    for name in names {
        let text = call(&serde_json::json!({ "aws_profile": name, "x": 1 }).to_string());
        let choice = offer.of_tool_call(&request(&text), "aws_profile").unwrap();
        assert_eq!(choice.profile.as_str(), name);
    }
    // It looks the same, but is another name.
    let text = call(r#"{"aws_profile":"Zu\u0308rich"}"#);
    let refused = offer.of_tool_call(&request(&text), "aws_profile").unwrap_err();
    assert!(refused.contains("\"my profile\", Zürich, \"a, b\", "), "{refused}");
}
