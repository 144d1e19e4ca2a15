//! A common form for the answers of both sides, and their differences.

use std::fmt;

use serde_json::{Value, json};
use sigward_tests::known_aws::Asked;

/// What a request would be signed with, and the origin of those keys, in the same form for both sides.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Identity {
    Signs(Value),
    Refuses(String),
}

/// The key in the environment of each pair.
const ENVIRONMENT_KEY: &str = "AKIDENV";

/// A difference between both sides.
#[derive(Debug)]
pub(super) enum Difference {
    /// We refuse what botocore signs, with this message.
    Refused(String),
    /// We ask the real AWS, as botocore does, and can't reach it.
    OutOfReach,
    /// We sign as another identity, or where botocore doesn't sign.
    Wrong { kind: String, what: String },
}

impl Identity {
    /// Our identity: the test AWS recorded how each request was signed.
    pub(super) fn ours(answer: &Value, asked: &[Asked]) -> Self {
        if let Some(why) = answer["refused"].as_str() {
            return Self::Refuses(why.to_owned());
        }
        let number = answer["arn"].as_str().and_then(|arn| arn.rsplit('/').next()?.parse().ok());
        let find = |asked: &&Asked| Some(asked.number) == number;
        let called = asked.iter().find(find).expect("the request that returned the ARN");
        let mut hops = Vec::new();
        let mut key = called.key.as_str();
        // Unsigned requests have no key, and requests that issued no credentials have an empty one.
        while let Some(hop) = asked.iter().find(|asked| asked.issued == key && !key.is_empty()) {
            hops.insert(0, shown_hop(hop));
            key = &hop.key;
        }
        Self::Signs(json!({
            "key": general(&called.key),
            "secret": general(&called.secret),
            "token": called.token.as_deref().map(general),
            "hops": hops,
            "region": answer["region"],
        }))
    }

    /// The identity of botocore. If the pair names no endpoints, botocore asks the real AWS.
    fn theirs(answer: &Value, names_endpoints: bool) -> Self {
        if let Some(error) = answer["error"].as_str() {
            return Self::Refuses(error.to_owned());
        }
        let text = |value: &Value| value.as_str().map(|text| general(text).to_owned());
        let no_place = Value::from("");
        let hops = answer["hops"].as_array().into_iter().flatten().map(|hop| {
            json!({
                "role": hop["role"],
                "at": if names_endpoints { &hop["at"] } else { &no_place },
                "by": text(&hop["by"]),
                "by_secret": text(&hop["by_secret"]),
                "by_token": text(&hop["by_token"]),
                "sts_region": hop["sts_region"],
                "parameters": hop["parameters"],
            })
        });
        Self::Signs(json!({
            "key": text(&answer["key"]),
            "secret": text(&answer["secret"]),
            "token": text(&answer["token"]),
            "hops": hops.collect::<Vec<_>>(),
            "region": answer["region"].as_str().map(without_comment),
        }))
    }
}

fn shown_hop(hop: &Asked) -> Value {
    let some = |text: &str| Some(general(text).to_owned()).filter(|text| !text.is_empty());
    let mut parameters = hop.parameters.clone();
    // Our own session name, used if the profile names none, isn't compared.
    parameters.retain(|name, value| name != "RoleSessionName" || !value.starts_with("sigward-"));
    json!({
        "role": hop.role,
        "at": hop.at,
        "by": some(&hop.key),
        "by_secret": some(&hop.secret),
        "by_token": hop.token.as_deref().map(general),
        "sts_region": some(&hop.region),
        "parameters": parameters,
    })
}

/// The text before ` #` or ` ;`.
fn without_comment(text: &str) -> &str {
    let end = [" #", " ;"].iter().filter_map(|comment| text.find(comment)).min();
    text[..end.unwrap_or(text.len())].trim_end()
}

/// AWS numbers the credentials that it issues; all of one kind compare equal.
fn general(text: &str) -> &str {
    let kinds = ["AKIDROLE", "rolesecret", "roletok", "AKIDSSO", "ssosecret", "ssotok"];
    kinds.into_iter().find(|kind| text.starts_with(kind)).unwrap_or(text)
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signs(value) => write!(f, "signs as {value}"),
            Self::Refuses(why) => write!(f, "refuses: {why}"),
        }
    }
}

/// Compares both sides.
///
/// # Errors
/// The difference between both sides.
pub(super) fn judge(
    answer: &Value,
    ours: &Identity,
    names_endpoints: bool,
) -> Result<(), Difference> {
    let theirs = Identity::theirs(answer, names_endpoints);
    let removed = &answer["removed"];
    let wrong = |kind: String| {
        let removed = if removed.is_null() { String::new() } else { format!(" without {removed}") };
        let what = format!("{kind}\n  botocore{removed} {theirs}\n  we {ours}");
        Err(Difference::Wrong { kind, what })
    };
    match (&theirs, ours) {
        (Identity::Signs(_), Identity::Refuses(_)) if answer["must_refuse"] == true => Ok(()),
        (Identity::Signs(_), Identity::Refuses(why))
            if names_endpoints && why.contains(": dispatch failure: ") =>
        {
            Err(Difference::OutOfReach)
        }
        (Identity::Signs(_), Identity::Refuses(why)) => Err(Difference::Refused(why.clone())),
        (Identity::Refuses(_), Identity::Refuses(_)) => Ok(()),
        // Keys from the environment don't depend on any section.
        (_, Identity::Signs(identity))
            if answer["must_refuse"] == true && identity["key"] != ENVIRONMENT_KEY =>
        {
            wrong("the profile builds on a section that can't be parsed".to_owned())
        }
        // A comment after a region: other SDKs remove it, and botocore can't make any request.
        (Identity::Refuses(why), Identity::Signs(_))
            if why.starts_with("InvalidRegionError") && without_comment(why) != why =>
        {
            Ok(())
        }
        // `s3` without its block: botocore can't make a client for any service.
        (Identity::Refuses(why), Identity::Signs(_))
            if why == "AttributeError: 'str' object has no attribute 'get'" =>
        {
            Ok(())
        }
        // botocore makes no client without a region, even with an endpoint. We use the region of the MCP server.
        (Identity::Refuses(why), Identity::Signs(identity))
            if why.starts_with("NoRegionError") && identity["region"].is_null() =>
        {
            Ok(())
        }
        (Identity::Refuses(why), Identity::Signs(_)) => {
            let kind = why.split(':').next().unwrap_or_default();
            wrong(format!("botocore refuses ({kind}), we sign"))
        }
        (Identity::Signs(theirs), Identity::Signs(ours)) => {
            let differs = |name: &&str| theirs[name] != ours[name];
            let names = ["key", "secret", "token", "hops", "region"];
            let names: Vec<_> = names.iter().copied().filter(|name| differs(name)).collect();
            if names.is_empty() { Ok(()) } else { wrong(format!("another {}", names.join(", "))) }
        }
    }
}
