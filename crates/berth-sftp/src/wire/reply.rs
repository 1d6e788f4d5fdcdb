//! What the server says. Every function appends one whole packet.

use super::attributes::{ATTRIBUTES_LEN, Attributes};
use super::{MAX_DATA, MAX_PACKET, Status, VERSION, extension, fxp};

/// Bytes before the data of a DATA packet.
pub(crate) const DATA_HEADER: usize = 4 + 1 + 4 + 4;

/// Begins a packet; returns where.
fn begin(out: &mut Vec<u8>, kind: u8, id: u32) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(kind);
    out.extend_from_slice(&id.to_be_bytes());
    start
}

/// Fills in the length of a packet that ends here.
fn finish(out: &mut [u8], start: usize) {
    set_word(out, start, out.len() - start - 4);
}

/// Writes a length over four bytes. Packets are far shorter than what a word can say.
fn set_word(out: &mut [u8], at: usize, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    set_word(out, at, bytes.len());
    out.extend_from_slice(bytes);
}

/// The greeting.
pub(crate) fn version(out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, fxp::VERSION]);
    out.extend_from_slice(&VERSION.to_be_bytes());
    for (name, version) in extension::OFFERED {
        string(out, name);
        string(out, version);
    }
    finish(out, start);
}

/// How it went.
pub(crate) fn status(out: &mut Vec<u8>, id: u32, status: Status) {
    let start = begin(out, fxp::STATUS, id);
    out.extend_from_slice(&(status as u32).to_be_bytes());
    string(out, status.message().as_bytes());
    string(out, b"");
    finish(out, start);
}

/// A handle.
pub(crate) fn handle(out: &mut Vec<u8>, id: u32, handle: u64) {
    let start = begin(out, fxp::HANDLE, id);
    string(out, &handle.to_be_bytes());
    finish(out, start);
}

/// Attributes.
pub(crate) fn attributes(out: &mut Vec<u8>, id: u32, attributes: &Attributes) {
    let start = begin(out, fxp::ATTRS, id);
    attributes.put(out);
    finish(out, start);
}

/// Begins data, which is to be appended; [`finish_data`] ends it.
pub(crate) fn begin_data(out: &mut Vec<u8>, id: u32) -> usize {
    let start = begin(out, fxp::DATA, id);
    out.extend_from_slice(&[0; 4]);
    start
}

/// Ends data that began at `start`.
pub(crate) fn finish_data(out: &mut [u8], start: usize) {
    set_word(
        out,
        start + DATA_HEADER - 4,
        out.len() - start - DATA_HEADER,
    );
    finish(out, start);
}

/// One name, without attributes worth the word: the answer to REALPATH and READLINK.
pub(crate) fn one_name(out: &mut Vec<u8>, id: u32, name: &[u8]) {
    let start = begin(out, fxp::NAME, id);
    out.extend_from_slice(&1_u32.to_be_bytes());
    string(out, name);
    string(out, name);
    out.extend_from_slice(&0_u32.to_be_bytes());
    finish(out, start);
}

/// Names with attributes, entry by entry.
pub(crate) struct Names<'out> {
    out: &'out mut Vec<u8>,
    start: usize,
    count: usize,
}

impl<'out> Names<'out> {
    const COUNT_AT: usize = 4 + 1 + 4;

    /// Begins a packet.
    pub(crate) fn begin(out: &'out mut Vec<u8>, id: u32) -> Self {
        let start = begin(out, fxp::NAME, id);
        out.extend_from_slice(&[0; 4]);
        Self {
            out,
            start,
            count: 0,
        }
    }

    /// Bytes that an entry takes.
    #[allow(dead_code, reason = "on Linux, entries come in batches that fit")]
    pub(crate) fn cost(name: &[u8]) -> usize {
        2 * (4 + name.len()) + ATTRIBUTES_LEN
    }

    /// Adds an entry. The long form of a name, which is for a person's eyes and which `sshfs` does not look at, is the name again:
    /// every byte of it would be carried for nobody.
    pub(crate) fn add(&mut self, name: &[u8], attributes: &Attributes) {
        self.out.reserve(Self::cost(name));
        string(self.out, name);
        string(self.out, name);
        attributes.put(self.out);
        self.count += 1;
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes the packet back.
    pub(crate) fn abandon(self) {
        self.out.truncate(self.start);
    }

    /// Ends the packet.
    pub(crate) fn finish(self) {
        set_word(self.out, self.start + Self::COUNT_AT, self.count);
        finish(self.out, self.start);
    }
}

/// Words of eight bytes: the answer of some extensions.
fn extended(out: &mut Vec<u8>, id: u32, words: &[u64]) {
    let start = begin(out, fxp::EXTENDED_REPLY, id);
    for word in words {
        out.extend_from_slice(&word.to_be_bytes());
    }
    finish(out, start);
}

/// The answer to `limits@openssh.com`.
pub(crate) fn limits(out: &mut Vec<u8>, id: u32, handles: usize) {
    let data = u64::from(MAX_DATA);
    extended(
        out,
        id,
        &[u64::from(MAX_PACKET), data, data, handles as u64],
    );
}

/// What a file system says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) block_size: u64,
    pub(crate) fragment_size: u64,
    pub(crate) blocks: u64,
    pub(crate) free: u64,
    pub(crate) available: u64,
    pub(crate) files: u64,
    pub(crate) files_free: u64,
    pub(crate) files_available: u64,
    pub(crate) read_only: bool,
    pub(crate) no_setuid: bool,
    pub(crate) name_max: u64,
}

/// The answer to `statvfs@openssh.com`. Which file system it is stays on the host: the identifier is zero.
pub(crate) fn space(out: &mut Vec<u8>, id: u32, space: &Space) {
    let flags = u64::from(space.read_only) | u64::from(space.no_setuid) << 1;
    let words = [
        space.block_size,
        space.fragment_size,
        space.blocks,
        space.free,
        space.available,
        space.files,
        space.files_free,
        space.files_available,
        0,
        flags,
        space.name_max,
    ];
    extended(out, id, &words);
}
