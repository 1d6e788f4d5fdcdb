//! What is mounted where, from the kernel's table.

use std::path::Path;

use crate::files::{FileError, read_text};
use crate::guest::Guest;

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where.
    pub(crate) point: String,
    /// File system type.
    pub(crate) fs_type: String,
    /// Device or tag.
    pub(crate) source: String,
}

/// Reads the table.
pub(crate) fn mounts(guest: &Guest) -> Result<Vec<Mount>, FileError> {
    read(&guest.path("/proc/self/mountinfo"))
}

/// Reads the table from its file.
pub(crate) fn read(table: &Path) -> Result<Vec<Mount>, FileError> {
    let text = read_text(table)?.unwrap_or_default();
    Ok(text.lines().filter_map(mount).collect())
}

/// Tells whether something is mounted at `point`.
pub(crate) fn is_mounted(guest: &Guest, point: &str) -> Result<bool, FileError> {
    let point = without_last_slash(point);
    Ok(mounts(guest)?.iter().any(|mount| mount.point == point))
}

fn without_last_slash(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        path => path,
    }
}

/// `ID PARENT DEVICE ROOT POINT OPTIONS [TAG…] - TYPE SOURCE OPTIONS` (proc(5)).
fn mount(line: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    Some(Mount {
        point: unescape(place.split(' ').nth(4)?),
        fs_type: kind.next()?.to_owned(),
        source: unescape(kind.next()?),
    })
}

/// Undoes the kernel's octal escapes (`\040` for a blank).
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let octal = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let (b'\\', Some(byte)) = (first, octal) {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_escaped_paths_and_optional_fields() {
        let line = r"36 35 98:0 / /home/me/My\040Files rw,noatime shared:1 master:2 - 9p lima-0a rw,trans=virtio";
        assert_eq!(
            mount(line).unwrap(),
            Mount {
                point: "/home/me/My Files".to_owned(),
                fs_type: "9p".to_owned(),
                source: "lima-0a".to_owned(),
            }
        );
        assert_eq!(mount("garbage"), None);
        assert_eq!(unescape(r"a\13"), r"a\13");
    }

    #[test]
    fn a_last_slash_does_not_hide_a_mount() {
        assert_eq!(without_last_slash("/mnt/x//"), "/mnt/x");
        assert_eq!(without_last_slash("/"), "/");
    }
}
