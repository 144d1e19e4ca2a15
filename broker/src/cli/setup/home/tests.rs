//! The attack: a person prepares their home before root reads it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::*;

const KEY: &str = "[default]\naws_secret_access_key = canarysecretcanarysecretcanarysecret1234\n";

struct Homes {
    directory: tempfile::TempDir,
    uid: u32,
    gid: u32,
}

impl Homes {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let about = fs::metadata(directory.path()).expect("a directory");
        for home in ["person/.aws/sso/cache", "broker"] {
            fs::create_dir_all(directory.path().join(home)).expect("made");
        }
        Self { uid: about.uid(), gid: about.gid(), directory }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).expect("written");
    }

    fn of(&self, home: &str) -> AwsDirectory {
        AwsDirectory::open(&self.path(home), self.uid).expect("opened").expect("there")
    }

    fn give(&self) -> Result<usize, String> {
        let to = AwsDirectory::make(&self.path("broker"), self.uid, self.gid).expect("made");
        self.of("person").move_to(&to, self.uid, self.gid)
    }
}

#[test]
fn all_files_are_moved_and_moved_back() {
    let homes = Homes::new();
    homes.write("person/.aws/credentials", KEY);
    homes.write("person/.aws/sso/cache/token.json", "{}");
    assert_eq!(homes.give(), Ok(2));
    for gone in ["person/.aws/credentials", "person/.aws/sso"] {
        assert!(!homes.path(gone).exists(), "{gone}");
    }
    let there = homes.path("broker/.aws/credentials");
    assert_eq!(fs::read_to_string(&there).expect("there"), KEY);
    assert_eq!(fs::metadata(&there).expect("there").permissions().mode() & 0o777, 0o600);
    let mode = fs::metadata(homes.path("broker/.aws")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // A second run has nothing to do.
    assert_eq!(homes.give(), Ok(0));

    let back = homes.of("broker").move_to(&homes.of("person"), homes.uid, homes.gid);
    assert_eq!(back, Ok(2));
    assert_eq!(fs::read_to_string(homes.path("person/.aws/credentials")).expect("back"), KEY);
    assert!(homes.path("person/.aws/sso/cache/token.json").exists());
}

/// Each of these would make root hand over another file, or wait for ever.
#[test]
fn files_that_are_not_regular_files_of_the_person_are_refused() {
    type Trap = fn(&Homes, &Path);
    let traps: [(Trap, &str); 3] = [
        (|homes, at| symlink(homes.path("secret"), at).expect("linked"), "is a link"),
        (
            |homes, at| fs::hard_link(homes.path("secret"), at).expect("linked"),
            "a second hard link",
        ),
        (
            |_, at| {
                rustix::fs::mknodat(rustix::fs::CWD, at, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                    .expect("made")
            },
            "isn't a regular file",
        ),
    ];
    for (trap, why) in traps {
        for name in ["config", "sso/cache/x.json"] {
            let homes = Homes::new();
            homes.write("secret", "of another user");
            trap(&homes, &homes.path("person/.aws").join(name));
            let error = homes.give().expect_err(why);
            assert!(error.contains(why) && error.contains(name), "{error}");
            assert!(!homes.path("broker/.aws").join(name).exists());
            assert!(homes.path("secret").exists());
            if name == "config" {
                homes.of("person").read(Path::new(name)).expect_err(why);
            }
        }
    }
}

#[test]
fn a_link_in_place_of_the_directory_is_refused() {
    let homes = Homes::new();
    fs::remove_dir_all(homes.path("person/.aws")).expect("removed");
    fs::create_dir(homes.path("elsewhere")).expect("made");
    symlink(homes.path("elsewhere"), homes.path("person/.aws")).expect("linked");
    let error = AwsDirectory::open(&homes.path("person"), homes.uid).expect_err("a link");
    assert!(error.contains("is a link"), "{error}");
    // Moving back doesn't write through the link either.
    AwsDirectory::make(&homes.path("person"), homes.uid, homes.gid).expect_err("a link");
}

#[test]
fn another_user_s_directory_is_refused() {
    let homes = Homes::new();
    let error =
        AwsDirectory::open(&homes.path("person"), homes.uid + 1).expect_err("another owner");
    assert!(error.contains("its owner is uid"), "{error}");
    assert!(AwsDirectory::open(&homes.path("broker"), homes.uid).expect("no .aws").is_none());
}

/// A file of the same name is another file: neither is lost.
#[test]
fn nothing_is_overwritten() {
    let homes = Homes::new();
    homes.write("person/.aws/credentials", KEY);
    assert_eq!(homes.give(), Ok(1));
    homes.write("person/.aws/credentials", "newer");
    let error = homes.give().expect_err("it exists");
    assert!(error.contains("which is kept"), "{error}");
    assert!(!error.contains("canary"));
    assert_eq!(fs::read_to_string(homes.path("person/.aws/credentials")).expect("kept"), "newer");
    assert_eq!(fs::read_to_string(homes.path("broker/.aws/credentials")).expect("kept"), KEY);
}
