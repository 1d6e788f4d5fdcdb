//! Names of instances and disks, and what follows from them.

use std::fmt;
use std::path::Path;

use crate::platform::HostPlatform;

const MAX_LENGTH: usize = 76;

/// The longest name that OpenSSH makes of a control socket while it is being made.
const LONGEST_SOCKET: &str = "ssh.sock.1234567890123456";

/// The name of an instance: a valid identifier that cannot be taken for a file name of a template.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName(String);

/// A name that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("a name must not be empty")]
    Empty,
    /// The name is too long.
    #[error("name {name:?} has {length} characters: at most {MAX_LENGTH} are allowed")]
    TooLong {
        /// The name.
        name: String,
        /// Its length in bytes.
        length: usize,
    },
    /// The name has other characters than an identifier may have.
    #[error(
        "name {0:?} is no identifier: use letters and digits, with single `.`, `_` or `-` between them"
    )]
    NotAnIdentifier(String),
    /// The name looks like a file.
    #[error("instance name {0:?} must not end in .yaml or .yml: that names a template file")]
    LooksLikeFile(String),
    /// Sockets of the instance would have longer paths than the system allows.
    #[error(
        "the path {path:?} would have {length} bytes, and a unix socket allows {limit}: \
         choose a shorter instance name or a shorter LIMA_HOME"
    )]
    SocketPathTooLong {
        /// The longest socket of the instance.
        path: String,
        /// Its length in bytes.
        length: usize,
        /// Greatest length, in bytes.
        limit: usize,
    },
}

/// Checks an identifier: `^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$`, at most 76 characters.
pub fn check_identifier(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > MAX_LENGTH {
        return Err(NameError::TooLong {
            name: name.to_owned(),
            length: name.len(),
        });
    }
    let words_are_fine = name
        .split(['.', '_', '-'])
        .all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    if words_are_fine {
        Ok(())
    } else {
        Err(NameError::NotAnIdentifier(name.to_owned()))
    }
}

/// Checks that every socket of an instance in this directory fits into a socket address.
pub fn check_socket_paths(instance_dir: &Path, platform: &HostPlatform) -> Result<(), NameError> {
    let path = instance_dir.join(LONGEST_SOCKET);
    let path = path.to_string_lossy();
    let limit = platform.unix_path_max() - 1;
    if path.len() <= limit {
        return Ok(());
    }
    Err(NameError::SocketPathTooLong {
        length: path.len(),
        limit,
        path: path.into_owned(),
    })
}

impl InstanceName {
    /// Checks a name.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        check_identifier(name)?;
        let extension = name.rsplit_once('.').map(|(_, extension)| extension);
        if extension.is_some_and(|it| ["yaml", "yml"].contains(&&*it.to_ascii_lowercase())) {
            return Err(NameError::LooksLikeFile(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The guest's host name: `lima-` and the name, `.` and `_` replaced by `-`.
    #[must_use]
    pub fn hostname(&self) -> String {
        hostname(&self.0)
    }
}

/// The guest's host name for an instance of this name.
#[must_use]
pub fn hostname(instance_name: &str) -> String {
    format!("lima-{}", instance_name.replace(['.', '_'], "-"))
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::platform::tests::linux;

    #[test]
    fn odd_names_are_refused() {
        let identifier = |name: &str| NameError::NotAnIdentifier(name.to_owned());
        for name in [
            "-a", "a-", "a..b", "a._b", "a b", "ä", "a/b", "..", ".a", "a\n",
        ] {
            assert_eq!(InstanceName::parse(name), Err(identifier(name)));
        }
        assert_eq!(InstanceName::parse(""), Err(NameError::Empty));
        let long = "a".repeat(77);
        assert!(matches!(
            InstanceName::parse(&long),
            Err(NameError::TooLong { length: 77, .. })
        ));
        for name in ["a.yaml", "A.YML", "yaml.Yml"] {
            assert_eq!(
                InstanceName::parse(name),
                Err(NameError::LooksLikeFile(name.to_owned()))
            );
        }
    }

    #[test]
    fn names_become_host_names() {
        for (name, host) in [
            ("default", "lima-default"),
            ("a.b_c-d", "lima-a-b-c-d"),
            ("yaml", "lima-yaml"),
        ] {
            assert_eq!(InstanceName::parse(name).expect(name).hostname(), host);
        }
        assert!(InstanceName::parse(&"a".repeat(76)).is_ok());
    }

    #[test]
    fn the_longest_socket_must_fit() {
        let platform = linux();
        let longest = 107 - "/ssh.sock.1234567890123456".len();
        let fits = PathBuf::from(format!("/{}", "d".repeat(longest - 1)));
        assert_eq!(check_socket_paths(&fits, &platform), Ok(()));
        let too_long = PathBuf::from(format!("/{}", "d".repeat(longest)));
        let error = check_socket_paths(&too_long, &platform).expect_err("108 bytes");
        assert!(matches!(
            error,
            NameError::SocketPathTooLong {
                length: 108,
                limit: 107,
                ..
            }
        ));
    }
}
