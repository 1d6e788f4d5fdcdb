//! The process environment, read once.

use std::sync::Arc;

/// The variables of the environment whose names and values are UTF-8.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment(Arc<Vec<(String, String)>>);

impl Environment {
    /// Reads the environment of this process.
    pub(crate) fn of_this_process() -> Self {
        let text = |value: std::ffi::OsString| value.into_string().ok();
        Self::from_pairs(
            std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))),
        )
    }

    pub(crate) fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(Arc::new(pairs.into_iter().collect()))
    }

    /// The value of a variable.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// All of them.
    pub(crate) fn pairs(&self) -> &Arc<Vec<(String, String)>> {
        &self.0
    }
}
