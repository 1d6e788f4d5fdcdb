//! What resolution has to say, gathered while it goes on.

use crate::model::Config;
use crate::problem::{ConfigError, Problem};
use crate::schema::LimaYaml;
use crate::sources::{Origin, Origins, Source, Sources};
use crate::validate;

use super::{ResolveContext, Resolved};

/// Remarks and origins.
pub(super) struct Report<'a> {
    sources: &'a Sources,
    origins: Origins,
    refused: Vec<(String, String)>,
    odd: Vec<(String, String)>,
    /// Warnings whose place is known already.
    pub(super) warnings: Vec<Problem>,
}

impl<'a> Report<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        let warnings = [&sources.over, &sources.instance, &sources.default]
            .into_iter()
            .flat_map(|loaded| loaded.warnings.iter().cloned())
            .collect();
        Self {
            sources,
            origins: Origins::of(sources),
            refused: Vec::new(),
            odd: Vec::new(),
            warnings,
        }
    }

    /// Takes note of a value that cannot be expressed.
    pub(super) fn refuse(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.refused.push((key.into(), message.into()));
    }

    /// Takes note of something odd.
    pub(super) fn warn(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.odd.push((key.into(), message.into()));
    }

    /// Concatenates a list: override, instance, default.
    pub(super) fn concatenate<T>(
        &mut self,
        list: &str,
        get: impl Fn(&'a LimaYaml) -> &'a [T],
    ) -> Vec<&'a T> {
        let sources = self.sources;
        let mut entries = Vec::new();
        let mut origins = Vec::new();
        for source in Source::HIGHEST_FIRST {
            for (index, entry) in get(sources.yaml(source)).iter().enumerate() {
                entries.push(entry);
                origins.push(Origin { source, index });
            }
        }
        self.origins.record(list, origins);
        entries
    }

    /// Says where the entries of a list came from that is merged in its own way.
    pub(super) fn record(&mut self, list: &str, origins: Vec<Origin>) {
        self.origins.record(list, origins);
    }

    pub(super) fn retain(&mut self, list: &str, keep: impl Fn(usize) -> bool) {
        self.origins.retain(list, keep);
    }

    /// Gives every remark its place.
    pub(super) fn finish(
        mut self,
        config: Config,
        ctx: &ResolveContext<'_>,
    ) -> Result<Resolved, ConfigError> {
        let place = |(key, message): (String, String)| Problem {
            position: self.origins.position(&key),
            key,
            message,
        };
        self.warnings.extend(self.odd.into_iter().map(place));
        let resolved = Resolved {
            config,
            warnings: self.warnings,
            origins: self.origins,
        };
        if self.refused.is_empty() {
            return Ok(resolved);
        }
        let mut problems: Vec<Problem> = self
            .refused
            .into_iter()
            .map(|(key, message)| Problem {
                position: resolved.origins.position(&key),
                key,
                message,
            })
            .collect();
        // A key that was refused holds a stand-in, of which there is nothing to say.
        let consequences = validate(&resolved, ctx);
        let refused: Vec<String> = problems.iter().map(|problem| problem.key.clone()).collect();
        problems.extend(
            consequences
                .into_iter()
                .filter(|problem| !refused.contains(&problem.key)),
        );
        validate::sort(&mut problems);
        Err(ConfigError::Invalid { problems })
    }
}
