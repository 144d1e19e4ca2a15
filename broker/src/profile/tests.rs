//! Tests of the change from one configuration to the next.

use std::path::Path;

use sigward_proto::v1::ProfileState;

use super::*;

fn keys(names: &[&str]) -> String {
    let section = |name: &&str| {
        format!("[{name}]\naws_access_key_id = {name}\naws_secret_access_key = canary\n")
    };
    names.iter().map(section).collect()
}

/// A configuration with these profiles; the text after a name is added to its table.
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
    let actor = Arc::clone(&profiles.find(&name).expect("a profile").actor);
    let loaded = actor.credentials(SystemTime::UNIX_EPOCH).await.expect("keys");
    Arc::downgrade(&loaded)
}

#[tokio::test]
async fn unchanged_profiles_keep_their_keys_and_removed_ones_lose_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    std::fs::write(at.join("config"), "").expect("a file");
    std::fs::write(at.join("credentials"), keys(&["stays", "goes", "changes", "other"]))
        .expect("a file");
    let surroundings = Surroundings::default();
    let before = Profiles::new(
        &config(at, &[("stays", ""), ("goes", ""), ("changes", "")]),
        &surroundings,
        Arc::new(()),
    );
    let (stays, goes, changes) =
        (load(&before, "stays").await, load(&before, "goes").await, load(&before, "changes").await);

    let described = "description = \"in other words\"";
    let other = "aws_profile = \"other\"";
    let after = before
        .next(&config(at, &[("changes", other), ("stays", described), ("new", "")]), &surroundings);
    assert!(goes.upgrade().is_some(), "the new configuration isn't in effect yet");
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
    let view = after.view(&name, None, SystemTime::UNIX_EPOCH).await.expect("a view");
    assert_eq!((view.description.as_str(), view.generation), ("in other words", 1));
}

/// The data of the files is shown before the first request for a signature, from a single reading.
#[tokio::test]
async fn a_view_shows_the_files_and_reads_them_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    let files = "[profile sso]\nsso_session = s\nsso_account_id = 1\nsso_role_name = R\nregion = eu-west-1\n\
                 [sso-session s]\nsso_start_url = https://x/start\nsso_region = us-east-1\n\
                 [profile twice]\nregion = a\nregion = b\n\
                 [profile mfa]\nrole_arn = arn:aws:iam::1:role/X\nsource_profile = keys\nmfa_serial = m\n";
    std::fs::write(at.join("config"), files).expect("a file");
    std::fs::write(at.join("credentials"), keys(&["keys"])).expect("a file");
    let surroundings = Surroundings { home: Some(at.to_owned()), ..Surroundings::default() };
    let names = ["keys", "sso", "twice", "mfa", "nobody"].map(|name| (name, ""));
    let profiles = Profiles::new(&config(at, &names), &surroundings, Arc::new(()));
    let view = async |name: &str| {
        let name = ProfileName::parse(name).expect("a name");
        profiles.view(&name, None, SystemTime::UNIX_EPOCH).await.expect("a view")
    };
    for (name, state, reason) in [
        ("keys", ProfileState::Unloaded, None),
        ("sso", ProfileState::LoginRequired, Some(Reason::LoginRequired)),
        ("twice", ProfileState::Misconfigured, Some(Reason::ProfileMisconfigured)),
        ("mfa", ProfileState::Misconfigured, Some(Reason::MfaRequired)),
        ("nobody", ProfileState::Misconfigured, Some(Reason::ProfileMisconfigured)),
    ] {
        let view = view(name).await;
        assert_eq!(view.state, state, "{name}");
        assert_eq!(view.failure.map(|denial| denial.reason()), reason, "{name}");
    }
    // No file is read any more: a view is served from memory.
    std::fs::remove_dir_all(at).expect("removed");
    assert_eq!(view("sso").await.region.as_deref(), Some("eu-west-1"));
    assert_eq!(view("keys").await.state, ProfileState::Unloaded);
}

#[tokio::test]
async fn a_profile_with_preload_is_loaded_on_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    std::fs::write(at.join("config"), "").expect("a file");
    std::fs::write(at.join("credentials"), keys(&["early", "late"])).expect("a file");
    let names = [("early", "preload = true"), ("late", "")];
    let profiles = Profiles::new(&config(at, &names), &Surroundings::default(), Arc::new(()));
    profiles.preload();
    let mut changes = profiles.changes();
    let state = async |name: &str| {
        let name = ProfileName::parse(name).expect("a name");
        profiles.view(&name, None, SystemTime::UNIX_EPOCH).await.expect("a view").state
    };
    while state("early").await != ProfileState::Fresh {
        changes.changed().await.expect("profiles");
    }
    assert_eq!(state("late").await, ProfileState::Unloaded);
}

/// A hanging disk: this terminal has no writer, so reading it waits for ever.
#[cfg(target_os = "linux")]
#[test]
fn a_view_does_not_wait_for_a_hanging_file() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let test = runtime.spawn(async {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("config"), "").expect("a file");
        let hangs = directory.path().join("credentials");
        std::os::unix::fs::symlink("/dev/ptmx", hangs).expect("a link");
        let config = config(directory.path(), &[("dev", ""), ("other", "")]);
        let profiles = Profiles::new(&config, &Surroundings::default(), Arc::new(()));
        // A running load doesn't block callers that only list profiles.
        profiles.prefetch();
        let view = async |name: &str| {
            let name = ProfileName::parse(name).expect("a name");
            let view = profiles.view(&name, None, SystemTime::UNIX_EPOCH);
            crate::deadline::within(view).await.expect("a view").state
        };
        assert_eq!(view("dev").await, ProfileState::Loading);
        assert_eq!(view("other").await, ProfileState::Unloaded);
        // Only the first calls waited.
        for _ in 0..10 {
            let waited = futures_util::FutureExt::now_or_never(profiles.survey().wait());
            assert!(waited.is_some());
        }
        // The profile is dropped at once, although its load hangs.
        let removed = profiles
            .next(&self::config(directory.path(), &[("other", "")]), &Surroundings::default());
        removed.succeed(&profiles);
        assert_eq!(view("dev").await, ProfileState::Unloaded);
    });
    let tested = runtime.block_on(test);
    // The hanging thread is abandoned.
    runtime.shutdown_background();
    tested.expect("it holds");
}

/// STS's response to any caller.
fn assumed(id: &str) -> String {
    format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>{id}</AccessKeyId><SecretAccessKey>canary</SecretAccessKey><SessionToken>token</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )
}

/// The keys of an agent are loaded on first use, are its own, and are dropped with the last rule
/// that names it, like the profile's own keys when no rule without an agent allows them any more.
#[tokio::test]
async fn an_agents_keys_go_with_its_rule() {
    let server = fake::Fake::start(|asked| {
        let session = asked.text.split("RoleSessionName=").nth(1).expect("a name");
        let session = session.split('&').next().expect("a name");
        (200, assumed(session))
    })
    .await;
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    let files = format!(
        "[profile r]\nrole_arn = arn:aws:iam::1:role/X\nsource_profile = keys\nregion = us-east-1\nservices = fake\n\
         [services fake]\nsts =\n  endpoint_url = {}\n",
        server.url
    );
    std::fs::write(at.join("config"), files).expect("a file");
    std::fs::write(at.join("credentials"), keys(&["keys"])).expect("a file");
    let surroundings = Surroundings::default();
    let config = |agents: &[&str]| {
        let rules = agents.iter().map(|agent| {
            let agent =
                if agent.is_empty() { String::new() } else { format!("agent = \"{agent}\"\n") };
            format!("[[rule]]\npeer = {{ uid = 1 }}\nprofiles = [\"r\"]\n{agent}")
        });
        let rules: String = rules.collect();
        self::config(at, &[("r", &rules)])
    };
    let name = ProfileName::parse("r").expect("a name");
    let agent = |name: &str| Agent::parse(name).expect("an agent");
    let load = async |profiles: &Profiles, agent: Option<&Agent>| {
        let actor = Arc::clone(profiles.actor(&name, agent).expect("known"));
        let loaded = actor.credentials(SystemTime::UNIX_EPOCH).await.expect("keys");
        let id = loaded.access_key_id().to_owned();
        (id, Arc::downgrade(&loaded))
    };

    let (bot, tester) = (agent("bot"), agent("tester"));
    let before = Profiles::new(&config(&["", "bot", "tester"]), &surroundings, Arc::new(()));
    let (id, own) = load(&before, None).await;
    assert_eq!(id, "sigward-r");
    let (id, of_bot) = load(&before, Some(&bot)).await;
    assert_eq!(id, "sigward-r-bot");
    assert_eq!(server.asked().len(), 2, "the other agent's weren't requested");
    let view = async |agent| before.view(&name, agent, SystemTime::UNIX_EPOCH).await.expect("one");
    assert_eq!(view(Some(&bot)).await.state, ProfileState::Fresh);
    assert_eq!(view(Some(&tester)).await.state, ProfileState::Unloaded);
    let (_, of_tester) = load(&before, Some(&tester)).await;
    assert!(before.actor(&name, Some(&agent("nobody"))).is_err());

    let after = before.next(&config(&["bot"]), &surroundings);
    after.succeed(&before);
    assert!(of_bot.upgrade().is_some(), "its rule is there");
    assert!(of_tester.upgrade().is_none() && own.upgrade().is_none(), "no rule allows them");
    assert!(after.actor(&name, Some(&tester)).is_err());
    // A call that was decided before loads none.
    let late = before.actor(&name, Some(&tester)).expect("known then");
    let refused = late.credentials(SystemTime::UNIX_EPOCH).await.expect_err("it has ended");
    assert_eq!(refused.reason(), Reason::CredentialsUnavailable);
    let (_, same) = load(&after, Some(&bot)).await;
    assert!(Weak::ptr_eq(&same, &of_bot));

    let last = after.next(&config(&["", "tester"]), &surroundings);
    last.succeed(&after);
    assert!(of_bot.upgrade().is_none());
    assert_eq!(load(&last, Some(&tester)).await.0, "sigward-r-tester");
    assert_eq!(server.asked().len(), 4);
}
