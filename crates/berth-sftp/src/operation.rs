//! A request whose handles are looked up: what is left is to carry it out.

use std::sync::Arc;

use bytes::Bytes;

use crate::handles::{Handle, Handles, OpenDirectory, OpenFile};
use crate::order::Access;
use crate::path::MAX_PATH;
use crate::wire::attributes::Changes;
use crate::wire::request::Request;
use crate::wire::{MAX_DATA, Status};

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Operation {
    /// Something that names what it means.
    Named(Request),
    Read {
        file: Arc<OpenFile>,
        offset: u64,
        /// At most [`MAX_DATA`].
        length: u32,
    },
    Write {
        file: Arc<OpenFile>,
        offset: u64,
        data: Bytes,
    },
    Stat(Handle),
    SetStat(Handle, Changes),
    List(Arc<OpenDirectory>),
    Space(Handle),
    Sync(Handle),
    /// The name is gone already; what it meant is closed with this.
    Close(Handle),
    /// Nothing more: the answer is known.
    Answer(Status),
}

/// Bytes of a reply that is of no great length, and of what is kept about a request.
const SMALL: usize = 512;

/// Bytes that a reply with names may take.
const NAMES: usize = 96 * 1024;

impl Operation {
    /// Looks the handles up.
    pub(crate) fn of(request: Request, handles: &Handles) -> Self {
        Self::with_handles(request, handles).unwrap_or(Self::Answer(Status::Failure))
    }

    /// `None` if a handle does not exist or is of the wrong kind.
    fn with_handles(request: Request, handles: &Handles) -> Option<Self> {
        let file = |name| match handles.get(name)? {
            Handle::File(file) => Some(file),
            Handle::Directory(_) => None,
        };
        Some(match request {
            Request::Read {
                handle,
                offset,
                length,
            } => Self::Read {
                file: file(handle)?,
                offset,
                length: length.min(MAX_DATA),
            },
            Request::Write {
                handle,
                offset,
                data,
            } => Self::Write {
                file: file(handle)?,
                offset,
                data,
            },
            Request::ReadDirectory(name) => match handles.get(name)? {
                Handle::Directory(directory) => Self::List(directory),
                Handle::File(_) => return None,
            },
            Request::HandleStat(name) => Self::Stat(handles.get(name)?),
            Request::HandleSetStat(name, changes) => Self::SetStat(handles.get(name)?, changes),
            Request::HandleSpace(name) => Self::Space(handles.get(name)?),
            Request::Sync(name) => Self::Sync(handles.get(name)?),
            Request::Close(name) => Self::Close(handles.remove(name)?),
            named => Self::Named(named),
        })
    }

    /// What it looks at and changes.
    pub(crate) fn access(&self) -> Access {
        match self {
            Self::Named(request) => named(request),
            Self::Read { file, .. } => Access::Read(file.id),
            Self::Write { file, .. } => Access::Write(file.id),
            Self::Stat(handle) => match handle {
                Handle::File(file) => Access::Read(file.id),
                Handle::Directory(_) => Access::Look,
            },
            Self::SetStat(..) => Access::Contents,
            Self::List(directory) => Access::List(directory.id),
            Self::Sync(handle) => Access::Sync(id(handle)),
            Self::Close(Handle::File(file)) if file.writable => Access::Write(file.id),
            Self::Close(_) | Self::Space(_) | Self::Answer(_) => Access::Free,
        }
    }

    /// Bytes that it may hold in memory, with its reply.
    pub(crate) fn cost(&self) -> usize {
        SMALL
            + match self {
                Self::Read { length, .. } => *length as usize,
                Self::Write { data, .. } => data.len(),
                Self::List(_) => NAMES,
                Self::Named(_) => 2 * MAX_PATH,
                _ => 0,
            }
    }
}

fn id(handle: &Handle) -> (u64, u64) {
    match handle {
        Handle::File(file) => file.id,
        Handle::Directory(directory) => directory.id,
    }
}

fn named(request: &Request) -> Access {
    match request {
        Request::Open { mode, .. } if mode.truncate => Access::Contents,
        Request::Open { mode, .. } if mode.create => Access::Names,
        Request::SetStat(..) | Request::LinkSetStat(..) => Access::Contents,
        Request::Open { .. }
        | Request::LinkStat(_)
        | Request::Stat(_)
        | Request::OpenDirectory(_)
        | Request::ReadLink(_) => Access::Look,
        Request::Remove(_)
        | Request::MakeDirectory { .. }
        | Request::RemoveDirectory(_)
        | Request::Rename { .. }
        | Request::PosixRename { .. }
        | Request::SymbolicLink { .. }
        | Request::HardLink { .. } => Access::Names,
        _ => Access::Free,
    }
}
