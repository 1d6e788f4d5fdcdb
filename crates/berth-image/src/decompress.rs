//! Unpacking gzip, bzip2, xz and zstd, without external programs.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::path::Path;

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::error::ImageError;
use crate::progress::{Reporter, Step};
use crate::sparse::{self, SparseWriter};
use crate::staged::Staged;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// Judges by the last extension of the location, else by the first bytes.
    #[must_use]
    pub fn of(location: &str, head: &[u8]) -> Option<Self> {
        let extension =
            Path::new(location.split(['?', '#']).next().unwrap_or(location)).extension();
        match extension.and_then(|extension| extension.to_str()) {
            Some("gz") => return Some(Self::Gzip),
            Some("bz2") => return Some(Self::Bzip2),
            Some("xz") => return Some(Self::Xz),
            Some("zst") => return Some(Self::Zstd),
            _ => {}
        }
        if head.starts_with(&[0x1f, 0x8b]) {
            Some(Self::Gzip)
        } else if head.starts_with(b"BZh") {
            Some(Self::Bzip2)
        } else if head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            Some(Self::Xz)
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Some(Self::Zstd)
        } else {
            None
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }
}

/// Puts the content of `packed` into a staged file, unpacked if it is compressed.
pub(crate) fn unpack(
    packed: &Path,
    staged: &Staged,
    reporter: &mut Reporter<'_, '_>,
) -> Result<(), ImageError> {
    let mut file = File::open(packed).map_err(ImageError::io("open", packed))?;
    let mut head = Vec::new();
    (&mut file)
        .take(6)
        .read_to_end(&mut head)
        .map_err(ImageError::io("read", packed))?;
    let Some(compression) = Compression::of(reporter.location(), &head) else {
        return sparse::copy(packed, staged, reporter);
    };
    let total = file
        .metadata()
        .map_err(ImageError::io("inspect", packed))?
        .len();
    io::Seek::rewind(&mut file).map_err(ImageError::io("read", packed))?;
    let read = std::cell::Cell::new(0);
    let counted = BufReader::with_capacity(1 << 18, Counted { file, read: &read });
    let mut decoder: Box<dyn Read + '_> = match compression {
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(counted)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(counted)),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new(counted, true)),
        Compression::Zstd => Box::new(ZstdFrames::new(counted)),
    };
    let mut writer = SparseWriter::new(staged.create()?);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = decoder
            .read(&mut buffer)
            .map_err(|source| ImageError::Unpack {
                path: packed.to_owned(),
                kind: compression.name(),
                source,
            })?;
        if count == 0 {
            break;
        }
        writer
            .write_all(&buffer[..count])
            .map_err(ImageError::io("write", staged.path()))?;
        reporter.at(Step::Unpacking, read.get(), Some(total))?;
    }
    writer
        .finish()
        .map_err(ImageError::io("write", staged.path()))
}

/// Counts what the decoder has taken, for the progress display.
struct Counted<'a> {
    file: File,
    read: &'a std::cell::Cell<u64>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

/// All frames of a Zstandard file, one after the other; skippable frames are skipped, checksums checked.
struct ZstdFrames<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> ZstdFrames<R> {
    fn new(source: R) -> Self {
        Self {
            source,
            decoder: FrameDecoder::new(),
            in_frame: false,
        }
    }

    /// Reads the next frame's header. `false`: there is none.
    fn open_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let skipped = io::copy(&mut (&mut self.source).take(length), &mut io::sink())?;
                    if skipped < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }

    fn check_frame(&self) -> io::Result<()> {
        match self.decoder.get_checksum_from_data() {
            Some(want) if self.decoder.get_calculated_checksum() != Some(want) => Err(
                io::Error::new(io::ErrorKind::InvalidData, "wrong checksum of a frame"),
            ),
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame {
                if !self.open_frame()? {
                    return Ok(0);
                }
                self.in_frame = true;
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.decoder.is_finished() {
                self.check_frame()?;
                self.in_frame = false;
            } else {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_first_then_magic() {
        for (location, head, want) in [
            (
                "https://x/a.img.gz?sig=1.xz",
                &b""[..],
                Some(Compression::Gzip),
            ),
            ("/x/a.qcow2", b"QFI\xfb", None),
            ("/x/a", &[0x1f, 0x8b, 8], Some(Compression::Gzip)),
            ("/x/a", b"BZh9", Some(Compression::Bzip2)),
            ("/x/a", b"\xfd7zXZ\0", Some(Compression::Xz)),
            ("/x/a", b"\x28\xb5\x2f\xfd", Some(Compression::Zstd)),
            ("/x/a.zst", b"", Some(Compression::Zstd)),
        ] {
            assert_eq!(Compression::of(location, head), want, "{location}");
        }
    }
}
