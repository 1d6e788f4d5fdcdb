//! Requests carried out: [`Desk::carry_out`] as far as it takes, [`Desk::answer_from_cache`] only what needs no waiting.

mod changes;
mod names;
mod opening;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;

use rustix::fs::{StatVfs, StatVfsMountFlags, fstat, fstatvfs, fsync};
use rustix::io::{Errno, Result, pread, pwrite};
use rustix::process::{Resource, getrlimit};

use crate::handles::{Handle, Handles, OpenDirectory, OpenFile};
use crate::operation::Operation;
use crate::path::SharePath;
use crate::share::Share;
use crate::sys::{Last, Links, attributes, flush_before_close, read_cached};
use crate::tree::Tree;
use crate::wire::Status;
use crate::wire::attributes::Attributes;
use crate::wire::reply::{self, Names, Space};
use crate::wire::request::Request;

/// What one client can do: the directory, whether it may change it, and what it has open.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) tree: Tree,
    pub(crate) writable: bool,
    /// See [`Share::touch`].
    pub(crate) touch: Option<u32>,
    pub(crate) handles: Handles,
    /// How long a file may become, if this process may not write more. The system ends processes that try.
    pub(crate) longest_file: Option<u64>,
}

impl Desk {
    /// Opens a shared directory. Paths are walked if they are not to be left to the kernel.
    pub(crate) fn open(share: Share, by_kernel: bool) -> std::io::Result<Self> {
        let links = if share.follow_symlinks {
            Links::Follow
        } else {
            Links::Refuse
        };
        Ok(Self {
            tree: Tree::open(share.directory, links, by_kernel)?,
            writable: share.writable,
            touch: share.touch,
            handles: Handles::new(share.limits.handles),
            longest_file: getrlimit(Resource::Fsize).current,
        })
    }

    /// Carries a request out and appends the reply. This may wait for disks.
    pub(crate) fn carry_out(&self, id: u32, operation: Operation, out: &mut Vec<u8>) {
        let start = out.len();
        if let Err(error) = contained(|| self.attempt(id, operation, out)) {
            out.truncate(start);
            reply::status(out, id, status_of(error));
        }
    }

    fn attempt(&self, id: u32, operation: Operation, out: &mut Vec<u8>) -> Result<()> {
        match operation {
            Operation::Named(request) => return self.named(id, request, out),
            Operation::Read {
                file,
                offset,
                length,
            } => return read(id, &file, (offset, length), out),
            Operation::List(directory) => return list(id, &directory, out),
            Operation::Stat(handle) => reply::attributes(out, id, &handle_stat(&handle)?),
            Operation::Space(handle) => self.space(id, &handle_space(&handle)?, out),
            Operation::Write { file, offset, data } => {
                self.write(&file, offset, &data)?;
                reply::status(out, id, Status::Ok);
            }
            Operation::SetStat(handle, changes) => {
                self.change_handle(&handle, &changes)?;
                reply::status(out, id, Status::Ok);
            }
            Operation::Sync(handle) => {
                match &handle {
                    Handle::File(file) => fsync(&file.descriptor)?,
                    Handle::Directory(directory) => fsync(lock(directory).descriptor())?,
                }
                reply::status(out, id, Status::Ok);
            }
            Operation::Close(handle) => {
                match &handle {
                    Handle::File(file) if file.writable => flush_before_close(&file.descriptor)?,
                    _ => {}
                }
                reply::status(out, id, Status::Ok);
            }
            Operation::Answer(status) => reply::status(out, id, status),
        }
        Ok(())
    }

    fn named(&self, id: u32, request: Request, out: &mut Vec<u8>) -> Result<()> {
        match request {
            Request::Open {
                path,
                mode,
                permissions,
            } => reply::handle(out, id, self.open_file(&path, mode, permissions)?),
            Request::OpenDirectory(path) => reply::handle(out, id, self.open_directory(&path)?),
            Request::LinkStat(path) => {
                reply::attributes(out, id, &self.stat(&path, Last::Itself)?);
            }
            Request::Stat(path) => reply::attributes(out, id, &self.stat(&path, Last::Target)?),
            Request::RealPath(path) => reply::one_name(out, id, &path.absolute()),
            Request::ReadLink(path) => {
                let target = self.tree.object(&path, Last::Itself)?.read_link()?;
                reply::one_name(out, id, &target);
            }
            Request::Space(path) => {
                let space = self.tree.object(&path, Last::Target)?.space()?;
                self.space(id, &space, out);
            }
            Request::Limits => reply::limits(out, id, self.handles.limit()),
            Request::Unsupported => reply::status(out, id, Status::Unsupported),
            change => {
                self.change(change)?;
                reply::status(out, id, Status::Ok);
            }
        }
        Ok(())
    }

    /// Answers if that needs no waiting, and says whether it did. What was appended is a whole reply, or nothing.
    pub(crate) fn answer_from_cache(
        &self,
        id: u32,
        operation: &Operation,
        out: &mut Vec<u8>,
    ) -> bool {
        let start = out.len();
        let answered = contained(|| self.cached(id, operation, out)).unwrap_or_else(|error| {
            out.truncate(start);
            reply::status(out, id, status_of(error));
            true
        });
        if !answered {
            out.truncate(start);
        }
        answered
    }

    fn cached(&self, id: u32, operation: &Operation, out: &mut Vec<u8>) -> Result<bool> {
        match operation {
            Operation::Named(request) => return self.named_cached(id, request, out),
            Operation::Read {
                file,
                offset,
                length,
            } => return read_now(id, file, (*offset, *length), out),
            Operation::Stat(handle) if is_local(handle) => {
                reply::attributes(out, id, &handle_stat(handle)?);
            }
            // Closed when the operation is dropped, which is at once.
            Operation::Close(Handle::File(file)) if file.local && !file.writable => {
                reply::status(out, id, Status::Ok);
            }
            Operation::Close(Handle::Directory(directory)) if directory.local => {
                reply::status(out, id, Status::Ok);
            }
            Operation::Answer(status) => reply::status(out, id, *status),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn named_cached(&self, id: u32, request: &Request, out: &mut Vec<u8>) -> Result<bool> {
        let stat = |path, last| match self.tree.cached_object(path, last) {
            Some(object) => object?.stat().map(Some),
            None => Ok(None),
        };
        match request {
            Request::LinkStat(path) => match stat(path, Last::Itself)? {
                Some(stat) => reply::attributes(out, id, &attributes(&stat)),
                None => return Ok(false),
            },
            Request::Stat(path) => match stat(path, Last::Target)? {
                Some(stat) => reply::attributes(out, id, &attributes(&stat)),
                None => return Ok(false),
            },
            Request::Open { path, mode, .. } if !mode.changes() => match self.open_cached(path)? {
                Some(handle) => reply::handle(out, id, handle),
                None => return Ok(false),
            },
            Request::OpenDirectory(path) => match self.open_directory_cached(path)? {
                Some(handle) => reply::handle(out, id, handle),
                None => return Ok(false),
            },
            Request::RealPath(path) => reply::one_name(out, id, &path.absolute()),
            Request::Limits => reply::limits(out, id, self.handles.limit()),
            Request::Unsupported => reply::status(out, id, Status::Unsupported),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn stat(&self, path: &SharePath, last: Last) -> Result<Attributes> {
        Ok(attributes(&self.tree.object(path, last)?.stat()?))
    }

    fn space(&self, id: u32, space: &StatVfs, out: &mut Vec<u8>) {
        let space = Space {
            block_size: space.f_bsize,
            fragment_size: space.f_frsize,
            blocks: space.f_blocks,
            free: space.f_bfree,
            available: space.f_bavail,
            files: space.f_files,
            files_free: space.f_ffree,
            files_available: space.f_favail,
            read_only: !self.writable || space.f_flag.contains(StatVfsMountFlags::RDONLY),
            no_setuid: space.f_flag.contains(StatVfsMountFlags::NOSUID),
            name_max: space.f_namemax,
        };
        reply::space(out, id, &space);
    }

    fn write(&self, file: &OpenFile, offset: u64, data: &[u8]) -> Result<()> {
        self.check_length(offset.saturating_add(data.len() as u64))?;
        let (mut offset, mut data) = (offset, data);
        while !data.is_empty() {
            let written = match pwrite(&file.descriptor, data, offset) {
                Ok(0) => return Err(Errno::IO),
                Err(Errno::INTR) => continue,
                written => written?,
            };
            data = &data[written..];
            offset += written as u64;
        }
        Ok(())
    }

    fn check_length(&self, length: u64) -> Result<()> {
        match self.longest_file {
            Some(longest) if length > longest => Err(Errno::FBIG),
            _ => Ok(()),
        }
    }

    /// Refuses what changes something, if the client may not.
    fn check_writable(&self) -> Result<()> {
        if self.writable {
            Ok(())
        } else {
            Err(Errno::ACCESS)
        }
    }
}

/// Has a defect fail the request that met it, and neither the thread nor the host agent.
fn contained<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or(Err(Errno::IO))
}

/// Reads as much as was asked for, unless the file ends before that: to `sshfs`, less is the end of the file.
fn read(id: u32, file: &OpenFile, (offset, length): (u64, u32), out: &mut Vec<u8>) -> Result<()> {
    let start = reply::begin_data(out, id);
    let begin = out.len();
    out.resize(begin + length as usize, 0);
    let mut done = 0;
    while done < length as usize {
        match pread(
            &file.descriptor,
            &mut out[begin + done..],
            offset + done as u64,
        ) {
            Ok(0) => break,
            Err(Errno::INTR) => {}
            count => done += count?,
        }
    }
    finish_read(id, (start, begin + done), out);
    Ok(())
}

/// The same, but of what is cached; false if not all of it is.
fn read_now(
    id: u32,
    file: &OpenFile,
    (offset, length): (u64, u32),
    out: &mut Vec<u8>,
) -> Result<bool> {
    if !file.local {
        return Ok(false);
    }
    offset.checked_add(length.into()).ok_or(Errno::INVAL)?;
    let start = reply::begin_data(out, id);
    let begin = out.len();
    out.resize(begin + length as usize, 0);
    let mut done = 0;
    while done < length as usize {
        let at = offset + done as u64;
        match read_cached(&file.descriptor, &mut out[begin + done..], at) {
            Some(0) => break,
            Some(count) => done += count,
            None => return Ok(false),
        }
    }
    finish_read(id, (start, begin + done), out);
    Ok(true)
}

fn finish_read(id: u32, (start, end): (usize, usize), out: &mut Vec<u8>) {
    out.truncate(end);
    if end == start + reply::DATA_HEADER {
        out.truncate(start);
        reply::status(out, id, Status::Eof);
    } else {
        reply::finish_data(out, start);
    }
}

fn list(id: u32, directory: &OpenDirectory, out: &mut Vec<u8>) -> Result<()> {
    let mut listing = lock(directory);
    let mut names = Names::begin(out, id);
    loop {
        let more = listing.next(|name, attributes| names.add(name, &attributes))?;
        if !names.is_empty() {
            names.finish();
            return Ok(());
        }
        if !more {
            names.abandon();
            reply::status(out, id, Status::Eof);
            return Ok(());
        }
    }
}

fn lock(directory: &OpenDirectory) -> std::sync::MutexGuard<'_, crate::sys::Listing> {
    directory
        .listing
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

fn is_local(handle: &Handle) -> bool {
    match handle {
        Handle::File(file) => file.local,
        // It is locked while it is listed.
        Handle::Directory(_) => false,
    }
}

fn handle_stat(handle: &Handle) -> Result<Attributes> {
    let stat = match handle {
        Handle::File(file) => fstat(&file.descriptor)?,
        Handle::Directory(directory) => fstat(lock(directory).descriptor())?,
    };
    Ok(attributes(&stat))
}

fn handle_space(handle: &Handle) -> Result<StatVfs> {
    match handle {
        Handle::File(file) => fstatvfs(&file.descriptor),
        Handle::Directory(directory) => fstatvfs(lock(directory).descriptor()),
    }
}

/// What a client is told of an error: as OpenSSH has it, whose words `sshfs` takes apart. A way out of the share is an `EACCES`.
fn status_of(error: Errno) -> Status {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::BADF | Errno::LOOP => Status::NoSuchFile,
        Errno::PERM | Errno::ACCESS | Errno::ROFS => Status::PermissionDenied,
        Errno::NAMETOOLONG | Errno::INVAL => Status::BadMessage,
        Errno::NOSYS | Errno::OPNOTSUPP => Status::Unsupported,
        _ => Status::Failure,
    }
}
