//! The building blocks of ISO 9660 records: numbers in both byte orders, padded texts, fixed dates.

/// Bytes of a logical block.
pub(super) const BLOCK: usize = BLOCK_BYTES as usize;

/// The same as it stands in the volume descriptor.
pub(super) const BLOCK_BYTES: u16 = 2048;

/// How many blocks so many bytes take.
pub(super) fn blocks(bytes: u32) -> u32 {
    bytes.div_ceil(BLOCK_BYTES.into())
}

/// A 32-bit number, little-endian and then big-endian (ECMA-119 7.3.3).
pub(super) fn both_u32(value: u32) -> [u8; 8] {
    let mut field = [0; 8];
    field[..4].copy_from_slice(&value.to_le_bytes());
    field[4..].copy_from_slice(&value.to_be_bytes());
    field
}

/// A 16-bit number, little-endian and then big-endian (ECMA-119 7.2.3).
pub(super) fn both_u16(value: u16) -> [u8; 4] {
    let [low, high] = value.to_le_bytes();
    [low, high, high, low]
}

/// 1980-01-01 00:00:00 UTC in a directory record (ECMA-119 9.1.5). The same for all, so that the same files give the same bytes.
pub(super) const RECORD_DATE: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];

/// The same date in a volume descriptor (ECMA-119 8.4.26.1).
pub(super) const VOLUME_DATE: &[u8; 17] = b"1980010100000000\0";

/// No date.
pub(super) const NO_DATE: &[u8; 17] = b"0000000000000000\0";

/// A text filled up with spaces, cut where the field ends.
pub(super) fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    let length = text.len().min(N);
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
    field
}
