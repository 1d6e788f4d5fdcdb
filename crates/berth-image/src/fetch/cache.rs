//! One entry of the download cache, in Lima's layout: `download/by-url-sha256/<hex sha256 of the URL>/`.
//!
//! | file | content |
//! |---|---|
//! | `url` | the URL |
//! | `data` | the file, whole |
//! | `<algorithm>.digest` | `algorithm:hex` of `data`, once somebody asked for a digest |
//! | `time`, `type` | `Last-Modified` and `Content-Type`, as sent |
//! | `etag` | `ETag`, as sent (ours) |
//! | `data.part`, `data.part.validator` | a download under way, and the version it belongs to (ours) |
//!
//! The entry is locked by an exclusive lock on its directory, as Lima locks it.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::digest::{Algorithm, Digest, Hasher, sha256_hex};
use crate::error::ImageError;
use crate::fetch::http::{Answer, Ask, Client, Download, Validators};
use crate::fetch::{feed, hash_file, require_digest};
use crate::progress::{Reporter, Step};
use crate::staged::write_small;
use crate::sys;

/// How often a broken connection is taken up again, as long as each attempt brought something.
const ATTEMPTS: u32 = 8;
/// Bytes between two calls of the progress function.
const REPORT_EVERY: u64 = 1 << 20;

/// A locked cache entry.
#[derive(Debug)]
pub(super) struct Entry {
    dir: PathBuf,
    _lock: File,
}

/// How a transfer ended that did not finish.
enum Broken {
    /// The connection: what came is kept, and can be continued.
    Connection { error: ImageError, progress: bool },
    /// Anything else.
    Other(ImageError),
}

impl From<ImageError> for Broken {
    fn from(error: ImageError) -> Self {
        Self::Other(error)
    }
}

impl Entry {
    /// Makes the entry and locks it. A download of the same URL by another process is waited for; that one's own deadlines
    /// bound the wait.
    pub(super) fn open(
        cache_dir: &Path,
        url: &str,
        reporter: &mut Reporter<'_, '_>,
    ) -> Result<Self, ImageError> {
        let dir = cache_dir
            .join("download/by-url-sha256")
            .join(sha256_hex(url.as_bytes()));
        sys::create_private_dir(&dir).map_err(ImageError::io("create", &dir))?;
        let lock = sys::open_entry_lock(&dir).map_err(ImageError::io("open", &dir))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                reporter.at(Step::Waiting, 0, None)?;
                lock.lock().map_err(ImageError::io("lock", &dir))?;
            }
            Err(TryLockError::Error(error)) => return Err(ImageError::io("lock", &dir)(error)),
        }
        let entry = Self { dir, _lock: lock };
        let recorded = entry.path("url");
        if !recorded.exists() {
            write_small(&recorded, url.as_bytes())?;
        }
        Ok(entry)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Path of the file, fresh from the server or still good from before.
    pub(super) fn fetch(
        &self,
        client: &Client,
        expected: Option<&Digest>,
        reporter: &mut Reporter<'_, '_>,
    ) -> Result<PathBuf, ImageError> {
        let data = self.path("data");
        let cached = data.exists();
        match expected {
            Some(expected) => {
                if !(cached && self.has_digest(&data, expected, reporter)?) {
                    self.download(client, Some(expected), None, reporter)?;
                }
            }
            None if cached => self.refresh(client, reporter)?,
            None => self.download(client, None, None, reporter)?,
        }
        Ok(data)
    }

    /// Whether the cached content has the digest. It is computed each time: a damaged cache heals itself.
    fn has_digest(
        &self,
        data: &Path,
        expected: &Digest,
        reporter: &mut Reporter<'_, '_>,
    ) -> Result<bool, ImageError> {
        let same = hash_file(data, expected, reporter)? == *expected;
        if same {
            self.record_digest(expected)?;
        }
        Ok(same)
    }

    /// Asks whether the file changed, and takes the new one if so. Without an answer the cached one serves.
    fn refresh(&self, client: &Client, reporter: &mut Reporter<'_, '_>) -> Result<(), ImageError> {
        let known = Validators {
            etag: self.read("etag"),
            last_modified: self.read("time"),
        };
        if known == Validators::default() {
            return self.download(client, None, None, reporter);
        }
        match client.get(Ask::Changed(&known)) {
            Ok(Answer::Unchanged) => Ok(()),
            Ok(answer) => self.download(client, None, Some(answer), reporter),
            Err(ImageError::Network { location, source }) => {
                tracing::warn!(location, %source, "Cannot ask for a newer version; the cached file is used.");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn read(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.path(name)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Downloads the file, continuing what an earlier attempt left, and gives it its name once it is whole and right.
    fn download(
        &self,
        client: &Client,
        expected: Option<&Digest>,
        mut answer: Option<Answer>,
        reporter: &mut Reporter<'_, '_>,
    ) -> Result<(), ImageError> {
        let mut attempt = 1;
        let (meta, actual) = loop {
            match self.transfer(client, expected, answer.take(), reporter) {
                Ok(done) => break done,
                Err(Broken::Connection { error, progress }) => {
                    if !progress || attempt == ATTEMPTS {
                        return Err(error);
                    }
                    attempt += 1;
                    tracing::info!(location = reporter.location(), %error, "Continuing a broken download.");
                }
                Err(Broken::Other(error)) => return Err(error),
            }
        };
        if let (Some(expected), Some(actual)) = (expected, &actual)
            && let Err(error) = require_digest(reporter.location(), expected, actual)
        {
            self.drop_part();
            return Err(error);
        }
        self.commit(&meta, expected)
    }

    /// One request and its bytes.
    fn transfer(
        &self,
        client: &Client,
        expected: Option<&Digest>,
        answer: Option<Answer>,
        reporter: &mut Reporter<'_, '_>,
    ) -> Result<(Meta, Option<Digest>), Broken> {
        let answer = match answer {
            Some(answer) => answer,
            None => self.ask(client)?,
        };
        let Answer::Content(mut download) = answer else {
            let unasked = client.network("the server says that nothing changed, unasked");
            return Err(unasked.into());
        };
        let file = self.open_part(download.start, &download.validators)?;
        let mut hasher = expected.map(|digest| Hasher::new(digest.algorithm()));
        if let Some(hasher) = hasher.as_mut().filter(|_| download.start > 0) {
            feed(&self.path("data.part"), hasher, reporter)?;
        }
        self.receive(client, &mut download, file, hasher.as_mut(), reporter)?;
        let meta = Meta {
            validators: download.validators,
            media_type: download.media_type,
        };
        Ok((meta, hasher.map(Hasher::finish)))
    }

    fn ask(&self, client: &Client) -> Result<Answer, ImageError> {
        let have = std::fs::metadata(self.path("data.part")).map_or(0, |meta| meta.len());
        match self.read("data.part.validator") {
            Some(validator) if have > 0 => client.get(Ask::Rest {
                have,
                validator: &validator,
            }),
            _ => client.get(Ask::Whole),
        }
    }

    /// The partial file, cut to `start`, with the version it belongs to on record.
    fn open_part(&self, start: u64, validators: &Validators) -> Result<File, ImageError> {
        let (part, validator) = (self.path("data.part"), self.path("data.part.validator"));
        if start == 0 {
            remove(&validator)?;
        }
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&part)
            .map_err(ImageError::io("create", &part))?;
        file.set_len(start)
            .and_then(|()| file.seek(std::io::SeekFrom::Start(start)))
            .map_err(ImageError::io("write", &part))?;
        if let Some(text) = validators.for_range().filter(|_| start == 0) {
            write_small(&validator, text.as_bytes())?;
        }
        Ok(file)
    }

    /// Receives until the partial file is whole.
    fn receive(
        &self,
        client: &Client,
        download: &mut Download,
        mut file: File,
        mut hasher: Option<&mut Hasher>,
        reporter: &mut Reporter<'_, '_>,
    ) -> Result<(), Broken> {
        let (start, total) = (download.start, download.total);
        let mut buffer = vec![0; 1 << 18];
        let mut done = start;
        let mut told = start;
        let broken = |error: ImageError, done: u64| Broken::Connection {
            error,
            progress: done > start,
        };
        loop {
            let count = download
                .read(&mut buffer)
                .map_err(|error| broken(client.network(error), done))?;
            if count == 0 {
                break;
            }
            if let Err(error) = file.write_all(&buffer[..count]) {
                // A full disk is not helped by keeping the part.
                self.drop_part();
                return Err(ImageError::io("write", &self.path("data.part"))(error).into());
            }
            if let Some(hasher) = hasher.as_deref_mut() {
                hasher.update(&buffer[..count]);
            }
            done += count as u64;
            if done - told >= REPORT_EVERY {
                reporter.at(Step::Downloading, done, total)?;
                told = done;
            }
        }
        reporter.at(Step::Downloading, done, total)?;
        match total {
            Some(total) if total != done => {
                let why = format!("the connection ended after {done} bytes of {total}");
                Err(broken(client.network(why), done))
            }
            _ => Ok(()),
        }
    }

    fn drop_part(&self) {
        for name in ["data.part", "data.part.validator"] {
            if let Err(error) = remove(&self.path(name)) {
                tracing::warn!(%error, "A useless partial download stays.");
            }
        }
    }

    /// Puts the finished part in the place of `data`. What describes the old data goes first, so that a crash in between
    /// leaves data that is asked for again, never data with the wrong description.
    fn commit(&self, meta: &Meta, digest: Option<&Digest>) -> Result<(), ImageError> {
        let (part, data) = (self.path("data.part"), self.path("data"));
        for name in ["time", "type", "etag", "data.part.validator"] {
            remove(&self.path(name))?;
        }
        for algorithm in Algorithm::ALL {
            remove(&self.path(&format!("{}.digest", algorithm.name())))?;
        }
        let file = File::open(&part).map_err(ImageError::io("open", &part))?;
        sys::sync(&file).map_err(ImageError::io("write", &part))?;
        std::fs::rename(&part, &data).map_err(ImageError::io("rename a new file to", &data))?;
        sys::sync_directory(&self.dir).map_err(ImageError::io("write", &self.dir))?;
        for (name, value) in [
            ("time", &meta.validators.last_modified),
            ("type", &meta.media_type),
            ("etag", &meta.validators.etag),
        ] {
            if let Some(value) = value {
                write_small(&self.path(name), value.as_bytes())?;
            }
        }
        digest.map_or(Ok(()), |digest| self.record_digest(digest))
    }

    fn record_digest(&self, digest: &Digest) -> Result<(), ImageError> {
        let path = self.path(&format!("{}.digest", digest.algorithm().name()));
        let text = digest.to_string();
        if std::fs::read_to_string(&path).is_ok_and(|old| old.trim() == text) {
            return Ok(());
        }
        write_small(&path, text.as_bytes())
    }
}

/// What the server said of a finished download.
struct Meta {
    validators: Validators,
    media_type: Option<String>,
}

fn remove(path: &Path) -> Result<(), ImageError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(ImageError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
