//! What can go wrong with a driver, in words a user can act on.

use std::path::{Path, PathBuf};

use berth_image::error::bullets;

/// A driver's failure. The message says what failed and what to do; the cause is the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The configuration asks for something this driver cannot do.
    #[error("{key}: {why}")]
    Unsupported {
        /// Key of lima.yaml, or the operation.
        key: String,
        /// Why, and what to do instead.
        why: String,
    },
    /// The instance has no display to show.
    #[error("instance has no display (video.display is \"none\")")]
    NoDisplay,
    /// A program the driver needs is missing or unusable.
    #[error("{program}: {why}")]
    Program {
        /// Name or path.
        program: String,
        /// What is wrong and how to get it.
        why: String,
    },
    /// The VM process ended while it was being started.
    #[error("{program} ended at once ({how}){}", tail(.stderr_tail))]
    Died {
        /// Program.
        program: String,
        /// Exit status in words.
        how: String,
        /// Its last stderr lines, escaped.
        stderr_tail: String,
    },
    /// A port of the host is taken.
    #[error("cannot listen on {address}: {why}")]
    Port {
        /// `ip:port`.
        address: String,
        /// The driver's own words.
        why: String,
    },
    /// Something did not happen in time.
    #[error("waited {seconds} s for {what}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
    /// The VM's monitor refused a command.
    #[error("{command}: {why}")]
    Monitor {
        /// QMP command.
        command: String,
        /// The description it gave.
        why: String,
    },
    /// A file operation failed.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Several things are wrong at once.
    #[error("{} things are wrong:{}", .0.len(), bullets(.0))]
    Several(Vec<Self>),
    /// The disk or the image cannot be used.
    #[error("disk of the instance")]
    Image(#[from] berth_image::error::ImageError),
}

impl DriverError {
    /// Refuses what stands at a key of lima.yaml.
    pub(crate) fn refuse(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported {
            key: key.into(),
            why: why.into(),
        }
    }

    /// Pairs an I/O error with what was being done to which file; for `map_err`.
    pub(crate) fn io(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { verb, path, source }
    }

    /// One error for all of them; `Ok` when there is none.
    pub(crate) fn of_all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }
}

fn tail(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!("; its last words:\n{stderr}")
    }
}
