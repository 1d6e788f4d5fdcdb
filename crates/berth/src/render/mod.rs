//! How instances are shown: as a table, as JSON or YAML, through a Go template, as a timeline.

pub(crate) mod forwards;
pub(crate) mod go_names;
pub(crate) mod instance;
pub(crate) mod names;
pub(crate) mod table;
pub(crate) mod template;
