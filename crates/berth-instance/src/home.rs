//! `$LIMA_HOME`: the instances, and the directories beside them.

use std::io;
use std::path::{Component, Path, PathBuf};

use berth_config::name::InstanceName;

use crate::dir::InstanceDir;
use crate::disk::DiskDir;

/// `$LIMA_HOME`, as a real path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimaHome(PathBuf);

/// LIMA_HOME cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} LIMA_HOME {}", .path.display())]
pub struct HomeError {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl LimaHome {
    /// Takes the directory that the user named. If it exists, its links are resolved, because paths in sockets, events and
    /// `ssh.config` are real paths. It is not made.
    ///
    /// # Errors
    /// The path is relative, or cannot be resolved.
    pub fn at(path: &Path) -> Result<Self, HomeError> {
        let error = |source| HomeError {
            verb: "resolve",
            path: path.to_owned(),
            source,
        };
        if !path.is_absolute() {
            return Err(error(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it must be an absolute path",
            )));
        }
        match path.canonicalize() {
            Ok(real) => Ok(Self(real)),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(Self(path.to_owned())),
            Err(why) => Err(error(why)),
        }
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Keys, networks, `base.yaml`, `default.yaml`, `override.yaml`.
    #[must_use]
    pub fn config_dir(&self) -> PathBuf {
        self.0.join("_config")
    }

    /// The user's SSH identity, made at the first start.
    #[must_use]
    pub fn user_key(&self) -> PathBuf {
        self.config_dir().join("user")
    }

    /// Additional disks.
    #[must_use]
    pub fn disks_dir(&self) -> PathBuf {
        self.0.join("_disks")
    }

    /// State of the user-v2 networks.
    #[must_use]
    pub fn networks_dir(&self) -> PathBuf {
        self.0.join("_networks")
    }

    /// The user's own templates.
    #[must_use]
    pub fn templates_dir(&self) -> PathBuf {
        self.0.join("_templates")
    }

    /// The directory of an instance, which need not exist.
    #[must_use]
    pub fn instance(&self, name: &InstanceName) -> InstanceDir {
        InstanceDir::new(self.0.join(name.as_str()))
    }

    /// An additional disk, which need not exist. Its name must be a valid identifier.
    #[must_use]
    pub fn disk(&self, name: &str) -> DiskDir {
        DiskDir::new(self.disks_dir().join(name))
    }

    /// The names of all additional disks, sorted.
    pub fn disk_names(&self) -> Result<Vec<String>, HomeError> {
        let path = self.disks_dir();
        let error = |source| HomeError {
            verb: "list",
            path: path.clone(),
            source,
        };
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(why) => return Err(error(why)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(error)?;
            if self
                .disk(&entry.file_name().to_string_lossy())
                .data()
                .exists()
            {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The names of all instances, sorted: every directory whose name begins with neither `.` nor `_`. An absent LIMA_HOME has
    /// none.
    pub fn instance_names(&self) -> Result<Vec<String>, HomeError> {
        let error = |source| HomeError {
            verb: "list",
            path: self.0.clone(),
            source,
        };
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(why) => return Err(error(why)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(error)?;
            // A name that is no text cannot be typed, and no tool makes one.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !name.starts_with(['.', '_']) && entry.file_type().map_err(error)?.is_dir() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The directory by a name that may be none of ours; `None` when it would lead elsewhere.
    pub(crate) fn entry(&self, name: &str) -> Option<InstanceDir> {
        let mut parts = Path::new(name).components();
        let plain = matches!(parts.next(), Some(Component::Normal(part)) if part == name);
        (plain && !name.starts_with(['.', '_'])).then(|| InstanceDir::new(self.0.join(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_resolved_and_absence_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        let link = dir.path().join("link");
        assert_eq!(
            LimaHome::at(&real).unwrap().instance_names().unwrap(),
            Vec::<String>::new()
        );
        std::fs::create_dir(&real).unwrap();
        crate::sys::symlink(&real, &link).unwrap();
        assert_eq!(LimaHome::at(&link).unwrap().path(), real);
    }

    #[test]
    fn a_relative_home_and_a_file_are_refused() {
        let why = LimaHome::at(Path::new("lima")).unwrap_err();
        assert_eq!(why.to_string(), "cannot resolve LIMA_HOME lima");
        let file = tempfile::NamedTempFile::new().unwrap();
        let why = LimaHome::at(file.path())
            .unwrap()
            .instance_names()
            .unwrap_err();
        assert!(
            why.to_string().starts_with("cannot list LIMA_HOME /"),
            "{why}"
        );
    }

    #[test]
    fn instances_are_the_directories_without_a_mark() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["zed", "default", "_config", ".hidden", "a.b"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("file"), "").unwrap();
        let home = LimaHome::at(dir.path()).unwrap();
        assert_eq!(home.instance_names().unwrap(), ["a.b", "default", "zed"]);
    }

    #[test]
    fn no_name_leads_out_of_the_home() {
        let home = LimaHome(PathBuf::from("/home"));
        for name in ["..", ".", "", "/etc", "a/b", "a/", "_config", "./a", "../a"] {
            assert!(home.entry(name).is_none(), "{name:?}");
        }
        assert_eq!(
            home.entry("odd name").unwrap().path(),
            Path::new("/home/odd name")
        );
    }
}
