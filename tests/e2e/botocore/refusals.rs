//! What we refuse though botocore signs: each kind has a reason, and a share that it may have.
//!
//! A broker that refuses everything is never somebody else. A refusal that isn't one of these is a failure, and so is
//! a kind that is more common than its reason is.

use std::collections::BTreeMap;

/// A kind of refusals.
struct Kind {
    /// What each of them says.
    words: &'static [&'static str],
    /// How many of 10,000 questions may be answered so: about three times as many as are.
    at_most: usize,
}

const fn kind(words: &'static [&'static str], at_most: usize) -> Kind {
    Kind { words, at_most }
}

const KINDS: [Kind; 28] = [
    // botocore takes the older name, and other SDKs the newer: nobody can say which token was meant.
    kind(&["aws_security_token and aws_session_token differ"], 900),
    // Without the section, the AWS CLI goes to AWS itself, in place of the server that the profile means.
    kind(&["services names ", "there is no services section"], 300),
    // For botocore, the line below is a part of the value: no key, role or account is made so.
    kind(&["continues in an indented line below"], 300),
    // AWS knows no such key: the call that botocore signs with it fails.
    kind(&["contains characters that keys don't have"], 250),
    kind(&["sts:", "InvalidClientTokenId: the signature does not match"], 60),
    // botocore goes on to the container's or the machine's own keys, under the name of the profile.
    kind(&["holds no credentials"], 250),
    kind(&["has no aws_access_key_id"], 60),
    kind(&["has no aws_secret_access_key"], 60),
    kind(&["the profile ", " has no sso_"], 60),
    // Two ways to the credentials: the SDKs don't agree on which of them counts.
    kind(&["credential_process and aws_access_key_id both stand in the profile"], 250),
    kind(&["web_identity_token_file and ", " both stand in the profile"], 150),
    // The request that botocore makes of it fails: no host has that name, no role that ARN.
    kind(&["region isn't a region"], 120),
    kind(&["isn't the ARN of a role"], 80),
    kind(&[" must be a URL"], 60),
    // Every client of botocore's looks into it and fails; the comparison asks for the keys alone.
    kind(&["sso_session names ", "there is no sso-session"], 120),
    // What can't be read may concern any profile; botocore gives the file up, and is asked without the section.
    kind(&["isn't text in UTF-#"], 80),
    kind(&["and may concern the profile"], 80),
    // Set for a role, where none is assumed: the profile was meant to be somebody else than it is.
    kind(&["is about a role, and the profile assumes none"], 60),
    kind(&["credential_source is for assuming a role, and the profile has no role_arn"], 10),
    // Half of a web identity: botocore goes on to whatever else there is.
    kind(&["AWS_WEB_IDENTITY_TOKEN_FILE is set, and AWS_ROLE_ARN isn't"], 10),
    // A block of indented settings in place of a value, or the other way round: botocore fails or ignores it, by the
    // client that it makes.
    kind(&["is a block of settings, where a value is needed"], 10),
    kind(&["must be a block of indented settings"], 10),
    kind(&["the sso-session has no sso_"], 10),
    // STS refuses such a time; a sign-in of one region is none in another.
    kind(&["duration_seconds must be a number"], 10),
    kind(&["region isn't that of its sso_session"], 10),
    // No role of a web identity takes one: botocore leaves it out.
    kind(&["external_id can't be set with a web identity"], 10),
    // The URL that the profile names leads to no service: botocore finds out once it asks.
    kind(&["sts:", "an unreadable error code"], 10),
    kind(&["the portal gave no credentials"], 10),
];

/// What is wrong with the refusals of so many questions: by their words, how often and where. One of an unknown kind
/// comes with the seed of a pair.
pub(super) fn wrong(
    refused: &BTreeMap<String, (usize, u64)>,
    asked: usize,
) -> Vec<(String, Option<u64>)> {
    let mut wrong = Vec::new();
    let mut counts = [0; KINDS.len()];
    for (words, (count, seed)) in refused {
        let is = |kind: &Kind| kind.words.iter().all(|part| words.contains(part));
        match KINDS.iter().position(is) {
            Some(index) => counts[index] += count,
            None => {
                let what = format!("{count} of an unknown kind (seed {seed}): {words}");
                wrong.push((what, Some(*seed)));
            }
        }
    }
    for (Kind { words, at_most }, count) in KINDS.iter().zip(counts) {
        // A short run may be unlucky.
        let most = asked * at_most / 10_000 + 5;
        if count > most {
            wrong.push((format!("{count} are more than {most}: {words:?}"), None));
        }
    }
    wrong
}
