//! Properties of every text that the proxy reads as JSON and edits, which the fuzz target `wire` tries to violate.

use serde_json::Value;
use serde_json::value::RawValue;
use sigward_proxy::config::{Globs, ProfileArgument, ProfileName, Profiles, ToolPolicy};
use sigward_proxy::profile::{Choice, Offer};
use sigward_proxy::request::{Incoming, Request};
use sigward_proxy::tools::Catalog;
use sigward_proxy::wire::{self, Edits, Envelope, Object};

/// Bit patterns of the members that are removed, by their position.
const CUTS: [usize; 7] = [0, 0xffff, 0x5555, 0xaaaa, 0x0001, 0xfffe, 0x0ff0];

const PROFILES: [&str; 2] = ["dev", "prod"];
const ARGUMENT: &str = "aws_profile";
const META_KEY: &str = "sigward/profile";

/// Panics if a property is violated for `data`.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    depth(text);
    lines(text);
    spans(text);
    cuts(text);
    array_cuts(text);
    metadata(text);
    let offer = offer();
    if let Ok(Incoming::Request(request)) = Incoming::read(text.to_owned().into()) {
        read(&request, text);
        choice(offer.of_tool_call(&request, ARGUMENT), &request, "arguments", ARGUMENT);
        choice(offer.of_request(&request), &request, "_meta", META_KEY);
    }
    if Envelope::parse(text).is_ok() {
        for stateless in [false, true] {
            listing(&offer, text, stateless);
        }
    }
}

fn offer() -> Offer {
    let argument = ProfileArgument { name: ARGUMENT.to_owned(), tools: Globs::default() };
    let names = PROFILES.iter().filter_map(|name| ProfileName::parse(name).ok());
    Offer::new(Profiles::new(names.collect()), argument)
}

/// Whether `text` is JSON in any spelling, including depths, numbers and surrogates that no `Value`
/// can represent.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

fn value(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

/// A text that other parsers read (128 levels) isn't too deep for the proxy.
fn depth(text: &str) {
    assert!(wire::check_depth(text).is_ok() || value(text).is_none());
}

/// A message on one line has the same meaning, and a batch is its array.
fn lines(text: &str) {
    let line = wire::one_line(text.to_owned());
    assert!(!line.contains(['\n', '\r']));
    if is_json(text) {
        assert!(is_json(&line));
        assert_eq!(value(text), value(&line));
        let is_array = text.trim_start().starts_with('[');
        match wire::batch(text) {
            Err(fault) => assert_eq!(fault, wire::Fault::TooMany(wire::MAX_BATCH)),
            Ok(batch) => assert_eq!(batch.is_some(), is_array),
        }
    }
}

/// The members of an object are its whole text, except for the separators.
fn spans(text: &str) {
    let trimmed = text.trim_matches([' ', '\t', '\n', '\r']);
    let Ok(object) = Object::parse(text) else {
        assert!(!is_json(text) || !trimmed.starts_with('{'), "an object is refused");
        return;
    };
    assert!(is_json(text) && object.text() == trimmed);
    let mut at = 0;
    for member in object.members() {
        for span in [member.key, member.value] {
            let start = offset(object.text(), span);
            let between = &object.text()[at..start];
            assert!(between.bytes().all(|byte| b" \t\n\r{,:".contains(&byte)), "{between:?}");
            assert!(is_json(span));
            at = start + span.len();
        }
    }
    assert!(object.text()[at..].bytes().all(|byte| b" \t\n\r{}".contains(&byte)));
}

/// The position of a span that borrows from `text`.
fn offset(text: &str, span: &str) -> usize {
    span.as_ptr() as usize - text.as_ptr() as usize
}

/// Removed members are gone, added ones are at the end, and the bytes of the others are unchanged.
fn cuts(text: &str) {
    let Ok(object) = Object::parse(text) else { return };
    for mask in CUTS {
        let goes = |key: &str| mask >> (offset(object.text(), key) % 16) & 1 == 1;
        for add in [&[][..], &[("n", "1.0")], &[("n", "[]"), ("m", "{}")]] {
            let mut edits = Edits::new(text);
            edits.members(&object, |member| goes(member.key), add);
            let out = edits.apply().expect("the edits fit");
            let edited = Object::parse(&out).expect("an object stays one");

            let all = object.members();
            let kept: Vec<usize> = (0..all.len()).filter(|&index| !goes(all[index].key)).collect();
            let left = kept.iter().map(|&index| (all[index].key, all[index].value));
            let quoted: Vec<_> = add.iter().map(|(key, it)| (wire::quote(key), *it)).collect();
            let added = quoted.iter().map(|(key, value)| (key.as_str(), *value));
            let found = edited.members().iter().map(|member| (member.key, member.value));
            assert!(found.eq(left.chain(added)), "{text} became {out}");

            // The gap between two neighbours that stay.
            for (place, pair) in kept.windows(2).enumerate() {
                if let [one, next] = *pair
                    && one + 1 == next
                {
                    let before = between(object.text(), all[one].value, all[next].key);
                    let [first, second] = [edited.members()[place], edited.members()[place + 1]];
                    assert_eq!(before, between(edited.text(), first.value, second.key));
                }
            }
            let start = offset(text, object.text());
            assert_eq!(&out[..start], &text[..start]);
            assert!(out.ends_with(&text[start + object.text().len()..]));
            assert!(out == text || kept.len() < all.len() || !add.is_empty());
        }
    }
}

fn between<'a>(text: &'a str, one: &str, next: &str) -> &'a str {
    &text[offset(text, one) + one.len()..offset(text, next)]
}

/// The same for arrays.
fn array_cuts(text: &str) {
    let Ok(all) = wire::elements(text) else { return };
    for mask in CUTS {
        let goes = |index: usize| mask >> (index % 16) & 1 == 1;
        let mut edits = Edits::new(text);
        edits.elements(&all, goes);
        let out = edits.apply().expect("the edits fit");
        let left = wire::elements(&out).expect("an array stays one");
        let kept = all.iter().enumerate().filter(|(index, _)| !goes(*index));
        assert!(left.into_iter().eq(kept.map(|(_, element)| *element)), "{text} became {out}");
    }
}

/// Metadata is one insertion into `_meta`, and never replaces the client's own.
fn metadata(text: &str) {
    let metadata = [("AWS_REGION".to_owned(), "\"eu-west-1\"".to_owned())];
    let out = wire::with_metadata(text.to_owned(), &metadata);
    assert!(is_insertion(text, &out), "{text} became {out}");
    assert_eq!(wire::with_metadata(out.clone(), &metadata), out);
    if is_json(text) {
        assert!(is_json(&out));
    }
    if let Some(before) = value(text) {
        let after = value(&out).expect("values stay values");
        let known = before.pointer("/params/_meta/AWS_REGION");
        let room = |name: &str| before.pointer(name).is_none_or(Value::is_object);
        let room = before.is_object() && room("/params") && room("/params/_meta");
        let added = Value::from("eu-west-1");
        let expected = known.or_else(|| room.then_some(&added));
        assert_eq!(after.pointer("/params/_meta/AWS_REGION"), expected);
        assert_eq!(text == out, known.is_some() || !room);
    }
}

/// A lenient reader reads the same from an accepted request; and metadata is added to it as to a text.
fn read(request: &Request, text: &str) {
    let envelope =
        Envelope::parse(text).expect("a lenient reader accepts what the strict one accepts");
    assert_eq!(request.text(), text);
    assert_eq!((Some(request.id().token()), request.method()), (envelope.id, &*envelope.method));
    assert_eq!(request.params(), envelope.params);
    let params = envelope.params_object();
    assert_eq!(request.meta(), params.as_ref().and_then(|params| params.find("_meta")));
    let metadata = [("AWS_REGION".to_owned(), "\"eu-west-1\"".to_owned())];
    let finished = request.finish(None, &metadata).expect("the edits fit");
    assert_eq!(finished, wire::with_metadata(text.to_owned(), &metadata));
}

/// Whether `longer` is `shorter` with one insertion.
fn is_insertion(shorter: &str, longer: &str) -> bool {
    let (shorter, longer) = (shorter.as_bytes(), longer.as_bytes());
    let head = shorter.iter().zip(longer).take_while(|(one, other)| one == other).count();
    longer.len() >= shorter.len() && longer.ends_with(&shorter[head..])
}

/// A call uses the profile that it names, and the name is removed; a call that names none is
/// unchanged; any other is refused.
fn choice(chosen: Result<Choice, String>, request: &Request, place: &str, key: &str) {
    let text = request.text();
    let params = |text: &str| {
        Envelope::parse(text).ok().and_then(|it| it.params_object()).map(|it| it.text().to_owned())
    };
    let params_before = params(text);
    let object = params_before.as_deref().and_then(|text| Object::parse(text).ok());
    let places = members(object.as_ref(), place);
    let values: Vec<String> =
        places.iter().flat_map(|place| members(Object::parse(place).ok().as_ref(), key)).collect();
    match chosen {
        Ok(Choice { profile, cut: None }) => {
            assert_eq!((profile.as_str(), values.len()), (PROFILES[0], 0), "{text}");
        }
        Ok(Choice { profile, cut }) => {
            assert_eq!((places.len(), values.len()), (1, 1), "{text}");
            assert_eq!(named(&values[0]).as_deref(), Some(profile.as_str()), "{text}");
            let cut = request.finish(cut, &[]).expect("the edits fit");
            let cut = std::str::from_utf8(&cut).expect("UTF-8");
            assert!(is_insertion(cut, text), "{text} became {cut}");
            let params = params(cut);
            let object = params.as_deref().and_then(|text| Object::parse(text).ok());
            let rest = members(object.as_ref(), place).pop().expect("the place stays");
            let rest = Object::parse(&rest).expect("an object stays one");
            let before = Object::parse(&places[0]).expect("it was read before");
            let kept = before.members().iter().filter(|member| member.name() != key);
            let kept = kept.map(|member| (member.key, member.value));
            assert!(rest.members().iter().map(|member| (member.key, member.value)).eq(kept));
        }
        // `_meta` is also refused for a key in another case.
        Err(_) => {
            let wrong = values.iter().any(|value| named(value).is_none());
            assert!(wrong || values.len() != 1, "{text} is refused");
        }
    }
}

/// The values of all members with this name.
fn members(object: Option<&Object<'_>>, name: &str) -> Vec<String> {
    let members = object.map(Object::members).unwrap_or_default();
    let named = members.iter().filter(|member| member.name() == name);
    named.map(|member| member.value.to_owned()).collect()
}

/// The profile that a value names, as another parser reads it.
fn named(value: &str) -> Option<String> {
    let name: Option<String> = serde_json::from_str(value).ok()?;
    let name = name.unwrap_or_else(|| PROFILES[0].to_owned());
    PROFILES.contains(&name.as_str()).then_some(name)
}

/// A rewritten list of tools has the same content for each tool, and offers the profiles in
/// addition.
fn listing(offer: &Offer, text: &str, stateless: bool) {
    let catalog = Catalog::new(ToolPolicy::default());
    let Some(out) = catalog.rewrite(text, stateless, offer, |_| None) else { return };
    assert!(is_json(&out));
    let (Some(before), after) = (value(text), value(&out)) else { return };
    let after = after.expect("values stay values");
    assert_ne!(after["result"]["cacheScope"], "public");
    let tools = |list: &Value| list["result"]["tools"].as_array().cloned().unwrap_or_default();
    let (before, mut after) = (tools(&before), tools(&after));
    if before.len() != after.len() {
        assert!(stateless && before.len() > after.len(), "only the newer generation hides tools");
        return;
    }
    for (was, is) in before.iter().zip(&mut after) {
        let Some(name) = was["name"].as_str() else {
            assert_eq!(was, is);
            continue;
        };
        // Of two tools with one name, the catalog has the later one.
        if before.iter().filter(|tool| tool["name"] == name).count() > 1 {
            continue;
        }
        let known = was["inputSchema"].get("properties");
        if !was["inputSchema"].is_object() || known.is_some_and(|it| !it.is_object()) {
            continue;
        }
        let argument = &catalog.tool(name).expect("it was listed").argument;
        let properties = is["inputSchema"]["properties"].as_object_mut().expect("an object");
        let offered = properties.remove(argument);
        assert!(offered.is_some_and(|it| it["enum"] == Value::from(PROFILES.to_vec())));
        if known.is_none() {
            is["inputSchema"].as_object_mut().expect("an object").remove("properties");
        }
        assert_eq!(was, is);
    }
}
