//! What is shared with the guest, and how.

use std::path::{Component, Path, PathBuf};

use berth_config::model::Mount;

/// One entry of `mounts`, for a guest that mounts it by sshfs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub struct Share {
    /// Host directory, absolute.
    pub directory: PathBuf,
    /// Guest directory, absolute.
    pub point: String,
    /// Whether the guest may write.
    pub writable: bool,
    /// Whether sshfs keeps attributes and directories for a while (`sshfs.cache`).
    pub cache: bool,
    /// Whether symbolic links are followed on the host (`sshfs.followSymlinks`).
    pub follow_symlinks: bool,
    /// Whether files of the directory's owner are shown as the guest user's: where host and guest number their user differently.
    pub map_owner: bool,
    /// With file events, by our own server: the time that stands for "changed on the host" ([`berth_sftp::Share::touch`]).
    pub touch: Option<u32>,
}

impl Share {
    /// Reads an entry of the configuration. `map_owner`: whether host and guest number their user differently.
    #[must_use]
    pub fn of(mount: &Mount, map_owner: bool) -> Self {
        Self {
            directory: mount.location.clone(),
            point: mount.mount_point.clone(),
            writable: mount.writable,
            cache: mount.sshfs.cache,
            follow_symlinks: mount.sshfs.follow_symlinks,
            map_owner,
            touch: None,
        }
    }

    /// The share that this one's mount point lies in, if any: the one that comes nearest.
    pub(crate) fn parent(&self, all: &[Self]) -> Option<usize> {
        let own = parts(&self.point);
        let candidates = all.iter().enumerate().filter_map(|(index, other)| {
            let parts = parts(&other.point);
            let is_above = parts.len() < own.len() && own.starts_with(&parts);
            is_above.then_some((parts.len(), index))
        });
        candidates.max().map(|(_, index)| index)
    }
}

/// The names on the way to a directory of the guest.
fn parts(point: &str) -> Vec<&str> {
    let components = Path::new(point).components();
    components
        .filter_map(|component| match component {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn share(point: &str) -> Share {
        Share {
            directory: PathBuf::from("/srv"),
            point: point.to_owned(),
            writable: true,
            cache: true,
            follow_symlinks: false,
            map_owner: false,
            touch: None,
        }
    }

    #[test]
    fn a_share_lies_in_the_nearest_one_above_it_by_whole_names() {
        let all = ["/a", "/a/b/", "/a/bc", "/a/b/c/d", "/x"].map(share);
        let parents = all.each_ref().map(|share| share.parent(&all));
        assert_eq!(parents, [None, Some(0), Some(0), Some(1), None]);
    }
}
