use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;

fn home() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().canonicalize().expect("a path");
    (directory, path)
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("permitted");
}

fn write(path: &Path, mode: u32) {
    std::fs::write(path, "text").expect("a file");
    set_mode(path, mode);
}

fn refusal(result: io::Result<Trusted>) -> String {
    let error = result.expect_err("it is refused");
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
    error.to_string()
}

#[test]
fn a_file_that_others_may_write_is_refused_with_the_repair() {
    let (_directory, home) = home();
    let file = home.join("file");
    for (mode, repair) in [(0o666, "o-w"), (0o602, "o-w"), (0o600, ""), (0o644, "")] {
        write(&file, mode);
        if repair.is_empty() {
            assert_eq!(Trusted::existing(&file).expect("trusted").path(), file, "{mode:o}");
            continue;
        }
        let why = refusal(Trusted::existing(&file));
        let command = format!("repair it with: chmod {repair} {}", file.display());
        assert!(why.ends_with(&command) && why.contains(&format!("(mode {mode:04o})")), "{why}");
    }
}

/// No group with this number is in a file of the system.
#[test]
fn a_group_that_may_write_is_refused() {
    let (_directory, home) = home();
    let file = home.join("file");
    write(&file, 0o660);
    let group = rustix::process::Gid::from_raw(54_321);
    if rustix::fs::chown(&file, None, Some(group)).is_err() {
        // Only root can give a file to a group that it isn't in.
        assert_ne!(rustix::process::geteuid().as_raw(), 0);
        return;
    }
    let why = refusal(Trusted::existing(&file));
    assert!(why.contains("group 54321") && why.contains("chmod g-w"), "{why}");
    set_mode(&file, 0o640);
    Trusted::existing(&file).expect("the group reads");
}

#[test]
fn each_directory_above_is_checked() {
    let (_directory, home) = home();
    let (upper, lower) = (home.join("upper"), home.join("upper/lower"));
    std::fs::create_dir_all(&lower).expect("directories");
    let file = lower.join("file");
    write(&file, 0o600);
    for above in [&upper, &lower] {
        set_mode(above, 0o777);
        for result in [Trusted::existing(&file), Trusted::place(&file)] {
            let why = refusal(result);
            assert!(why.contains(&format!("chmod +t {}", above.display())), "{why}");
        }
        // Like /tmp.
        set_mode(above, 0o1777);
        Trusted::existing(&file).expect("others can't replace it");
        set_mode(above, 0o755);
    }
    Trusted::existing(&file).expect("trusted");
}

#[test]
fn links_are_followed_to_trusted_targets() {
    let (_directory, home) = home();
    let (file, link) = (home.join("file"), home.join("link"));
    write(&file, 0o600);
    symlink("file", &link).expect("a link");
    symlink(&home, home.join("here")).expect("a link");
    for path in ["link", "here/file", "here/../here/link", "./link"] {
        let path = home.join(path);
        if path.ends_with("here/../here/link") {
            // The parent of the link's target, not of the link.
            assert!(Trusted::existing(&path).is_err());
            continue;
        }
        assert_eq!(Trusted::existing(&path).expect("trusted").path(), file, "{}", path.display());
    }
    assert!(Trusted::place(&link).is_err(), "a file isn't made through a link");
    set_mode(&file, 0o666);
    refusal(Trusted::existing(&link));
    symlink("circle", home.join("circle")).expect("a link");
    assert!(Trusted::existing(&home.join("circle")).is_err());
}

#[test]
fn in_a_shared_directory_a_file_must_have_one_name() {
    let (_directory, home) = home();
    let shared = home.join("shared");
    std::fs::create_dir(&shared).expect("a directory");
    set_mode(&shared, 0o1777);
    let (precious, planted) = (home.join("precious"), shared.join("audit.jsonl"));
    write(&precious, 0o600);
    std::fs::hard_link(&precious, &planted).expect("a link");
    assert!(refusal(Trusted::place(&planted)).contains("other names"));
    std::fs::remove_file(&planted).expect("permitted");
    write(&planted, 0o600);
    let place = Trusted::place(&planted).expect("trusted");
    let mut append = File::options();
    append.append(true);
    place.open(&mut append, OFlags::empty()).expect("permitted");
    // Planted between the check and the use.
    std::fs::remove_file(&planted).expect("permitted");
    std::fs::hard_link(&precious, &planted).expect("a link");
    assert!(place.open(&mut append, OFlags::empty()).is_err());
    std::fs::remove_file(&planted).expect("permitted");
    symlink(&precious, &planted).expect("a link");
    assert!(place.open(&mut append, OFlags::empty()).is_err());
}

#[test]
fn a_directory_is_made_for_the_broker_alone() {
    let (_directory, home) = home();
    let made = home.join("a/b");
    let path = Trusted::directory(&made).expect("it is made");
    assert_eq!(path.path(), made);
    for path in [&made, &home.join("a")] {
        let mode = std::fs::symlink_metadata(path).expect("there").mode();
        assert_eq!(mode & 0o777, 0o700);
    }
    Trusted::directory(&made).expect("it exists");
    set_mode(&made, 0o777);
    refusal(Trusted::directory(&made));
    write(&home.join("file"), 0o600);
    assert!(Trusted::directory(&home.join("file")).is_err(), "a file");
}

#[test]
fn a_missing_path_is_an_error() {
    let (_directory, home) = home();
    let error = Trusted::existing(&home.join("no")).expect_err("missing");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(Trusted::place(&home.join("no")).is_ok());
    let error = Trusted::place(&home.join("no/file")).expect_err("its directory is missing");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_device_is_trusted_by_its_owner() {
    // Its mode is 0666 on all systems.
    Trusted::place(Path::new("/dev/null")).expect("root's");
}
