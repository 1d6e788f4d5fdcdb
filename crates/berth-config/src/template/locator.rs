//! What the argument of `berth start` may be.

use std::path::{Path, PathBuf};

use crate::model::Arch;
use crate::name::InstanceName;

use super::TemplateError;
use super::image::{clean_name, is_image};

/// An argument of `berth start`, by its looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locator {
    /// `-`: the template comes on standard input.
    Stdin,
    /// `template:NAME`.
    Template(String),
    /// `http://…` or `https://…`.
    Url(String),
    /// A file; the path is absolute.
    File(PathBuf),
    /// A bare disk image: an address, or an absolute path.
    Image(String),
    /// The name of an instance, or of one to be made from the default template.
    Instance(InstanceName),
}

impl Locator {
    /// Classifies an argument without looking at the file system. Relative paths are taken from `cwd`.
    ///
    /// What ends like an image is an image, what holds a slash or ends in `.yaml` or `.yml` is a file, and the rest must be
    /// an instance's name.
    pub fn parse(argument: &str, cwd: &Path) -> Result<Self, TemplateError> {
        if argument == "-" {
            return Ok(Self::Stdin);
        }
        if let Some((scheme, rest)) = split_scheme(argument) {
            return Self::with_scheme(argument, scheme, rest);
        }
        if is_image(argument) {
            return Ok(Self::Image(absolute(argument, cwd)));
        }
        let lower = argument.to_ascii_lowercase();
        let looks_like_file = argument.contains(['/', '\\'])
            || [".yaml", ".yml"]
                .iter()
                .any(|suffix| lower.ends_with(suffix));
        if looks_like_file {
            return Ok(Self::File(cwd.join(argument)));
        }
        match InstanceName::parse(argument) {
            Ok(name) => Ok(Self::Instance(name)),
            Err(source) => Err(TemplateError::NeitherFileNorName {
                argument: argument.to_owned(),
                source,
            }),
        }
    }

    fn with_scheme(argument: &str, scheme: &str, rest: &str) -> Result<Self, TemplateError> {
        match scheme {
            "template" => {
                let name = rest.trim_start_matches("//");
                if name.contains("..") {
                    return Err(TemplateError::LeadsOutside(argument.to_owned()));
                }
                Ok(Self::Template(name.to_owned()))
            }
            "http" | "https" if is_image(argument) => Ok(Self::Image(argument.to_owned())),
            "http" | "https" => Ok(Self::Url(argument.to_owned())),
            "file" => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                if !path.starts_with('/') {
                    return Err(TemplateError::RelativeFileUrl(argument.to_owned()));
                }
                Ok(if is_image(path) {
                    Self::Image(path.to_owned())
                } else {
                    Self::File(PathBuf::from(path))
                })
            }
            _ => Err(TemplateError::UnknownScheme {
                locator: argument.to_owned(),
                scheme: scheme.to_owned(),
            }),
        }
    }

    /// The name that an instance made from this gets if the user names none; `host` is left out of images' names. It may turn out to be no valid name.
    #[must_use]
    pub fn proposed_name(&self, host: Arch) -> Option<String> {
        let stem = |path: &str| {
            let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
            let name = name.to_ascii_lowercase();
            let stem = name.strip_suffix(".yaml").or(name.strip_suffix(".yml"));
            stem.unwrap_or(&name).to_owned()
        };
        match self {
            Self::Stdin => None,
            Self::Template(name) => Some(stem(name)),
            Self::Url(url) => Some(stem(url.split(['?', '#']).next().unwrap_or(url))),
            Self::File(path) => Some(stem(&path.to_string_lossy())),
            Self::Image(location) => Some(clean_name(location, host)),
            Self::Instance(name) => Some(name.as_str().to_owned()),
        }
    }
}

/// Splits `scheme:rest`. A single letter is a drive of Windows, no scheme.
pub(super) fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let is_scheme = scheme.len() > 1
        && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then_some((scheme, rest))
}

fn absolute(path: &str, cwd: &Path) -> String {
    cwd.join(path).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(argument: &str) -> Result<Locator, String> {
        Locator::parse(argument, Path::new("/cwd")).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_nothing_is_refused() {
        for (argument, part) in [
            ("", "neither a template"),
            ("a b", "neither a template"),
            ("-x", "neither a template"),
            ("template:../x", "must not contain `..`"),
            ("template://a/..", "must not contain `..`"),
            ("file://x.yaml", "absolute path"),
            ("file:x.yaml", "absolute path"),
            ("github:org/repo", "scheme `github:`"),
            ("ftp://x/y.yaml", "scheme `ftp:`"),
        ] {
            let error = parse(argument).expect_err(argument);
            assert!(error.contains(part), "{argument:?}: {error}");
        }
    }

    #[test]
    fn arguments_are_told_apart_and_name_instances() {
        let file = |path: &str| Locator::File(PathBuf::from(path));
        let image = |location: &str| Locator::Image(location.to_owned());
        for (argument, locator, name) in [
            ("-", Locator::Stdin, None),
            (
                "default",
                Locator::Instance(InstanceName::parse("default").expect("a name")),
                Some("default"),
            ),
            (
                "template:debian-12",
                Locator::Template("debian-12".to_owned()),
                Some("debian-12"),
            ),
            (
                "template://_images/Ubuntu.yaml",
                Locator::Template("_images/Ubuntu.yaml".to_owned()),
                Some("ubuntu"),
            ),
            (
                "https://x.org/a/My.yml?token=1",
                Locator::Url("https://x.org/a/My.yml?token=1".to_owned()),
                Some("my"),
            ),
            ("file:///a/b.yaml", file("/a/b.yaml"), Some("b")),
            ("b.YAML", file("/cwd/b.YAML"), Some("b")),
            ("./b", file("/cwd/./b"), Some("b")),
            ("/a/b.yaml", file("/a/b.yaml"), Some("b")),
            (
                "x/noble-server-cloudimg-amd64.img",
                image("/cwd/x/noble-server-cloudimg-amd64.img"),
                Some("noble"),
            ),
            (
                "https://x.org/disk.qcow2.xz",
                image("https://x.org/disk.qcow2.xz"),
                Some("disk"),
            ),
            ("file:///a/b.raw", image("/a/b.raw"), Some("b")),
        ] {
            let parsed = parse(argument).expect(argument);
            assert_eq!(parsed, locator, "{argument:?}");
            assert_eq!(
                parsed.proposed_name(Arch::X8664).as_deref(),
                name,
                "{argument:?}"
            );
        }
    }
}
