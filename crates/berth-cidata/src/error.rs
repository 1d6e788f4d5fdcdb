//! What can go wrong with the paperwork, in words a user can act on.

use std::io;
use std::path::PathBuf;

use crate::iso::LayoutError;

/// A failure to build or to write the cidata volume.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CidataError {
    /// The configuration asks for something that cannot be handed to a guest.
    #[error("{key}: {why}")]
    Config {
        /// Key of lima.yaml.
        key: String,
        /// Why not, and what to do instead.
        why: String,
    },
    /// The files do not fit the rules of an ISO 9660 volume.
    #[error("cannot lay out {}", .path.display())]
    Layout {
        /// The volume.
        path: PathBuf,
        /// Which rule.
        source: LayoutError,
    },
    /// A file operation failed.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl CidataError {
    pub(crate) fn config(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Config {
            key: key.into(),
            why: why.into(),
        }
    }

    pub(crate) fn io(
        verb: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { verb, path, source }
    }
}
