//! The host's directories in the guest, through sshfs.

mod builds;
mod events;
mod faults;
mod files;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::instance::{Home, Instance, Lines};

/// A directory of the host, for everybody, as a guest's user may be another one.
#[track_caller]
pub(crate) fn directory(home: &Home, name: &str) -> PathBuf {
    let path = home.path(name);
    fs::create_dir(&path).expect("a directory");
    path
}

/// An entry of `mounts`, in YAML.
pub(crate) fn entry(location: &Path, point: &str, more: &str) -> String {
    let point = serde_json::to_string(point).expect("a text");
    format!(
        "- {{location: {}, mountPoint: {point}{more}}}\n",
        serde_json::to_string(location).expect("a path")
    )
}

/// `lima.yaml`'s lines for these entries.
fn lines(entries: &[String]) -> String {
    format!("mountType: reverse-sshfs\nmounts:\n{}", entries.concat())
}

/// Waits until the agent says something about the mount at `point`.
#[track_caller]
fn until_says(log: &mut Lines<'_>, message: &str, point: &str) {
    log.until(message, |line: &Value| {
        line["msg"] == message && line["point"] == point
    });
}

/// What the guest's kernel has mounted at a place: type and options; one line each.
#[track_caller]
pub(crate) fn mounted(instance: &Instance<'_>, point: &str) -> Vec<String> {
    let table = instance.shell("cat /proc/self/mountinfo").success();
    let lines = table.lines().filter(|line| {
        let place = line.split(' ').nth(4).unwrap_or_default();
        unescaped(place) == point
    });
    lines
        .map(|line| {
            let (place, kind) = line.split_once(" - ").expect("a separator");
            let options = place.split(' ').nth(5).unwrap_or_default();
            let kind = kind.split(' ').next().unwrap_or_default();
            format!("{kind} {options}")
        })
        .collect()
}

/// Undoes the kernel's octal escapes.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(3);
        plain.push(u8::from_str_radix(digits, 8).expect("an escape"));
        plain.extend(rest.as_bytes());
    }
    String::from_utf8(plain).expect("text")
}
