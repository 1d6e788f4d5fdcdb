//! The volume descriptors (ECMA-119 8).

use super::directory::root_record;
use super::field::{BLOCK, BLOCK_BYTES, NO_DATE, VOLUME_DATE, both_u16, both_u32, padded};
use super::tree::Extent;

/// What the primary volume descriptor says.
pub(super) struct Primary<'a> {
    pub(super) label: &'a str,
    pub(super) blocks: u32,
    pub(super) root: Extent,
    pub(super) path_table_bytes: usize,
    /// Blocks of the little-endian and of the big-endian path table.
    pub(super) path_tables: (u32, u32),
}

impl Primary<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let path_table_bytes = u32::try_from(self.path_table_bytes).unwrap_or(u32::MAX);
        let (little, big) = self.path_tables;
        let mut block = Vec::with_capacity(BLOCK);
        block.extend(header(1));
        block.push(0);
        block.extend(padded::<32>("LINUX"));
        block.extend(padded::<32>(self.label));
        block.extend([0; 8]);
        block.extend(both_u32(self.blocks));
        block.extend([0; 32]);
        block.extend(both_u16(1)); // volumes in the set
        block.extend(both_u16(1)); // number of this one
        block.extend(both_u16(BLOCK_BYTES));
        block.extend(both_u32(path_table_bytes));
        block.extend(little.to_le_bytes());
        block.extend([0; 4]); // no second copy
        block.extend(big.to_be_bytes());
        block.extend([0; 4]);
        block.extend(root_record(self.root));
        block.extend(padded::<128>("")); // volume set
        block.extend(padded::<128>("")); // publisher
        block.extend(padded::<128>("")); // preparer
        block.extend(padded::<128>("BERTH")); // application
        block.extend(padded::<111>("")); // copyright, abstract and bibliographic files
        block.extend(VOLUME_DATE); // created
        block.extend(VOLUME_DATE); // modified
        block.extend(NO_DATE); // expires
        block.extend(NO_DATE); // effective
        block.push(1); // version of the file structure
        block.resize(BLOCK, 0);
        block
    }
}

/// The descriptor that ends the set.
pub(super) fn terminator() -> Vec<u8> {
    let mut block = header(255).to_vec();
    block.resize(BLOCK, 0);
    block
}

fn header(kind: u8) -> [u8; 7] {
    [kind, b'C', b'D', b'0', b'0', b'1', 1]
}
