//! The options that every `ssh` of one instance gets.

use std::path::{Path, PathBuf};

use berth_config::model::Ssh;
use berth_config::platform::HostOs;

use crate::sys;
use crate::tool::{Features, Version};

/// Whom we take for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostTrust {
    /// Whoever answers, as Lima does: the guest's key is not known.
    Anybody,
    /// Only the holder of the key that is pinned.
    Pinned {
        /// Name under which it is pinned (`lima-NAME`).
        alias: String,
        /// The instance's `known_hosts`.
        known_hosts: PathBuf,
    },
}

/// What options are made from.
#[derive(Debug, Clone)]
pub struct OptionsInput<'a> {
    /// Private key of the user.
    pub user_key: &'a Path,
    /// Further private keys to offer, from `~/.ssh`.
    pub more_keys: &'a [PathBuf],
    /// Login name in the guest.
    pub user: &'a str,
    /// `ssh` of the configuration.
    pub ssh: &'a Ssh,
    /// The `ControlMaster`'s socket.
    pub control_path: &'a Path,
    /// Whom to trust.
    pub trust: &'a HostTrust,
    /// What `ssh` can do.
    pub features: Features,
    /// Whether AES is fast here ([`aes_is_fast`]).
    pub aes_is_fast: bool,
    /// The host's system, which decides how paths are written.
    pub os: HostOs,
    /// Longest path of a socket with its terminating zero (`HostPlatform::unix_path_max`).
    pub unix_path_max: usize,
}

/// An option that cannot be written down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// The path has a character that `ssh` would take for something else.
    #[error("{} has {what} in it, which ssh options cannot carry: use another directory", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The character.
        what: &'static str,
    },
    /// The socket's path is too long for the system.
    #[error("{} is too long for a socket ({} bytes; the limit is {max}): use a shorter LIMA_HOME or instance name", .path.display(), .path.as_os_str().len())]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// The longest allowed.
        max: usize,
    },
    /// A value has more than one line.
    #[error("the value {value:?} of the ssh option {key} must be one line")]
    Lines {
        /// The option.
        key: String,
        /// Its value.
        value: String,
    },
    /// The private key is not there.
    #[error("the private key {} is missing", .path.display())]
    NoKey {
        /// Its path.
        path: PathBuf,
    },
}

/// Whether AES is done in hardware on this machine.
#[must_use]
pub fn aes_is_fast() -> bool {
    sys::cpu::has_aes()
}

/// Options in the order in which they are written; for `ssh` the first value of an option wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshOptions(Vec<(String, String)>);

/// Since this version `Ciphers` takes a list of ciphers to prefer.
const PREFERRED_CIPHERS: Version = Version(8, 1, 0);

/// Options that concern the `ControlMaster`.
const CONTROL: [&str; 3] = ["ControlMaster", "ControlPath", "ControlPersist"];

impl SshOptions {
    /// Makes the options of an instance, in Lima's order.
    pub fn new(input: &OptionsInput<'_>) -> Result<Self, OptionsError> {
        if !input.user_key.exists() {
            return Err(OptionsError::NoKey {
                path: input.user_key.to_path_buf(),
            });
        }
        if input.control_path.as_os_str().len() >= input.unix_path_max {
            return Err(OptionsError::SocketPath {
                path: input.control_path.to_path_buf(),
                max: input.unix_path_max - 1,
            });
        }
        let mut options = Self(Vec::new());
        options.keys(input)?;
        options.trust(input)?;
        options.login(input);
        options.set("ControlMaster", "auto");
        options.set("ControlPath", quoted(input.control_path, input.os)?);
        options.set("ControlPersist", "yes");
        for (name, wanted) in [
            ("ForwardAgent", input.ssh.forward_agent),
            ("ForwardX11", input.ssh.forward_x11),
            ("ForwardX11Trusted", input.ssh.forward_x11_trusted),
        ] {
            if wanted {
                options.set(name, "yes");
            }
        }
        options.check()
    }

    fn keys(&mut self, input: &OptionsInput<'_>) -> Result<(), OptionsError> {
        let keys = input.more_keys.iter().map(PathBuf::as_path);
        for key in std::iter::once(input.user_key).chain(keys) {
            self.set("IdentityFile", quoted(key, input.os)?);
        }
        Ok(())
    }

    fn trust(&mut self, input: &OptionsInput<'_>) -> Result<(), OptionsError> {
        match input.trust {
            HostTrust::Anybody => {
                self.set("StrictHostKeyChecking", "no");
                self.set("UserKnownHostsFile", "/dev/null");
                self.set("NoHostAuthenticationForLocalhost", "yes");
            }
            HostTrust::Pinned { alias, known_hosts } => {
                self.set("HostKeyAlias", alias);
                self.set("StrictHostKeyChecking", "yes");
                self.set("UserKnownHostsFile", quoted(known_hosts, input.os)?);
                self.set("NoHostAuthenticationForLocalhost", "no");
            }
        }
        Ok(())
    }

    fn login(&mut self, input: &OptionsInput<'_>) {
        self.set("PreferredAuthentications", "publickey");
        self.set("Compression", "no");
        self.set("BatchMode", "yes");
        self.set("IdentitiesOnly", "yes");
        if input.features.gssapi {
            self.set("GSSAPIAuthentication", "no");
        }
        if input.features.version >= PREFERRED_CIPHERS {
            let ciphers = if input.aes_is_fast {
                "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
            } else {
                "^chacha20-poly1305@openssh.com"
            };
            match input.os {
                HostOs::Windows => self.set("Ciphers", ciphers),
                _ => self.set("Ciphers", format!("\"{ciphers}\"")),
            }
        }
        self.set("User", input.user);
    }

    fn set(&mut self, key: &str, value: impl Into<String>) {
        self.0.push((key.to_owned(), value.into()));
    }

    fn check(self) -> Result<Self, OptionsError> {
        match self
            .0
            .iter()
            .find(|(_, value)| value.contains(['\r', '\n', '\0']))
        {
            Some((key, value)) => Err(OptionsError::Lines {
                key: key.clone(),
                value: value.clone(),
            }),
            None => Ok(self),
        }
    }

    pub(crate) fn from_pairs(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The first value of an option, as it is written.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter()
            .find_map(|(found, value)| found.eq_ignore_ascii_case(key).then_some(value))
    }

    /// Whether this `ssh` takes lists of algorithms to prefer.
    pub(crate) fn takes_preferences(&self) -> bool {
        self.get("Ciphers").is_some()
    }

    /// The options as arguments: no configuration file, then `-o KEY=VALUE` for each.
    #[must_use]
    pub fn args(&self) -> Vec<String> {
        let mut args = vec!["-F".to_owned(), "/dev/null".to_owned()];
        for (key, value) in self.iter() {
            args.extend(["-o".to_owned(), format!("{key}={value}")]);
        }
        args
    }

    /// The same options for a connection of its own, whatever a `ControlMaster` does.
    #[must_use]
    pub fn without_master(&self) -> Self {
        self.with_control(&[
            ("ControlMaster", "no"),
            ("ControlPath", "none"),
            ("ControlPersist", "no"),
        ])
    }

    /// The same options for a client of the `ControlMaster` that never becomes one itself.
    #[must_use]
    pub fn attached(&self) -> Self {
        let path = self.get("ControlPath").unwrap_or("none").to_owned();
        self.with_control(&[
            ("ControlMaster", "no"),
            ("ControlPath", &path),
            ("ControlPersist", "no"),
        ])
    }

    /// The same options without any of a `ControlMaster`, for hosts that have none.
    #[must_use]
    pub fn without_control(&self) -> Self {
        self.with_control(&[])
    }

    fn with_control(&self, control: &[(&str, &str)]) -> Self {
        let control = control
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let others = self
            .0
            .iter()
            .filter(|(key, _)| !CONTROL.contains(&key.as_str()));
        Self(control.chain(others.cloned()).collect())
    }
}

/// A path as an option's value, on hosts that have unix sockets.
pub(crate) fn quoted_path(path: &Path) -> Result<String, OptionsError> {
    quoted(path, HostOs::Linux)
}

/// A path as an option's value. `ssh` expands `%` and `${}` in it, and takes blanks for separators.
fn quoted(path: &Path, os: HostOs) -> Result<String, OptionsError> {
    let refuse = |what| {
        Err(OptionsError::Path {
            path: path.to_path_buf(),
            what,
        })
    };
    let Some(text) = path.to_str() else {
        return refuse("bytes that are no text");
    };
    if os == HostOs::Windows {
        if text.contains('\'') {
            return refuse("a single quote");
        }
        return Ok(format!("'{}'", text.replace('\\', "/").replace('%', "%%")));
    }
    if text.contains('"') {
        return refuse("a double quote");
    }
    if text.contains('\\') {
        return refuse("a backslash");
    }
    if text.contains("${") {
        return refuse("\"${\"");
    }
    Ok(format!("\"{}\"", text.replace('%', "%%")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_ssh_would_read_differently_are_escaped_or_refused() {
        let unix = |path: &str| quoted(Path::new(path), HostOs::Linux);
        assert_eq!(unix("/a b/50%").unwrap(), "\"/a b/50%%\"");
        assert_eq!(
            unix("/a\"b").unwrap_err().to_string(),
            "/a\"b has a double quote in it, which ssh options cannot carry: use another directory"
        );
        assert!(unix("/a\\b").is_err());
        assert!(unix("/${HOME}").is_err());
        let windows = quoted(Path::new("C:\\Users\\me"), HostOs::Windows);
        assert_eq!(windows.unwrap(), "'C:/Users/me'");
    }
}
