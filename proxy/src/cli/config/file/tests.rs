use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, XattrFlags, getxattr, mknodat, setxattr};
use rustix::io::Errno;

use super::*;

const ACCESS: &str = "system.posix_acl_access";

/// An access control list as the kernel stores it (acl(5), version 2): the owner may write, the user 54321 may read,
/// and the group may do nothing, although the group bits of the mode, which are the mask, allow reading.
fn list() -> Vec<u8> {
    let nobody = u32::MAX;
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 6, nobody),
        (0x02, 4, 54_321),
        (0x04, 0, nobody),
        (0x10, 4, nobody),
        (0x20, 0, nobody),
    ];
    let entries = entries.into_iter().flat_map(|(tag, may, id)| {
        [&tag.to_le_bytes()[..], &may.to_le_bytes(), &id.to_le_bytes()].concat()
    });
    2_u32.to_le_bytes().into_iter().chain(entries).collect()
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = [0; 1024];
    match getxattr(path, name, buffer.as_mut_slice()) {
        Ok(length) => Some(buffer[..length].to_vec()),
        Err(error) => {
            assert!([Errno::NODATA, Errno::NOTSUP].contains(&error), "{error}");
            None
        }
    }
}

/// Whether the file system of the tests supports such attributes.
fn attach(path: &Path, name: &str, value: &[u8]) -> bool {
    match setxattr(path, name, value, XattrFlags::empty()) {
        Ok(()) => true,
        Err(Errno::NOTSUP) => false,
        Err(error) => panic!("{error}"),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(directory: &Path) -> Vec<String> {
    let names =
        fs::read_dir(directory).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_file_is_replaced_with_its_mode_and_a_backup() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcp.json");
    for bits in [0o600, 0o640, 0o644] {
        fs::write(&path, "before").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(bits)).unwrap();
        let file = ClientFile::read(&path).unwrap();
        let backup = file.replace("after", true).unwrap().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        assert_eq!(fs::read_to_string(&backup).unwrap(), "before");
        assert_eq!((mode(&path), mode(&backup)), (bits, bits));
        assert_eq!(names(directory.path()), ["mcp.json", "mcp.json.sigward-backup"]);
        fs::remove_file(&backup).unwrap();
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn the_owner_is_kept() {
    if rustix::process::getuid().as_raw() != 0 {
        return; // Only root can change the owner of a file.
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcp.json");
    fs::write(&path, "before").unwrap();
    std::os::unix::fs::chown(&path, Some(54_321), Some(54_322)).unwrap();
    let backup = ClientFile::read(&path).unwrap().replace("after", true).unwrap().unwrap();
    for path in [path, backup] {
        let known = fs::metadata(path).unwrap();
        assert_eq!((known.uid(), known.gid()), (54_321, 54_322));
    }
}

#[test]
fn the_target_of_a_link_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (dotfiles, home) = (directory.path().join("dotfiles"), directory.path().join("home"));
    fs::create_dir(&dotfiles).unwrap();
    fs::create_dir(&home).unwrap();
    fs::write(dotfiles.join("mcp.json"), "before").unwrap();
    let path = home.join("mcp.json");
    symlink("../dotfiles/mcp.json", &path).unwrap();
    let backup = ClientFile::read(&path).unwrap().replace("after", true).unwrap().unwrap();
    assert!(path.is_symlink());
    assert_eq!(fs::read_to_string(dotfiles.join("mcp.json")).unwrap(), "after");
    assert_eq!(backup.parent(), Some(dotfiles.canonicalize().unwrap().as_path()));
    fs::remove_file(dotfiles.join("mcp.json")).unwrap();
    let why = ClientFile::read(&path).unwrap_err();
    assert!(why.contains("link"), "{why}");
}

#[test]
fn a_missing_file_is_created_with_its_directories() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/mcp.json");
    let file = ClientFile::read(&path).unwrap();
    assert_eq!(file.text(), None);
    assert_eq!(file.replace("made", true), Ok(None));
    assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("made", 0o600));
    assert_eq!(names(path.parent().unwrap()), ["mcp.json"]);
}

/// Two programs edit one file: neither loses what the other wrote.
#[test]
fn a_concurrent_change_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcp.json");
    let missing = ClientFile::read(&path).unwrap();
    fs::write(&path, "before").unwrap();
    let there = ClientFile::read(&path).unwrap();
    fs::write(&path, "the other's").unwrap();
    for file in [missing, there] {
        assert!(file.replace("after", true).unwrap_err().contains("at the same time"));
        assert!(file.delete().unwrap_err().contains("at the same time"));
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "the other's");
    assert_eq!(names(directory.path()), ["mcp.json"]);
}

#[test]
fn a_backup_is_never_overwritten_or_duplicated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcp.json");
    fs::write(&path, "0").unwrap();
    for text in ["1", "2", "0", "2", "0"] {
        ClientFile::read(&path).unwrap().replace(text, true).unwrap();
    }
    assert_eq!(
        names(directory.path()),
        [
            "mcp.json",
            "mcp.json.sigward-backup",
            "mcp.json.sigward-backup-2",
            "mcp.json.sigward-backup-3"
        ]
    );
    let mut texts = ClientFile::read(&path).unwrap().backups();
    texts.sort();
    assert_eq!(texts, ["0", "1", "2"]);
}

#[test]
fn a_file_that_is_no_text_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let binary = directory.path().join("binary");
    fs::write(&binary, b"{\xff}").unwrap();
    let place = directory.path().join("directory");
    fs::create_dir(&place).unwrap();
    for (path, word) in [(&binary, "UTF-8"), (&place, "isn't a file")] {
        let why = ClientFile::read(path).unwrap_err();
        assert!(why.contains(word) && why.contains(path.to_str().unwrap()), "{why}");
    }
}

#[test]
fn without_a_backup_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcp.json");
    fs::write(&path, "before").unwrap();
    // Nothing that exists is overwritten, whatever it is.
    for number in 1..=MAX_BACKUPS {
        fs::create_dir(ClientFile::read(&path).unwrap().backup(number)).unwrap();
    }
    let why = ClientFile::read(&path).unwrap().replace("after", true).unwrap_err();
    assert!(why.contains("backup"), "{why}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");
}

/// The attack: with the mode alone, the group could read what the list denies.
#[test]
fn access_control_lists_and_other_attributes_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcp.json");
    fs::write(&path, "before").unwrap();
    let attached: Vec<(&str, Vec<u8>)> = [(ACCESS, list()), ("user.note", b"mine".to_vec())]
        .into_iter()
        .filter(|(name, value)| attach(&path, name, value))
        .collect();
    let backup = ClientFile::read(&path).unwrap().replace("after", true).unwrap().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "after");
    for (name, value) in &attached {
        for path in [&path, &backup] {
            assert_eq!(attribute(path, name).as_ref(), Some(value), "{name} of {}", path.display());
        }
    }
    if attached.iter().any(|(name, _)| *name == ACCESS) {
        assert_eq!((mode(&path), mode(&backup)), (0o640, 0o640));
    }
}

#[test]
fn a_file_without_an_access_control_list_inherits_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcp.json");
    fs::write(&path, "before").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    if !attach(directory.path(), "system.posix_acl_default", &list()) {
        return; // This file system has no access control lists.
    }
    let backup = ClientFile::read(&path).unwrap().replace("after", true).unwrap().unwrap();
    for path in [&path, &backup] {
        assert_eq!((attribute(path, ACCESS), mode(path)), (None, 0o640));
    }
}

#[test]
fn a_read_only_file_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcp.json");
    fs::write(&path, "before").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
    let why = ClientFile::read(&path).unwrap().replace("after", true).unwrap_err();
    assert!(why.contains("read-only") && why.contains(path.to_str().unwrap()), "{why}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");
    assert_eq!(names(directory.path()), ["mcp.json"]);
}

/// The other name would silently keep the old text.
#[test]
fn a_file_with_several_names_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcp.json");
    fs::write(&path, "before").unwrap();
    fs::hard_link(&path, directory.path().join("dotfile")).unwrap();
    let why = ClientFile::read(&path).unwrap().replace("after", true).unwrap_err();
    assert!(why.contains("2 names"), "{why}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");
    assert_eq!(names(directory.path()), ["dotfile", "mcp.json"]);
}

#[test]
fn a_fifo_in_its_place_does_not_block() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcp.json");
    mknodat(CWD, &path, FileType::Fifo, 0o600.into(), 0).unwrap();
    let why = ClientFile::read(&path).unwrap_err();
    assert!(why.contains("isn't a file"), "{why}");
}

/// Links to links: each is kept, and the file at the end is replaced.
#[test]
fn links_are_followed_to_their_end() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("file"), "before").unwrap();
    symlink("file", at("second")).unwrap();
    symlink(at("second"), at("first")).unwrap();
    ClientFile::read(&at("first")).unwrap().replace("after", true).unwrap();
    assert_eq!(fs::read_link(at("first")).unwrap(), at("second"));
    assert_eq!(fs::read_link(at("second")).unwrap(), Path::new("file"));
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "after");
    symlink("around", at("around")).unwrap();
    assert!(ClientFile::read(&at("around")).unwrap_err().contains("around"));
}
