//! What we refuse although botocore signs: each kind has a reason, and a maximum share.
//!
//! A broker that refuses everything never signs as another identity. So a refusal of an unknown kind is a failure, and
//! so is a kind that is more frequent than its maximum.

use std::collections::BTreeMap;

/// A kind of refusal.
struct Kind {
    /// Texts that each message of this kind contains.
    words: &'static [&'static str],
    /// The maximum in 10,000 questions: about three times the usual number.
    at_most: usize,
}

const fn kind(words: &'static [&'static str], at_most: usize) -> Kind {
    Kind { words, at_most }
}

const KINDS: [Kind; 28] = [
    // botocore takes the older name, and other SDKs the newer one: it is unknown which token was meant.
    kind(&["aws_security_token and aws_session_token differ"], 900),
    // Without the section, the AWS CLI asks the real AWS instead of the server that the profile names.
    kind(&["services names ", "there is no services section"], 300),
    // For botocore, the line below is part of the value, which then is no valid key, role or account.
    kind(&["continues in an indented line below"], 300),
    // AWS knows no such key: the call that botocore signs with it fails.
    kind(&["contains characters that keys don't have"], 250),
    kind(&["sts:", "InvalidClientTokenId: the signature does not match"], 60),
    // botocore continues with the keys of the container or the machine, under the name of the profile.
    kind(&["holds no credentials"], 250),
    kind(&["has no aws_access_key_id"], 60),
    kind(&["has no aws_secret_access_key"], 60),
    kind(&["the profile ", " has no sso_"], 60),
    // Two sources of credentials: the SDKs don't agree on their precedence.
    kind(&["credential_process and aws_access_key_id both stand in the profile"], 250),
    kind(&["web_identity_token_file and ", " both stand in the profile"], 150),
    // The request of botocore fails: there is no such host or role.
    kind(&["region isn't a region"], 120),
    kind(&["isn't the ARN of a role"], 80),
    kind(&[" must be a URL"], 60),
    // Every client of botocore reads it and fails; the comparison only asks for the keys.
    kind(&["sso_session names ", "there is no sso-session"], 120),
    // An unreadable part may concern any profile; botocore rejects the file, and is asked without the section.
    kind(&["isn't text in UTF-#"], 80),
    kind(&["and may concern the profile"], 80),
    // Settings for a role in a profile that assumes none: the profile was meant to have another identity.
    kind(&["is about a role, and the profile assumes none"], 60),
    kind(&["credential_source is for assuming a role, and the profile has no role_arn"], 10),
    // Half of a web identity: botocore continues with the next source.
    kind(&["AWS_WEB_IDENTITY_TOKEN_FILE is set, and AWS_ROLE_ARN isn't"], 10),
    // A block of indented settings in place of a value, or the other way round: botocore fails or ignores it, depending
    // on the client.
    kind(&["is a block of settings, where a value is needed"], 10),
    kind(&["must be a block of indented settings"], 10),
    kind(&["the sso-session has no sso_"], 10),
    // STS refuses such a duration; a sign-in in one region isn't valid in another.
    kind(&["duration_seconds must be a number"], 10),
    kind(&["region isn't that of its sso_session"], 10),
    // Roles of a web identity take none: botocore omits it.
    kind(&["external_id can't be set with a web identity"], 10),
    // The URL in the profile belongs to another service: botocore finds out when it sends the request.
    kind(&["sts:", "an unreadable error code"], 10),
    kind(&["the portal gave no credentials"], 10),
];

/// What is wrong with the refusals of `asked` questions, given the number and the first seed of each message. A refusal
/// of an unknown kind is returned with its seed.
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
        // Short runs vary more.
        let most = asked * at_most / 10_000 + 5;
        if count > most {
            wrong.push((format!("{count} are more than {most}: {words:?}"), None));
        }
    }
    wrong
}
