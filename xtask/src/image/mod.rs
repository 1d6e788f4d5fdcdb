//! The Debian guest: one tree of packages, as a root disk with kernel and initrd for QEMU, and as a directory for the
//! native-speed guest.

mod assemble;
mod layer;
mod mirror;
mod recipe;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

pub(crate) use recipe::Arch;
use recipe::Recipe;

use crate::program::as_root;
use crate::workspace::Workspace;

/// Arguments of `cargo xtask image`.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// Build it anew from today's packages, also when it is in the cache.
    #[arg(long)]
    rebuild: bool,
}

/// Builds the image when it is missing, and says where it is.
pub(crate) fn run(args: &ImageArgs) -> Result<()> {
    let image = Image::obtain(args.rebuild)?;
    println!("{}", image.dir.display());
    Ok(())
}

/// A built image: a directory in the cache.
#[derive(Debug)]
pub(crate) struct Image {
    dir: PathBuf,
}

impl Image {
    /// Takes the image from the cache, or builds it. Two builders at once: the second waits for the first.
    pub(crate) fn obtain(rebuild: bool) -> Result<Self> {
        let recipe = Recipe {
            arch: Arch::native()?,
        };
        let cache = Workspace::image_cache()?;
        let image = Self {
            dir: cache.join(format!("{}-{}", recipe::SUITE, recipe.hash())),
        };
        if image.dir.is_dir() && !rebuild {
            return Ok(image);
        }
        fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
        let _lock = lock(&cache)?;
        if rebuild || !image.dir.is_dir() {
            assemble::assemble(recipe, &image.dir)?;
        }
        Ok(image)
    }

    /// A layer over [`Self::rootfs`] with the programs that only tests need, which takes root to build.
    pub(crate) fn programs(&self) -> Result<PathBuf> {
        let layer = layer::place(&self.dir);
        let rootfs = self.rootfs()?;
        let _lock = lock(&Workspace::image_cache()?)?;
        if !layer.is_dir() {
            layer::assemble(&rootfs, &layer)?;
        }
        Ok(layer.join("upper"))
    }

    /// The directory: `disk.raw`, `kernel`, `initrd`, `cmdline`, `lima.yaml` and the tree itself.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A `lima.yaml` that boots the image.
    pub(crate) fn template(&self) -> PathBuf {
        self.dir.join("lima.yaml")
    }

    /// The tree as a directory with its true owners, which takes root to unpack.
    pub(crate) fn rootfs(&self) -> Result<PathBuf> {
        let rootfs = self.dir.join("rootfs");
        if rootfs.is_dir() {
            return Ok(rootfs);
        }
        println!("image: unpack the tree for the native-speed guest");
        let fresh = self.dir.join("rootfs.new");
        let unpack = "rm -rf \"$2\"; mkdir \"$2\"; tar --numeric-owner -xpf \"$1\" -C \"$2\"; mv \"$2\" \"$3\"";
        as_root("sh")?
            .args(["-ec", unpack, "sh"])
            .args([&self.dir.join("rootfs.tar"), &fresh, &rootfs])
            .run()?;
        Ok(rootfs)
    }
}

/// Lets one builder at a time into the cache.
fn lock(cache: &Path) -> Result<File> {
    let path = cache.join("lock");
    let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    lock.lock()
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(lock)
}
