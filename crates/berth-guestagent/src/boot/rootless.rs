//! What rootless containers need of the system: number ranges, delegated cgroups, sysctls, a lasting user manager.

use std::fmt::Write as _;

use berth_link::boot::BootSpec;

use crate::block::{BERTH, Place};
use crate::boot::step::{Done, StepError, Work};
use crate::files::{Attributes, Loss, edit, ensure_directory, give, put};
use crate::guest::{Guest, Init};
use crate::programs::Command;

const SYSCTL_FILE: &str = "/etc/sysctl.d/99-lima.conf";
const DELEGATE_DIRECTORY: &str = "/etc/systemd/system/user@.service.d";
const DELEGATE_FILE: &str = "/etc/systemd/system/user@.service.d/lima.conf";
const DELEGATE: &str = "[Service]\nDelegate=yes\n";
const LINGER_DIRECTORY: &str = "/var/lib/systemd/linger";

/// First number of the range of subordinate ids, and how many: room for containers that use ranges themselves.
const SUB_ID_START: u32 = 524_288;
const SUB_ID_COUNT: u32 = 1 << 30;

/// The kernel settings, where the kernel has them.
const SETTINGS: [(&str, &str); 4] = [
    ("kernel.unprivileged_userns_clone", "1"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("kernel.apparmor_restrict_unprivileged_userns", "0"),
];

/// containerd is to run as the user.
pub(crate) fn applies(spec: &BootSpec, guest: &Guest) -> bool {
    spec.containerd_user && guest.init == Init::Systemd
}

/// Applies all of it.
pub(crate) async fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let mut changed = sub_ids(work)?;
    changed |= sysctls(work).await?;
    changed |= delegate(work).await?;
    changed |= shell_profile(work)?;
    changed |= linger(work).await?;
    Ok(Done::changed(changed))
}

fn sub_ids(work: &Work<'_>) -> Result<bool, StepError> {
    let account = work.account()?;
    let start = SUB_ID_START.max(account.owner.uid.saturating_add(1));
    let mut changed = false;
    for file in ["/etc/subuid", "/etc/subgid"] {
        changed |= edit(&work.guest.path(file), 0o644, |text| {
            let prefix = format!("{}:", account.name);
            let others: String = text
                .split_inclusive('\n')
                .filter(|line| !line.starts_with(&prefix))
                .collect();
            let end = if others.is_empty() || others.ends_with('\n') {
                ""
            } else {
                "\n"
            };
            format!("{others}{end}{prefix}{start}:{SUB_ID_COUNT}\n")
        })?;
    }
    Ok(changed)
}

async fn sysctls(work: &Work<'_>) -> Result<bool, StepError> {
    let has = |name: &str| {
        work.guest
            .has(&format!("/proc/sys/{}", name.replace('.', "/")))
    };
    let text = SETTINGS.iter().filter(|(name, _)| has(name)).fold(
        String::new(),
        |mut text, (name, value)| {
            let _ = writeln!(text, "{name} = {value}");
            text
        },
    );
    ensure_directory(&work.guest.path("/etc/sysctl.d"), Attributes::root(0o755))?;
    let changed = put(
        &work.guest.path(SYSCTL_FILE),
        text.as_bytes(),
        Attributes::root(0o644),
        Loss::Repaired,
    )?;
    if changed {
        work.run(Command::new("sysctl").args(["-q", "-p", SYSCTL_FILE]))
            .await?;
    }
    Ok(changed)
}

async fn delegate(work: &Work<'_>) -> Result<bool, StepError> {
    ensure_directory(
        &work.guest.path(DELEGATE_DIRECTORY),
        Attributes::root(0o755),
    )?;
    let path = work.guest.path(DELEGATE_FILE);
    let changed = put(
        &path,
        DELEGATE.as_bytes(),
        Attributes::root(0o644),
        Loss::Repaired,
    )?;
    if changed {
        work.run(Command::new("systemctl").arg("daemon-reload"))
            .await?;
    }
    Ok(changed)
}

/// Commands over SSH get no login shell: the programs of the administrator must be found all the same, and kernels before 5.13
/// cannot mount overlays as a user.
fn shell_profile(work: &Work<'_>) -> Result<bool, StepError> {
    let account = work.account()?;
    let mut lines = vec!["export PATH=\"$PATH:/usr/sbin:/sbin\"".to_owned()];
    if work.guest.kernel_version() < (5, 13) {
        lines.push("export CONTAINERD_SNAPSHOTTER=fuse-overlayfs".to_owned());
    }
    let mut changed = false;
    for (name, always) in [(".profile", true), (".bashrc", true), (".zshrc", false)] {
        let path = work.guest.path(&account.home).join(name);
        let is_new = !path.exists();
        if path.is_symlink() || (is_new && !always) {
            continue;
        }
        changed |= edit(&path, 0o644, |text| BERTH.set(text, Place::Top, &lines))?;
        if is_new {
            give(&path, account.owner)?;
        }
    }
    Ok(changed)
}

/// Keeps the user's service manager running without a login.
async fn linger(work: &Work<'_>) -> Result<bool, StepError> {
    let user = &work.spec.user.name;
    if work.guest.path(LINGER_DIRECTORY).join(user).exists() {
        return Ok(false);
    }
    work.run(Command::new("loginctl").args(["enable-linger", user]))
        .await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    #[tokio::test(flavor = "current_thread")]
    async fn everything_is_applied_once() {
        let mut scene = Scene::systemd();
        scene.spec.containerd_user = true;
        scene.write("/proc/sys/net/ipv4/ping_group_range", "1 0\n");
        scene.write("/proc/sys/kernel/osrelease", "5.10.0-1\n");
        scene.write("/etc/subuid", "other:100000:65536\nlima:100000:65536");
        scene.write("/home/lima/.bashrc", "case $- in\n");
        assert_eq!(scene.run(run).await.unwrap(), Done::Changed);
        scene.write("/var/lib/systemd/linger/lima", "");
        let linger = "loginctl enable-linger lima";
        assert_eq!(
            scene.ran(),
            [
                "sysctl -q -p /etc/sysctl.d/99-lima.conf",
                "systemctl daemon-reload",
                linger
            ]
        );
        assert_eq!(scene.run(run).await.unwrap(), Done::Already);

        let text = scene.read("/etc/subuid");
        assert_eq!(text, "other:100000:65536\nlima:524288:1073741824\n");
        assert_eq!(scene.read("/etc/subgid"), "lima:524288:1073741824\n");
        assert_eq!(
            scene.read(SYSCTL_FILE),
            "net.ipv4.ping_group_range = 0 2147483647\n"
        );
        let block = format!(
            "{}\nexport PATH=\"$PATH:/usr/sbin:/sbin\"\nexport CONTAINERD_SNAPSHOTTER=fuse-overlayfs\n{}\n",
            BERTH.begin, BERTH.end
        );
        assert_eq!(
            scene.read("/home/lima/.bashrc"),
            format!("{block}case $- in\n")
        );
        assert_eq!(scene.read("/home/lima/.profile"), block);
        assert!(!scene.guest.has("/home/lima/.zshrc"));
    }
}
