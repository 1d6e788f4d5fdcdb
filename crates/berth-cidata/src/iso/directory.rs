//! Directory records with their Rock Ridge fields (ECMA-119 9.1, SUSP 5, RRIP 4), and the path tables (ECMA-119 9.4).

use super::field::{BLOCK, RECORD_DATE, both_u16, both_u32};
use super::tree::{Child, Directory, Extent, Node, Tree};

/// Bytes of a record before its identifier.
const HEADER: usize = 33;
/// Longest record: its length is one byte, and even.
const RECORD_MAX: usize = 254;
/// Longest identifier (`12345678.123;1`).
const IDENTIFIER_MAX: usize = 14;
const POSIX_FIELD: u8 = 36;
const TIME_FIELD: u8 = 12;
const NAME_HEADER: usize = 5;

/// Longest name in bytes that a record has room for beside the other fields.
pub(super) const NAME_MAX: usize = RECORD_MAX
    - HEADER
    - IDENTIFIER_MAX
    - 1
    - POSIX_FIELD as usize
    - TIME_FIELD as usize
    - NAME_HEADER;

/// TF: the only time given is the one of the last change.
const MODIFIED: u8 = 2;
const DIRECTORY_FLAG: u8 = 2;
const DIRECTORY_MODE: u32 = 0o040_755;
const FILE_MODE: u32 = 0o100_644;
const PROGRAM_MODE: u32 = 0o100_755;

/// The record of the root directory in the volume descriptor: bare, without Rock Ridge.
pub(super) fn root_record(extent: Extent) -> Vec<u8> {
    record(b"\0", extent, true, &[])
}

/// All records of one directory, none of them across the end of a block.
pub(super) fn records(tree: &Tree, index: usize) -> Vec<u8> {
    let directory = &tree.directories[index];
    let parent = &tree.directories[directory.parent];
    let mut out = Vec::with_capacity(directory.extent.bytes as usize);
    push(&mut out, &own_record(directory, index == 0));
    push(
        &mut out,
        &record(
            b"\x01",
            parent.extent,
            true,
            &attributes(DIRECTORY_MODE, links(parent)),
        ),
    );
    for child in &directory.children {
        let (extent, mode, links) = match child.node {
            Node::Directory(index) => {
                let below = &tree.directories[index];
                (below.extent, DIRECTORY_MODE, links(below))
            }
            Node::File(index) => {
                let file = &tree.files[index];
                let mode = if file.executable {
                    PROGRAM_MODE
                } else {
                    FILE_MODE
                };
                (file.extent, mode, 1)
            }
        };
        push(&mut out, &child_record(child, extent, mode, links));
    }
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    out
}

/// How many bytes [`records`] takes for these children.
pub(super) fn size(children: &[Child]) -> u32 {
    let own = own_record(&Directory::default(), true).len();
    let parent = record(b"\x01", Extent::default(), true, &attributes(0, 0)).len();
    let mut bytes = own + parent;
    for child in children {
        let length = child_record(child, Extent::default(), 0, 0).len();
        if bytes % BLOCK + length > BLOCK {
            bytes = bytes.next_multiple_of(BLOCK);
        }
        bytes += length;
    }
    u32::try_from(bytes.next_multiple_of(BLOCK)).unwrap_or(u32::MAX)
}

/// Appends a record, in the next block if this one has no room.
fn push(out: &mut Vec<u8>, record: &[u8]) {
    if out.len() % BLOCK + record.len() > BLOCK {
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.extend(record);
}

/// The `.` entry. The root's also says that the volume has Rock Ridge.
fn own_record(directory: &Directory, root: bool) -> Vec<u8> {
    let mut fields = Vec::new();
    if root {
        // SP: system use fields follow, without a gap.
        fields.extend([b'S', b'P', 7, 1, 0xBE, 0xEF, 0]);
    }
    fields.extend(attributes(DIRECTORY_MODE, links(directory)));
    if root {
        // ER: the extension's name, without description and source.
        fields.extend([b'E', b'R', 18, 1, 10, 0, 0, 1]);
        fields.extend(b"RRIP_1991A");
    }
    record(b"\0", directory.extent, true, &fields)
}

fn child_record(child: &Child, extent: Extent, mode: u32, links: u32) -> Vec<u8> {
    let mut fields = attributes(mode, links);
    let name = child.name.as_bytes();
    fields.extend([b'N', b'M', length_byte(NAME_HEADER + name.len()), 1, 0]);
    fields.extend(name);
    let directory = matches!(child.node, Node::Directory(_));
    let identifier = child.short.identifier(child.node);
    record(identifier.as_bytes(), extent, directory, &fields)
}

/// PX (mode, links, owner root) and TF (time of change).
fn attributes(mode: u32, links: u32) -> Vec<u8> {
    let mut fields = Vec::with_capacity(usize::from(POSIX_FIELD + TIME_FIELD));
    fields.extend([b'P', b'X', POSIX_FIELD, 1]);
    for number in [mode, links, 0, 0] {
        fields.extend(both_u32(number));
    }
    fields.extend([b'T', b'F', TIME_FIELD, 1, MODIFIED]);
    fields.extend(RECORD_DATE);
    fields
}

fn links(directory: &Directory) -> u32 {
    let below = directory.children.iter();
    let below = below.filter(|child| matches!(child.node, Node::Directory(_)));
    2 + u32::try_from(below.count()).unwrap_or(u32::MAX - 2)
}

fn record(identifier: &[u8], extent: Extent, directory: bool, fields: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 2];
    out.extend(both_u32(extent.block));
    out.extend(both_u32(extent.bytes));
    out.extend(RECORD_DATE);
    out.push(if directory { DIRECTORY_FLAG } else { 0 });
    out.extend([0; 2]); // not interleaved
    out.extend(both_u16(1)); // number of the volume in its set
    out.push(length_byte(identifier.len()));
    out.extend(identifier);
    if out.len() % 2 == 1 {
        out.push(0);
    }
    out.extend(fields);
    if out.len() % 2 == 1 {
        out.push(0);
    }
    out[0] = length_byte(out.len());
    out
}

/// Everything in a record has a length of one byte: the planner refused the names that would make it longer.
fn length_byte(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

/// The two path tables: the same list of directories, in either byte order.
#[derive(Debug, Default)]
pub(super) struct PathTable {
    pub(super) little_endian: Vec<u8>,
    pub(super) big_endian: Vec<u8>,
}

impl PathTable {
    pub(super) fn new(tree: &Tree) -> Self {
        let mut table = Self::default();
        for (index, directory) in tree.directories.iter().enumerate() {
            let identifier = match index {
                0 => "\0".to_owned(),
                _ => directory.short.directory(),
            };
            let block = directory.extent.block;
            // The planner refused more directories than fit; numbers start at one.
            let parent = u16::try_from(directory.parent + 1).unwrap_or(u16::MAX);
            table.push(
                &identifier,
                (block.to_le_bytes(), block.to_be_bytes()),
                parent,
            );
        }
        table
    }

    fn push(&mut self, identifier: &str, (little, big): ([u8; 4], [u8; 4]), parent: u16) {
        for (out, block, parent) in [
            (&mut self.little_endian, little, parent.to_le_bytes()),
            (&mut self.big_endian, big, parent.to_be_bytes()),
        ] {
            out.push(length_byte(identifier.len()));
            out.push(0);
            out.extend(block);
            out.extend(parent);
            out.extend(identifier.as_bytes());
            if identifier.len() % 2 == 1 {
                out.push(0);
            }
        }
    }
}
