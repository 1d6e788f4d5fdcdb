//! Which release of Lima made an instance, or must be there to read a template.

use std::fmt;

/// The release of Lima whose behaviour berth follows, as `lima-version` states it.
pub const COMPATIBLE_LIMA_VERSION: &str = "2.2.0";

/// A version as Lima orders them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimaVersion {
    /// Nothing is recorded: older than every release that records itself.
    BeforeAll,
    /// A release, or a build after one.
    Release {
        /// Major, minor, patch.
        numbers: [u64; 3],
        /// Whether a suffix follows (`2.2.0-153-g183a60d`): such a build is newer than the release.
        beyond: bool,
    },
    /// Something that is no version: a build from source, newer than every release.
    Newest,
}

impl LimaVersion {
    /// Reads a version such as `v2.2.0`, `2.1.3` or `v2.2.0-153-g183a60d.m`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text.strip_suffix(".m").unwrap_or(text);
        let (release, beyond) = match text.split_once('-') {
            Some((release, _)) => (release, true),
            None => (text, false),
        };
        match numbers(release) {
            Some(numbers) => Self::Release { numbers, beyond },
            None => Self::Newest,
        }
    }

    /// The version of an existing instance, by the content of its `lima-version` file.
    #[must_use]
    pub fn of_existing_instance(lima_version: Option<&str>) -> Self {
        lima_version.map_or(Self::BeforeAll, Self::parse)
    }

    /// The version that a new instance gets.
    #[must_use]
    pub fn current() -> Self {
        Self::parse(COMPATIBLE_LIMA_VERSION)
    }

    /// Whether this is the given release or newer.
    #[must_use]
    pub fn at_least(self, major: u64, minor: u64, patch: u64) -> bool {
        self >= Self::Release {
            numbers: [major, minor, patch],
            beyond: false,
        }
    }
}

fn numbers(release: &str) -> Option<[u64; 3]> {
    let mut parts = release.split('.').map(|part| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse().ok()).flatten()
    });
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

impl fmt::Display for LimaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeforeAll => f.write_str("a release without a version file"),
            Self::Newest => f.write_str("an unreleased build"),
            Self::Release {
                numbers: [major, minor, patch],
                beyond,
            } => {
                write!(f, "{major}.{minor}.{patch}")?;
                f.write_str(if *beyond { "+" } else { "" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LimaVersion;

    #[test]
    fn versions_stand_in_lima_s_order() {
        let ordered = [
            LimaVersion::of_existing_instance(None),
            LimaVersion::parse("0.9.2"),
            LimaVersion::parse("v1.0.0"),
            LimaVersion::parse("v2.0.10"),
            LimaVersion::parse("2.1.0"),
            LimaVersion::parse("v2.1.0-12-gabcdef0.m"),
            LimaVersion::parse("v2.1.1"),
            LimaVersion::parse("<unknown>"),
        ];
        for pair in ordered.windows(2) {
            assert!(pair[0] < pair[1], "{:?} < {:?}", pair[0], pair[1]);
        }
    }

    #[test]
    fn what_is_no_version_is_newest() {
        for text in [
            "",
            "2",
            "2.1",
            "2.1.0.4",
            "2.x.0",
            "2.+1.0",
            "99999999999999999999.0.0",
        ] {
            assert_eq!(LimaVersion::parse(text), LimaVersion::Newest, "{text:?}");
        }
    }

    #[test]
    fn a_release_is_at_least_itself() {
        assert!(LimaVersion::parse("2.1.0\n").at_least(2, 1, 0));
        assert!(!LimaVersion::parse("2.1.0").at_least(2, 1, 1));
        assert!(!LimaVersion::BeforeAll.at_least(0, 0, 0));
    }
}
