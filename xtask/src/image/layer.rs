//! Programs that only tests need, as a layer over the guest's tree: the image itself stays small.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::mirror::Mirror;
use crate::program::as_root;

/// Real programs that talk through forwarded ports.
const PACKAGES: &[&str] = &[
    "bind9-dnsutils",
    "git",
    "iperf3",
    "postgresql-15",
    "python3-websockets",
];

const INSTALL: &str = include_str!("../../image/programs.sh");

/// Where the layer lies for an image; its hash is that of what it is made of.
pub(super) fn place(image: &Path) -> PathBuf {
    let digest = Sha256::digest(format!("{}\n{INSTALL}", PACKAGES.join(" ")));
    let hash = digest.iter().take(8).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    image.join(format!("programs-{hash}"))
}

/// Builds the layer at its place, over the tree `rootfs`. An interrupted build leaves no half layer.
pub(super) fn assemble(rootfs: &Path, target: &Path) -> Result<()> {
    println!("image: add the programs of the tests (about 70 MB to download)");
    let dir = target.with_extension("partial");
    let script = "rm -rf \"$2\"; mkdir \"$2\"; exec unshare --mount sh -ec \"$0\" sh \"$@\"";
    let mirror = Mirror::of_this_machine();
    let options = mirror.apt_options();
    as_root("sh")?
        .args(["-ec", script, INSTALL])
        .args([rootfs, &dir])
        .arg(PACKAGES.join(" "))
        .args(options)
        .run()?;
    fs::rename(&dir, target)
        .with_context(|| format!("rename {} to {}", dir.display(), target.display()))
}
