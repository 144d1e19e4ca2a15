use super::*;
use crate::config;

fn config(more: &str) -> Config {
    let text = format!(
        "[listen]\nunix = \"/run/user/1/sigward/broker.sock\"\n{more}\
         [[endpoint]]\nname = \"e\"\nurl = \"https://aws-mcp.us-east-1.api.aws/mcp\"\n\
         [[profile]]\nname = \"dev\"\nendpoints = [\"e\"]\n"
    );
    config::parse(&text, Path::new("test"), 0).expect("valid")
}

fn home() -> (tempfile::TempDir, Surroundings) {
    let home = tempfile::tempdir().expect("a home");
    std::fs::create_dir_all(home.path().join(".aws/sso/cache")).expect("a directory");
    let surroundings =
        Surroundings { home: Some(home.path().to_owned()), ..Surroundings::default() };
    (home, surroundings)
}

#[test]
fn only_named_paths_can_be_opened() {
    let (home, surroundings) = home();
    let at = home.path();
    for directory in ["etc", "audit", "elsewhere", "tokens", "secret", "run"] {
        std::fs::create_dir(at.join(directory)).expect("a directory");
    }
    let elsewhere = at.join("elsewhere/config");
    let text = format!(
        "[profile dev]\nrole_arn = arn:aws:iam::1:role/X\nweb_identity_token_file = {0}/tokens/t\n\
         ca_bundle = {0}/certificates/ca.pem\n",
        at.display()
    );
    std::fs::write(&elsewhere, text).expect("a file");
    std::os::unix::fs::symlink(&elsewhere, at.join(".aws/config")).expect("a link");
    let config = config(&format!("[audit]\nfile = \"{}/audit/log\"\n", at.display()));
    let file = at.join("etc/broker.toml");
    let named = in_time(&config, &surroundings);
    let access = access(&config, Some(&file), Some(&at.join("run/broker.sock")), named);
    let reads = |path: &str| access.read.contains(&at.join(path));
    for path in [".aws", "etc", "elsewhere", "tokens"] {
        assert!(reads(path), "{path}: {access:?}");
    }
    assert!(reads(""), "where the directory of the CA bundle would be made");
    let writes = |path: &str| access.write.contains(&at.join(path));
    // The cache of `aws login` didn't exist before.
    for path in ["audit", ".aws/sso/cache", ".aws/login/cache", "run"] {
        assert!(writes(path), "{path}: {access:?}");
    }
    for path in ["", ".aws", "etc", "tokens", "secret", "elsewhere"] {
        assert!(!writes(path), "{path}: {access:?}");
    }
    assert!(!reads("secret"));
    let root = PathBuf::from("/");
    assert!(!access.read.contains(&root) && !access.write.contains(&root));
}

/// The attack: the broker of a user who has never signed in can write to the whole home, and puts
/// its own code into a shell's startup file.
#[test]
fn without_aws_files_the_home_is_not_accessible() {
    use std::os::unix::fs::PermissionsExt as _;

    let home = tempfile::tempdir().expect("a home");
    let at = home.path();
    let mut surroundings = Surroundings { home: Some(at.to_owned()), ..Surroundings::default() };
    let config = config("");
    let of = |surroundings: &Surroundings| {
        let named = in_time(&config, surroundings);
        access(&config, Some(Path::new("/etc/broker.toml")), None, named)
    };
    let first = of(&surroundings);
    assert!(!first.write.contains(&at.to_owned()) && !first.read.contains(&at.to_owned()));
    assert!(first.read.contains(&at.join(".aws")), "{first:?}");
    for cache in [".aws/sso/cache", ".aws/login/cache"] {
        let cache = at.join(cache);
        let mode = cache.metadata().expect("it was made").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(first.write.contains(&cache), "{first:?}");
    }
    // In a home of another user, such as an ordinary user's home for a broker that runs as root,
    // nothing is created.
    let file = at.join("file");
    std::fs::write(&file, "").expect("a file");
    surroundings.home = Some(file);
    let writes = of(&surroundings).write;
    assert!(!writes.iter().any(|path| path.starts_with(at)), "{writes:?}");
}
