//! Fetching files: local paths as they are, URLs through the download cache that Lima uses too.

mod cache;
mod http;
mod proxy;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use proxy::Proxies;

use crate::decompress;
use crate::digest::{Digest, Hasher};
use crate::error::ImageError;
use crate::fetch::cache::Entry;
use crate::fetch::http::Client;
use crate::progress::{Reporter, Step, Watch};
use crate::sparse;
use crate::staged::Staged;

/// What every fetch needs to know of its surroundings.
#[derive(Debug, Clone)]
pub struct FetchSettings {
    /// `lima` in the user's cache directory (`~/.cache/lima`, `~/Library/Caches/lima`, `%LocalAppData%\lima`).
    pub cache_dir: PathBuf,
    /// Ways out of this network.
    pub proxies: Proxies,
    /// How long a connection attempt may take, and how long a connection may stay silent.
    pub patience: Duration,
}

impl FetchSettings {
    /// Settings with the usual patience of 30 s.
    #[must_use]
    pub fn new(cache_dir: PathBuf, proxies: Proxies) -> Self {
        Self {
            cache_dir,
            proxies,
            patience: Duration::from_secs(30),
        }
    }
}

/// A file to fetch.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Path, `file://` URL or `http(s)://` URL.
    pub location: &'a str,
    /// What its content must hash to.
    pub digest: Option<&'a Digest>,
}

/// What happens to compressed files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Unpacked: images, kernels, firmware.
    Unpack,
    /// Kept as they are: initrds, archives.
    Keep,
}

/// Fetches files. Blocks; belongs on a thread that may block.
#[derive(Debug, Clone)]
pub struct Fetcher {
    settings: FetchSettings,
}

impl Fetcher {
    /// A fetcher; nothing is touched yet.
    #[must_use]
    pub fn new(settings: FetchSettings) -> Self {
        Self { settings }
    }

    /// Makes the file available and says where: in the cache for URLs, in its own place for local files. It has the digest
    /// that was asked for.
    pub fn fetch(&self, source: Source<'_>, watch: &mut Watch<'_>) -> Result<PathBuf, ImageError> {
        let mut reporter = Reporter::new(source.location, watch);
        match Place::of(source.location)? {
            Place::Local(path) => {
                if let Some(expected) = source.digest {
                    let actual = hash_file(&path, expected, &mut reporter)?;
                    require_digest(source.location, expected, &actual)?;
                } else {
                    File::open(&path).map_err(ImageError::io("open", &path))?;
                }
                Ok(path)
            }
            Place::Remote => {
                let client = Client::new(&self.settings, source.location)?;
                let entry = Entry::open(&self.settings.cache_dir, source.location, &mut reporter)?;
                entry.fetch(&client, source.digest, &mut reporter)
            }
        }
    }

    /// Fetches the file into `destination`, which appears when it is whole. A destination that is there already is kept.
    pub fn fetch_to(
        &self,
        source: Source<'_>,
        destination: &Path,
        packing: Packing,
        watch: &mut Watch<'_>,
    ) -> Result<(), ImageError> {
        if destination.exists() {
            return Ok(());
        }
        let packed = self.fetch(source, watch)?;
        let staged = Staged::new(destination)?;
        let mut reporter = Reporter::new(source.location, watch);
        match packing {
            Packing::Unpack => decompress::unpack(&packed, &staged, &mut reporter)?,
            Packing::Keep => sparse::copy(&packed, &staged, &mut reporter)?,
        }
        staged.commit()
    }
}

enum Place {
    Local(PathBuf),
    Remote,
}

impl Place {
    fn of(location: &str) -> Result<Self, ImageError> {
        let bad = |why: &str| ImageError::Location {
            location: location.to_owned(),
            why: why.to_owned(),
        };
        let Some((scheme, rest)) = location.split_once("://") else {
            return Ok(Self::Local(PathBuf::from(location)));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => Ok(Self::Remote),
            "file" if Path::new(rest).is_absolute() => Ok(Self::Local(PathBuf::from(rest))),
            "file" => Err(bad("a file:// URL needs an absolute path")),
            _ => Err(bad(
                "only paths, file://, http:// and https:// are understood",
            )),
        }
    }
}

fn require_digest(location: &str, expected: &Digest, actual: &Digest) -> Result<(), ImageError> {
    if expected == actual {
        return Ok(());
    }
    Err(ImageError::DigestMismatch {
        location: location.to_owned(),
        expected: expected.to_string(),
        actual: actual.to_string(),
    })
}

/// The file's digest, of the same kind as `like`.
fn hash_file(
    path: &Path,
    like: &Digest,
    reporter: &mut Reporter<'_, '_>,
) -> Result<Digest, ImageError> {
    let mut hasher = Hasher::new(like.algorithm());
    feed(path, &mut hasher, reporter)?;
    Ok(hasher.finish())
}

/// Feeds a file to the hash.
fn feed(
    path: &Path,
    hasher: &mut Hasher,
    reporter: &mut Reporter<'_, '_>,
) -> Result<(), ImageError> {
    let mut file = File::open(path).map_err(ImageError::io("open", path))?;
    let total = file
        .metadata()
        .map_err(ImageError::io("inspect", path))?
        .len();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let count = file
            .read(&mut buffer)
            .map_err(ImageError::io("read", path))?;
        if count == 0 {
            return Ok(());
        }
        hasher.update(&buffer[..count]);
        done += count as u64;
        reporter.at(Step::Checking, done, Some(total))?;
    }
}
