//! What is wrong, or only odd, with a configuration, and where it is written.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A place in a configuration file. Line and column count from one, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The file as it was named to the loader.
    pub file: Arc<str>,
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// One thing to say about one key: an error when validation returns it, a warning when it stands among warnings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the key in the merged configuration, such as `portForwards[0].hostPort`.
    pub key: String,
    /// Where the value was written; `None` when it was not written but computed.
    pub position: Option<Position>,
    /// What is wrong and what to do.
    pub message: String,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is far larger than a configuration can be.
    #[error(
        "the configuration file {} is larger than {limit} bytes: is it a disk image?",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Greatest size accepted, in bytes.
        limit: u64,
    },
    /// The text is no YAML, or a value has the wrong type.
    #[error("{position}: {reason}")]
    Yaml {
        /// Where.
        position: Position,
        /// What was found and what was expected.
        reason: String,
    },
    /// Values have the right type and yet no meaning. Every such value is listed.
    #[error("{}", list(problems))]
    Invalid {
        /// What is wrong, in the order of Lima's own checks.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    pub(crate) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read {
            path: path.to_owned(),
            source,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = &self.position {
            write!(f, "{position}: ")?;
        }
        write!(f, "field `{}`: {}", self.key, self.message)
    }
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}
