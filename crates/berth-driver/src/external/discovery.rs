//! Which external drivers this machine has.
//!
//! Lima's rule: the entries of `LIMA_DRIVERS_PATH` (directories, or programs), then `libexec/lima` and `lib/lima` beside the
//! directory of this program. A driver is an executable file `lima-driver-NAME` (with `.exe` on Windows). The first of a name
//! wins, and a name of berth's own always does.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use berth_config::model::VmType;

use crate::sys;

/// The variable with a list of places.
pub const VARIABLE: &str = "LIMA_DRIVERS_PATH";

/// What file names of drivers begin with.
const PREFIX: &str = "lima-driver-";

/// An external driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name: what `vmType` says.
    pub name: String,
    /// Its program.
    pub path: PathBuf,
}

/// All external drivers, and where they were looked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExternalDrivers {
    /// Sorted, without those of berth's own drivers.
    names: Vec<String>,
    /// In the order of the search, one of each name.
    drivers: Vec<Found>,
    /// Every place that was looked at.
    searched: Vec<PathBuf>,
    /// Places that could not be looked at, with the reason.
    problems: Vec<String>,
}

impl ExternalDrivers {
    /// Looks for drivers. `path_list` is the value of [`VARIABLE`]; `programs` are this program as it was called, and its real
    /// file.
    #[must_use]
    pub fn discover(path_list: Option<&OsStr>, programs: &[PathBuf]) -> Self {
        let mut found = Self::default();
        for entry in path_list.map(std::env::split_paths).into_iter().flatten() {
            if entry.as_os_str().is_empty() {
                continue;
            }
            if entry.is_dir() {
                found.look_into(&entry, true);
            } else {
                found.consider(&entry);
                found.searched.push(entry);
            }
        }
        let prefixes = programs
            .iter()
            .filter_map(|program| program.parent()?.parent());
        for prefix in prefixes {
            for place in ["libexec/lima", "lib/lima"] {
                let place = prefix.join(place);
                if !found.searched.contains(&place) {
                    found.look_into(&place, false);
                }
            }
        }
        let names = found.drivers.iter().map(|driver| driver.name.clone());
        found.names = names.filter(|name| !is_internal(name)).collect();
        found.names.sort();
        found
    }

    /// The names, sorted, without those that berth's own drivers have.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Every place that was looked at.
    #[must_use]
    pub fn searched(&self) -> &[PathBuf] {
        &self.searched
    }

    /// Places that were named and could not be looked at.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The driver of a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Found> {
        self.drivers.iter().find(|driver| driver.name == name)
    }

    /// Looks at the files of a directory, in the order of their names; `named` says that somebody asked for it.
    fn look_into(&mut self, directory: &Path, named: bool) {
        self.searched.push(directory.to_owned());
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => {
                if named {
                    let place = directory.display();
                    self.problems.push(format!("cannot list {place}: {error}"));
                }
                return;
            }
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            self.consider(&file);
        }
    }

    fn consider(&mut self, file: &Path) {
        let name = file.file_name().and_then(OsStr::to_str);
        let Some(name) = name.and_then(driver_name) else {
            return;
        };
        if self.find(name).is_none() && sys::is_executable(file) {
            self.drivers.push(Found {
                name: name.to_owned(),
                path: file.to_owned(),
            });
        }
    }
}

/// Whether berth has a driver of that name itself.
fn is_internal(name: &str) -> bool {
    !matches!(VmType::from(name.to_owned()), VmType::External(_))
}

/// The driver that a program's file name stands for: what comes after `lima-driver-`, on Windows without `.exe`.
///
/// It becomes part of file names in an instance, so it is a word of letters, digits, `-`, `_` and `.`.
#[must_use]
pub fn driver_name(file_name: &str) -> Option<&str> {
    let name = sys::without_program_ending(file_name)?.strip_prefix(PREFIX)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (!name.is_empty() && name.chars().all(plain)).then_some(name)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn program(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_first_of_a_name_wins() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        program(&at("one/lima-driver-a"), 0o755);
        program(&at("one/lima-driver-b.exe"), 0o755);
        program(&at("one/lima-driver-"), 0o755);
        program(&at("one/lima-driver-qemu"), 0o755);
        program(&at("one/lima-driver-x y"), 0o755);
        program(&at("one/lima-driver-plain"), 0o644);
        program(&at("one/deeper/lima-driver-deep"), 0o755);
        program(&at("two/lima-driver-single"), 0o700);
        program(&at("two/lima-driver-other"), 0o755);
        program(&at("prefix/libexec/lima/lima-driver-a"), 0o755);
        program(&at("prefix/lib/lima/lima-driver-c"), 0o711);
        let list = [
            at("one"),
            at("two/lima-driver-single"),
            PathBuf::new(),
            at("none"),
        ];
        let list = std::env::join_paths(list).unwrap();
        let found = ExternalDrivers::discover(Some(&list), &[at("prefix/bin/berth")]);
        assert_eq!(found.names(), ["a", "c", "single"]);
        assert_eq!(found.find("a").unwrap().path, at("one/lima-driver-a"));
        assert_eq!(found.problems(), [""; 0]);
        let places = [
            "one",
            "two/lima-driver-single",
            "none",
            "prefix/libexec/lima",
            "prefix/lib/lima",
        ];
        assert_eq!(found.searched(), places.map(at));
    }

    #[test]
    fn without_anything_there_is_nothing() {
        let root = tempfile::tempdir().unwrap();
        let program = root.path().join("bin/berth");
        let found = ExternalDrivers::discover(None, &[program.clone(), program]);
        assert_eq!(found.names(), [""; 0]);
        assert_eq!(found.searched().len(), 2, "no place is looked at twice");
    }

    #[test]
    fn a_name_is_a_word() {
        assert_eq!(driver_name("lima-driver-qemu"), Some("qemu"));
        assert_eq!(driver_name("/bin/lima-driver-qemu"), None);
        assert_eq!(driver_name("lima-driver-../x"), None);
        assert_eq!(driver_name("limactl"), None);
    }
}
