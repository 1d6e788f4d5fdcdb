//! The rule book: lima.yaml schema, defaults, merge, templates and validation with positions.
//!
//! A configuration is read in two steps. [`yaml::load`] reads one document and knows types and places only. [`resolve()`]
//! lays `override.yaml`, the instance's file and `default.yaml` over each other, fills in defaults, renders templates and
//! gives a [`model::Config`], in which nothing is left to decide.

pub mod mac;
pub mod model;
pub mod name;
mod outline;
pub mod platform;
pub mod problem;
mod render;
pub mod resolve;
pub mod schema;
pub mod size;
pub mod sources;
pub mod template;
pub mod validate;
pub mod version;
pub mod yaml;

pub use problem::{ConfigError, Position, Problem};
pub use resolve::{ResolveContext, Resolved, resolve};
pub use sources::Sources;
pub use validate::validate;
