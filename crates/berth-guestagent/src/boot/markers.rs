//! Files in `/run` that tell Lima's scripts, and berth without a link, how far the boot is. Each holds the instance's id.

use crate::boot::step::{Done, StepError, Work};
use crate::files::{Attributes, FileError, Loss, put, remove};
use crate::guest::Guest;

/// The user can log in: keys and environment are in place.
const SSH_READY: &str = "/run/lima-ssh-ready";
/// The user may mount file systems for others to see.
pub(crate) const FUSE_READY: &str = "/run/lima-fuse-ready";
/// All steps and provision scripts have ended.
pub(crate) const BOOT_DONE: &str = "/run/lima-boot-done";
/// A step wants the guest to boot again before it counts as booted.
const REBOOT_REQUIRED: &str = "/run/lima-reboot-required";

/// Forgets what an earlier run of the boot steps told.
pub(crate) fn forget(guest: &Guest) -> Result<(), FileError> {
    for marker in [SSH_READY, FUSE_READY, BOOT_DONE, REBOOT_REQUIRED] {
        remove(&guest.path(marker))?;
    }
    Ok(())
}

/// Tells that the user can log in.
pub(crate) fn ssh_ready(work: &Work<'_>) -> Result<Done, StepError> {
    Ok(Done::changed(mark(
        work.guest,
        SSH_READY,
        &work.spec.instance_id,
    )?))
}

/// Tells that the user may mount file systems for others to see.
pub(crate) fn fuse_ready(work: &Work<'_>) -> Result<bool, FileError> {
    mark(work.guest, FUSE_READY, &work.spec.instance_id)
}

/// Tells that the boot is done, unless the guest is to boot again; tells whether it is done.
pub(crate) fn boot_done(guest: &Guest, instance_id: &str) -> Result<bool, FileError> {
    if guest.has(REBOOT_REQUIRED) {
        return Ok(false);
    }
    mark(guest, BOOT_DONE, instance_id)?;
    Ok(true)
}

/// Asks for another boot.
pub(crate) fn require_reboot(work: &Work<'_>) -> Result<(), FileError> {
    mark(work.guest, REBOOT_REQUIRED, &work.spec.instance_id).map(drop)
}

fn mark(guest: &Guest, path: &str, instance_id: &str) -> Result<bool, FileError> {
    // World-readable: the user's login reads them.
    let line = format!("{instance_id}\n");
    put(
        &guest.path(path),
        line.as_bytes(),
        Attributes::root(0o644),
        Loss::Repaired,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    #[test]
    fn markers_hold_the_instance_id() {
        let scene = Scene::new();
        scene.now_twice(ssh_ready);
        assert_eq!(scene.read(SSH_READY), "iid-1700000000\n");
        assert!(boot_done(&scene.guest, "iid-1").unwrap());
        assert_eq!(scene.read(BOOT_DONE), "iid-1\n");
        forget(&scene.guest).unwrap();
        assert!(!scene.guest.has(SSH_READY) && !scene.guest.has(BOOT_DONE));
    }

    #[test]
    fn a_guest_that_is_to_boot_again_is_not_done() {
        let scene = Scene::new();
        scene.write(REBOOT_REQUIRED, "");
        assert!(!boot_done(&scene.guest, "iid-1").unwrap());
        assert!(!scene.guest.has(BOOT_DONE));
    }
}
