//! The guest's accounts, from `/etc/passwd` and `/etc/group`.
//!
//! Read from the files and not through NSS: the binary is static, and the login user is a local account.

use std::path::Path;

use crate::files::{FileError, read_text};

/// An entry of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// Login name.
    pub(crate) name: String,
    /// Who owns its files.
    pub(crate) owner: Owner,
    /// Home directory.
    pub(crate) home: String,
}

/// A user and a group by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    /// User.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
}

/// An entry of `/etc/group`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// Number.
    pub(crate) gid: u32,
    /// Members by name, besides those whose primary group it is.
    pub(crate) members: Vec<String>,
}

/// Finds a user by name.
pub(crate) fn find_account(passwd: &Path, name: &str) -> Result<Option<Account>, FileError> {
    let text = read_text(passwd)?.unwrap_or_default();
    Ok(text
        .lines()
        .filter_map(account)
        .find(|account| account.name == name))
}

/// Finds a group by name.
pub(crate) fn find_group(file: &Path, name: &str) -> Result<Option<Group>, FileError> {
    let text = read_text(file)?.unwrap_or_default();
    let mut named = text.lines().filter_map(group);
    Ok(named.find_map(|(found, group)| (found == name).then_some(group)))
}

/// Numbers of the groups that list `user` as a member.
pub(crate) fn groups_of(file: &Path, user: &str) -> Result<Vec<u32>, FileError> {
    let text = read_text(file)?.unwrap_or_default();
    let groups = text.lines().filter_map(group).map(|(_, group)| group);
    let of_user = groups.filter(|group| group.members.iter().any(|member| member == user));
    Ok(of_user.map(|group| group.gid).collect())
}

fn group(line: &str) -> Option<(&str, Group)> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, gid, members] = fields[..] else {
        return None;
    };
    let group = Group {
        gid: gid.parse().ok()?,
        members: members
            .split(',')
            .filter(|m| !m.is_empty())
            .map(str::to_owned)
            .collect(),
    };
    Some((name, group))
}

fn account(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, _] = fields[..] else {
        return None;
    };
    Some(Account {
        name: name.to_owned(),
        owner: Owner {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        },
        home: home.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn finds_users_and_groups_among_broken_lines() {
        let dir = tempfile::tempdir().unwrap();
        let passwd = dir.path().join("passwd");
        fs::write(&passwd, "root:x:0:0:root:/root:/bin/bash\nlima:x:half\nlima:x:501:1000:Me,,:/home/lima.guest:/bin/sh\n").unwrap();
        let lima = find_account(&passwd, "lima").unwrap().unwrap();
        assert_eq!(
            lima.owner,
            Owner {
                uid: 501,
                gid: 1000
            }
        );
        assert_eq!(lima.home, "/home/lima.guest");
        assert_eq!(find_account(&passwd, "nobody").unwrap(), None);
        assert_eq!(
            find_account(&dir.path().join("none"), "lima").unwrap(),
            None
        );

        let group = dir.path().join("group");
        let text =
            "adm:x:4:\nbroken:x:what:b\nsystemd-journal:x:101:a,b\ndocker:x:998:b\nbb:x:9:bb\n";
        fs::write(&group, text).unwrap();
        let journal = find_group(&group, "systemd-journal").unwrap().unwrap();
        assert_eq!(
            (journal.gid, journal.members),
            (101, vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(groups_of(&group, "b").unwrap(), [101, 998]);
        assert_eq!(groups_of(&group, "nobody").unwrap(), Vec::<u32>::new());
    }
}
