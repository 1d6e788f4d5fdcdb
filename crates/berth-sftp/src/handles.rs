//! What a client has open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fd::OwnedFd;

use crate::sys::Listing;
use crate::wire::request::HandleName;

/// A file, the same under all its names: device and number.
pub(crate) type FileId = (u64, u64);

/// An open file.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) descriptor: OwnedFd,
    pub(crate) id: FileId,
    /// Whether it could be written to.
    pub(crate) writable: bool,
    /// Whether its file system answers from memory what it has there.
    pub(crate) local: bool,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct OpenDirectory {
    pub(crate) listing: Mutex<Listing>,
    pub(crate) id: FileId,
    /// Whether its file system answers from memory what it has there.
    pub(crate) local: bool,
}

/// Either.
#[derive(Debug, Clone)]
pub(crate) enum Handle {
    File(Arc<OpenFile>),
    Directory(Arc<OpenDirectory>),
}

/// All of a client's handles, up to a limit.
#[derive(Debug)]
pub(crate) struct Handles {
    table: Mutex<Table>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Handle>,
    /// Room that was asked for and is not used yet.
    reserved: usize,
    next: u64,
}

impl Handles {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            table: Mutex::default(),
            limit,
        }
    }

    /// How many there may be.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Room for one handle, before anything is opened; `None` if the client has too many.
    pub(crate) fn reserve(&self) -> Option<Room<'_>> {
        let mut table = self.table();
        if table.open.len() + table.reserved >= self.limit {
            return None;
        }
        table.reserved += 1;
        Some(Room(self))
    }

    /// What a name stands for.
    pub(crate) fn get(&self, name: HandleName) -> Option<Handle> {
        self.table().open.get(&name.0?).cloned()
    }

    /// Forgets a name; what it stood for is closed when nobody uses it any more.
    pub(crate) fn remove(&self, name: HandleName) -> Option<Handle> {
        self.table().open.remove(&name.0?)
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for one handle.
#[derive(Debug)]
pub(crate) struct Room<'handles>(&'handles Handles);

impl Room<'_> {
    /// Fills it; returns the name. Names are not used again.
    pub(crate) fn fill(self, handle: Handle) -> u64 {
        let mut table = self.0.table();
        let name = table.next;
        table.next += 1;
        table.open.insert(name, handle);
        name
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.0.table().reserved -= 1;
    }
}
