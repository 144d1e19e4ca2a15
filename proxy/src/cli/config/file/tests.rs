use std::os::unix::fs::symlink;

use super::*;

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
    for bits in [0o600, 0o640, 0o444] {
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
fn the_owner_stays() {
    if rustix::process::getuid().as_raw() != 0 {
        return; // Only root can give a file away.
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
fn what_a_link_leads_to_is_replaced() {
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
fn a_file_that_is_missing_is_made_with_its_directories() {
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
fn what_another_program_wrote_meanwhile_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcp.json");
    let missing = ClientFile::read(&path).unwrap();
    fs::write(&path, "before").unwrap();
    let there = ClientFile::read(&path).unwrap();
    fs::write(&path, "the other's").unwrap();
    for file in [missing, there] {
        assert!(file.replace("after", true).unwrap_err().contains("meanwhile"));
        assert!(file.delete().unwrap_err().contains("meanwhile"));
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "the other's");
    assert_eq!(names(directory.path()), ["mcp.json"]);
}

#[test]
fn a_backup_is_never_overwritten_and_none_is_made_twice() {
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
fn what_is_no_text_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let binary = directory.path().join("binary");
    fs::write(&binary, b"{\xff}").unwrap();
    let fifo = directory.path().join("file");
    fs::create_dir(&fifo).unwrap();
    for (path, word) in [(&binary, "UTF-8"), (&fifo, "")] {
        let why = ClientFile::read(path).unwrap_err();
        assert!(why.contains(word) && why.contains(path.to_str().unwrap()), "{why}");
    }
}

#[test]
fn without_a_backup_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcp.json");
    fs::write(&path, "before").unwrap();
    // Nothing that is there is overwritten, whatever it is.
    for number in 1..=MAX_BACKUPS {
        fs::create_dir(ClientFile::read(&path).unwrap().backup(number)).unwrap();
    }
    let why = ClientFile::read(&path).unwrap().replace("after", true).unwrap_err();
    assert!(why.contains("backup"), "{why}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");
}
