//! Mount points: making them, and taking away what is mounted there.
//!
//! All of this may block, in a share that does not answer: it runs on threads of its own, within limits.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, StatFs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, OpenTreeFlags, UnmountFlags};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::error::MountError;
use crate::accounts::Owner;
use crate::files::give;
use crate::mount_table::{self, Mount};

/// Type of sshfs in the kernel's table.
pub(super) const SSHFS: &str = "fuse.sshfs";

/// What statfs(2) says of every file system in user space (`FUSE_SUPER_MAGIC`).
const FUSE: u64 = 0x6573_5546;

/// Dead mounts on top of each other that are taken away; more is not our doing.
const MOST_DEAD: usize = 16;

/// Bytes of stack of a thread that waits for the kernel.
const STACK: usize = 128 * 1024;

/// Does what may block on a thread of its own. One that blocks for good is left to itself.
pub(super) async fn aside<T: Send + 'static>(
    what: &'static str,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, MountError> {
    let (answer, answered) = oneshot::channel();
    let thread = move || drop(answer.send(work()));
    let started = thread::Builder::new()
        .name("mount".to_owned())
        .stack_size(STACK)
        .spawn(thread);
    started.map_err(MountError::Start)?;
    match timeout(limit, answered).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) | Err(_) => Err(MountError::TimedOut { what, limit }),
    }
}

/// Makes the mount point, takes dead mounts of sshfs away from it, and tells where it really is: the table knows no symbolic
/// links.
pub(super) fn prepare(point: &Path, table: &Path, owner: Owner) -> Result<PathBuf, MountError> {
    // A dead mount answers nothing, not even where it is; its directory does.
    if let (Some(parent), Some(name)) = (point.parent(), point.file_name())
        && let Ok(parent) = parent.canonicalize()
    {
        take_away(&parent.join(name), table)?;
    }
    fs::create_dir_all(point).map_err(failed("create", point))?;
    let place = point.canonicalize().map_err(failed("find", point))?;
    take_away(&place, table)?;
    // sshfs runs as the user, and FUSE lets users mount only where they may write. Within another share this cannot be given.
    if let Err(why) = give(&place, owner) {
        tracing::debug!(error = %why, "the mount point is not given to the user");
    }
    Ok(place)
}

/// Takes every sshfs away from a place. Programs that have files open there keep what they have: an error.
fn take_away(place: &Path, table: &Path) -> Result<(), MountError> {
    for _ in 0..MOST_DEAD {
        match topmost(place, table)? {
            None => return Ok(()),
            Some(mount) if mount.fs_type == SSHFS => detach(place)?,
            Some(mount) => return Err(MountError::Occupied(mount.fs_type)),
        }
    }
    Err(MountError::Occupied(SSHFS.to_owned()))
}

/// What is mounted at a place; the last one of the table lies on top.
fn topmost(place: &Path, table: &Path) -> Result<Option<Mount>, MountError> {
    let mounts = mount_table::read(table)?;
    let at_place = |mount: &Mount| Path::new(&mount.point) == place;
    Ok(mounts.into_iter().rev().find(at_place))
}

/// Whether the table has an sshfs there.
pub(super) fn is_mounted(place: &Path, table: &Path) -> Result<bool, MountError> {
    let mounts = mount_table::read(table)?;
    let is_it = |mount: &Mount| Path::new(&mount.point) == place && mount.fs_type == SSHFS;
    Ok(mounts.iter().any(is_it))
}

/// Takes a mount out of the tree, whoever uses it.
pub(super) fn detach(place: &Path) -> Result<(), MountError> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    rustix::mount::unmount(place, flags).map_err(|why| failed("unmount", place)(why.into()))
}

/// A way into what is mounted at a place, for the agent alone: what is later said about writing there does not count for it.
pub(super) fn private_view(place: &Path) -> Result<OwnedFd, MountError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, place, flags)
        .map_err(|why| failed("look into", place)(why.into()))
}

/// Lets programs only read what sshfs has mounted at a place.
pub(super) fn make_read_only(place: &Path) -> Result<(), MountError> {
    // As fusermount mounts it; what is not named again is lost.
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount_remount(place, flags, "")
        .map_err(|why| failed("make read-only", place)(why.into()))
}

/// Asks the mounted file system something. Only a server that answers lets it answer.
pub(super) fn answers(place: &Path) -> Result<(), MountError> {
    let told: StatFs =
        rustix::fs::statfs(place).map_err(|why| failed("look at", place)(why.into()))?;
    if u64::try_from(told.f_type).ok() != Some(FUSE) {
        return Err(MountError::Foreign);
    }
    fs::metadata(place)
        .map(drop)
        .map_err(failed("look at", place))
}

/// Writes out what programs have written through memory, and unmounts; tells whether files are still open there.
pub(super) fn write_out_and_unmount(place: &Path) -> Result<bool, MountError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(place, flags, Mode::empty())
        .map_err(|why| failed("open", place)(why.into()))?;
    rustix::fs::syncfs(&directory).map_err(|why| failed("write out", place)(why.into()))?;
    drop(directory);
    match rustix::mount::unmount(place, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(false),
        Err(Errno::BUSY) => detach(place).map(|()| true),
        Err(why) => Err(failed("unmount", place)(why.into())),
    }
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MountError {
    let path = path.to_path_buf();
    move |source| MountError::Io { verb, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    #[test]
    fn a_mount_point_behind_a_link_is_where_it_really_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        let table = root.join("mountinfo");
        fs::write(&table, "").unwrap();
        let place = prepare(&root.join("link/a b\n"), &table, owner()).unwrap();
        assert_eq!(place, root.join("real/a b\n"));
        assert!(place.is_dir());
    }

    #[test]
    fn what_is_not_ours_is_not_unmounted() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let table = root.join("mountinfo");
        let line =
            |kind: &str| format!("36 35 0:40 / {}/x rw - {kind} source rw\n", root.display());
        fs::write(&table, line("ext4")).unwrap();
        let why = prepare(&root.join("x"), &table, owner()).unwrap_err();
        assert!(
            matches!(&why, MountError::Occupied(kind) if kind == "ext4"),
            "{why}"
        );
        assert!(!is_mounted(&root.join("x"), &table).unwrap());
        fs::write(&table, line(SSHFS) + &line("tmpfs")).unwrap();
        let why = prepare(&root.join("x"), &table, owner()).unwrap_err();
        assert!(
            matches!(&why, MountError::Occupied(kind) if kind == "tmpfs"),
            "the one on top: {why}"
        );
        assert!(is_mounted(&root.join("x"), &table).unwrap());
    }

    #[test]
    fn a_plain_directory_is_no_mount() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(answers(dir.path()), Err(MountError::Foreign)));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_blocks_is_left_to_itself() {
        let (_stays, never) = std::sync::mpsc::channel::<()>();
        let limit = Duration::from_millis(20);
        let why = aside("wait", limit, move || never.recv())
            .await
            .unwrap_err();
        assert_eq!(why.to_string(), "waited 0 s in vain to wait");
        assert_eq!(
            aside("count", Duration::from_secs(30), || 7).await.unwrap(),
            7
        );
    }
}
