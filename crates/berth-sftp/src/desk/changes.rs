//! Changes of attributes, in the order of OpenSSH: length, permissions, times, owner. A change that fails keeps none of the others
//! from being made; the last error is told.

use rustix::fs::{
    FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, fchmod, fchown, ftruncate, futimens,
};
use rustix::io::{Errno, Result};

use super::opening::seen_as;
use super::{Desk, lock};
use crate::handles::Handle;
use crate::path::SharePath;
use crate::sys::{Last, Object, permissions as mode_of};
use crate::wire::attributes::Changes;

impl Desk {
    /// Changes what a path names.
    pub(super) fn change_path(
        &self,
        path: &SharePath,
        last: Last,
        changes: &Changes,
    ) -> Result<()> {
        self.check_writable()?;
        let object = self.tree.object(path, last)?;
        self.apply(changes, &mut |change| match change {
            Change::Length(length) => set_length(&object, length),
            Change::Mode(mode) => object.set_mode(for_object(mode, &object)?),
            Change::Times(times) => object.set_times(&times),
            Change::Owner(user, group) => object.set_owner(user, group),
        })
    }

    /// Whether a change is none, and is asked for only so that the client's kernel tells of it.
    pub(super) fn only_tells(&self, changes: &Changes) -> bool {
        self.touch.is_some_and(|time| {
            let told = Changes {
                times: Some((time, time)),
                ..Changes::default()
            };
            *changes == told
        })
    }

    /// Changes what is open.
    pub(super) fn change_handle(&self, handle: &Handle, changes: &Changes) -> Result<()> {
        if self.only_tells(changes) {
            return Ok(());
        }
        self.check_writable()?;
        match handle {
            Handle::File(file) => {
                let file = &file.descriptor;
                self.apply(changes, &mut |change| match change {
                    Change::Length(length) => ftruncate(file, length),
                    Change::Mode(mode) => fchmod(file, for_file(mode)),
                    Change::Times(times) => futimens(file, &times),
                    Change::Owner(user, group) => fchown(file, user, group),
                })
            }
            Handle::Directory(directory) => {
                let listing = lock(directory);
                let directory = listing.descriptor();
                self.apply(changes, &mut |change| match change {
                    Change::Length(_) => Err(Errno::ISDIR),
                    Change::Mode(mode) => fchmod(directory, mode),
                    Change::Times(times) => futimens(directory, &times),
                    Change::Owner(user, group) => fchown(directory, user, group),
                })
            }
        }
    }

    fn apply(&self, changes: &Changes, one: &mut dyn FnMut(Change) -> Result<()>) -> Result<()> {
        if let Some(length) = changes.size {
            self.check_length(length)?;
        }
        let mut outcome = Ok(());
        for change in each(changes).into_iter().flatten() {
            if let Err(error) = one(change) {
                outcome = Err(error);
            }
        }
        outcome
    }
}

/// One change.
enum Change {
    Length(u64),
    Mode(Mode),
    Times(Timestamps),
    /// User and group, as far as they change.
    Owner(Option<Uid>, Option<Gid>),
}

fn each(changes: &Changes) -> [Option<Change>; 4] {
    let at = |seconds: u32| Timespec {
        tv_sec: seconds.into(),
        tv_nsec: 0,
    };
    [
        changes.size.map(Change::Length),
        changes.permissions.map(|bits| Change::Mode(mode_of(bits))),
        changes.times.map(|(accessed, modified)| {
            Change::Times(Timestamps {
                last_access: at(accessed),
                last_modification: at(modified),
            })
        }),
        changes.owner.map(|(user, group)| {
            Change::Owner(
                // The highest number is nobody's: it leaves things as they are.
                (user != u32::MAX).then(|| Uid::from_raw(user)),
                (group != u32::MAX).then(|| Gid::from_raw(group)),
            )
        }),
    ]
}

/// Of a file, that it runs with the rights of the host's group is not for a guest to set. Of a directory it only says whom new files
/// belong to.
pub(super) fn for_file(mode: Mode) -> Mode {
    mode - Mode::SGID
}

fn for_object(mode: Mode, object: &Object) -> Result<Mode> {
    let is_directory =
        || Ok(FileType::from_raw_mode(object.stat()?.st_mode) == FileType::Directory);
    if !mode.contains(Mode::SGID) || is_directory()? {
        return Ok(mode);
    }
    Ok(for_file(mode))
}

fn set_length(object: &Object, length: u64) -> Result<()> {
    let stat = seen_as(object, FileType::RegularFile)?;
    ftruncate(object.open(OFlags::WRONLY, &stat)?, length)
}
