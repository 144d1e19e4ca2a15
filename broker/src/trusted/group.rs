//! Recognises a user's private group: many systems give each user one, and let it write to the
//! user's files.
//!
//! Only local files are read: the group of a user in a directory service doesn't count as private.

use std::path::Path;

/// Whether the group contains only root or the broker's own user, so that write access of the group
/// to `path` adds no other user.
pub(super) fn is_private(gid: u32, path: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    // On macOS these files list no people.
    cfg!(target_os = "linux")
        && !has_acl(path)
        && is_private_in(gid, user, &read("/etc/group"), &read("/etc/passwd"))
}

/// Whether a file has an access list: it names further users, and the bits of the group are its
/// mask (acl(5)).
#[cfg(target_os = "linux")]
fn has_acl(path: &Path) -> bool {
    let mut none = [0_u8; 0];
    rustix::fs::lgetxattr(path, "system.posix_acl_access", &mut none).is_ok_and(|length| length > 0)
}

#[cfg(not(target_os = "linux"))]
fn has_acl(_: &Path) -> bool {
    true
}

/// The decision by the texts of group(5) and passwd(5): the group of root or `user` must have the
/// same name, and no other member.
fn is_private_in(gid: u32, user: u32, groups: &str, users: &str) -> bool {
    let groups: Vec<_> = groups.lines().map(fields).filter(|it| id(it, 2) == Some(gid)).collect();
    let mut owner = None;
    for user_line in users.lines().map(fields) {
        let trusted = id(&user_line, 2).is_some_and(|uid| uid == 0 || uid == user);
        if id(&user_line, 3) == Some(gid) {
            if !trusted {
                return false;
            }
            owner = Some(user_line[0]);
        }
    }
    let is_own = |group: &Vec<&str>| {
        let members = group.get(3).copied().unwrap_or_default();
        let mut members = members.split(',').filter(|member| !member.is_empty());
        Some(group[0]) == owner && members.all(|member| Some(member) == owner)
    };
    !groups.is_empty() && groups.iter().all(is_own)
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').map(str::trim).collect()
}

fn id(fields: &[&str], at: usize) -> Option<u32> {
    fields.get(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_private_if_it_is_the_user_s_and_has_no_other_member() {
        let users = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n\
            bob:x:1001:1001::/home/bob:/bin/sh\nsync:x:4:65534::/:/bin/sync\n";
        let groups = |of_ann: &str| {
            format!("root:x:0:\nann:x:1000:{of_ann}\nbob:x:1001:\nusers:x:100:\nops:x:27:ann\n")
        };
        let private = |gid, of_ann: &str| is_private_in(gid, 1000, &groups(of_ann), users);
        assert!(private(1000, "") && private(1000, "ann") && private(0, ""));
        for (gid, of_ann, why) in [
            (1000, "bob", "another member"),
            (1000, "ann,bob", "another member"),
            (1001, "", "another user's"),
            (100, "", "the group of all users of a directory service"),
            (27, "", "not her first"),
            (4711, "", "unknown"),
        ] {
            assert!(!private(gid, of_ann), "{gid} {of_ann}: {why}");
        }
        let shared = format!("{users}eve:x:1002:1000::/:/bin/sh\n");
        assert!(!is_private_in(1000, 1000, &groups(""), &shared), "the first group of two");
        assert!(!is_private_in(1000, 1000, "", users), "no groups");
        assert!(!is_private_in(1000, 1000, &groups(""), ""), "no users");
        let twice = format!("{}mates:x:1000:bob\n", groups(""));
        assert!(!is_private_in(1000, 1000, &twice, users), "one group by two names");
    }
}
