//! The three files that make one configuration, and which of them says what.

use std::collections::BTreeMap;
use std::path::Path;

use crate::outline::Outline;
use crate::problem::{ConfigError, Position};
use crate::schema::LimaYaml;
use crate::yaml::{Loaded, load_file, load_file_if_present};

/// The documents of one instance. `over` beats `instance`, which beats `default`.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `$LIMA_HOME/_config/default.yaml`.
    pub default: Loaded,
    /// The instance's `lima.yaml`.
    pub instance: Loaded,
    /// `$LIMA_HOME/_config/override.yaml`.
    pub over: Loaded,
}

impl Sources {
    /// Reads all three; only `lima_yaml` must exist.
    pub fn read(lima_home: &Path, lima_yaml: &Path) -> Result<Self, ConfigError> {
        Self::around(lima_home, load_file(lima_yaml)?)
    }

    /// Reads the two files that stand around a document that is already read.
    pub fn around(lima_home: &Path, instance: Loaded) -> Result<Self, ConfigError> {
        let config_dir = lima_home.join("_config");
        Ok(Self {
            default: load_file_if_present(&config_dir.join("default.yaml"))?,
            instance,
            over: load_file_if_present(&config_dir.join("override.yaml"))?,
        })
    }

    /// What the highest document that says anything says.
    pub(crate) fn highest<T>(&self, get: impl Fn(&LimaYaml) -> Option<T>) -> Option<T> {
        Source::HIGHEST_FIRST
            .into_iter()
            .find_map(|source| get(self.yaml(source)))
    }

    /// All mappings laid over each other, per key.
    pub(crate) fn overlaid<T: Clone>(
        &self,
        get: impl Fn(&LimaYaml) -> Option<&BTreeMap<String, T>>,
    ) -> BTreeMap<String, T> {
        let mut merged = BTreeMap::new();
        for source in Source::HIGHEST_FIRST.into_iter().rev() {
            if let Some(entries) = get(self.yaml(source)) {
                merged.extend(
                    entries
                        .iter()
                        .map(|(key, value)| (key.clone(), value.clone())),
                );
            }
        }
        merged
    }

    pub(crate) fn loaded(&self, source: Source) -> &Loaded {
        match source {
            Source::Default => &self.default,
            Source::Instance => &self.instance,
            Source::Over => &self.over,
        }
    }

    pub(crate) fn yaml(&self, source: Source) -> &LimaYaml {
        &self.loaded(source).yaml
    }
}

/// One of the three documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Default,
    Instance,
    Over,
}

impl Source {
    /// The order in which scalars are looked for and lists are concatenated.
    pub(crate) const HIGHEST_FIRST: [Self; 3] = [Self::Over, Self::Instance, Self::Default];
}

/// Where an entry of a merged list was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) source: Source,
    pub(crate) index: usize,
}

/// Where each key of the merged configuration was written.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    /// By [`Source`].
    outlines: [Outline; 3],
    lists: BTreeMap<String, Vec<Origin>>,
}

impl Origins {
    pub(crate) fn of(sources: &Sources) -> Self {
        Self {
            outlines: [Source::Default, Source::Instance, Source::Over]
                .map(|source| sources.loaded(source).outline.clone()),
            lists: BTreeMap::new(),
        }
    }

    /// Says where the entries of a merged list came from, in their merged order.
    pub(crate) fn record(&mut self, list: &str, origins: Vec<Origin>) {
        self.lists.insert(list.to_owned(), origins);
    }

    /// Keeps of a merged list what `keep` says by index.
    pub(crate) fn retain(&mut self, list: &str, keep: impl Fn(usize) -> bool) {
        if let Some(origins) = self.lists.get_mut(list) {
            let mut index = 0;
            origins.retain(|_| {
                index += 1;
                keep(index - 1)
            });
        }
    }

    /// Finds the file, line and column of a key such as `images[2].digest`; `None` if no file writes it.
    #[must_use]
    pub fn position(&self, key: &str) -> Option<Position> {
        if let Some((source, path)) = self.entry(key) {
            return self.outlines[source as usize].value(&path);
        }
        Source::HIGHEST_FIRST
            .into_iter()
            .map(|source| &self.outlines[source as usize])
            .find(|outline| outline.contains(key))?
            .value(key)
    }

    /// Turns the path of a merged list's entry into the path in the document that wrote it.
    fn entry(&self, key: &str) -> Option<(Source, String)> {
        let (list, rest) = key.split_once('[')?;
        let (index, rest) = rest.split_once(']')?;
        let merged: usize = index.parse().ok()?;
        let origin = self.lists.get(list)?.get(merged)?;
        Some((origin.source, format!("{list}[{}]{rest}", origin.index)))
    }
}
