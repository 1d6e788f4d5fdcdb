//! `ssh.config`, for `ssh -F` and for Lima's CLI, and the answers of `show-ssh`, which are read back from it.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use berth_instance::files::write_atomic;

use crate::options::SshOptions;

/// What one `ssh.config` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// Name for use on the command line (`lima-NAME`).
    pub host: String,
    /// Where the guest's sshd is.
    pub address: SocketAddr,
    /// The other options.
    pub options: SshOptions,
}

/// A form in which `show-ssh` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A command line.
    Cmd,
    /// Its arguments, without program and host.
    Args,
    /// One `KEY=VALUE` a line.
    Options,
    /// A section of a configuration file.
    Config,
}

/// The file is missing or not one of ours.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFileError {
    /// A file operation failed.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line that must be there is not.
    #[error("{} has no line \"{line}\": start the instance again to have it written anew", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// How the line begins.
        line: &'static str,
    },
}

impl ConfigFile {
    /// Renders the file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::from(
            "# Options to reach this instance with OpenSSH: ssh -F THIS-FILE HOST\n\
             # Written by berth in Lima's format.\n\
             # Written anew at each start; changes are lost.\n",
        );
        text.push_str(&self.section());
        text
    }

    /// Writes the file, mode 0600, unless it says the same already.
    pub fn write(&self, path: &Path) -> Result<(), ConfigFileError> {
        let text = self.text();
        if std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        write_atomic(path, text.as_bytes(), 0o600).map_err(|source| ConfigFileError::Io {
            verb: "write",
            path: path.to_path_buf(),
            source,
        })
    }

    /// Reads a file that berth or Lima wrote.
    pub fn read(path: &Path) -> Result<Self, ConfigFileError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigFileError::Io {
            verb: "read",
            path: path.to_path_buf(),
            source,
        })?;
        Self::parse(&text).map_err(|line| ConfigFileError::Line {
            path: path.to_path_buf(),
            line,
        })
    }

    /// On failure returns how the missing line begins.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (mut host, mut ip, mut port, mut options) = (None, None, None, Vec::new());
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('#'))
        {
            let Some((key, value)) = line.split_once(' ') else {
                continue;
            };
            match key {
                "Host" => host = Some(value.to_owned()),
                "Hostname" => ip = value.parse().ok(),
                "Port" => port = value.parse().ok(),
                _ => options.push((key.to_owned(), value.to_owned())),
            }
        }
        Ok(Self {
            host: host.ok_or("Host")?,
            address: SocketAddr::new(ip.ok_or("Hostname")?, port.ok_or("Port")?),
            options: SshOptions::from_pairs(options),
        })
    }

    /// Renders an answer of `show-ssh`, with its last newline.
    #[must_use]
    pub fn show(&self, format: Format) -> String {
        let arguments = || {
            let words = self
                .all()
                .map(|(key, value)| match format!("{key}={value}") {
                    word if word.contains('"') => format!("-o '{word}'"),
                    word => format!("-o {word}"),
                });
            words.collect::<Vec<_>>().join(" ")
        };
        match format {
            Format::Cmd => format!("ssh {} {}\n", arguments(), self.host),
            Format::Args => arguments() + "\n",
            Format::Options => self.lines("", "="),
            Format::Config => self.section(),
        }
    }

    fn section(&self) -> String {
        format!("Host {}\n{}", self.host, self.lines("  ", " "))
    }

    fn lines(&self, indent: &str, between: &str) -> String {
        self.all().fold(String::new(), |mut text, (key, value)| {
            writeln!(text, "{indent}{key}{between}{value}").expect("a string takes all");
            text
        })
    }

    fn all(&self) -> impl Iterator<Item = (&str, String)> {
        let own = self
            .options
            .iter()
            .map(|(key, value)| (key, value.to_owned()));
        own.chain([
            ("Hostname", self.address.ip().to_string()),
            ("Port", self.address.port().to_string()),
        ])
    }
}
