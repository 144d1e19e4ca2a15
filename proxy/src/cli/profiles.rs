//! Which profiles are offered, according to the command line and the environment.

use crate::config::ProfileName;
use crate::environment::{Environment, Keys};

const LIST: &str = "AWS_MCP_PROXY_PROFILES";
const DEFAULT: &str = "AWS_DEFAULT_PROFILE";
const PROFILE: &str = "AWS_PROFILE";

/// The profiles in their order; empty for the default chain. `AWS_MCP_PROXY_PROFILES` overrides `--profile`, as in
/// mcp-proxy-for-aws; of the other two variables, the one that the AWS CLI prefers comes first.
pub(super) fn chosen(
    given: Vec<String>,
    environment: &Environment,
) -> Result<Vec<ProfileName>, String> {
    if let Some(list) = environment.text(LIST)? {
        let names = split(list).map_err(|why| format!("{LIST} {why}"))?;
        if !names.is_empty() {
            return checked(LIST, names);
        }
    }
    if !given.is_empty() {
        return checked("--profile", given);
    }
    if let Some(name) = environment.text(DEFAULT)? {
        // The AWS CLI prefers keys in the environment to this profile: that is the default chain.
        let keys_come_first = environment.keys() == Keys::AccessKey;
        let names = if keys_come_first { vec![] } else { vec![name.to_owned()] };
        return checked(DEFAULT, names);
    }
    checked(PROFILE, environment.text(PROFILE)?.map(str::to_owned).into_iter().collect())
}

fn checked(origin: &str, names: Vec<String>) -> Result<Vec<ProfileName>, String> {
    let parsed = names.iter().map(|name| {
        ProfileName::parse(name)
            .map_err(|why| format!("{origin} {name:?} can't be the name of a profile: it {why}"))
    });
    parsed.collect()
}

/// Splits at white space, as mcp-proxy-for-aws does. A word that begins with a quote ends at the same quote before
/// white space or the end, so that `"my profile" dev` is two names.
fn split(list: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = list.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_end = |text: &str| text.chars().next().is_none_or(char::is_whitespace);
        let (word, behind) = if matches!(first, '"' | '\'') {
            let end = rest.match_indices(first).skip(1).find(|(at, _)| is_end(&rest[at + 1..]));
            let Some((end, _)) = end else {
                return Err(format!("has a {first} that isn't closed: {rest}"));
            };
            (&rest[1..end], &rest[end + 1..])
        } else {
            rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()))
        };
        words.push(word.to_owned());
        rest = behind.trim_start();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(given: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
        let given = given.iter().map(|&name| name.to_owned()).collect();
        let chosen = chosen(given, &Environment::with(environment)).unwrap();
        chosen.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_environment_names_profiles_in_the_order_of_the_aws_cli() {
        let (default, profile) = ((DEFAULT, "d"), (PROFILE, "p"));
        assert_eq!(choose(&[], &[profile]), ["p"]);
        assert_eq!(choose(&[], &[default]), ["d"]);
        assert_eq!(choose(&[], &[default, profile]), ["d"]);
        assert_eq!(choose(&["a"], &[default, profile]), ["a"]);
        assert_eq!(choose(&["a"], &[default, profile, (LIST, "x  y")]), ["x", "y"]);
        assert_eq!(choose(&["a"], &[(LIST, "  ")]), ["a"], "a blank variable is ignored");
        assert_eq!(choose(&[], &[(DEFAULT, ""), (LIST, ""), profile]), ["p"]);
        assert_eq!(choose(&[], &[(PROFILE, "")]), [""; 0]);
    }

    #[test]
    fn keys_of_the_environment_come_before_the_default_profile() {
        let key = ("AWS_ACCESS_KEY_ID", "AKID");
        assert_eq!(choose(&[], &[(DEFAULT, "d"), key]), [""; 0]);
        assert_eq!(choose(&[], &[(DEFAULT, "d"), ("AWS_ACCESS_KEY_ID", "")]), ["d"]);
        assert_eq!(choose(&["a"], &[(DEFAULT, "d"), key]), ["a"]);
        assert_eq!(choose(&[], &[(PROFILE, "p"), key]), ["p"], "as in mcp-proxy-for-aws");
    }

    #[test]
    fn names_with_spaces_can_be_quoted_in_the_list() {
        let list = |text| choose(&[], &[(LIST, text)]);
        assert_eq!(list(r#""my profile" dev"#), ["my profile", "dev"]);
        assert_eq!(list(r#"dev 'the "other" one' "#), ["dev", r#"the "other" one"#]);
        assert_eq!(list("o'brien it's"), ["o'brien", "it's"], "only a word's first character");
        assert_eq!(list("'o'brien x'"), ["o'brien x"]);
        assert_eq!(list("Zürich\u{a0}東京"), ["Zürich", "東京"]);
        for wrong in [r#""my profile dev"#, "'"] {
            let error = chosen(vec![], &Environment::with(&[(LIST, wrong)])).unwrap_err();
            assert!(error.contains(LIST) && error.contains("isn't closed"), "{error}");
        }
    }

    #[test]
    fn an_invalid_name_is_refused_with_its_origin() {
        for (given, environment, origin) in [
            (vec!["a\nb".to_owned()], vec![], "--profile"),
            (vec![String::new()], vec![], "--profile"),
            (vec![], vec![(LIST, "a \"\"")], LIST),
            (vec![], vec![(DEFAULT, "a\u{2028}b")], DEFAULT),
            (vec![], vec![(PROFILE, "a\u{1b}[2K")], PROFILE),
        ] {
            let error = chosen(given, &Environment::with(&environment)).unwrap_err();
            assert!(error.starts_with(origin), "{error}");
            assert!(!error.contains(|c: char| c.is_control() || c == '\u{2028}'), "{error}");
        }
    }
}
