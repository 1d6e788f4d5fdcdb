//! The guest's SSH host key, made on the host and handed in, so that the first login is to the right machine already.

use std::path::Path;

use berth_instance::dir::InstanceDir;
use berth_instance::files::write_atomic;

use crate::keys::{KeyError, generate, load};

/// A host key as it is handed to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKeyPair {
    /// OpenSSH private key file.
    pub private: String,
    /// Public key line, without its newline.
    pub public: String,
}

/// Finds the instance's host key (`ssh_host_ed25519_key`, 0600), or makes it, and pins it in the instance's `known_hosts` under
/// `alias`. The caller holds the instance's lock.
pub async fn host_key(
    instance: &InstanceDir,
    alias: &str,
    keygen: &Path,
) -> Result<HostKeyPair, KeyError> {
    let path = instance.host_key();
    if !path.try_exists().map_err(KeyError::io("look for", &path))? {
        generate(&path, alias, keygen).await?;
    }
    let pair = load(path, keygen).await?;
    let private =
        std::fs::read_to_string(&pair.private).map_err(KeyError::io("read", &pair.private))?;
    pin(&instance.known_hosts(), alias, &pair.public)?;
    Ok(HostKeyPair {
        private,
        public: pair.public,
    })
}

/// Writes a `known_hosts` with one key, unless it says so already. Also for a key that a guest reported over a trusted way.
pub fn pin(known_hosts: &Path, alias: &str, public: &str) -> Result<(), KeyError> {
    // The comment is not part of the identity.
    let key: Vec<&str> = public.split(' ').take(2).collect();
    let line = format!("{alias} {}\n", key.join(" "));
    if std::fs::read(known_hosts).is_ok_and(|text| text == line.as_bytes()) {
        return Ok(());
    }
    write_atomic(known_hosts, line.as_bytes(), 0o600).map_err(KeyError::io("write", known_hosts))
}
