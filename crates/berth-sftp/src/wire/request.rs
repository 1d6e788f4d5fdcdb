//! What a client asks for.

use bytes::Bytes;

use super::attributes::Changes;
use super::{MAX_PACKET, extension, fxp};
use crate::path::{MAX_PATH, SharePath};

/// A request whose packet is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The bytes of a packet, taken off its front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words<'packet>(&'packet [u8]);

impl<'packet> Words<'packet> {
    fn take(&mut self, length: usize) -> Result<&'packet [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(u32::from_be_bytes(bytes))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed)?;
        Ok(u64::from_be_bytes(bytes))
    }

    pub(crate) fn string(&mut self) -> Result<&'packet [u8], Malformed> {
        let length = self.u32()?;
        if length > MAX_PACKET {
            return Err(Malformed);
        }
        self.take(length as usize)
    }

    fn path(&mut self) -> Result<SharePath, Malformed> {
        SharePath::parse(self.string()?).ok_or(Malformed)
    }

    fn handle(&mut self) -> Result<HandleName, Malformed> {
        Ok(HandleName::parse(self.string()?))
    }
}

/// A handle as a client names it; any string may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HandleName(pub(crate) Option<u64>);

impl HandleName {
    fn parse(bytes: &[u8]) -> Self {
        Self(bytes.try_into().ok().map(u64::from_be_bytes))
    }
}

/// How a file is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "six flags of the protocol, in any mixture"
)]
pub(crate) struct OpenMode {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) append: bool,
    pub(crate) create: bool,
    pub(crate) truncate: bool,
    pub(crate) exclusive: bool,
}

impl OpenMode {
    fn parse(flags: u32) -> Self {
        let has = |bit: u32| flags & bit != 0;
        Self {
            read: has(0x1) || !has(0x2),
            write: has(0x2),
            append: has(0x4),
            create: has(0x8),
            truncate: has(0x10),
            exclusive: has(0x20),
        }
    }

    /// Whether the share could look different afterwards.
    pub(crate) fn changes(self) -> bool {
        self.write || self.create || self.truncate
    }
}

/// What is asked for. Handles are as the client names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Open {
        path: SharePath,
        mode: OpenMode,
        permissions: Option<u32>,
    },
    Close(HandleName),
    Read {
        handle: HandleName,
        offset: u64,
        length: u32,
    },
    Write {
        handle: HandleName,
        offset: u64,
        data: Bytes,
    },
    LinkStat(SharePath),
    Stat(SharePath),
    HandleStat(HandleName),
    SetStat(SharePath, Changes),
    LinkSetStat(SharePath, Changes),
    HandleSetStat(HandleName, Changes),
    OpenDirectory(SharePath),
    ReadDirectory(HandleName),
    Remove(SharePath),
    MakeDirectory {
        path: SharePath,
        permissions: Option<u32>,
    },
    RemoveDirectory(SharePath),
    RealPath(SharePath),
    /// Fails if the new name is taken.
    Rename {
        from: SharePath,
        to: SharePath,
    },
    /// Replaces what has the new name.
    PosixRename {
        from: SharePath,
        to: SharePath,
    },
    ReadLink(SharePath),
    /// The target is any text; it means nothing before somebody follows the link.
    SymbolicLink {
        target: Box<[u8]>,
        link: SharePath,
    },
    HardLink {
        from: SharePath,
        to: SharePath,
    },
    Space(SharePath),
    HandleSpace(HandleName),
    Sync(HandleName),
    Limits,
    Unsupported,
}

/// Data shorter than this is copied, so that it does not keep a whole buffer alive, in bytes.
const COPIED: usize = 4096;

/// Takes a packet apart, without its length. The number of the request is there even when the rest is malformed; a packet without
/// one has no answer.
pub(crate) fn parse(packet: &Bytes) -> Option<(u32, Result<Request, Malformed>)> {
    let (kind, rest) = packet.split_first()?;
    let mut words = Words(rest);
    let id = words.u32().ok()?;
    Some((id, body(*kind, &mut words, packet)))
}

fn body(kind: u8, words: &mut Words<'_>, packet: &Bytes) -> Result<Request, Malformed> {
    Ok(match kind {
        fxp::OPEN => Request::Open {
            path: words.path()?,
            mode: OpenMode::parse(words.u32()?),
            permissions: Changes::parse(words)?.permissions,
        },
        fxp::CLOSE => Request::Close(words.handle()?),
        fxp::READ => Request::Read {
            handle: words.handle()?,
            offset: words.u64()?,
            length: words.u32()?,
        },
        fxp::WRITE => Request::Write {
            handle: words.handle()?,
            offset: words.u64()?,
            data: match words.string()? {
                short if short.len() < COPIED => Bytes::copy_from_slice(short),
                long => packet.slice_ref(long),
            },
        },
        fxp::LSTAT => Request::LinkStat(words.path()?),
        fxp::STAT => Request::Stat(words.path()?),
        fxp::FSTAT => Request::HandleStat(words.handle()?),
        fxp::SETSTAT => Request::SetStat(words.path()?, Changes::parse(words)?),
        fxp::FSETSTAT => Request::HandleSetStat(words.handle()?, Changes::parse(words)?),
        fxp::OPENDIR => Request::OpenDirectory(words.path()?),
        fxp::READDIR => Request::ReadDirectory(words.handle()?),
        fxp::REMOVE => Request::Remove(words.path()?),
        fxp::MKDIR => Request::MakeDirectory {
            path: words.path()?,
            permissions: Changes::parse(words)?.permissions,
        },
        fxp::RMDIR => Request::RemoveDirectory(words.path()?),
        fxp::REALPATH => Request::RealPath(words.path()?),
        fxp::RENAME => Request::Rename {
            from: words.path()?,
            to: words.path()?,
        },
        fxp::READLINK => Request::ReadLink(words.path()?),
        // The draft has them the other way round; OpenSSH and all that speak to it have the target first.
        fxp::SYMLINK => Request::SymbolicLink {
            target: target(words.string()?)?,
            link: words.path()?,
        },
        fxp::EXTENDED => extended(words)?,
        _ => Request::Unsupported,
    })
}

fn extended(words: &mut Words<'_>) -> Result<Request, Malformed> {
    Ok(match words.string()? {
        extension::POSIX_RENAME => Request::PosixRename {
            from: words.path()?,
            to: words.path()?,
        },
        extension::HARDLINK => Request::HardLink {
            from: words.path()?,
            to: words.path()?,
        },
        extension::STATVFS => Request::Space(words.path()?),
        extension::FSTATVFS => Request::HandleSpace(words.handle()?),
        extension::FSYNC => Request::Sync(words.handle()?),
        extension::LSETSTAT => Request::LinkSetStat(words.path()?, Changes::parse(words)?),
        extension::LIMITS => Request::Limits,
        _ => Request::Unsupported,
    })
}

fn target(bytes: &[u8]) -> Result<Box<[u8]>, Malformed> {
    let possible = !bytes.is_empty() && bytes.len() <= MAX_PATH && !bytes.contains(&0);
    possible.then(|| bytes.into()).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::attributes::{ATTRIBUTES_LEN, Attributes};
    use super::*;

    fn string(bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap();
        [length.to_be_bytes().as_slice(), bytes].concat()
    }

    fn packet(kind: u8, id: u32, body: &[Vec<u8>]) -> Bytes {
        let whole = [vec![kind], id.to_be_bytes().to_vec(), body.concat()];
        whole.concat().into()
    }

    fn path(bytes: &[u8]) -> SharePath {
        SharePath::parse(bytes).unwrap()
    }

    #[test]
    fn packets_without_a_number_have_no_answer() {
        for length in 0..5 {
            assert_eq!(parse(&Bytes::from(vec![fxp::LSTAT; length])), None);
        }
    }

    #[test]
    fn extended_attributes_are_passed_over() {
        let words = |count: u32| {
            let numbers = [0x8000_0004, 0o640, count].map(u32::to_be_bytes);
            [string(b"f"), numbers.concat(), string(b"a"), string(b"b")]
        };
        let (_, request) = parse(&packet(fxp::SETSTAT, 1, &words(1))).unwrap();
        let changes = Changes {
            permissions: Some(0o640),
            ..Changes::default()
        };
        assert_eq!(request, Ok(Request::SetStat(path(b"f"), changes)));
        let (_, request) = parse(&packet(fxp::SETSTAT, 1, &words(u32::MAX))).unwrap();
        assert_eq!(request, Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart(
            kind: u8,
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let whole = [vec![kind], bytes].concat();
            let number = whole.get(1..5).map(|id| u32::from_be_bytes(id.try_into().unwrap()));
            let parsed = parse(&whole.into());
            prop_assert_eq!(parsed.map(|(id, _)| id), number);
        }

        #[test]
        fn requests_arrive_as_they_were_sent(
            id: u32,
            offset: u64,
            length: u32,
            handle: u64,
            data in prop::collection::vec(any::<u8>(), 0..6000),
            name in "[a-z/]{0,40}",
        ) {
            let named = string(&handle.to_be_bytes());
            let handle = HandleName(Some(handle));
            let at = offset.to_be_bytes().to_vec();
            let read = [named.clone(), at.clone(), length.to_be_bytes().to_vec()];
            let write = [named.clone(), at, string(&data)];
            let words = [string(name.as_bytes()), string(b"/b/../c")];
            let data = Bytes::from(data);
            let (from, to) = (path(name.as_bytes()), path(b"c"));
            for (kind, body, wanted) in [
                (fxp::READ, read.to_vec(), Request::Read { handle, offset, length }),
                (fxp::WRITE, write.to_vec(), Request::Write { handle, offset, data }),
                (fxp::CLOSE, vec![named], Request::Close(handle)),
                (fxp::LSTAT, vec![words[0].clone()], Request::LinkStat(from.clone())),
                (fxp::RENAME, words.to_vec(), Request::Rename { from, to }),
            ] {
                let whole = packet(kind, id, &body);
                prop_assert_eq!(parse(&whole), Some((id, Ok(wanted))));
                // Cut anywhere, it is never taken for something else.
                for end in 5..whole.len().min(100) {
                    prop_assert_eq!(parse(&whole.slice(..end)), Some((id, Err(Malformed))));
                }
            }
        }

        #[test]
        fn attributes_go_there_and_back(
            size: u64,
            uid: u32,
            gid: u32,
            mode: u32,
            accessed: u32,
            modified: u32,
        ) {
            let mut bytes = Vec::new();
            Attributes { size, uid, gid, mode, accessed, modified }.put(&mut bytes);
            prop_assert_eq!(bytes.len(), ATTRIBUTES_LEN);
            let mut words = Words(&bytes);
            let changes = Changes::parse(&mut words).unwrap();
            prop_assert!(words.0.is_empty());
            prop_assert_eq!(changes, Changes {
                size: Some(size),
                owner: Some((uid, gid)),
                permissions: Some(mode),
                times: Some((accessed, modified)),
            });
        }
    }
}
