//! Making an instance directory, or nothing.

use std::io;
use std::path::PathBuf;

use berth_config::name::{InstanceName, NameError, check_socket_paths};
use berth_config::platform::HostPlatform;

use crate::dir::InstanceDir;
use crate::files::write_atomic;
use crate::home::LimaHome;
use crate::sys;

/// An instance cannot be made. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// There is one by that name.
    #[error("instance {name:?} already exists ({})", .path.display())]
    Exists {
        /// The name.
        name: String,
        /// Its directory.
        path: PathBuf,
    },
    /// The name leads to paths that sockets cannot have.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A file operation failed.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A new instance that is not finished. Dropped, it is removed again; [`NewInstance::keep`] makes it stay.
#[derive(Debug)]
#[must_use = "the instance is removed when this is dropped"]
pub struct NewInstance {
    dir: InstanceDir,
    keep: bool,
}

impl NewInstance {
    /// Makes the directory (0700), `lima.yaml` (0644) and `lima-version` (0444, without a line feed).
    pub fn create(
        home: &LimaHome,
        name: &InstanceName,
        lima_yaml: &str,
        lima_version: &str,
        platform: &HostPlatform,
    ) -> Result<Self, CreateError> {
        let dir = home.instance(name);
        check_socket_paths(dir.path(), platform)?;
        make_home(home)?;
        match sys::create_private_dir(dir.path()) {
            Ok(()) => {}
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {
                let path = dir.path().to_owned();
                return Err(CreateError::Exists {
                    name: name.to_string(),
                    path,
                });
            }
            Err(source) => {
                let path = dir.path().to_owned();
                return Err(CreateError::Io {
                    verb: "create",
                    path,
                    source,
                });
            }
        }
        // From here on, an early return removes the directory.
        let new = Self { dir, keep: false };
        let files = [
            (new.dir.lima_yaml(), lima_yaml, 0o644),
            (new.dir.lima_version(), lima_version, 0o444),
        ];
        for (path, text, mode) in files {
            write_atomic(&path, text.as_bytes(), mode).map_err(|source| CreateError::Io {
                verb: "write",
                path,
                source,
            })?;
        }
        Ok(new)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &InstanceDir {
        &self.dir
    }

    /// Everything worked: the instance stays.
    #[must_use]
    pub fn keep(mut self) -> InstanceDir {
        self.keep = true;
        self.dir.clone()
    }
}

/// LIMA_HOME is made at the first use, for its owner alone.
fn make_home(home: &LimaHome) -> Result<(), CreateError> {
    let error = |source| CreateError::Io {
        verb: "create",
        path: home.path().to_owned(),
        source,
    };
    if let Some(parent) = home.path().parent() {
        std::fs::create_dir_all(parent).map_err(error)?;
    }
    match sys::create_private_dir(home.path()) {
        Err(why) if why.kind() != io::ErrorKind::AlreadyExists => Err(error(why)),
        _ => Ok(()),
    }
}

impl Drop for NewInstance {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(why) = std::fs::remove_dir_all(self.dir.path()) {
            let path = self.dir.path().display();
            tracing::warn!(%path, error = %why, "cannot remove an instance that was not finished");
        }
    }
}
