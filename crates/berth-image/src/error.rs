//! What can be wrong with an image, in words a user can act on.

use std::path::{Path, PathBuf};

use berth_config::model::Arch;
use berth_config::size::format_binary;

use crate::format::Format;

/// An image or disk that cannot be had or used. The message says what failed and what to do; the cause is the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
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
    /// A digest that is no `algorithm:hex`.
    #[error("digest {text:?}: {why}")]
    BadDigest {
        /// As written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The content is not what the digest promises.
    #[error(
        "{location} has the wrong digest: expected {expected}, got {actual}; the file changed or was damaged on the way: \
         correct `digest` or try again"
    )]
    DigestMismatch {
        /// URL or path.
        location: String,
        /// `algorithm:hex` that was asked for.
        expected: String,
        /// `algorithm:hex` of what was found.
        actual: String,
    },
    /// A location that is neither a path nor a URL that can be fetched.
    #[error("cannot fetch {location:?}: {why}")]
    Location {
        /// As written.
        location: String,
        /// What is wrong with it.
        why: String,
    },
    /// The server answered, but not with the file.
    #[error("cannot download {location}: the server answered {status}")]
    Http {
        /// URL.
        location: String,
        /// Status code.
        status: u16,
    },
    /// The server could not be reached, or the connection broke more often than it made progress.
    #[error("cannot download {location}")]
    Network {
        /// URL.
        location: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The caller's progress function asked to stop.
    #[error("fetching {location} was cancelled")]
    Cancelled {
        /// URL or path.
        location: String,
    },
    /// Compressed data is damaged or of a kind that cannot be unpacked.
    #[error("cannot unpack {} ({kind})", .path.display())]
    Unpack {
        /// The compressed file.
        path: PathBuf,
        /// Kind of compression.
        kind: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// lima.yaml names no image for the architecture.
    #[error("no image for {}: add one to `images` of lima.yaml", arch_name(*.arch))]
    NoImageFor {
        /// Guest architecture.
        arch: Arch,
    },
    /// Every candidate failed.
    #[error("no image could be fetched:{}", bullets(.0))]
    AllFailed(Vec<Self>),
    /// The instance has neither a disk nor an image to make one from.
    #[error("{} is missing, and so is {}: delete the instance and create it again", .disk.display(), .image.display())]
    NothingToStartFrom {
        /// Where the disk would be.
        disk: PathBuf,
        /// Where the image would be.
        image: PathBuf,
    },
    /// An image or disk that would make QEMU open other files, or whose header makes no sense.
    #[error("{} is refused: {why}", .path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A format that cannot be a disk.
    #[error("{} is a {format} image, which {why}", .path.display())]
    UnsupportedFormat {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        format: Format,
        /// Why it cannot be used, and what to do.
        why: String,
    },
    /// `disk` of lima.yaml is smaller than the image.
    #[error(
        "`disk` is {}, but the image {} needs {}: set `disk` to at least that",
        format_binary(*.configured), .image.display(), format_binary(*.needed)
    )]
    DiskTooSmall {
        /// The image.
        image: PathBuf,
        /// Bytes that lima.yaml asks for.
        configured: u64,
        /// Bytes of the image's virtual disk.
        needed: u64,
    },
    /// `disk` of lima.yaml is smaller than the disk that is there.
    #[error(
        "`disk` is {}, but {} already has {}: disks cannot shrink; set `disk` back, or delete the instance and create it anew",
        format_binary(*.configured), .disk.display(), format_binary(*.present)
    )]
    Shrinking {
        /// The disk.
        disk: PathBuf,
        /// Bytes that lima.yaml asks for.
        configured: u64,
        /// Bytes that it has.
        present: u64,
    },
    /// `qemu-img` is not there.
    #[error(
        "qemu-img: not found in PATH; install it (Debian, Ubuntu: `apt install qemu-utils`; macOS: `brew install qemu`)"
    )]
    NoQemuImg,
    /// `qemu-img` failed.
    #[error("qemu-img cannot {verb} {}: {why}", .path.display())]
    QemuImg {
        /// What was being done.
        verb: &'static str,
        /// To which file.
        path: PathBuf,
        /// Its own words, escaped.
        why: String,
    },
}

impl ImageError {
    /// Pairs an I/O error with what was being done to which file; for `map_err`.
    pub fn io(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { verb, path, source }
    }
}

fn arch_name(arch: Arch) -> String {
    serde_json::to_value(arch)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_else(|| format!("{arch:?}"))
}

/// An error and its causes, on one line.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// One line per error, each after a line feed, with its causes: nothing is lost when several are reported as one.
#[must_use]
pub fn bullets<E: std::error::Error>(errors: &[E]) -> String {
    errors.iter().fold(String::new(), |text, error| {
        text + "\n- " + &with_causes(error)
    })
}
