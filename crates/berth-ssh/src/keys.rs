//! The user's key pair, one for all instances, and the public keys of `~/.ssh`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_process::escape::escape_untrusted;
use berth_process::spawn::Spec;

use crate::run::{RunError, run};
use crate::sys;

/// How long `ssh-keygen` may take.
const KEYGEN_LIMIT: Duration = Duration::from_secs(30);

/// How long another process may hold the lock under which keys are made.
const LOCK_LIMIT: Duration = Duration::from_secs(45);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
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
    /// `ssh` would refuse to use the key.
    #[error("others than you may read the private key {path}: run `chmod 600 {path}`", path = .path.display())]
    TooOpen {
        /// The private key.
        path: PathBuf,
    },
    /// The file holds no public key.
    #[error("{} is no public key: remove it, and it is made again from the private key", .path.display())]
    NoPublicKey {
        /// The public key's file.
        path: PathBuf,
    },
    /// Somebody else has been making keys for too long.
    #[error("waited {} s for the lock on {}: which process holds it?", .seconds, .path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// How long.
        seconds: u64,
    },
    /// `ssh-keygen` did not make the key.
    #[error("ssh-keygen cannot make {}: {why}", .path.display())]
    Keygen {
        /// The private key.
        path: PathBuf,
        /// What it said, escaped.
        why: String,
    },
}

impl KeyError {
    pub(crate) fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { verb, path, source }
    }
}

/// A key pair on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// File of the private key.
    pub private: PathBuf,
    /// The public key's line, without its newline.
    pub public: String,
}

/// Finds `user` and `user.pub` in `config_dir` (`$LIMA_HOME/_config`), or makes them.
///
/// Making is guarded by a lock on the directory, which Lima takes too; whoever waited for it uses what the other has made.
pub async fn user_key(config_dir: &Path, keygen: &Path) -> Result<KeyPair, KeyError> {
    let private = config_dir.join("user");
    if !exists(&private)? {
        sys::make_private_dir(config_dir).map_err(KeyError::io("create", config_dir))?;
        let _lock = lock(config_dir).await?;
        if !exists(&private)? {
            generate(&private, "lima", keygen).await?;
        }
    }
    load(private, keygen).await
}

/// Waits for the lock on another thread: the lock call itself cannot be given a deadline.
async fn lock(directory: &Path) -> Result<std::fs::File, KeyError> {
    let path = directory.to_path_buf();
    let waiting = tokio::task::spawn_blocking(move || sys::lock_directory(&path));
    match tokio::time::timeout(LOCK_LIMIT, waiting).await {
        Ok(Ok(locked)) => locked.map_err(KeyError::io("lock", directory)),
        Ok(Err(stopped)) => Err(KeyError::io("lock", directory)(io::Error::other(stopped))),
        Err(_) => Err(KeyError::Locked {
            path: directory.to_path_buf(),
            seconds: LOCK_LIMIT.as_secs(),
        }),
    }
}

fn exists(path: &Path) -> Result<bool, KeyError> {
    path.try_exists().map_err(KeyError::io("look for", path))
}

/// Makes an ed25519 key pair without a passphrase. The private key gets its name last: where it is, the pair is complete.
pub(crate) async fn generate(private: &Path, comment: &str, keygen: &Path) -> Result<(), KeyError> {
    let temporary = with_suffix(private, ".new");
    remove_pair(&temporary);
    let command = Spec::new(keygen)
        .args(["-t", "ed25519", "-q", "-N", "", "-C", comment, "-f"])
        .arg(&temporary);
    let made = keygen_output(command, private).await.map(drop);
    let made = made.and_then(|()| {
        move_file(&public_of(&temporary), &public_of(private))?;
        move_file(&temporary, private)
    });
    if made.is_err() {
        remove_pair(&temporary);
    }
    made
}

/// Checks a private key and reads its public half, which is made again if it was lost.
pub(crate) async fn load(private: PathBuf, keygen: &Path) -> Result<KeyPair, KeyError> {
    let file = std::fs::File::open(&private).map_err(KeyError::io("read", &private))?;
    let metadata = file.metadata().map_err(KeyError::io("look at", &private))?;
    if sys::others_may_read(&metadata) {
        return Err(KeyError::TooOpen { path: private });
    }
    let path = public_of(&private);
    let public = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let command = Spec::new(keygen).args(["-y", "-P", "", "-f"]).arg(&private);
            keygen_output(command, &private).await?
        }
        Err(error) => return Err(KeyError::io("read", &path)(error)),
    };
    let public = public.trim().to_owned();
    if !is_public_key(&public) {
        return Err(KeyError::NoPublicKey { path });
    }
    Ok(KeyPair { private, public })
}

async fn keygen_output(command: Spec, key: &Path) -> Result<String, KeyError> {
    let failed = |why: String| KeyError::Keygen {
        path: key.to_path_buf(),
        why,
    };
    match run(command, b"", KEYGEN_LIMIT).await {
        Ok(ran) if ran.exit.success() => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
        Ok(ran) => {
            let words = escape_untrusted(ran.stderr.trim_ascii());
            Err(failed(format!("{}, {words}", ran.exit)))
        }
        Err(RunError::Spawn(error)) => Err(failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Best effort: what is left of an earlier attempt is no key yet.
fn remove_pair(private: &Path) {
    let _ = std::fs::remove_file(private);
    let _ = std::fs::remove_file(public_of(private));
}

fn move_file(from: &Path, to: &Path) -> Result<(), KeyError> {
    let synced = std::fs::File::open(from).and_then(|file| file.sync_all());
    synced
        .and_then(|()| std::fs::rename(from, to))
        .map_err(KeyError::io("write", to))
}

fn public_of(private: &Path) -> PathBuf {
    with_suffix(private, ".pub")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A public key of `~/.ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DotSshKey {
    /// The public key's line.
    pub public: String,
    /// The private key, when it lies beside.
    pub private: Option<PathBuf>,
}

/// Reads every `*.pub` of a directory (`~/.ssh`) that holds one public key, in the order of their names.
///
/// Others are left out with a warning. A directory that is missing has no keys.
pub fn dot_ssh_keys(directory: &Path) -> Result<Vec<DotSshKey>, KeyError> {
    let list = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list.map_err(KeyError::io("list", directory))?,
    };
    let mut paths = list
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(KeyError::io("list", directory))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "pub"));
    paths.sort();
    let mut keys = Vec::new();
    for path in paths {
        let public = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(KeyError::io("read", &path)(error)),
        };
        if !is_public_key(&public) {
            tracing::warn!(path = %path.display(), "not a public key; left out");
            continue;
        }
        let private = path.with_extension("");
        let private = exists(&private)?.then_some(private);
        keys.push(DotSshKey { public, private });
    }
    Ok(keys)
}

/// Whether a text is one line of a public key: a type, and base64 that begins with the same type (RFC 4253 6.6).
#[must_use]
pub fn is_public_key(text: &str) -> bool {
    let mut fields = text.split(' ');
    let (Some(kind), Some(encoded)) = (fields.next(), fields.next()) else {
        return false;
    };
    if text.contains(['\n', '\r', '\0']) || kind.is_empty() {
        return false;
    }
    let Ok(bytes) = STANDARD.decode(encoded) else {
        return false;
    };
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return false;
    };
    let length = u32::from_be_bytes(*length) as usize;
    rest.get(..length) == Some(kind.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_are_told_from_other_texts() {
        let key = |kind: &str, inner: &str| {
            let length = u32::try_from(inner.len()).unwrap().to_be_bytes();
            let bytes = [&length[..], inner.as_bytes(), &[0; 40]].concat();
            format!("{kind} {}", STANDARD.encode(bytes))
        };
        let good = key("ssh-ed25519", "ssh-ed25519");
        assert!(is_public_key(&good));
        assert!(is_public_key(&format!("{good} me@host and more")));
        for bad in [
            String::new(),
            "ssh-ed25519".to_owned(),
            "ssh-ed25519 !!!".to_owned(),
            "ssh-ed25519 AAAA".to_owned(),
            "ssh-ed25519 /////w==".to_owned(),
            key("ssh-rsa", "ssh-ed25519"),
            format!("{good}\n{good}"),
            format!(" {good}"),
        ] {
            assert!(!is_public_key(&bad), "{bad:?}");
        }
    }
}
