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
    let packed = path.with_added_extension("gz");
    if path.is_file() {
        Ok(Some(path))
    } else if packed.is_file() {
        Ok(Some(packed))
    } else {
        Err(GuestAgentError::NotInstalled {
            arch: config.arch,
            path,
        })
    }
}
