//! Attributes of files as they travel.

use super::request::{Malformed, Words};

const SIZE: u32 = 0x1;
const OWNER: u32 = 0x2;
const PERMISSIONS: u32 = 0x4;
const TIMES: u32 = 0x8;
const EXTENDED: u32 = 0x8000_0000;

/// Length of [`Attributes`] on the wire, in bytes.
pub(crate) const ATTRIBUTES_LEN: usize = 32;

/// What is told about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Attributes {
    pub(crate) size: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Type and permissions.
    pub(crate) mode: u32,
    /// Seconds since 1970.
    pub(crate) accessed: u32,
    /// Seconds since 1970.
    pub(crate) modified: u32,
}

impl Attributes {
    /// Appends them.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; ATTRIBUTES_LEN];
        bytes[..4].copy_from_slice(&(SIZE | OWNER | PERMISSIONS | TIMES).to_be_bytes());
        bytes[4..12].copy_from_slice(&self.size.to_be_bytes());
        let words = [self.uid, self.gid, self.mode, self.accessed, self.modified];
        for (place, word) in bytes[12..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(&bytes);
    }
}

/// What a client wants changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Changes {
    pub(crate) size: Option<u64>,
    /// User and group.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) permissions: Option<u32>,
    /// Access and modification, in seconds since 1970.
    pub(crate) times: Option<(u32, u32)>,
}

impl Changes {
    /// Takes them off the front. Extended attributes are passed over, as OpenSSH does.
    pub(crate) fn parse(words: &mut Words<'_>) -> Result<Self, Malformed> {
        let flags = words.u32()?;
        let mut changes = Self::default();
        if flags & SIZE != 0 {
            changes.size = Some(words.u64()?);
        }
        if flags & OWNER != 0 {
            changes.owner = Some((words.u32()?, words.u32()?));
        }
        if flags & PERMISSIONS != 0 {
            changes.permissions = Some(words.u32()?);
        }
        if flags & TIMES != 0 {
            changes.times = Some((words.u32()?, words.u32()?));
        }
        if flags & EXTENDED != 0 {
            for _ in 0..words.u32()? {
                words.string()?;
                words.string()?;
            }
        }
        Ok(changes)
    }
}
