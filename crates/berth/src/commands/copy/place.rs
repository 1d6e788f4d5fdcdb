//! Where files are.

use std::fmt;

use berth_config::name::{InstanceName, NameError};

/// A path on this computer or in an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// On this computer, relative to the working directory.
    Host(String),
    /// In an instance, relative to its user's home.
    Guest {
        instance: InstanceName,
        path: String,
    },
}

impl Place {
    /// Reads `INSTANCE:PATH`, or a path of this computer. What has a slash before its first colon is a path, as with scp.
    pub(super) fn parse(text: &str) -> Result<Self, NameError> {
        match text.split_once(':') {
            Some((instance, path)) if !instance.contains(['/', '\\']) && !is_drive(text) => {
                Ok(Self::Guest {
                    instance: InstanceName::parse(instance)?,
                    path: from_home(path),
                })
            }
            _ => Ok(Self::Host(text.to_owned())),
        }
    }

    /// The path without slashes at its end.
    pub(super) fn trimmed(&self) -> Self {
        let trim = |path: &str| match path.trim_end_matches('/') {
            "" if !path.is_empty() => "/".to_owned(),
            path => path.to_owned(),
        };
        match self {
            Self::Host(path) => Self::Host(trim(path)),
            Self::Guest { instance, path } => Self::Guest {
                instance: instance.clone(),
                path: trim(path),
            },
        }
    }

    /// As scp and rsync understand it.
    pub(super) fn argument(&self) -> String {
        match self {
            // A colon or a dash in the wrong place would mean something to them.
            Self::Host(path) if path.starts_with('-') || path.contains(':') => {
                if path.starts_with('/') || is_drive(path) {
                    path.clone()
                } else {
                    format!("./{path}")
                }
            }
            Self::Host(path) => path.clone(),
            Self::Guest { instance, path } => format!("{}:{path}", instance.hostname()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(path) => f.write_str(path),
            Self::Guest { instance, path } => write!(f, "{instance}:{path}"),
        }
    }
}

/// Neither program hands a tilde to a shell, which would know what it means.
fn from_home(path: &str) -> String {
    match path {
        "" | "~" => ".".to_owned(),
        path => match path.strip_prefix("~/") {
            Some(rest) => format!("./{rest}"),
            None if path.starts_with('-') => format!("./{path}"),
            None => path.to_owned(),
        },
    }
}

/// `C:\…`, which is no instance of one letter.
fn is_drive(text: &str) -> bool {
    cfg!(windows) && text.as_bytes().get(1) == Some(&b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_stands_before_the_first_colon() {
        for (text, argument) in [
            ("x:/etc/hosts", "lima-x:/etc/hosts"),
            ("x:", "lima-x:."),
            ("x:~", "lima-x:."),
            ("x:~/a b", "lima-x:./a b"),
            ("x:-r", "lima-x:./-r"),
            ("x:a:b", "lima-x:a:b"),
            ("plain", "plain"),
            ("./a:b", "././a:b"),
            ("/a:b", "/a:b"),
            ("-r", "./-r"),
            (".", "."),
        ] {
            assert_eq!(Place::parse(text).unwrap().argument(), argument, "{text}");
        }
        assert!(Place::parse("no such name!:x").is_err());
    }

    #[test]
    fn slashes_at_the_end_go_but_the_root_stays() {
        let trimmed = |text: &str| Place::parse(text).unwrap().trimmed().to_string();
        assert_eq!(trimmed("a//"), "a");
        assert_eq!(trimmed("/"), "/");
        assert_eq!(trimmed("x:/srv/"), "x:/srv");
        assert_eq!(trimmed("x:/"), "x:/");
    }
}
