//! The host's directories in the guest: mounting devices, and preparing mount points for what the host mounts later.

use std::time::Duration;

use berth_link::boot::{BootSpec, GuestMount};

use crate::args::chain;
use crate::boot::markers;
use crate::boot::step::{Done, StepError, Work, impossible};
use crate::files::{Attributes, Loss, edit, ensure_directory, failed, give, put};
use crate::guest::Guest;
use crate::mount_table::is_mounted;
use crate::programs::Command;

/// A share whose server does not answer must not hold the boot up for ever.
const MOUNT_LIMIT: Duration = Duration::from_secs(30);

/// Mount type of shares that the host mounts itself, through sshfs in the guest.
pub(crate) const REVERSE_SSHFS: &str = "reverse-sshfs";

/// There are shares.
pub(crate) fn applies(spec: &BootSpec, _guest: &Guest) -> bool {
    !spec.mounts.is_empty()
}

/// Mounts each share or prepares its mount point. One that fails does not keep the others away.
pub(crate) async fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let mut changed = false;
    let mut failures = Vec::new();
    for mount in &work.spec.mounts {
        match one(work, mount).await {
            Ok(done) => changed |= done == Done::Changed,
            Err(why) => failures.push(format!("{}: {}", mount.mount_point, chain(&why))),
        }
    }
    if failures.is_empty() {
        Ok(Done::changed(changed))
    } else {
        Err(impossible(failures.join("\n")))
    }
}

async fn one(work: &Work<'_>, mount: &GuestMount) -> Result<Done, StepError> {
    if is_mounted(work.guest, &mount.mount_point)? {
        return Ok(Done::Already);
    }
    let point = work.guest.path(&mount.mount_point);
    let is_new = !point.exists();
    std::fs::create_dir_all(&point).map_err(failed("create", &point))?;
    if mount.fs_type.is_empty() {
        // sshfs runs as the user, and fuse lets users mount only on what is theirs.
        let owner = work.account()?.owner;
        give(&point, owner)?;
        return Ok(Done::changed(is_new));
    }
    let options = options(mount, work.guest.has_selinux());
    let mount_program =
        Command::new("mount").args(["-t", &mount.fs_type, "-o", &options, &mount.tag]);
    work.run(mount_program.arg(&mount.mount_point).limit(MOUNT_LIMIT))
        .await?;
    Ok(Done::Changed)
}

/// What only `/etc/fstab` knows goes, and where `SELinux` labels files a share gets one label for all of them.
fn options(mount: &GuestMount, selinux: bool) -> String {
    let known = mount
        .options
        .split(',')
        .filter(|option| !matches!(*option, "" | "nofail" | "_netdev"));
    let mut options: Vec<&str> = known.collect();
    if selinux && mount.fs_type == "virtiofs" {
        options.push("context=system_u:object_r:nfs_t:s0");
    }
    if options.is_empty() {
        "defaults".to_owned()
    } else {
        options.join(",")
    }
}

/// The host mounts shares through sshfs.
pub(crate) fn fuse_applies(spec: &BootSpec, _guest: &Guest) -> bool {
    spec.mount_type == REVERSE_SSHFS && !spec.mounts.is_empty()
}

/// `AppArmor`'s profile of the program that mounts, on newer Ubuntus: it allows a few places only.
const FUSERMOUNT_PROFILE: &str = "/etc/apparmor.d/fusermount3";
const FUSERMOUNT_LOCAL: &str = "/etc/apparmor.d/local/fusermount3";
const FUSERMOUNT_RULES: &str =
    "# berth: shares may be mounted anywhere\nmount fstype=fuse.sshfs -> /**/,\numount /**/,\n";

/// Lets the user mount file systems for others to see, and tells so.
pub(crate) async fn allow_other(work: &Work<'_>) -> Result<Done, StepError> {
    let guest = work.guest;
    let mut changed = edit(&guest.path("/etc/fuse.conf"), 0o644, with_allow_other)?;
    if guest.has("/etc/fuse3.conf") {
        changed |= edit(&guest.path("/etc/fuse3.conf"), 0o644, with_allow_other)?;
    }
    if guest.has(FUSERMOUNT_PROFILE) {
        let local = guest.path(FUSERMOUNT_LOCAL);
        ensure_directory(
            &guest.path("/etc/apparmor.d/local"),
            Attributes::root(0o755),
        )?;
        if put(
            &local,
            FUSERMOUNT_RULES.as_bytes(),
            Attributes::root(0o644),
            Loss::Repaired,
        )? {
            work.run(Command::new("apparmor_parser").args(["-r", FUSERMOUNT_PROFILE]))
                .await?;
            changed = true;
        }
    }
    changed |= markers::fuse_ready(work)?;
    Ok(Done::changed(changed))
}

fn with_allow_other(text: &str) -> String {
    const OPTION: &str = "user_allow_other";
    if text.lines().any(|line| line.trim() == OPTION) {
        return text.to_owned();
    }
    let end = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    format!("{text}{end}{OPTION}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    fn share(point: &str, fs_type: &str) -> GuestMount {
        GuestMount {
            tag: "lima-0a".to_owned(),
            mount_point: point.to_owned(),
            fs_type: fs_type.to_owned(),
            options: "rw,trans=virtio,nofail".to_owned(),
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_device_is_mounted_unless_it_is() {
        let mut scene = Scene::new();
        scene.spec.mounts = vec![share("/Users/me/My Files", "9p")];
        assert_eq!(scene.run(run).await.unwrap(), Done::Changed);
        assert_eq!(
            scene.ran(),
            ["mount -t 9p -o rw,trans=virtio lima-0a /Users/me/My Files"]
        );
        assert!(scene.path("/Users/me/My Files").is_dir());
        let line = r"36 35 0:40 / /Users/me/My\040Files rw - 9p lima-0a rw";
        scene.write("/proc/self/mountinfo", &format!("{line}\n"));
        assert_eq!(scene.run(run).await.unwrap(), Done::Already);
        assert_eq!(scene.ran(), Vec::<String>::new());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_share_that_fails_does_not_keep_the_others_away() {
        let mut scene = Scene::new();
        scene.spec.mounts = vec![share("/a", "virtiofs"), share("/b", "virtiofs")];
        scene.answer(
            "mount -t virtiofs -o rw,trans=virtio lima-0a /a",
            32,
            "mount: wrong fs type\n",
        );
        let why = scene.run(run).await.unwrap_err().to_string();
        assert_eq!(why, "/a: mount exited with code 32");
        assert_eq!(scene.ran().len(), 2);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_mount_point_for_sshfs_is_made_and_given_to_the_user() {
        let mut scene = Scene::new();
        scene.spec.mounts = vec![GuestMount {
            options: String::new(),
            ..share("/Users/me", "")
        }];
        scene.run_twice(run).await;
        assert!(scene.path("/Users/me").is_dir());
    }

    #[test]
    fn selinux_gets_one_label_for_a_whole_share() {
        let label = "rw,trans=virtio,context=system_u:object_r:nfs_t:s0";
        assert_eq!(options(&share("/a", "virtiofs"), true), label);
        assert_eq!(options(&share("/a", "9p"), true), "rw,trans=virtio");
        let none = GuestMount {
            options: "nofail".to_owned(),
            ..share("/a", "9p")
        };
        assert_eq!(options(&none, false), "defaults");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn fuse_is_allowed_and_marked() {
        let scene = Scene::new();
        scene.write("/etc/fuse.conf", "# user_allow_other\nmount_max = 1000");
        scene.run_twice(allow_other).await;
        assert_eq!(
            scene.read("/etc/fuse.conf"),
            "# user_allow_other\nmount_max = 1000\nuser_allow_other\n"
        );
        assert_eq!(scene.read("/run/lima-fuse-ready"), "iid-1700000000\n");
        scene.write(FUSERMOUNT_PROFILE, "profile fusermount3 {}");
        scene.run_twice(allow_other).await;
        assert_eq!(
            scene.ran(),
            ["apparmor_parser -r /etc/apparmor.d/fusermount3"]
        );
    }
}
