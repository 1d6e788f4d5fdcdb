//! File events: what has changed on the host is touched here, so that the kernel tells those who watch it.
//!
//! Nothing is touched outside the mount that is meant: no link is followed, and no other mount entered.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_link::files::{Batch, Change, GuestEnd};
use berth_link::mux::LinkStream;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps, openat, openat2, utimensat,
};
use rustix::io::Errno;

use super::House;
use super::place::aside;

/// How long one batch may take. A share that does not answer holds a thread.
const BATCH_LIMIT: Duration = Duration::from_secs(30);
/// Threads that may hang in shares that do not answer.
pub(super) const MOST_THREADS: usize = 8;

/// Touches what the host names, until it ends the stream, or the agent ends.
pub(super) async fn serve(house: Arc<House>, stream: LinkStream) {
    let mut talk = GuestEnd::new(stream);
    while let Some(Ok(batch)) = house.closing.run_until_cancelled(talk.told()).await {
        let Batch { point, changes } = batch;
        let Ok(place) = Arc::clone(&house.touching).try_acquire_owned() else {
            tracing::warn!(
                point,
                "file events wait: {MOST_THREADS} shares do not answer"
            );
            return;
        };
        let view = house.views().get(&point).cloned();
        let path = house.path(&point);
        let touching = move || {
            let _place = place;
            touch_all(view.as_deref(), &path, &changes)
        };
        match aside("touch what has changed", BATCH_LIMIT, touching).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::debug!(point, %why, "file events are not raised"),
            // The host tells it again.
            Err(why) => return tracing::warn!(point, %why, "file events are late"),
        }
        if talk.done().await.is_err() {
            return;
        }
    }
}

/// Touches everything that is there; tells the last thing that went wrong.
fn touch_all(view: Option<&OwnedFd>, point: &Path, changes: &[Change]) -> io::Result<()> {
    let opened;
    let mount = if let Some(view) = view {
        view
    } else {
        opened = open_mount(point)?;
        &opened
    };
    let mut outcome = Ok(());
    for change in changes {
        match touch(mount, change) {
            // It is gone again, or hidden by another mount.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP) => {}
            Err(why) => outcome = Err(why.into()),
        }
    }
    outcome
}

/// Opens the directory that is mounted at a place. What is beneath a mount that is not there is not to be touched.
fn open_mount(point: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::MetadataExt as _;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, point, flags, Mode::empty())?;
    let above = openat(&directory, "..", flags, Mode::empty())?;
    let device = |directory: &OwnedFd| -> io::Result<u64> {
        Ok(File::from(directory.try_clone()?).metadata()?.dev())
    };
    if device(&directory)? == device(&above)? {
        return Err(io::Error::other("nothing is mounted there"));
    }
    Ok(directory)
}

fn touch(mount: impl AsFd, change: &Change) -> rustix::io::Result<()> {
    let path = if change.path.is_empty() {
        b"."
    } else {
        change.path.as_slice()
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file = openat2(mount, path, flags, Mode::empty(), resolve)?;
    let time = timespec(change.time);
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    match utimensat(&file, "", &times, AtFlags::EMPTY_PATH) {
        // Before Linux 5.8.
        Err(Errno::INVAL) => {
            let name = format!("/proc/self/fd/{}", file.as_raw_fd());
            utimensat(CWD, name.as_str(), &times, AtFlags::empty())
        }
        done => done,
    }
}

fn timespec(time: SystemTime) -> Timespec {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timespec {
        tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: since.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    const TIME: Duration = Duration::from_nanos(1_000_000_000_000_000_007);

    fn change(path: &[u8]) -> Change {
        Change {
            path: path.to_vec(),
            time: UNIX_EPOCH + TIME,
        }
    }

    fn is_touched(path: &Path) -> bool {
        let found = fs::symlink_metadata(path).unwrap();
        (found.mtime(), found.mtime_nsec()) == (1_000_000_000, 7)
    }

    #[test]
    fn what_is_named_is_touched_and_nothing_that_it_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let (share, outside) = (dir.path().join("share"), dir.path().join("outside"));
        for directory in [&share, &outside, &share.join("d")] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(share.join("d/f\n"), "").unwrap();
        fs::write(outside.join("f"), "").unwrap();
        symlink(outside.join("f"), share.join("link")).unwrap();
        symlink("../outside", share.join("way")).unwrap();
        let view = OwnedFd::from(File::open(&share).unwrap());
        let paths: [&[u8]; 6] = [b"none", b"way/f", b"../outside", b"link", b"d/f\n", b""];
        let changes: Vec<Change> = paths.iter().map(|path| change(path)).collect();
        touch_all(Some(&view), &share, &changes).unwrap();
        for touched in [&share.join("d/f\n"), &share.join("link"), &share] {
            assert!(is_touched(touched), "{}", touched.display());
        }
        for spared in [&outside.join("f"), &outside, &share.join("d")] {
            assert!(!is_touched(spared), "{}", spared.display());
        }
    }

    #[test]
    fn where_nothing_is_mounted_nothing_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let why = touch_all(None, dir.path(), &[change(b"")]).unwrap_err();
        assert_eq!(why.to_string(), "nothing is mounted there");
        assert!(!is_touched(dir.path()));
    }
}
