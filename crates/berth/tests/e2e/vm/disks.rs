//! Additional disks of a virtual machine: each is known by its serial number, formatted once, and free again when the VM is gone.

use std::fs;

use crate::instance::{Home, Instance};
use crate::outcome::assert_says;

/// Names and sizes in MiB. The first that is attached has the last name.
const DISKS: [(&str, u64); 2] = [("zebra", 64), ("ant", 128)];

/// Makes them.
#[track_caller]
pub(super) fn create(home: &Home) {
    for (name, size) in DISKS {
        let size = format!("{size}MiB");
        let _ = home
            .run(&["disk", "create", name, "--size", &size])
            .success();
    }
}

/// `lima.yaml`'s lines for them.
pub(super) fn lines() -> String {
    let entries = DISKS.map(|(name, _)| format!("- name: {name}\n"));
    format!("additionalDisks:\n{}", entries.concat())
}

/// Writes to each in the guest, where each is as large as its name says.
#[track_caller]
pub(super) fn write(instance: &Instance<'_>) {
    for (name, size) in DISKS {
        let script = format!(
            "findmnt -no FSTYPE,SOURCE /mnt/lima-{name} && sudo blkid -o value -s LABEL $(findmnt -no SOURCE /mnt/lima-{name}) \
             && echo '{mark}' | sudo tee /mnt/lima-{name}/mark && sync \
             && sudo blockdev --getsize64 $(findmnt -no SOURCE /mnt/lima-{name})",
            mark = mark(name),
        );
        let said = instance.shell(&script).success();
        assert_says(
            &said,
            &["ext4", "/dev/", &format!("lima-{name}"), &mark(name)],
        );
        let bytes: u64 = said.lines().last().unwrap_or_default().parse().expect(name);
        let most = size << 20;
        assert!(bytes <= most && bytes > most - (4 << 20), "{name}: {bytes}");
        let refused = instance.home.run(&["disk", "unlock", name]).fatal();
        assert_says(&refused, &[name, "in use by instance \"x\""]);
    }
}

/// After the VM is gone: nobody holds them, and they have what the guest wrote.
#[track_caller]
pub(super) fn assert_kept(home: &Home) {
    for (name, _) in DISKS {
        let dir = home.lima_home().join("_disks").join(name);
        assert!(fs::symlink_metadata(dir.join("in_use_by")).is_err());
        let (disk, raw) = (dir.join("datadisk"), home.path("raw"));
        let [from, to] = [&disk, &raw].map(|path| path.to_string_lossy());
        let _ = home
            .run_program("qemu-img".as_ref(), &["convert", "-Oraw", &from, &to])
            .success();
        let bytes = fs::read(&raw).expect("an image");
        let mark = mark(name);
        let found = bytes
            .windows(mark.len())
            .any(|part| part == mark.as_bytes());
        assert!(found, "{name} has lost what the guest wrote");
    }
}

fn mark(name: &str) -> String {
    format!("written on {name} in the guest")
}
