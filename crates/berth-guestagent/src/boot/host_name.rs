//! The guest's name, and the names by which it knows the host.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use berth_link::boot::BootSpec;

use crate::block::{BERTH, Place};
use crate::boot::step::{Done, StepError, Work, impossible};
use crate::files::{Attributes, Loss, edit, failed, put, read_text};
use crate::guest::Guest;

/// The running kernel's idea of it.
const KERNEL: &str = "/proc/sys/kernel/hostname";

/// The host has chosen a name.
pub(crate) fn applies(spec: &BootSpec, _guest: &Guest) -> bool {
    !spec.hostname.is_empty()
}

/// Sets the name, now and for the next boots.
pub(crate) fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let name = &work.spec.hostname;
    if !is_host_name(name) {
        return Err(impossible(format!("hostname: {name:?} is no host name")));
    }
    let line = format!("{name}\n");
    let file = work.guest.path("/etc/hostname");
    let mut changed = put(
        &file,
        line.as_bytes(),
        Attributes::root(0o644),
        Loss::Repaired,
    )?;
    let kernel = work.guest.path(KERNEL);
    if read_text(&kernel)?.is_some_and(|now| now.trim_end() != name) {
        fs::write(&kernel, name).map_err(failed("write", &kernel))?;
        changed = true;
    }
    Ok(Done::changed(changed))
}

/// Letters, digits, dashes and dots: what cannot do harm in any file that quotes it.
fn is_host_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            let inner = label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            !label.is_empty() && label.len() <= 63 && inner && !label.starts_with('-')
        })
}

/// Names the host in `/etc/hosts`.
pub(crate) fn hosts(work: &Work<'_>) -> Result<Done, StepError> {
    let hosts = &work.spec.hosts;
    for (name, address) in hosts {
        if !is_host_name(name) || address.parse::<IpAddr>().is_err() {
            return Err(impossible(format!(
                "hosts: {name:?} and {address:?} are no name and address"
            )));
        }
    }
    let path = work.guest.path("/etc/hosts");
    Ok(Done::changed(edit(&path, 0o644, |text| {
        with_hosts(text, hosts)
    })?))
}

/// Lima wrote a bare line: two lines for one name would be one too many.
fn with_hosts(text: &str, hosts: &BTreeMap<String, String>) -> String {
    let only_ours = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (first, second) = (words.next(), words.next());
        second.is_none() && first.is_some_and(|name| hosts.contains_key(name))
    };
    let others: String = text
        .split_inclusive('\n')
        .filter(|line| !only_ours(line))
        .collect();
    let lines: Vec<String> = hosts
        .iter()
        .map(|(name, address)| format!("{address}\t{name}"))
        .collect();
    // What was taken out may be our own block's line: the markers stay, and the block is filled again.
    BERTH.set(&others, Place::Bottom, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    #[test]
    fn the_name_is_set_in_file_and_kernel() {
        let scene = Scene::new();
        scene.write(KERNEL, "localhost\n");
        assert_eq!(scene.now(run).unwrap(), Done::Changed);
        assert_eq!(scene.read("/etc/hostname"), "lima-default\n");
        assert_eq!(scene.read(KERNEL), "lima-default");
        assert_eq!(scene.now(run).unwrap(), Done::Already);
    }

    #[test]
    fn only_names_are_names() {
        for name in ["lima-default", "a.b-c.example"] {
            assert!(is_host_name(name), "{name}");
        }
        for name in ["", "a b", "a\nb", "-a", "a..b", "../x"] {
            assert!(!is_host_name(name), "{name:?}");
        }
    }

    #[test]
    fn the_hosts_file_keeps_what_is_others() {
        let mut scene = Scene::new();
        scene.write("/etc/hosts", "127.0.0.1 localhost\n10.0.0.1 host.lima.internal other\n192.168.5.2 host.lima.internal\n");
        scene.spec.hosts = [("host.lima.internal".to_owned(), "192.168.5.2".to_owned())].into();
        scene.now_twice(hosts);
        let others = "127.0.0.1 localhost\n10.0.0.1 host.lima.internal other\n";
        let block = |line: &str| format!("{}\n{line}{}\n", BERTH.begin, BERTH.end);
        assert_eq!(
            scene.read("/etc/hosts"),
            format!("{others}{}", block("192.168.5.2\thost.lima.internal\n"))
        );

        scene.spec.hosts.clear();
        scene.now(hosts).unwrap();
        assert_eq!(scene.read("/etc/hosts"), others);
    }
}
