//! Certificate authorities that the guest trusts besides its distribution's own.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use berth_link::boot::BootSpec;

use crate::boot::step::{Done, StepError, Work, impossible};
use crate::files::{Attributes, Loss, edit, ensure_directory, put, remove};
use crate::guest::Guest;
use crate::programs::Command;

/// Building the bundles takes a second, and minutes on a busy emulated CPU.
const LIMIT: Duration = Duration::from_mins(20);

/// Where a distribution keeps certificates of the machine's owner, and what makes bundles of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Store {
    directory: &'static str,
    update: &'static str,
}

/// What the names of the agent's certificates begin with.
const OWN_PREFIX: &str = "berth-";

/// Debian's list of the certificates that the distribution brings; a leading `!` takes one out.
const DEFAULTS: &str = "/etc/ca-certificates.conf";

fn store(guest: &Guest) -> Option<Store> {
    let directory = |candidates: &[&'static str]| {
        let found = candidates.iter().find(|directory| guest.has(directory));
        found.or(candidates.last()).copied()
    };
    // Fedora and its kin, Arch; then SUSE, Debian, Alpine.
    let stores: [(&str, &[&str]); 2] = [
        (
            "update-ca-trust",
            &[
                "/etc/pki/ca-trust/source/anchors",
                "/etc/ca-certificates/trust-source/anchors",
            ],
        ),
        (
            "update-ca-certificates",
            &["/etc/pki/trust/anchors", "/usr/local/share/ca-certificates"],
        ),
    ];
    let (update, candidates) = stores
        .into_iter()
        .find(|(update, _)| guest.has_program(update))?;
    Some(Store {
        directory: directory(candidates)?,
        update,
    })
}

/// The host has certificates, or had some at an earlier boot.
pub(crate) fn applies(spec: &BootSpec, guest: &Guest) -> bool {
    let had_some =
        || store(guest).is_some_and(|store| !ours(&guest.path(store.directory)).is_empty());
    !spec.ca_certs.is_empty() || spec.ca_remove_defaults || had_some()
}

/// Puts them in place, takes away those of earlier boots, and has the bundles made again if anything changed.
pub(crate) async fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let store = store(work.guest).ok_or_else(|| {
        impossible(
            "caCerts: the guest has no update-ca-certificates: install its package ca-certificates",
        )
    })?;
    let directory = work.guest.path(store.directory);
    ensure_directory(&directory, Attributes::root(0o755))?;
    let mut changed = false;
    let mut wanted = BTreeSet::new();
    for (number, certificate) in (1..).zip(&work.spec.ca_certs) {
        let name = format!("{OWN_PREFIX}{number:02}.crt");
        let text = format!("{}\n", certificate.trim_end());
        changed |= put(
            &directory.join(&name),
            text.as_bytes(),
            Attributes::root(0o644),
            Loss::Repaired,
        )?;
        wanted.insert(name);
    }
    for name in ours(&directory).difference(&wanted) {
        changed |= remove(&directory.join(name))?;
    }
    if work.spec.ca_remove_defaults {
        changed |= remove_defaults(work.guest)?;
    }
    if changed {
        work.run(Command::new(store.update).limit(LIMIT)).await?;
    }
    Ok(Done::changed(changed))
}

/// Names of the certificates that the agent put there.
fn ours(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(OWN_PREFIX)).collect()
}

fn remove_defaults(guest: &Guest) -> Result<bool, StepError> {
    let list = guest.path(DEFAULTS);
    if !list.exists() {
        let why = "caCerts.removeDefaults: only guests with /etc/ca-certificates.conf (Debian, Ubuntu, Alpine) can do that";
        return Err(impossible(why));
    }
    Ok(edit(&list, 0o644, |text| {
        let line = |line: &str| {
            let is_on = !line.starts_with(['#', '!']) && !line.trim().is_empty();
            if is_on {
                format!("!{line}")
            } else {
                line.to_owned()
            }
        };
        text.split_inclusive('\n').map(line).collect()
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    const DEBIAN: &str = "/usr/local/share/ca-certificates";

    fn scene(certificates: &[&str]) -> Scene {
        let mut scene = Scene::new();
        scene.install("update-ca-certificates");
        scene.spec.ca_certs = certificates.iter().map(|text| (*text).to_owned()).collect();
        scene
    }

    #[tokio::test(flavor = "current_thread")]
    async fn bundles_are_made_once_and_old_certificates_go() {
        let mut scene = scene(&["-----A-----", "-----B-----\n"]);
        scene.write(&format!("{DEBIAN}/mine.crt"), "the user's own");
        scene.run_twice(run).await;
        assert_eq!(scene.ran(), ["update-ca-certificates"]);
        assert_eq!(
            scene.read(&format!("{DEBIAN}/berth-02.crt")),
            "-----B-----\n"
        );

        scene.spec.ca_certs.clear();
        assert!(applies(&scene.spec, &scene.guest), "two are to be removed");
        scene.run_twice(run).await;
        assert!(!applies(&scene.spec, &scene.guest));
        assert_eq!(
            fs::read_dir(scene.path(DEBIAN)).unwrap().count(),
            1,
            "the user's stays"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_distributions_own_are_taken_out_of_its_list() {
        let mut scene = scene(&[]);
        scene.spec.ca_remove_defaults = true;
        scene.write(DEFAULTS, "# list\nmozilla/A.crt\n!mozilla/B.crt\n\n");
        scene.run_twice(run).await;
        assert_eq!(
            scene.read(DEFAULTS),
            "# list\n!mozilla/A.crt\n!mozilla/B.crt\n\n"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn each_distribution_has_its_place() {
        let place = |program: &str, directory: &str| {
            let scene = Scene::new();
            scene.install(program);
            fs::create_dir_all(scene.path(directory)).unwrap();
            store(&scene.guest).unwrap()
        };
        for (program, directory) in [
            ("update-ca-trust", "/etc/pki/ca-trust/source/anchors"),
            (
                "update-ca-trust",
                "/etc/ca-certificates/trust-source/anchors",
            ),
            ("update-ca-certificates", "/etc/pki/trust/anchors"),
            ("update-ca-certificates", DEBIAN),
        ] {
            let store = place(program, directory);
            assert_eq!((store.update, store.directory), (program, directory));
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_guest_that_cannot_do_it_says_so() {
        let mut scene = Scene::new();
        scene.spec.ca_certs = vec!["x".to_owned()];
        let why = scene.run(run).await.unwrap_err().to_string();
        assert!(why.contains("install its package ca-certificates"), "{why}");
    }
}
