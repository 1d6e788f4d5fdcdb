//! The system that the boot steps work on.

use std::path::{Path, PathBuf};

use crate::accounts::{Account, Group, find_account, find_group};
use crate::files::{FileError, read_text};
use crate::programs::{PATH, Programs, SystemPrograms};

/// What starts the guest's services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Init {
    /// systemd.
    Systemd,
    /// `OpenRC` (Alpine, Gentoo).
    OpenRc,
    /// Something the agent does not know: it starts no services there.
    Unknown,
}

/// A guest: its files beneath a root, and its programs.
///
/// The root is `/`, but for tests, which let file steps work on a temporary directory.
pub(crate) struct Guest {
    root: PathBuf,
    /// What starts its services.
    pub(crate) init: Init,
    /// Runs its programs.
    pub(crate) programs: Box<dyn Programs>,
}

impl Guest {
    /// The system that the agent runs in.
    pub(crate) fn here() -> Self {
        Self::at(Path::new("/"), Box::new(SystemPrograms))
    }

    /// A system beneath `root`, with its programs.
    pub(crate) fn at(root: &Path, programs: Box<dyn Programs>) -> Self {
        let init = if root.join("run/systemd/system").is_dir() {
            Init::Systemd
        } else if root.join("sbin/openrc-run").exists() {
            Init::OpenRc
        } else {
            Init::Unknown
        };
        Self {
            root: root.to_path_buf(),
            init,
            programs,
        }
    }

    /// Where an absolute path of the guest is.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Tells whether there is such a file or directory.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Tells whether a program is installed where the system's programs are.
    pub(crate) fn has_program(&self, name: &str) -> bool {
        self.find_program(name).is_some()
    }

    /// Where a program of the system is installed.
    pub(crate) fn find_program(&self, name: &str) -> Option<PathBuf> {
        PATH.split(':')
            .map(|directory| self.path(directory).join(name))
            .find(|path| path.exists())
    }

    /// The name that the guest has now.
    pub(crate) fn host_name(&self) -> Option<String> {
        let name = read_text(&self.path("/proc/sys/kernel/hostname")).ok()??;
        Some(name.trim().to_owned())
    }

    /// Finds a user.
    pub(crate) fn account(&self, name: &str) -> Result<Option<Account>, FileError> {
        find_account(&self.path("/etc/passwd"), name)
    }

    /// Finds a group.
    pub(crate) fn group(&self, name: &str) -> Result<Option<Group>, FileError> {
        find_group(&self.path("/etc/group"), name)
    }

    /// Tells whether `SELinux` labels files here.
    pub(crate) fn has_selinux(&self) -> bool {
        self.has("/sys/fs/selinux/enforce")
    }

    /// Tells whether this is Alpine.
    pub(crate) fn is_alpine(&self) -> bool {
        self.has("/etc/alpine-release")
    }

    /// Tells whether a login gives the user a service manager of its own: systemd's PAM module does, which small images lack.
    pub(crate) fn has_user_sessions(&self) -> bool {
        let below = |directory: &str| {
            let entries = std::fs::read_dir(self.path(directory))
                .into_iter()
                .flatten()
                .flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let mut directories = vec![self.path("/usr/lib"), self.path("/usr/lib64")];
        // Debian has a directory for each architecture.
        directories.extend(below("/usr/lib"));
        let module = "security/pam_systemd.so";
        directories
            .iter()
            .any(|directory| directory.join(module).exists())
    }

    /// Kernel version, major and minor; zeros where it cannot be read.
    pub(crate) fn kernel_version(&self) -> (u32, u32) {
        let release = read_text(&self.path("/proc/sys/kernel/osrelease"))
            .ok()
            .flatten();
        let release = release.unwrap_or_default();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        let mut next = || numbers.next().and_then(Result::ok).unwrap_or_default();
        (next(), next())
    }
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { root, init, .. } = self;
        f.debug_struct("Guest")
            .field("root", root)
            .field("init", init)
            .finish_non_exhaustive()
    }
}
