//! SSH host keys: made on the host, so that the host knows them before the first connection.

use std::fs;

use berth_link::boot::BootSpec;
use berth_link::event::{MAX_HOST_KEY, MAX_HOST_KEYS};

use crate::boot::sshd_config::reload_sshd;
use crate::boot::step::{Done, StepError, Work, impossible};
use crate::files::{Attributes, FileError, Loss, put, read_text};
use crate::guest::Guest;

/// The host has made keys; else the guest keeps its own.
pub(crate) fn applies(spec: &BootSpec, _guest: &Guest) -> bool {
    !spec.host_keys.is_empty()
}

/// Puts the keys in place.
pub(crate) async fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let mut changed = Vec::new();
    for key in &work.spec.host_keys {
        if !key.kind.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(impossible(format!(
                "host_keys: {:?} is no kind of key",
                key.kind
            )));
        }
        let private = format!("/etc/ssh/ssh_host_{}_key", key.kind);
        let public = format!("{private}.pub");
        let line = format!("{}\n", key.public.trim_end());
        for (path, text, mode) in [(private, &key.private, 0o600), (public, &line, 0o644)] {
            let attributes = Attributes::root(mode);
            if put(
                &work.guest.path(&path),
                text.as_bytes(),
                attributes,
                Loss::Repaired,
            )? {
                changed.push(path);
            }
        }
    }
    if changed.is_empty() {
        return Ok(Done::Already);
    }
    let paths: Vec<&str> = changed.iter().map(String::as_str).collect();
    work.restore_labels(&paths).await?;
    reload_sshd(work.guest);
    Ok(Done::Changed)
}

/// The public keys that sshd has now, as far as a report takes them.
pub(crate) fn public_keys(guest: &Guest) -> Result<Vec<String>, FileError> {
    let mut paths: Vec<_> = fs::read_dir(guest.path("/etc/ssh"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("ssh_host_") && name.ends_with("_key.pub")
        })
        .collect();
    paths.sort();
    let mut keys = Vec::new();
    for path in paths {
        let line = read_text(&path)?.unwrap_or_default();
        let line = line.trim();
        if !line.is_empty() && line.len() <= MAX_HOST_KEY {
            keys.push(line.to_owned());
        }
    }
    keys.truncate(MAX_HOST_KEYS);
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use berth_link::boot::HostKey;

    use super::*;
    use crate::boot::testing::Scene;

    fn scene(kind: &str) -> Scene {
        let mut scene = Scene::systemd();
        fs::create_dir(scene.path("/etc/ssh")).unwrap();
        scene.spec.host_keys = vec![HostKey {
            kind: kind.to_owned(),
            private: "-----BEGIN\nabc\n-----END\n".to_owned(),
            public: "ssh-ed25519 AAAA lima-default".to_owned(),
        }];
        scene
    }

    #[tokio::test(flavor = "current_thread")]
    async fn keys_are_put_in_place_once() {
        let scene = scene("ed25519");
        scene.run_twice(run).await;
        assert_eq!(
            scene.read("/etc/ssh/ssh_host_ed25519_key"),
            "-----BEGIN\nabc\n-----END\n"
        );
        assert_eq!(scene.mode("/etc/ssh/ssh_host_ed25519_key"), 0o600);
        assert_eq!(
            scene.read("/etc/ssh/ssh_host_ed25519_key.pub"),
            "ssh-ed25519 AAAA lima-default\n"
        );
        assert_eq!(
            public_keys(&scene.guest).unwrap(),
            ["ssh-ed25519 AAAA lima-default"]
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn selinux_labels_are_restored() {
        let scene = scene("ed25519");
        scene.write("/sys/fs/selinux/enforce", "1");
        scene.install("restorecon");
        scene.run(run).await.unwrap();
        let ran = scene.ran();
        assert_eq!(
            ran,
            ["restorecon -R /etc/ssh/ssh_host_ed25519_key /etc/ssh/ssh_host_ed25519_key.pub"]
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_kind_cannot_lead_elsewhere() {
        let why = scene("../../x").run(run).await.unwrap_err();
        assert_eq!(why.to_string(), "host_keys: \"../../x\" is no kind of key");
    }
}
