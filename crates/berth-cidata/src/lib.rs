//! Paperwork: user-data, meta-data, network-config, boot.json and the ISO 9660 image they travel in.
//!
//! Two steps, kept apart. [`files::build`] is a pure function from [`input::Input`] to the files of the volume: it touches no
//! file and reads no clock, so the same input gives the same volume. [`volume`] puts those files on disk, as an ISO 9660 image
//! ([`iso`]) or as a directory, and only when something changed.

pub mod devices;
pub mod environment;
pub mod error;
pub mod files;
pub mod input;
pub mod iso;
pub mod network;
pub mod volume;

mod boot_spec;
mod digest;
mod lima_env;
mod sys;
mod user_data;
mod yaml;

pub use error::CidataError;
pub use files::{Cidata, build};
pub use input::{AgentKind, Input};
