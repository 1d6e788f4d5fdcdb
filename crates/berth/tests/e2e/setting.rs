//! Where the things are that these tests need.

use std::env;
use std::path::{Path, PathBuf};

/// An installed prefix: `bin/berth` and `share/berth/berth-guestagent.Linux-x86_64`.
const DIST: &str = "BERTH_TEST_DIST";
/// What `cargo xtask image` has built: a disk, and a `lima.yaml` that boots it.
const IMAGE: &str = "BERTH_TEST_IMAGE";
/// The root file system for the native-speed guest, which reads this variable, too.
const ROOTFS: &str = "BERTH_TESTGUEST_ROOTFS";
/// Programs that only tests need: a layer over the root file system.
const PROGRAMS: &str = "BERTH_TEST_PROGRAMS";
/// The program `berth-testguest`.
const GUEST: &str = "BERTH_TEST_GUEST";

/// virtiofsd.
const VIRTIOFSD: &str = "BERTH_TEST_VIRTIOFSD";

/// The program, as it would be installed.
pub(crate) fn berth() -> PathBuf {
    named(DIST, "bin/berth")
}

/// The stand-in for QEMU.
pub(crate) fn testguest() -> PathBuf {
    assert!(
        rustix::process::geteuid().is_root(),
        "the native-speed guest needs root: run `cargo xtask test` as root"
    );
    named(GUEST, "")
}

/// The system that it boots, as a directory.
pub(crate) fn rootfs() -> PathBuf {
    named(ROOTFS, "")
}

/// More programs, as a layer over it.
pub(crate) fn programs() -> PathBuf {
    named(PROGRAMS, "")
}

/// What serves the shares of a virtual machine by virtiofs.
pub(crate) fn virtiofsd() -> PathBuf {
    named(VIRTIOFSD, "")
}

/// The `lima.yaml` that boots the same system on a virtual machine.
pub(crate) fn template() -> PathBuf {
    named(IMAGE, "lima.yaml")
}

fn named(variable: &str, file: &str) -> PathBuf {
    let Some(base) = env::var_os(variable) else {
        panic!(
            "{variable} is not set: run `cargo xtask test`, which builds what these tests need and sets it"
        );
    };
    let path = if file.is_empty() {
        PathBuf::from(base)
    } else {
        Path::new(&base).join(file)
    };
    assert!(
        path.exists(),
        "{} ({variable}) is not there: run `cargo xtask test`",
        path.display()
    );
    path
}
