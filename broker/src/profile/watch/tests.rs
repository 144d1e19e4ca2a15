//! Tests with real files; the checks use the paused runtime's time.

use std::path::Path;
use std::time::SystemTime;

use sigward_proto::v1::ProfileState;

use super::*;
use crate::config::{self, ProfileName};
use crate::deadline;
use crate::error::Reason;
use crate::profile::{Profiles, Surroundings, View};

struct Home {
    directory: tempfile::TempDir,
    profiles: Profiles,
}

fn keys(id: &str) -> String {
    format!("[dev]\naws_access_key_id = {id}\naws_secret_access_key = canary\n")
}

impl Home {
    /// A home whose profile `dev` is loaded and watched, with `config` as the config file.
    async fn new(config: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = directory.path();
        write(at, "credentials", &keys("A"));
        if config == "config" {
            write(at, config, "");
        }
        let text = format!(
            "[aws]\nconfig_file = \"{0}/{config}\"\ncredentials_file = \"{0}/credentials\"\n\
             [[endpoint]]\nname = \"e\"\nurl = \"https://aws-mcp.us-east-1.api.aws/mcp\"\n\
             [[profile]]\nname = \"dev\"\nendpoints = [\"e\"]\n",
            at.display()
        );
        if config != "config" {
            swap(at, "");
        }
        let config = config::parse(&text, Path::new("test"), 0).expect("valid");
        let surroundings = Surroundings { home: Some(at.to_owned()), ..Surroundings::default() };
        let profiles = Profiles::new(&config, &surroundings, Arc::new(()));
        let home = Self { directory, profiles };
        home.profiles.prefetch();
        home.until(|view| view.state == ProfileState::Fresh).await;
        home.profiles.watch();
        home
    }

    fn write(&self, name: &str, text: &str) {
        write(self.directory.path(), name, text);
    }

    fn actor(&self) -> &super::super::Actor {
        &self.profiles.profiles[0].actor
    }

    async fn view(&self) -> View {
        let name = ProfileName::parse("dev").expect("a name");
        self.profiles.view(&name, None, SystemTime::UNIX_EPOCH).await.expect("a view")
    }

    /// Waits for a state; returns the elapsed seconds of the runtime.
    async fn until(&self, reached: impl Fn(&View) -> bool) -> f64 {
        let started = tokio::time::Instant::now();
        let mut changes = self.profiles.changes();
        loop {
            let view = self.view().await;
            if reached(&view) {
                return started.elapsed().as_secs_f64();
            }
            deadline::within(changes.changed()).await.expect("profiles");
        }
    }

    async fn id(&self) -> Result<String, Reason> {
        let actor = Arc::clone(&self.profiles.profiles[0].actor);
        let loaded = actor.credentials(SystemTime::UNIX_EPOCH).await;
        loaded.map(|it| it.access_key_id().to_owned()).map_err(|denial| denial.reason())
    }
}

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).expect(name);
}

/// What kubelet does in a mounted volume.
fn swap(at: &Path, text: &str) {
    let version = at.join(format!("..{}", text.len()));
    std::fs::create_dir(&version).expect("a directory");
    write(&version, "aws", text);
    let link = at.join("..data_tmp");
    std::os::unix::fs::symlink(&version, &link).expect("a link");
    std::fs::rename(&link, at.join("..data")).expect("a swap");
    if !at.join("mounted").exists() {
        std::os::unix::fs::symlink("..data/aws", at.join("mounted")).expect("a link");
    }
}

#[tokio::test(start_paused = true)]
async fn an_edited_file_is_loaded_within_a_second() {
    let home = Home::new("config").await;
    assert_eq!(home.id().await, Ok("A".to_owned()));
    home.write("credentials", &keys("B"));
    assert!(home.until(|view| view.generation == 2).await < 1.0);
    assert_eq!(home.id().await, Ok("B".to_owned()));
    // A replaced file is loaded too.
    home.write("new", &keys("C"));
    let at = home.directory.path();
    std::fs::rename(at.join("new"), at.join("credentials")).expect("a rename");
    assert!(home.until(|view| view.generation == 3).await < 1.0);
    assert_eq!(home.id().await, Ok("C".to_owned()));
}

/// `aws configure` and Terraform write several times in a row: no write is lost at any time.
#[test]
fn an_edit_while_the_files_are_read_is_another_change() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("credentials");
    let marks = || vec![(path.clone(), Mark::of(&path))];
    let mut checks = Checks::default();
    let mut settled = |text: Option<&str>| {
        let settled = checks.settled(marks());
        if let Some(text) = text {
            std::fs::write(&path, text).expect("written");
        }
        settled
    };
    assert!(!settled(Some("first")));
    assert!(!settled(None));
    // The files are read now, and written in between.
    assert!(settled(Some("the second, which the reader misses")));
    assert!(!settled(None), "it has to stand still");
    assert!(settled(None), "and is read then");
    assert!(!settled(None) && !settled(None), "once");
}

#[tokio::test(start_paused = true)]
async fn a_swap_of_a_mounted_volume_is_loaded_within_a_second() {
    let home = Home::new("mounted").await;
    swap(home.directory.path(), "[profile dev]\nregion = eu-west-3\n");
    assert!(home.until(|view| view.region.as_deref() == Some("eu-west-3")).await < 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_another_profile_loads_nothing() {
    let home = Home::new("config").await;
    tokio::time::sleep(INTERVAL * 4).await;
    let mut changes = home.profiles.changes();
    changes.mark_unchanged();
    home.write("config", "[profile other]\nregion = eu-west-1\n");
    deadline::within(changes.changed()).await.expect("a check");
    tokio::time::sleep(INTERVAL * 4).await;
    assert_eq!(home.view().await.state, ProfileState::Fresh);
    assert_eq!(home.view().await.generation, 1);
}

#[tokio::test(start_paused = true)]
async fn half_a_file_breaks_nothing() {
    let home = Home::new("config").await;
    for half in ["[dev", "[dev]\naws_access_key_id = B\n", "[dev]\nnonsense\n"] {
        home.write("credentials", half);
        for _ in 0..5 {
            assert_eq!(home.id().await, Ok("A".to_owned()), "{half}");
            tokio::time::sleep(INTERVAL).await;
        }
    }
    home.write("credentials", &keys("B"));
    assert!(home.until(|view| view.generation == 2).await < 1.0);
    assert_eq!(home.id().await, Ok("B".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_being_written_is_not_read() {
    let home = Home::new("config").await;
    // The file grows between any two checks.
    for length in 0..keys("B").len() {
        home.write("credentials", &keys("B")[..length]);
        tokio::time::sleep(INTERVAL / 2).await;
        let view = home.view().await;
        assert_eq!((view.state, view.generation), (ProfileState::Fresh, 1), "{length}");
    }
    home.write("credentials", &keys("B"));
    assert!(home.until(|view| view.generation == 2).await < 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_removed_profile_loses_its_keys() {
    for take_out in [(|at: &Path| write(at, "credentials", "[other]\n")) as fn(&Path), |at| {
        std::fs::remove_file(at.join("credentials")).expect("there")
    }] {
        let home = Home::new("config").await;
        let held = Arc::downgrade(
            &Arc::clone(&home.profiles.profiles[0].actor)
                .credentials(SystemTime::UNIX_EPOCH)
                .await
                .expect("keys"),
        );
        take_out(home.directory.path());
        assert!(home.until(|view| view.state == ProfileState::Misconfigured).await < 1.0);
        assert!(held.upgrade().is_none(), "freed, and zeroed with that");
        assert_eq!(home.id().await, Err(Reason::ProfileMisconfigured));
        // The profile is restored.
        home.write("credentials", &keys("B"));
        assert!(home.until(|view| view.state == ProfileState::Fresh).await < 1.0);
        assert!(home.actor().is_touched());
    }
}
