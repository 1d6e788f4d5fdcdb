//! A writer of ISO 9660 volumes with Rock Ridge names and modes, and without Joliet: what cloud-init and Linux read.
//!
//! The volume is written in one pass from front to back, so that a file of unknown length (a gzip stream) needs no buffer:
//!
//! | blocks | content |
//! |---|---|
//! | 0-15 | nothing (the system area) |
//! | 16, 17 | volume descriptors, written last: a volume that was cut short is no volume |
//! | 18 | nothing: where empty files lie, since readers take a file at a directory's place for that directory |
//! | 19… | the files' bytes, in the order of their paths |
//! | … | the directories, then the two path tables |
//!
//! Times, owners and order are fixed, so the same files give the same bytes. Formats: ECMA-119 (ISO 9660), SUSP 1.10 and
//! RRIP 1.10 (Rock Ridge).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::files::{Entry, Source};

mod descriptor;
mod directory;
mod field;
mod tree;

pub use tree::LayoutError;

use field::{BLOCK, BLOCK_BYTES, blocks};
use tree::{Extent, Tree};

/// Where empty files lie.
const EMPTY_BLOCK: u32 = 18;

/// The first block with bytes of files.
const FIRST_DATA_BLOCK: u32 = EMPTY_BLOCK + 1;

/// Smallest volume: libarchive looks at 24 blocks before it calls bytes a volume.
const MIN_BLOCKS: u32 = 24;

/// What went wrong while a volume was written.
#[derive(Debug, thiserror::Error)]
pub enum IsoError {
    /// The files do not fit the format.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A file of the host could not be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The volume could not be written.
    #[error("cannot write the volume")]
    Write(#[source] io::Error),
}

/// Writes the volume and leaves `out` at its end.
pub fn write(
    out: &mut (impl Write + Seek),
    label: &str,
    files: &BTreeMap<String, Entry>,
) -> Result<(), IsoError> {
    let mut tree = Tree::plan(files)?;
    let mut out = Blocks { out, next: 0 };
    out.zeros(FIRST_DATA_BLOCK)?;
    for (file, (name, entry)) in tree.files.iter_mut().zip(files) {
        file.extent = out.file(name, &entry.source)?;
    }
    let mut next = out.next;
    for directory in &mut tree.directories {
        directory.extent.block = next;
        next += blocks(directory.extent.bytes);
    }
    for index in 0..tree.directories.len() {
        out.all(&directory::records(&tree, index))?;
    }
    let path_table = directory::PathTable::new(&tree);
    let little = out.next;
    out.all(&path_table.little_endian)?;
    let big = out.next;
    out.all(&path_table.big_endian)?;
    out.zeros(MIN_BLOCKS.saturating_sub(out.next))?;
    let end = out.next;

    let descriptor = descriptor::Primary {
        label,
        blocks: end,
        root: tree.directories[0].extent,
        path_table_bytes: path_table.little_endian.len(),
        path_tables: (little, big),
    };
    out.seek(16)?;
    out.all(&descriptor.encode())?;
    out.all(&descriptor::terminator())?;
    out.seek(end)
}

/// The volume under construction, in whole blocks.
struct Blocks<'a, W> {
    out: &'a mut W,
    next: u32,
}

impl<W: Write + Seek> Blocks<'_, W> {
    fn seek(&mut self, block: u32) -> Result<(), IsoError> {
        let at = SeekFrom::Start(u64::from(block) * u64::from(BLOCK_BYTES));
        self.out.seek(at).map_err(IsoError::Write)?;
        self.next = block;
        Ok(())
    }

    fn zeros(&mut self, count: u32) -> Result<(), IsoError> {
        for _ in 0..count {
            self.all(&[0; BLOCK])?;
        }
        Ok(())
    }

    /// Writes bytes and fills up the last block.
    fn all(&mut self, bytes: &[u8]) -> Result<(), IsoError> {
        self.out.write_all(bytes).map_err(IsoError::Write)?;
        self.end_file(bytes.len() as u64)
    }

    /// Fills up the last block of something of this length.
    fn end_file(&mut self, bytes: u64) -> Result<(), IsoError> {
        let padded = bytes.next_multiple_of(BLOCK_BYTES.into());
        let padding = usize::try_from(padded - bytes).unwrap_or_default();
        self.out
            .write_all(&[0; BLOCK][..padding])
            .map_err(IsoError::Write)?;
        self.next = u32::try_from(padded / u64::from(BLOCK_BYTES))
            .ok()
            .and_then(|count| self.next.checked_add(count))
            .ok_or(LayoutError::VolumeTooLarge)?;
        Ok(())
    }

    fn file(&mut self, name: &str, source: &Source) -> Result<Extent, IsoError> {
        let block = self.next;
        let bytes = match source {
            Source::Text(text) => {
                self.out
                    .write_all(text.as_bytes())
                    .map_err(IsoError::Write)?;
                text.len() as u64
            }
            Source::File(path) => {
                let file = open(path)?;
                // Known beforehand, so refused before gigabytes are copied.
                let length = file.metadata().map_err(read_error(path))?.len();
                check_size(name, length)?;
                self.stream(name, path, file)?
            }
            Source::Gzip(path) => self.stream(name, path, MultiGzDecoder::new(open(path)?))?,
        };
        self.end_file(bytes)?;
        let bytes = check_size(name, bytes)?;
        let block = if bytes == 0 { EMPTY_BLOCK } else { block };
        Ok(Extent { block, bytes })
    }

    fn stream(&mut self, name: &str, path: &Path, mut input: impl Read) -> Result<u64, IsoError> {
        let mut buffer = vec![0; 64 * 1024];
        let mut total = 0_u64;
        loop {
            let count = match input.read(&mut buffer) {
                Ok(0) => return Ok(total),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read_error(path)(error)),
            };
            total += count as u64;
            check_size(name, total)?;
            self.out
                .write_all(&buffer[..count])
                .map_err(IsoError::Write)?;
        }
    }
}

fn open(path: &Path) -> Result<File, IsoError> {
    File::open(path).map_err(read_error(path))
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> IsoError + '_ {
    move |source| IsoError::Read {
        path: path.to_path_buf(),
        source,
    }
}

/// One extent has a 32-bit length.
fn check_size(name: &str, bytes: u64) -> Result<u32, LayoutError> {
    u32::try_from(bytes).map_err(|_| LayoutError::FileTooLarge {
        name: name.to_owned(),
    })
}
