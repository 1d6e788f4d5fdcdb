//! Paths as a client names them, and what they mean: names beneath the shared directory.

/// Bytes of the longest path that a system takes.
pub(crate) const MAX_PATH: usize = 4096;

/// A path beneath the shared directory: names with single slashes between them, none of them `.` or `..`, none before the first.
/// Empty is the shared directory itself. The bytes are any but zero.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SharePath(Vec<u8>);

impl SharePath {
    /// Reads a client's path. `..` takes the name before it away, and nothing at the top, as in a root directory: the system never
    /// sees one. `None` of a path with a zero byte, or of one that no system would take.
    pub(crate) fn parse(path: &[u8]) -> Option<Self> {
        if path.len() > MAX_PATH {
            return None;
        }
        let mut clean = Vec::with_capacity(path.len());
        for name in path.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    let parent = clean.iter().rposition(|byte| *byte == b'/');
                    clean.truncate(parent.unwrap_or(0));
                }
                name if name.contains(&0) => return None,
                name => {
                    if !clean.is_empty() {
                        clean.push(b'/');
                    }
                    clean.extend_from_slice(name);
                }
            }
        }
        Some(Self(clean))
    }

    /// Whether it is the shared directory itself.
    pub(crate) fn is_top(&self) -> bool {
        self.0.is_empty()
    }

    /// For a system call that begins at the shared directory.
    pub(crate) fn relative(&self) -> &[u8] {
        if self.is_top() { b"." } else { &self.0 }
    }

    /// The directory and the name in it; `None` of the shared directory itself. The directory is as [`Self::relative`] has it.
    pub(crate) fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.is_top() {
            return None;
        }
        Some(match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (b".", &self.0),
        })
    }

    /// As a client knows it, from its root.
    pub(crate) fn absolute(&self) -> Vec<u8> {
        [b"/", self.0.as_slice()].concat()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(path: &str) -> Option<String> {
        let path = SharePath::parse(path.as_bytes())?;
        Some(String::from_utf8(path.relative().to_vec()).unwrap())
    }

    #[test]
    fn paths_stay_beneath() {
        for (path, meant) in [
            ("", "."),
            ("/", "."),
            (".", "."),
            ("a", "a"),
            ("/a//b/", "a/b"),
            ("./a/./b/.", "a/b"),
            ("a/../b", "b"),
            ("..", "."),
            ("../../etc/passwd", "etc/passwd"),
            ("/a/b/../../../c", "c"),
            ("a/...", "a/..."),
        ] {
            assert_eq!(parsed(path).as_deref(), Some(meant), "{path:?}");
        }
        assert_eq!(parsed("a\0b"), None);
    }

    #[test]
    fn a_path_has_a_directory_and_a_name() {
        let split = |path: &'static str| {
            let path = SharePath::parse(path.as_bytes()).unwrap();
            let split = path
                .split()
                .map(|(dir, name)| (dir.to_vec(), name.to_vec()));
            split.map(|(dir, name)| [dir, name].concat())
        };
        assert_eq!(split("/"), None);
        assert_eq!(split("a"), Some(b".a".to_vec()));
        assert_eq!(split("/a/b/c"), Some(b"a/bc".to_vec()));
    }

    proptest! {
        #[test]
        fn no_path_has_dots_left(path in "[./a\u{e4}]{0,24}") {
            let clean = SharePath::parse(path.as_bytes()).unwrap();
            prop_assert!(clean.0.first() != Some(&b'/') && clean.0.last() != Some(&b'/'));
            if !clean.is_top() {
                for name in clean.0.split(|byte| *byte == b'/') {
                    prop_assert!(!matches!(name, b"" | b"." | b".."));
                }
            }
            prop_assert_eq!(SharePath::parse(&clean.absolute()), Some(clean));
        }
    }
}
