//! Where things lie in a checkout, and who runs us.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A checkout of the project.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The checkout that this program was built from.
    pub(crate) fn here() -> Result<Self> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = package
            .parent()
            .context("the package of xtask lies in no workspace")?
            .to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The directory of the checkout.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target directory.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// What `xtask build` installs, laid out like a prefix (`bin`, `share/berth`).
    pub(crate) fn dist(&self) -> PathBuf {
        self.target.join("dist")
    }

    /// Where built guest images are kept: they outlive a checkout, as they take minutes to build.
    pub(crate) fn image_cache() -> Result<PathBuf> {
        let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(
                std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?,
            )
            .join(".cache"),
        };
        Ok(cache.join("berth").join("guest-images"))
    }
}

/// Whether this process may do what root may.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
