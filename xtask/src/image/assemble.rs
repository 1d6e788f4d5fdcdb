//! Building the image, with progress lines.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use super::mirror::Mirror;
use super::recipe::{
    AFTER_PACKAGES, Arch, BEFORE_PACKAGES, DISK_SIZE, Recipe, SUITE, dpkg_options,
};
use crate::program::Program;
use crate::workspace::is_root;

/// Builds into a directory beside the last one and renames it: an interrupted build leaves no half image.
pub(super) fn assemble(recipe: Recipe, target: &Path) -> Result<()> {
    let dir = target.with_extension("partial");
    remove_tree(&dir)?;
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let steps: [(&str, Step); 4] = [
        ("install the packages (about 165 MB to download)", install),
        ("make the root disk", make_disk),
        ("take out kernel and initrd", take_kernel),
        ("describe it", describe),
    ];
    for (number, (what, step)) in steps.iter().enumerate() {
        println!("image {}/{}: {what}", number + 1, steps.len());
        let begin = Instant::now();
        step(recipe, &dir).with_context(|| format!("build the guest image: {what}"))?;
        println!("image: done in {:.1} s", begin.elapsed().as_secs_f32());
    }
    remove_tree(target)?;
    fs::rename(&dir, target)
        .with_context(|| format!("rename {} to {}", dir.display(), target.display()))
}

type Step = fn(Recipe, &Path) -> Result<()>;

/// Root gets the tree as a directory; anybody else as an archive, which keeps the owners that they cannot set.
fn install(recipe: Recipe, dir: &Path) -> Result<()> {
    let mirror = Mirror::of_this_machine();
    println!("image: Debian {SUITE} from {}", mirror.main());
    let output = dir.join(if is_root() { "rootfs" } else { "rootfs.tar" });
    let mut mmdebstrap = Program::new("mmdebstrap")
        .args(["--variant=minbase", "--mode=auto", "--quiet"])
        .arg(format!("--include={}", recipe.packages()));
    for option in mirror.apt_options() {
        mmdebstrap = mmdebstrap.arg(format!("--aptopt={option}"));
    }
    for option in dpkg_options() {
        mmdebstrap = mmdebstrap.arg(format!("--dpkgopt={option}"));
    }
    mmdebstrap
        .arg(format!("--essential-hook={}", BEFORE_PACKAGES.trim_end()))
        .arg(format!("--customize-hook={}", AFTER_PACKAGES.trim_end()))
        .arg(SUITE)
        .arg(output)
        .args(mirror.sources())
        .run()
}

/// Without root, fakeroot remembers owners and modes between unpacking and `mke2fs`.
fn make_disk(_recipe: Recipe, dir: &Path) -> Result<()> {
    let mke2fs = format!(
        "PATH=$PATH:/sbin:/usr/sbin; mke2fs -q -t ext4 -L berth-root -d rootfs disk.raw {DISK_SIZE}"
    );
    if is_root() {
        return Program::new("sh")
            .args(["-ec", &mke2fs])
            .current_dir(dir)
            .run();
    }
    let unpack = "mkdir rootfs; tar --numeric-owner -xpf rootfs.tar -C rootfs";
    Program::new("fakeroot")
        .args(["sh", "-ec"])
        .arg(format!("{unpack}\n{mke2fs}"))
        .current_dir(dir)
        .run()
}

/// The initrd is stored unpacked: an emulated processor copies it faster than it inflates it.
fn take_kernel(_recipe: Recipe, dir: &Path) -> Result<()> {
    Program::new("sh")
        .arg("-ec")
        .arg("cp rootfs/boot/vmlinuz-* kernel; gzip -dc rootfs/boot/initrd.img-* >initrd; chmod 0644 kernel initrd")
        .current_dir(dir)
        .run()?;
    if !is_root() {
        remove_tree(&dir.join("rootfs"))?;
    }
    Ok(())
}

fn describe(recipe: Recipe, dir: &Path) -> Result<()> {
    let home = dir.with_extension("");
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    write("cmdline", recipe.arch.kernel_command_line().to_owned())?;
    write("lima.yaml", template(recipe, &home))?;
    write("recipe", recipe.text())
}

/// A `lima.yaml` for the image at its final place. A BIOS starts sooner than UEFI firmware, where there is one.
fn template(recipe: Recipe, image: &Path) -> String {
    let quoted = |name: &str| Value::from(image.join(name).to_string_lossy()).to_string();
    let Recipe { arch } = recipe;
    format!(
        "# The Debian guest that `cargo xtask image` built.\n\
         vmType: qemu\n\
         arch: {name}\n\
         cpus: 2\n\
         memory: 1GiB\n\
         disk: 4GiB\n\
         images:\n\
         - location: {}\n\
         \x20 arch: {name}\n\
         \x20 kernel:\n\
         \x20   location: {}\n\
         \x20   cmdline: {}\n\
         \x20 initrd:\n\
         \x20   location: {}\n\
         firmware:\n\
         \x20 legacyBIOS: {}\n\
         mounts: []\n\
         containerd:\n\
         \x20 system: false\n\
         \x20 user: false\n",
        quoted("disk.raw"),
        quoted("kernel"),
        Value::from(arch.kernel_command_line()),
        quoted("initrd"),
        arch == Arch::X86_64,
        name = arch.name(),
    )
}

/// Removes a tree. One that the native-speed guest boots from belongs to root, whoever built the image.
fn remove_tree(path: &Path) -> Result<()> {
    let Err(error) = fs::remove_dir_all(path) else {
        return Ok(());
    };
    match error.kind() {
        ErrorKind::NotFound => Ok(()),
        ErrorKind::PermissionDenied if !is_root() => {
            Program::new("sudo").args(["rm", "-rf"]).arg(path).run()
        }
        _ => Err(error).with_context(|| format!("remove {}", path.display())),
    }
}
