//! Whether the shared directory is there, on the host.

use std::path::{Path, PathBuf};

use crate::error::MountError;
use crate::sys::PathWatch;

/// The shared directory.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    watch: PathWatch,
    was_there: bool,
}

impl Directory {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            watch: PathWatch::new(path),
            was_there: true,
        }
    }

    /// Makes the directory, as Lima does at a start. One that its owner removes later is not made again.
    pub(crate) async fn create(&self) -> Result<(), MountError> {
        tokio::fs::create_dir_all(&self.path)
            .await
            .map_err(|source| MountError::Create {
                directory: self.path.clone(),
                source,
            })
    }

    /// Looks. Not on the agent's own thread: it may lie on a file system that does not answer.
    pub(crate) async fn is_there(&mut self) -> bool {
        let metadata = tokio::fs::metadata(&self.path).await;
        self.was_there = metadata.is_ok_and(|metadata| metadata.is_dir());
        self.was_there
    }

    /// Waits until it is there.
    pub(crate) async fn appears(&mut self) {
        while !self.is_there().await {
            self.watch.changed().await;
        }
    }

    /// Waits until it goes or comes, and tells which. May be cancelled and called again.
    pub(crate) async fn changed(&mut self) -> bool {
        let before = self.was_there;
        while self.is_there().await == before {
            self.watch.changed().await;
        }
        self.was_there
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_that_goes_and_comes_is_seen_with_its_parents() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/c");
        let mut directory = Directory::new(&path);
        directory.create().await.unwrap();
        assert!(directory.is_there().await);
        let gone = async {
            tokio::task::yield_now().await;
            std::fs::remove_dir_all(root.path().join("a")).unwrap();
        };
        let (is_there, ()) = tokio::join!(directory.changed(), gone);
        assert!(!is_there);
        let back = async {
            tokio::task::yield_now().await;
            std::fs::create_dir(root.path().join("a")).unwrap();
            tokio::task::yield_now().await;
            std::fs::create_dir_all(&path).unwrap();
        };
        let (is_there, ()) = tokio::join!(directory.changed(), back);
        assert!(is_there);
    }

    #[tokio::test]
    async fn a_file_in_its_place_is_no_directory() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        std::fs::write(&path, "").unwrap();
        let mut directory = Directory::new(&path);
        assert!(!directory.is_there().await);
        assert!(directory.create().await.is_err());
    }
}
