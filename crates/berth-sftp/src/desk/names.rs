//! Changes of names. Each is made in directories that were found beneath the share, to a name in them that is not followed.

use rustix::fs::{
    AtFlags, FileType, RenameFlags, linkat, mkdirat, renameat, renameat_with, statat, symlinkat,
    unlinkat,
};
use rustix::io::{Errno, Result};

use super::Desk;
use crate::path::SharePath;
use crate::sys::{Last, permissions as mode_of};
use crate::wire::request::Request;

impl Desk {
    /// Carries out a request that changes something by its name.
    pub(super) fn change(&self, request: Request) -> Result<()> {
        if let Request::SetStat(path, changes) | Request::LinkSetStat(path, changes) = &request
            && self.only_tells(changes)
        {
            return self.tree.object(path, Last::Itself).map(drop);
        }
        self.check_writable()?;
        match request {
            Request::SetStat(path, changes) => self.change_path(&path, Last::Target, &changes),
            Request::LinkSetStat(path, changes) => self.change_path(&path, Last::Itself, &changes),
            Request::Remove(path) => self.unlink(&path, AtFlags::empty()),
            Request::RemoveDirectory(path) => self.unlink(&path, AtFlags::REMOVEDIR),
            Request::MakeDirectory { path, permissions } => {
                let mode = mode_of(permissions.unwrap_or(0o777));
                let place = self.tree.parent(&path)?;
                mkdirat(&place.directory, place.name.as_slice(), mode)
            }
            Request::SymbolicLink { target, link } => {
                let place = self.tree.parent(&link)?;
                symlinkat(&*target, &place.directory, place.name.as_slice())
            }
            Request::HardLink { from, to } => {
                let (from, to) = (self.tree.parent(&from)?, self.tree.parent(&to)?);
                let (old, new) = (from.name.as_slice(), to.name.as_slice());
                linkat(&from.directory, old, &to.directory, new, AtFlags::empty())
            }
            Request::PosixRename { from, to } => {
                let (from, to) = (self.tree.parent(&from)?, self.tree.parent(&to)?);
                let (old, new) = (from.name.as_slice(), to.name.as_slice());
                renameat(&from.directory, old, &to.directory, new)
            }
            Request::Rename { from, to } => self.rename(&from, &to),
            _ => Err(Errno::NOSYS),
        }
    }

    fn unlink(&self, path: &SharePath, flags: AtFlags) -> Result<()> {
        let place = self.tree.parent(path)?;
        unlinkat(&place.directory, place.name.as_slice(), flags)
    }

    /// Renames, but not over anything.
    fn rename(&self, from: &SharePath, to: &SharePath) -> Result<()> {
        let (from, to) = (self.tree.parent(from)?, self.tree.parent(to)?);
        let (old, new) = (from.name.as_slice(), to.name.as_slice());
        let (old_in, new_in) = (&from.directory, &to.directory);
        match renameat_with(old_in, old, new_in, new, RenameFlags::NOREPLACE) {
            // Not every file system can.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            done => return done,
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = statat(old_in, old, flags)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            linkat(old_in, old, new_in, new, AtFlags::empty())?;
            return unlinkat(old_in, old, AtFlags::empty());
        }
        match statat(new_in, new, flags) {
            Err(Errno::NOENT) => renameat(old_in, old, new_in, new),
            Ok(_) => Err(Errno::EXIST),
            Err(error) => Err(error),
        }
    }
}
