//! Templates: the files that instances are made from, how they are named, found and made self-contained.
//!
//! ```text
//! argument -> Locator::parse -> Library::read -> Library::embed -> the instance's lima.yaml
//! ```

mod combine;
mod embed;
mod image;
mod library;
mod locator;
mod tree;

use std::error::Error;

pub use library::{Library, Template};
pub use locator::Locator;

use crate::name::NameError;
use crate::problem::ConfigError;

/// Why a text could not be fetched, in the words of whoever fetched it.
pub type FetchError = Box<dyn Error + Send + Sync>;

/// A template that cannot be found, read or made self-contained.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The scheme of a locator is unknown.
    #[error(
        "{locator:?}: locators of scheme `{scheme}:` are not supported; \
         use a path, `template:NAME` or an https:// address"
    )]
    UnknownScheme {
        /// The locator.
        locator: String,
        /// Its scheme.
        scheme: String,
    },
    /// A `file://` address does not name an absolute path.
    #[error("{0:?} must name an absolute path: write file:///…")]
    RelativeFileUrl(String),
    /// A template name leads out of the template directories.
    #[error("{0:?} must not contain `..`: it would lead out of the directory it stands in")]
    LeadsOutside(String),
    /// The argument is neither a file nor a name.
    #[error("{argument:?} is neither a template nor the name of an instance")]
    NeitherFileNorName {
        /// The argument.
        argument: String,
        /// Why it is no name.
        #[source]
        source: NameError,
    },
    /// No template has this name.
    #[error(
        "template {name:?} does not exist; searched {}",
        if searched.is_empty() { "only the built-in templates".to_owned() } else { searched.join(", ") }
    )]
    NotFound {
        /// The name.
        name: String,
        /// The directories that were searched.
        searched: Vec<String>,
    },
    /// A relative locator stands in a template that has no directory.
    #[error(
        "{locator:?} is relative, and a template from {template} has no directory: write an absolute one"
    )]
    NoDirectory {
        /// The relative locator.
        locator: String,
        /// The template that names it.
        template: String,
    },
    /// Templates are based on each other, or one is named twice.
    #[error("base template loop: {0} is embedded already; name each base once")]
    Loop(String),
    /// A digest stands where none can be checked.
    #[error("`{key}` of {template} has a digest, which is not supported here: remove it")]
    Digest {
        /// The key.
        key: String,
        /// The template.
        template: String,
    },
    /// A template, or what it has become, is too large.
    #[error("{template} is larger than {limit} bytes")]
    TooLarge {
        /// The template.
        template: String,
        /// Greatest size, in bytes.
        limit: u64,
    },
    /// A locator that can only be an argument stands inside a template.
    #[error(
        "{locator:?} in {template} is no template: write a path, `template:NAME` or an address"
    )]
    NoTemplate {
        /// The locator.
        locator: String,
        /// The template that names it.
        template: String,
    },
    /// The fetch of an address failed.
    #[error("cannot fetch {url}")]
    Fetch {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// A file could not be read, or is no YAML of the right types.
    #[error(transparent)]
    Config(#[from] ConfigError),
}
