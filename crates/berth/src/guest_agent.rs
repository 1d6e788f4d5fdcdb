//! Where the guest agent's binary is, which goes into the guest with cidata.

use std::path::{Path, PathBuf};

use berth_config::model::{Arch, Config, GuestOs};

use crate::environment::Environment;
use crate::platform::arch_word;

/// Names the binary instead of the one that was installed.
const VARIABLE: &str = "BERTH_GUESTAGENT";

/// The binary is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GuestAgentError {
    /// The one that was named.
    #[error("{origin} names the guest agent {}, which is not there", .path.display())]
    Named {
        /// The flag or variable.
        origin: &'static str,
        path: PathBuf,
    },
    /// The one that belongs to this program.
    #[error(
        "no guest agent for {} is installed (looked for {} and its .gz): install one, name one in {VARIABLE}, or set \
         `plain: true` in lima.yaml to do without",
        arch_word(*.arch),
        .path.display()
    )]
    NotInstalled {
        /// Architecture of the guest.
        arch: Arch,
        /// Where it should be.
        path: PathBuf,
    },
    /// Lima's, which the driver needs.
    #[error(
        "this driver reaches its guest over SSH only and needs Lima's guest agent, which is not there (looked for {}, each also \
         with .gz): name one in {VARIABLE}, or set `plain: true` in lima.yaml to do without",
        list(.paths)
    )]
    LimasNotInstalled {
        /// Where it should be.
        paths: Vec<PathBuf>,
    },
}

fn list(paths: &[PathBuf]) -> String {
    let paths = paths.iter().map(|path| path.display().to_string());
    paths.collect::<Vec<_>>().join(", ")
}

/// Finds the binary for a guest; `None` for a guest that gets no agent.
///
/// The flag comes first, then `BERTH_GUESTAGENT`, then `share/berth/berth-guestagent.Linux-ARCH[.gz]` beside the directory of
/// this program.
pub(crate) fn find(
    config: &Config,
    flag: Option<&Path>,
    env: &Environment,
    exe: &Path,
) -> Result<Option<PathBuf>, GuestAgentError> {
    if config.plain || config.os != GuestOs::Linux {
        return Ok(None);
    }
    let variable = env.get(VARIABLE).filter(|path| !path.is_empty());
    let named = flag
        .map(|path| ("--guestagent", path))
        .or(variable.map(|path| (VARIABLE, Path::new(path))));
    if let Some((origin, path)) = named {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        return if path.is_file() {
            Ok(Some(path))
        } else {
            Err(GuestAgentError::Named { origin, path })
        };
    }
    let prefix = exe
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new("/"));
    let name = format!("berth-guestagent.Linux-{}", arch_word(config.arch));
    let path = prefix.join("share/berth").join(name);
    match plain_or_packed(&path) {
        Some(found) => Ok(Some(found)),
        None => Err(GuestAgentError::NotInstalled {
            arch: config.arch,
            path,
        }),
    }
}

/// What the names of Lima's guest agents begin with.
const LIMAS: &str = "lima-guestagent";

/// Whether a binary is Lima's guest agent, by its name.
pub(crate) fn is_limas(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(LIMAS)
}

/// Finds Lima's guest agent: `share/lima/lima-guestagent.Linux-ARCH[.gz]` in the installation of the external driver (`PREFIX`
/// of `PREFIX/libexec/lima/lima-driver-NAME`) or in that of this program.
pub(crate) fn find_limas(
    config: &Config,
    exe: &Path,
    driver: Option<&Path>,
) -> Result<PathBuf, GuestAgentError> {
    // The driver may have been found through a link.
    let driver = driver.and_then(|driver| driver.canonicalize().ok());
    let of_driver = driver
        .as_deref()
        .and_then(|driver| driver.ancestors().nth(3));
    let prefixes = of_driver.into_iter().chain(exe.ancestors().nth(2));
    let name = format!("{LIMAS}.Linux-{}", arch_word(config.arch));
    let paths: Vec<_> = prefixes
        .map(|prefix| prefix.join("share/lima").join(&name))
        .collect();
    match paths.iter().find_map(|path| plain_or_packed(path)) {
        Some(found) => Ok(found),
        None => Err(GuestAgentError::LimasNotInstalled { paths }),
    }
}

fn plain_or_packed(path: &Path) -> Option<PathBuf> {
    let packed = path.with_added_extension("gz");
    [path.to_owned(), packed]
        .into_iter()
        .find(|path| path.is_file())
}
