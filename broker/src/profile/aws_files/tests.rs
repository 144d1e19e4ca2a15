use super::*;

fn files(config: &str, credentials: &str) -> AwsFiles {
    AwsFiles::read((Path::new("config"), config), (Path::new("keys"), credentials)).expect("files")
}

fn region(config: &str, credentials: &str, name: &str) -> Option<String> {
    let files = files(config, credentials);
    let region = files.profile(name)?.get("region")?;
    Some(region.text().expect("a value").to_owned())
}

/// The expected values are what botocore 1.44 reads from the files.
#[test]
fn a_section_is_the_same_profile_as_in_botocore() {
    for (config, credentials, name, found) in [
        ("[profile p]\nregion = a\n", "", "p", Some("a")),
        ("[profile 'p q']\nregion = a\n", "", "p q", Some("a")),
        ("[profile \"p q\"]\nregion = a\n", "", "p q", Some("a")),
        ("[profile p\\ q]\nregion = a\n", "", "p q", Some("a")),
        ("[profile prod-é]\nregion = a\n", "", "prod-é", Some("a")),
        ("[profile   p\t]\nregion = a\n", "", "p", Some("a")),
        ("[profile p] # c\nregion = a\n", "", "p", Some("a")),
        ("[profiles p]\nregion = a\n", "", "p", Some("a")),
        ("[ profile p]\nregion = a\n", "", "p", None),
        ("[profile p q]\nregion = a\n", "", "p", None),
        ("[profile it's]\nregion = a\n", "", "it's", None),
        ("[p]\nregion = a\n", "", "p", None),
        ("[Profile p]\nregion = a\n", "", "p", None),
        ("[profile]\nregion = a\n", "", "profile", None),
        ("[default]\nregion = a\n", "", "default", Some("a")),
        ("[ default ]\nregion = a\n", "", "default", None),
        ("[profile default]\nregion = a\n", "", "default", Some("a")),
        ("[profile default]\nregion = a\n[default]\nregion = b\n", "", "default", Some("b")),
        ("[default]\nregion = b\n[profile default]\nregion = a\n", "", "default", Some("a")),
        // Only the later one counts.
        ("[profile p]\nregion = a\n[profile  p]\nx = y\n", "", "p", None),
        ("", "[p]\nregion = a\n", "p", Some("a")),
        ("", "[profile p]\nregion = a\n", "p", None),
        ("", "[profile p]\nregion = a\n", "profile p", Some("a")),
        ("[profile p]\nregion = a\n", "[p]\nregion = b\n", "p", Some("b")),
        ("[profile p]\nregion = a\n", "[p]\nx = b\n", "p", Some("a")),
        ("[profile p]\nREGION = a\n", "", "p", Some("a")),
    ] {
        assert_eq!(
            region(config, credentials, name).as_deref(),
            found,
            "{config:?} {credentials:?} {name}"
        );
    }
}

#[test]
fn an_error_concerns_only_the_profiles_of_its_section() {
    let config =
        "[profile p]\nregion = a\n[profile q]\nregion = a\nregion = b\n[plugins]\nnothing\n";
    let files = files(config, "[q]\nx = 1\n[r]\nx = 1\nx = 2\n");
    let error = |name| files.profile(name).expect(name).error().map(|error| error.to_string());
    assert_eq!(error("p"), None);
    assert_eq!(error("q").as_deref(), Some("config:5: sets region again, after line 4"));
    // This includes sections that replace one with another spelling.
    let other = AwsFiles::read(
        (
            Path::new("config"),
            "[profile default]\nnothing\n[default]\n[profile p]\n[profile  p]\nx\n",
        ),
        (Path::new("keys"), ""),
    );
    let other = other.expect("files");
    assert!(other.profile("default").expect("default").error().is_some());
    assert!(other.profile("p").expect("p").error().is_some());
    assert_eq!(error("r").as_deref(), Some("keys:5: sets x again, after line 4"));
}

/// The attack, or the mistake: the header of a profile's role is broken, and the keys beside it
/// would sign without the role.
#[test]
fn a_profile_with_a_possibly_broken_header_is_in_doubt() {
    let keys = "[prod]\nx = 1\n[other]\nx = 1\n[profile]\nx = 1\n";
    for line in [
        "profile prod]",
        "[profile prod",
        "  [profile prod]",
        "(profile 'prod')",
        "profile\u{a0}prod]",
    ] {
        let files = files(&format!("[profile a]\nregion = x\n{line}\nrole_arn = r\n"), keys);
        let error = files.profile("prod").expect("prod").error().expect(line).to_string();
        assert!(
            error.starts_with("config:3: ") && error.contains("may concern the profile prod"),
            "{error}"
        );
        assert!(files.doubt("prod").is_some());
        for other in ["other", "pro", "rod", "od"] {
            assert!(files.doubt(other).is_none(), "{line}: {other}");
        }
    }
}

#[test]
fn nested_settings_are_read_as_botocore_reads_them() {
    let config = "[services s]\nsts =\n  endpoint_url = https://x=y\n  a=b\n  a = c \nsso = flat\nsigna =\n  bad\n";
    let files = files(config, "");
    let section = files.services("s").expect("a section");
    let sts = section.get("sts").expect("sts");
    assert_eq!(sts.nested("endpoint_url"), Ok(Some("https://x=y")));
    assert_eq!(sts.nested("a"), Ok(Some("c")));
    assert_eq!(sts.nested("b"), Ok(None));
    let error = sts.text().expect_err("a block").to_string();
    assert_eq!(error, "config:2: sts is a block of settings, where a value is needed");
    assert!(section.get("sso").expect("sso").nested("a").is_err());
    assert!(section.get("signa").expect("signa").nested("a").is_err());
}

#[test]
fn debug_shows_no_value() {
    let files =
        files("[profile p]\nsecret = canary\ncanary\n", "[p]\naws_secret_access_key = canary\n");
    let (profile, other) = (files.profile("p"), files.sso_session("p"));
    let shown = format!("{files:?} {profile:?} {other:?}");
    assert!(!shown.contains("canary"), "{shown}");
}
