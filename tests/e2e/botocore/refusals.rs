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

const KINDS: [Kind; 18] = [
    // botocore takes the older name, and other SDKs the newer: nobody can say which token was meant.
    kind(&["aws_security_token and aws_session_token differ"], 900),
    // Without the section, the AWS CLI goes to AWS itself, in place of the server that the profile means.
    kind(&["services names ", "there is no services section"], 300),
    // For botocore, the line below is a part of the value: no key, role or account is made so.
    kind(&["goes on in an indented line below"], 300),
    // AWS knows no such key: the call that botocore signs with it fails.
    kind(&["holds what no key does"], 250),
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
    kind(&["region is no region"], 120),
    kind(&["is no ARN of a role"], 80),
    kind(&[" must be a URL"], 60),
    // Every client of botocore's looks into it and fails; the comparison asks for the keys alone.
    kind(&["sso_session names ", "there is no sso-session"], 120),
    // What can't be read may concern any profile; botocore gives the file up, and is asked without the section.
    kind(&["isn't text in UTF-#"], 80),
    kind(&["and may concern the profile"], 80),
    // Set for a role, where none is assumed: the profile was meant to be somebody else than it is.
    kind(&["is about a role, and the profile assumes none"], 60),
];

/// What is wrong with the refusals of so many questions: by their words, how often and where.
pub(super) fn wrong(refused: &BTreeMap<String, (usize, u64)>, asked: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut counts = [0; KINDS.len()];
    for (words, (count, seed)) in refused {
        let is = |kind: &Kind| kind.words.iter().all(|part| words.contains(part));
        match KINDS.iter().position(is) {
            Some(index) => counts[index] += count,
            None => wrong.push(format!("{count} of an unknown kind (seed {seed}): {words}")),
        }
    }
    for (Kind { words, at_most }, count) in KINDS.iter().zip(counts) {
        // A short run may be unlucky.
        let most = asked * at_most / 10_000 + 5;
        if count > most {
            wrong.push(format!("{count} are more than {most}: {words:?}"));
        }
    }
    wrong
}
