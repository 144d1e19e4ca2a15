//! From one configuration to the next.

use std::path::Path;

use super::*;

fn keys(names: &[&str]) -> String {
    let section = |name: &&str| {
        format!("[{name}]\naws_access_key_id = {name}\naws_secret_access_key = canary\n")
    };
    names.iter().map(section).collect()
}

/// A configuration with these profiles; what follows a name goes into its table.
fn config(at: &Path, profiles: &[(&str, &str)]) -> Config {
    let tables = profiles.iter().map(|(name, added)| {
        format!("[[profile]]\nname = \"{name}\"\nendpoints = [\"e\"]\n{added}\n")
    });
    let text = format!(
        "[aws]\nconfig_file = \"{0}/config\"\ncredentials_file = \"{0}/credentials\"\n\
         [[endpoint]]\nname = \"e\"\nurl = \"https://aws-mcp.us-east-1.api.aws/mcp\"\n{1}",
        at.display(),
        tables.collect::<String>(),
    );
    crate::config::parse(&text, Path::new("test"), 0).expect("valid")
}

async fn load(profiles: &Profiles, name: &str) -> Weak<Credentials> {
    let name = ProfileName::parse(name).expect("a name");
    let refresh = Arc::clone(&profiles.find(&name).expect("a profile").refresh);
    let loaded = refresh.credentials(SystemTime::UNIX_EPOCH).await.expect("keys");
    Arc::downgrade(&loaded)
}

#[tokio::test]
async fn what_stays_keeps_its_keys_and_what_goes_loses_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    std::fs::write(at.join("config"), "").expect("a file");
    std::fs::write(at.join("credentials"), keys(&["stays", "goes", "changes", "other"]))
        .expect("a file");
    let surroundings = Surroundings::default();
    let before =
        Profiles::new(&config(at, &[("stays", ""), ("goes", ""), ("changes", "")]), &surroundings);
    let (stays, goes, changes) =
        (load(&before, "stays").await, load(&before, "goes").await, load(&before, "changes").await);

    let described = "description = \"in other words\"";
    let other = "aws_profile = \"other\"";
    let after = before
        .next(&config(at, &[("changes", other), ("stays", described), ("new", "")]), &surroundings);
    assert!(goes.upgrade().is_some(), "nothing is in force yet");
    after.succeed(&before);
    assert!(stays.upgrade().is_some());
    assert!(goes.upgrade().is_none(), "freed, and zeroed with that");
    assert!(changes.upgrade().is_none());

    let names: Vec<_> = after.names().map(ProfileName::as_str).collect();
    assert_eq!(names, ["changes", "stays", "new"]);
    assert!(Weak::ptr_eq(&load(&after, "stays").await, &stays));
    let changed = load(&after, "changes").await.upgrade().expect("held");
    assert_eq!(changed.access_key_id(), "other");
    let name = ProfileName::parse("stays").expect("a name");
    let view = after.view(&name, SystemTime::UNIX_EPOCH).await.expect("a view");
    assert_eq!((view.description.as_str(), view.generation), ("in other words", 1));
}
