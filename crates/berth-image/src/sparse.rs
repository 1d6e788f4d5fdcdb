//! Copies that keep holes: a disk of 100 GiB with 1 GiB in it takes 1 GiB.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::path::Path;

use crate::error::ImageError;
use crate::progress::{Reporter, Step};
use crate::staged::Staged;
use crate::sys;

const BLOCK: usize = 4096;
const BUFFER: usize = 1 << 20;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Writes to a fresh file and leaves holes where zeros would be.
#[derive(Debug)]
pub struct SparseWriter {
    file: File,
    position: u64,
    /// The file's own offset lags behind after a hole.
    seek_first: bool,
}

impl SparseWriter {
    /// Writes to `file`, which is empty.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self {
            file,
            position: 0,
            seek_first: false,
        }
    }

    /// Leaves a hole up to `position`.
    fn skip_to(&mut self, position: u64) {
        self.position = position;
        self.seek_first = true;
    }

    /// Ends the file where the content ends, also when that is a hole.
    pub fn finish(self) -> io::Result<()> {
        self.file.set_len(self.position)
    }
}

impl Write for SparseWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_zero = |block: &[u8]| block == &ZEROS[..block.len()];
        let Some(first) = bytes.chunks(BLOCK).next() else {
            return Ok(0);
        };
        let hole = is_zero(first);
        let run: usize = bytes
            .chunks(BLOCK)
            .take_while(|block| is_zero(block) == hole)
            .map(<[u8]>::len)
            .sum();
        if hole {
            self.skip_to(self.position + run as u64);
        } else {
            if std::mem::take(&mut self.seek_first) {
                self.file.seek(SeekFrom::Start(self.position))?;
            }
            self.file.write_all(&bytes[..run])?;
            self.position += run as u64;
        }
        Ok(run)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Copies `from` into a staged file: shares its blocks where the file system can, else copies what is not a hole.
pub(crate) fn copy(
    from: &Path,
    staged: &Staged,
    reporter: &mut Reporter<'_, '_>,
) -> Result<(), ImageError> {
    let source = File::open(from).map_err(ImageError::io("open", from))?;
    let target = staged.create()?;
    let cloned = sys::clone_file(&source, &target);
    if cloned.map_err(ImageError::io("clone", from))? {
        return Ok(());
    }
    let len = source
        .metadata()
        .map_err(ImageError::io("inspect", from))?
        .len();
    let mut writer = SparseWriter::new(target);
    let mut offset = 0;
    while let Some(data) =
        sys::next_data(&source, offset, len).map_err(ImageError::io("read", from))?
    {
        writer.skip_to(data.start);
        copy_range(
            &source,
            from,
            data.clone(),
            &mut writer,
            staged,
            &mut |done| reporter.at(Step::Unpacking, done, Some(len)),
        )?;
        offset = data.end;
    }
    writer.skip_to(len);
    writer
        .finish()
        .map_err(ImageError::io("write", staged.path()))
}

fn copy_range(
    mut source: &File,
    from: &Path,
    range: std::ops::Range<u64>,
    writer: &mut SparseWriter,
    staged: &Staged,
    tick: &mut dyn FnMut(u64) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    source
        .seek(SeekFrom::Start(range.start))
        .map_err(ImageError::io("read", from))?;
    let mut rest = source.take(range.end - range.start);
    let mut buffer = vec![0; BUFFER];
    let mut done = range.start;
    loop {
        let count = rest
            .read(&mut buffer)
            .map_err(ImageError::io("read", from))?;
        if count == 0 {
            return Ok(());
        }
        writer
            .write_all(&buffer[..count])
            .map_err(ImageError::io("write", staged.path()))?;
        done += count as u64;
        tick(done)?;
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    fn content() -> Vec<u8> {
        let mut bytes = vec![0; 3 * BLOCK];
        bytes.extend_from_slice(b"tail that ends within a block");
        bytes.extend_from_slice(&[0; 2 * BLOCK]);
        bytes.extend_from_slice(&[7; BLOCK + 1]);
        bytes.extend_from_slice(&[0; 5]);
        bytes
    }

    #[test]
    fn holes_read_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        for piece in [1, 100, BLOCK, BUFFER] {
            let path = dir.path().join(piece.to_string());
            let mut writer = SparseWriter::new(File::create(&path).unwrap());
            for part in content().chunks(piece) {
                writer.write_all(part).unwrap();
            }
            writer.finish().unwrap();
            assert!(
                std::fs::read(&path).unwrap() == content(),
                "pieces of {piece}"
            );
        }
    }

    #[test]
    fn a_copy_is_equal_and_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        let mut file = File::create(&from).unwrap();
        file.set_len(1 << 32).unwrap();
        file.seek(SeekFrom::Start(1 << 31)).unwrap();
        file.write_all(b"in the middle").unwrap();

        let to = dir.path().join("to");
        let staged = Staged::new(&to).unwrap();
        let mut watch = |_: &crate::progress::Progress<'_>| ControlFlow::Continue(());
        copy(&from, &staged, &mut Reporter::new("x", &mut watch)).unwrap();
        staged.commit().unwrap();

        let mut copy = File::open(&to).unwrap();
        assert_eq!(copy.metadata().unwrap().len(), 1 << 32);
        copy.seek(SeekFrom::Start(1 << 31)).unwrap();
        let mut text = [0; 13];
        copy.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"in the middle");
        #[cfg(target_os = "linux")]
        {
            use std::os::linux::fs::MetadataExt as _;
            assert!(copy.metadata().unwrap().st_blocks() * 512 < 1 << 20);
        }
    }
}
