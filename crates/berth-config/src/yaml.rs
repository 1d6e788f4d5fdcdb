//! Reading `lima.yaml`: types are enforced with line and column, unknown keys are only warned about.
//!
//! The scalar rules are those of Lima's own reader: `yes` and `on` are texts, `0644` is octal, the first document wins.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_ignored::Path as KeyPath;

use crate::outline::Outline;
use crate::problem::{ConfigError, Problem};
use crate::schema::LimaYaml;

/// Greatest size of a configuration file or template, in bytes.
pub const MAX_FILE_SIZE: u64 = 4 << 20;

/// One document as it was read.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// Its content.
    pub yaml: LimaYaml,
    /// Keys that mean nothing.
    pub warnings: Vec<Problem>,
    /// Where each key stands.
    pub(crate) outline: Outline,
}

/// Reads one document. `file` names it in positions.
pub fn load(text: &str, file: &str) -> Result<Loaded, ConfigError> {
    let outline = Outline::of(text, file);
    let first = outline.first_document(text);
    let mut unknown = Vec::new();
    let yaml: Option<LimaYaml> =
        serde_saphyr::with_deserializer_from_str_with_options(first, options(), |deserializer| {
            serde_ignored::deserialize(deserializer, |path| unknown.push(key_path(&path)))
        })
        .map_err(|error| refuse(&error, &outline))?;
    let warnings = unknown
        .into_iter()
        .map(|key| Problem {
            position: outline.key(&key),
            message: "unknown key, ignored: check the spelling".to_owned(),
            key,
        })
        .collect();
    Ok(Loaded {
        yaml: yaml.unwrap_or_default(),
        warnings,
        outline,
    })
}

/// Reads the file at `path`.
pub fn load_file(path: &Path) -> Result<Loaded, ConfigError> {
    load(&read_text(path)?, &path.to_string_lossy())
}

/// Reads the file at `path`, where a missing file is an empty document.
pub fn load_file_if_present(path: &Path) -> Result<Loaded, ConfigError> {
    match load_file(path) {
        Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(Loaded::default())
        }
        other => other,
    }
}

/// Reads a text file of at most [`MAX_FILE_SIZE`].
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_SIZE + 1).read_to_string(&mut text))
        .map_err(|source| ConfigError::read(path, source))?;
    if text.len() as u64 > MAX_FILE_SIZE {
        return Err(ConfigError::TooLarge {
            path: path.to_owned(),
            limit: MAX_FILE_SIZE,
        });
    }
    Ok(text)
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        strict_booleans: true,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

fn refuse(error: &serde_saphyr::Error, outline: &Outline) -> ConfigError {
    let (line, column) = error
        .location()
        .and_then(|at| {
            let line = usize::try_from(at.line()).ok()?;
            Some((line, usize::try_from(at.column()).ok()?))
        })
        .unwrap_or((1, 1));
    let reason = explain(error);
    ConfigError::Yaml {
        position: outline.position(line, column),
        reason: match outline.path_at(line, column) {
            Some(path) => format!("field `{path}`: {reason}"),
            None => reason,
        },
    }
}

/// Says in the words of people who write YAML what the reader says in its own.
fn explain(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("key `{key}` is written twice: remove one")
        }
        Error::InvalidScalar { ty, .. } => match *ty {
            "u32" => "expected a whole number from 0 to 4294967295".to_owned(),
            _ => "expected a whole number".to_owned(),
        },
        Error::InvalidBooleanStrict { .. } => "expected true or false".to_owned(),
        Error::Unexpected { expected, .. } => match *expected {
            "sequence start" => "expected a list".to_owned(),
            "mapping start" => "expected a mapping of keys to values".to_owned(),
            "string scalar" => "expected a text".to_owned(),
            other => format!("expected {other}"),
        },
        Error::SerdeInvalidLength { len, expected, .. } => {
            format!("expected {expected}, found {len} entries")
        }
        Error::SerdeInvalidType {
            unexpected,
            expected,
            ..
        } => format!("expected {expected}, found {unexpected}"),
        other => {
            let text = other.to_string();
            match text.rfind(" at line ") {
                Some(place) => text[..place].to_owned(),
                None => text,
            }
        }
    }
}

fn key_path(path: &KeyPath<'_>) -> String {
    match path {
        KeyPath::Root => String::new(),
        KeyPath::Seq { parent, index } => format!("{}[{index}]", key_path(parent)),
        KeyPath::Map { parent, key } => join(&key_path(parent), key),
        KeyPath::Some { parent }
        | KeyPath::NewtypeStruct { parent }
        | KeyPath::NewtypeVariant { parent } => key_path(parent),
    }
}

pub(crate) fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() {
        key.to_owned()
    } else {
        format!("{parent}.{key}")
    }
}
