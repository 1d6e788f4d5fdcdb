//! Where templates come from.

use std::path::{Path, PathBuf};

use crate::model::Arch;
use crate::problem::ConfigError;
use crate::yaml::{MAX_FILE_SIZE, read_text};

use super::image::synthesise;
use super::locator::split_scheme;
use super::{FetchError, Locator, TemplateError};

/// Templates that berth brings along.
const BUILT_IN: [(&str, &str); 2] = [
    ("default.yaml", include_str!("../../templates/default.yaml")),
    (
        "debian-12.yaml",
        include_str!("../../templates/debian-12.yaml"),
    ),
];

/// The template that `berth start NAME` uses if nothing else is named.
const DEFAULT: &str = "default";

/// The places where templates are looked for.
#[derive(Clone, Copy)]
pub struct Library<'a> {
    /// Directories of templates, in order: `LIMA_TEMPLATES_PATH`, else `$LIMA_HOME/_templates` and the installed ones.
    /// The built-in templates come last.
    pub directories: &'a [PathBuf],
    /// `$LIMA_HOME/_config/base.yaml`, put before the bases of every template if it exists.
    pub user_base: Option<&'a Path>,
    /// The user's home directory, for `~/`.
    pub home: &'a Path,
    /// Architecture for images whose names do not say theirs.
    pub host_arch: Arch,
    /// Fetches the text behind an `http(s)://` address.
    pub fetch: &'a dyn Fn(&str) -> Result<String, FetchError>,
}

impl std::fmt::Debug for Library<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library")
            .field("directories", &self.directories)
            .field("user_base", &self.user_base)
            .finish_non_exhaustive()
    }
}

/// A template as it was found, or as it became when its bases were embedded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its YAML.
    pub text: String,
    /// Where it was found, as messages should name it.
    pub name: String,
    /// What relative locators in it are relative to.
    pub(super) directory: Directory,
}

/// The directory of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Directory {
    /// It has none.
    Nowhere,
    Path(PathBuf),
    /// An address without the last element.
    Url(String),
    /// A directory of template names, empty or ending in `/`.
    Library(String),
}

impl Template {
    /// A template that came on standard input.
    #[must_use]
    pub fn from_stdin(text: String) -> Self {
        Self {
            text,
            name: "standard input".to_owned(),
            directory: Directory::Nowhere,
        }
    }
}

impl Library<'_> {
    /// Reads the template that a locator names. The name of an instance means the default template.
    pub fn read(&self, locator: &Locator) -> Result<Template, TemplateError> {
        match locator {
            Locator::Template(name) => self.find(name),
            Locator::Instance(_) => self.find(DEFAULT),
            Locator::Url(url) => self.read_url(url),
            Locator::File(path) => Ok(Template {
                text: read_text(path)?,
                name: path.to_string_lossy().into_owned(),
                directory: path.parent().map_or(Directory::Nowhere, |parent| {
                    Directory::Path(parent.to_owned())
                }),
            }),
            Locator::Image(location) => Ok(Template {
                text: synthesise(location, self.host_arch),
                name: location.clone(),
                directory: Directory::Nowhere,
            }),
            Locator::Stdin => Err(TemplateError::NoTemplate {
                locator: "-".to_owned(),
                template: "a template".to_owned(),
            }),
        }
    }

    fn find(&self, name: &str) -> Result<Template, TemplateError> {
        let file_name = with_extension(name);
        let template = |text: String| Template {
            text,
            name: format!("template:{name}"),
            directory: Directory::Library(match name.rfind('/') {
                Some(end) => name[..=end].to_owned(),
                None => String::new(),
            }),
        };
        for directory in self.directories {
            match read_text(&directory.join(&file_name)) {
                Ok(text) => return Ok(template(text)),
                Err(ConfigError::Read { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        BUILT_IN
            .iter()
            .find(|(built_in, _)| *built_in == file_name)
            .map(|(_, text)| template((*text).to_owned()))
            .ok_or_else(|| TemplateError::NotFound {
                name: name.to_owned(),
                searched: self
                    .directories
                    .iter()
                    .map(|directory| directory.display().to_string())
                    .collect(),
            })
    }

    fn read_url(&self, url: &str) -> Result<Template, TemplateError> {
        let text = (self.fetch)(url).map_err(|source| TemplateError::Fetch {
            url: url.to_owned(),
            source,
        })?;
        if text.len() as u64 > MAX_FILE_SIZE {
            return Err(TemplateError::TooLarge {
                template: url.to_owned(),
                limit: MAX_FILE_SIZE,
            });
        }
        let path = url.split(['?', '#']).next().unwrap_or(url);
        let directory = path.rfind('/').map_or("", |end| &path[..=end]);
        Ok(Template {
            text,
            name: url.to_owned(),
            directory: Directory::Url(directory.to_owned()),
        })
    }

    /// Finds what a locator inside a template names.
    pub(super) fn resolve(&self, locator: &str, from: &Template) -> Result<Locator, TemplateError> {
        let no_template = || TemplateError::NoTemplate {
            locator: locator.to_owned(),
            template: from.name.clone(),
        };
        if locator.is_empty() || locator == "-" {
            return Err(no_template());
        }
        if split_scheme(locator).is_some() {
            return match Locator::parse(locator, Path::new("/"))? {
                Locator::Image(_) => Err(no_template()),
                known => Ok(known),
            };
        }
        if let Some(rest) = locator.strip_prefix("~/") {
            return Ok(Locator::File(self.home.join(rest)));
        }
        if Path::new(locator).is_absolute() {
            return Ok(Locator::File(PathBuf::from(locator)));
        }
        if locator.contains("../") || locator.contains("..\\") {
            return Err(TemplateError::LeadsOutside(locator.to_owned()));
        }
        match &from.directory {
            Directory::Path(directory) => Ok(Locator::File(directory.join(locator))),
            Directory::Url(directory) => Ok(Locator::Url(format!("{directory}{locator}"))),
            Directory::Library(directory) => Ok(Locator::Template(format!("{directory}{locator}"))),
            Directory::Nowhere => Err(TemplateError::NoDirectory {
                locator: locator.to_owned(),
                template: from.name.clone(),
            }),
        }
    }
}

/// Adds `.yaml` to a name without an extension. What starts with a digit is a version and no extension.
fn with_extension(name: &str) -> String {
    let base = name.rsplit('/').next().unwrap_or(name);
    let has_extension = base.rsplit_once('.').is_some_and(|(_, extension)| {
        !extension.is_empty() && !extension.starts_with(|first: char| first.is_ascii_digit())
    });
    if has_extension {
        name.to_owned()
    } else {
        format!("{name}.yaml")
    }
}
