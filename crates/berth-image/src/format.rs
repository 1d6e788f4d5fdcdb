//! What kind of disk image a file is, by its own first bytes; and the header of qcow2, read here, so that a hostile one never
//! reaches a program that would follow it.
//!
//! Nothing here or later is left to QEMU's probing: a guest can write any header into a raw disk.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use crate::error::ImageError;

/// Disk image formats that can be told apart. What has no known header is [`Format::Raw`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the formats' own names")]
pub enum Format {
    Raw,
    Qcow2,
    Vmdk,
    Vhdx,
    Vdi,
    Vpc,
    /// qcow, version 1.
    Qcow1,
    Qed,
    Parallels,
    /// Apple's sparse image.
    Asif,
    /// A VMDK that is only a text naming other files.
    VmdkDescriptor,
}

impl Format {
    /// QEMU's name of the format.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk | Self::VmdkDescriptor => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Vpc => "vpc",
            Self::Qcow1 => "qcow",
            Self::Qed => "qed",
            Self::Parallels => "parallels",
            Self::Asif => "asif",
        }
    }

    /// Looks at the first bytes of an open file (and the last, for a fixed VHD).
    pub fn sniff(file: &mut File) -> io::Result<Self> {
        let mut head = Vec::new();
        file.rewind()?;
        file.take(512).read_to_end(&mut head)?;
        let len = file.metadata()?.len();
        let mut foot = Vec::new();
        if len >= 512 {
            file.seek(SeekFrom::Start(len - 512))?;
            file.take(8).read_to_end(&mut foot)?;
        }
        Ok(Self::of(&head, &foot))
    }

    fn of(head: &[u8], foot: &[u8]) -> Self {
        let starts = |magic: &[u8]| head.starts_with(magic);
        if starts(b"QFI\xfb") {
            // Version 1 is another format; later versions share the header that is checked.
            if head.get(4..8) == Some(&[0, 0, 0, 1]) {
                Self::Qcow1
            } else {
                Self::Qcow2
            }
        } else if starts(b"KDMV") {
            Self::Vmdk
        } else if starts(b"COWD") || is_vmdk_descriptor(head) {
            Self::VmdkDescriptor
        } else if starts(b"vhdxfile") {
            Self::Vhdx
        } else if head.get(0x40..0x44) == Some(&0xbeda_107f_u32.to_le_bytes()) {
            Self::Vdi
        } else if starts(b"WithoutFreeSpace") || starts(b"WithouFreSpacExt") {
            Self::Parallels
        } else if starts(b"conectix") || foot == b"conectix" {
            Self::Vpc
        } else if starts(b"QED\0") {
            Self::Qed
        } else if starts(b"shdw") {
            Self::Asif
        } else {
            Self::Raw
        }
    }
}

/// As QEMU recognises it: after comment and empty lines, a line `version=`.
fn is_vmdk_descriptor(head: &[u8]) -> bool {
    if !head.starts_with(b"#") {
        return false;
    }
    head.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .find(|line| !line.is_empty() && !line.starts_with(b"#"))
        .is_some_and(|line| line.starts_with(b"version="))
        || head.starts_with(b"# Disk DescriptorFile")
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What matters of a qcow2 header (QEMU's `docs/interop/qcow2.txt`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qcow2Header {
    /// Size of the disk that the guest sees, in bytes.
    pub virtual_size: u64,
    /// The name of another image that this one is based on.
    pub backing: Option<String>,
    /// Its data lies in another file.
    pub external_data: bool,
    /// It needs a passphrase.
    pub encrypted: bool,
}

impl Qcow2Header {
    /// Reads the header of a file that [`Format::sniff`] called qcow2.
    pub fn read(file: &mut File, path: &Path) -> Result<Self, ImageError> {
        const EXTERNAL_DATA: u64 = 1 << 2;
        let mut head = [0; 104];
        file.rewind().map_err(ImageError::io("read", path))?;
        let refused = |why: &str| ImageError::Refused {
            path: path.to_owned(),
            why: why.to_owned(),
        };
        match file.read_exact(&mut head[..72]) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(refused("its qcow2 header is cut short"));
            }
            Err(error) => return Err(ImageError::io("read", path)(error)),
        }
        let version = be32(&head, 4);
        if !(2..=3).contains(&version) {
            return Err(refused("its qcow2 version is neither 2 nor 3"));
        }
        if version == 3 && file.read_exact(&mut head[72..104]).is_err() {
            return Err(refused("its qcow2 header is cut short"));
        }
        let features = if version == 3 { be64(&head, 72) } else { 0 };
        Ok(Self {
            virtual_size: be64(&head, 24),
            backing: backing_name(file, be64(&head, 8), be32(&head, 16))
                .map_err(|why| refused(&why))?,
            external_data: features & EXTERNAL_DATA != 0,
            encrypted: be32(&head, 32) != 0,
        })
    }
}

fn backing_name(file: &mut File, offset: u64, len: u32) -> Result<Option<String>, String> {
    const LONGEST: u32 = 1023;
    if offset == 0 {
        return Ok(None);
    }
    if len > LONGEST {
        return Err("the name of its backing file is too long".to_owned());
    }
    let mut name = vec![0; len as usize];
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_exact(&mut name))
        .map_err(|_| "the name of its backing file lies outside the file".to_owned())?;
    Ok(Some(String::from_utf8_lossy(&name).into_owned()))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(four)
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(eight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magics() {
        let mut vdi = vec![b'<'; 0x40];
        vdi.extend_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
        for (head, foot, want) in [
            (&b""[..], &b""[..], Format::Raw),
            (b"QFI\xfb\0\0\0\x03", b"", Format::Qcow2),
            (b"QFI\xfb\0\0\0\x01", b"", Format::Qcow1),
            (b"KDMV", b"", Format::Vmdk),
            (
                b"# Disk DescriptorFile\nversion=1\n",
                b"",
                Format::VmdkDescriptor,
            ),
            (b"# x\n\n  # y\nversion=1\n", b"", Format::VmdkDescriptor),
            (b"#!/bin/sh\necho version=1\n", b"", Format::Raw),
            (b"vhdxfile", b"", Format::Vhdx),
            (&vdi, b"", Format::Vdi),
            (b"\0\0\0\0", b"conectix", Format::Vpc),
            (b"QED\0", b"", Format::Qed),
            (b"shdw", b"", Format::Asif),
        ] {
            assert_eq!(Format::of(head, foot), want, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn hostile_headers_are_errors_not_panics() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.qcow2");
        let mut header = vec![0_u8; 104];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        let mut outside = header.clone();
        outside[8..16].copy_from_slice(&u64::MAX.to_be_bytes());
        outside[16..20].copy_from_slice(&5_u32.to_be_bytes());
        let mut long = outside.clone();
        long[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        let mut version = header.clone();
        version[7] = 9;
        for (bytes, why) in [
            (&header[..50], "cut short"),
            (&header[..80], "cut short"),
            (&outside, "outside the file"),
            (&long, "too long"),
            (&version, "neither 2 nor 3"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = Qcow2Header::read(&mut File::open(&path).unwrap(), &path).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
