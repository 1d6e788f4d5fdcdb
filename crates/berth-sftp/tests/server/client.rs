//! A client that says whatever it is told to, and a server on a thread of its own.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use berth_sftp::{Caller, Ended, ServeError, Share, serve, serve_walking};
use tokio_util::sync::CancellationToken;

/// A reply that takes longer will not come.
const HANG: Duration = Duration::from_secs(60);

/// Types of packets that are used here.
pub(crate) mod fxp {
    pub(crate) const OPEN: u8 = 3;
    pub(crate) const CLOSE: u8 = 4;
    pub(crate) const READ: u8 = 5;
    pub(crate) const WRITE: u8 = 6;
    pub(crate) const LSTAT: u8 = 7;
    pub(crate) const FSTAT: u8 = 8;
    pub(crate) const SETSTAT: u8 = 9;
    pub(crate) const FSETSTAT: u8 = 10;
    pub(crate) const OPENDIR: u8 = 11;
    pub(crate) const READDIR: u8 = 12;
    pub(crate) const REMOVE: u8 = 13;
    pub(crate) const MKDIR: u8 = 14;
    pub(crate) const RMDIR: u8 = 15;
    pub(crate) const REALPATH: u8 = 16;
    pub(crate) const STAT: u8 = 17;
    pub(crate) const RENAME: u8 = 18;
    pub(crate) const READLINK: u8 = 19;
    pub(crate) const SYMLINK: u8 = 20;
    pub(crate) const EXTENDED: u8 = 200;
}

/// Flags of OPEN.
pub(crate) mod fxf {
    pub(crate) const READ: u32 = 1;
    pub(crate) const WRITE: u32 = 2;
    pub(crate) const APPEND: u32 = 4;
    pub(crate) const CREAT: u32 = 8;
    pub(crate) const TRUNC: u32 = 16;
    pub(crate) const EXCL: u32 = 32;
}

/// How a server finds paths and where it waits: everything has to hold for all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode {
    pub(crate) walks: bool,
    pub(crate) caller: Caller,
}

pub(crate) const MODES: [Mode; 4] = [
    mode(false, Caller::MustNotBlock),
    mode(false, Caller::MayBlock),
    mode(true, Caller::MustNotBlock),
    mode(true, Caller::MayBlock),
];

const fn mode(walks: bool, caller: Caller) -> Mode {
    Mode { walks, caller }
}

/// A directory that is shared, and one beside it that is not.
pub(crate) struct Place {
    root: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::of(tempfile::tempdir().unwrap())
    }

    /// In memory if there is a file system for that: for files without number.
    pub(crate) fn in_memory() -> Self {
        Self::of(
            tempfile::tempdir_in("/dev/shm")
                .or_else(|_| tempfile::tempdir())
                .unwrap(),
        )
    }

    fn of(root: tempfile::TempDir) -> Self {
        for name in ["share", "outside"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        Self { root }
    }

    pub(crate) fn share(&self, path: &str) -> PathBuf {
        self.root.path().join("share").join(path)
    }

    pub(crate) fn outside(&self, path: &str) -> PathBuf {
        self.root.path().join("outside").join(path)
    }

    /// Shares it writable, without following links.
    pub(crate) fn writable(&self) -> Share {
        let mut share = Share::new(self.share(""));
        share.writable = true;
        share
    }
}

/// One end of the stream, as bytes.
pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
    server: JoinHandle<Result<Ended, ServeError>>,
}

impl Raw {
    /// Starts a server.
    pub(crate) fn start(mut share: Share, mode: Mode) -> Self {
        share.caller = mode.caller;
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(HANG)).unwrap();
        ours.set_write_timeout(Some(HANG)).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (reader, writer) = tokio::net::UnixStream::from_std(theirs)
                    .unwrap()
                    .into_split();
                let cancel = CancellationToken::new();
                if mode.walks {
                    serve_walking(share, reader, writer, cancel).await
                } else {
                    serve(share, reader, writer, cancel).await
                }
            })
        });
        Self {
            stream: ours,
            server,
        }
    }

    /// How the server ended, after the stream was closed.
    pub(crate) fn end(self) -> Result<Ended, ServeError> {
        drop(self.stream);
        self.server.join().unwrap()
    }

    /// How the server ended by itself.
    pub(crate) fn join(mut self) -> Result<Ended, ServeError> {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        self.server.join().unwrap()
    }
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Status(u32),
    Handle(Vec<u8>),
    Data(Vec<u8>),
    Names(Vec<(Vec<u8>, Option<Attributes>)>),
    Attributes(Attributes),
    Extended(Vec<u64>),
}

impl Reply {
    pub(crate) const OK: Self = Self::Status(0);
    pub(crate) const EOF: Self = Self::Status(1);
    pub(crate) const NO_SUCH_FILE: Self = Self::Status(2);
    pub(crate) const DENIED: Self = Self::Status(3);
    pub(crate) const FAILURE: Self = Self::Status(4);
    pub(crate) const BAD_MESSAGE: Self = Self::Status(5);
    pub(crate) const UNSUPPORTED: Self = Self::Status(8);

    pub(crate) fn handle(self) -> Vec<u8> {
        match self {
            Self::Handle(handle) => handle,
            other => panic!("not a handle: {other:?}"),
        }
    }

    pub(crate) fn attributes(self) -> Attributes {
        match self {
            Self::Attributes(attributes) => attributes,
            other => panic!("not attributes: {other:?}"),
        }
    }

    pub(crate) fn name(self) -> Vec<u8> {
        match self {
            Self::Names(mut names) if names.len() == 1 => names.remove(0).0,
            other => panic!("not one name: {other:?}"),
        }
    }
}

/// Attributes as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) size: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    pub(crate) accessed: u32,
    pub(crate) modified: u32,
}

/// The words of a packet.
#[derive(Debug, Default, Clone)]
pub(crate) struct Body(pub(crate) Vec<u8>);

impl Body {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn word(mut self, word: u32) -> Self {
        self.0.extend_from_slice(&word.to_be_bytes());
        self
    }

    pub(crate) fn long(mut self, long: u64) -> Self {
        self.0.extend_from_slice(&long.to_be_bytes());
        self
    }

    pub(crate) fn string(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let mut body = self.word(u32::try_from(bytes.len()).unwrap());
        body.0.extend_from_slice(bytes);
        body
    }
}

/// A client that was greeted.
pub(crate) struct Client {
    pub(crate) raw: Raw,
    next: u32,
    /// Replies that came before they were asked for.
    early: Vec<(u32, Reply)>,
}

impl Client {
    pub(crate) fn start(share: Share, mode: Mode) -> Self {
        let mut client = Self {
            raw: Raw::start(share, mode),
            next: 1,
            early: Vec::new(),
        };
        client
            .raw
            .stream
            .write_all(&packet(1, &3_u32.to_be_bytes()))
            .unwrap();
        let greeting = client.packet().unwrap();
        assert_eq!(greeting[..5], [2, 0, 0, 0, 3]);
        client
    }

    /// Shares a place writable, without following links.
    pub(crate) fn at(place: &Place, mode: Mode) -> Self {
        Self::start(place.writable(), mode)
    }

    /// One packet, without its length.
    pub(crate) fn packet(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.raw.stream.read_exact(&mut length)?;
        let mut packet = vec![0; u32::from_be_bytes(length) as usize];
        self.raw.stream.read_exact(&mut packet)?;
        Ok(packet)
    }

    /// Sends a request; returns its number.
    pub(crate) fn send(&mut self, kind: u8, body: &Body) -> u32 {
        let id = self.next;
        self.next += 1;
        let body = [&id.to_be_bytes(), body.0.as_slice()].concat();
        self.raw.stream.write_all(&packet(kind, &body)).unwrap();
        id
    }

    /// The next reply, to whichever request.
    pub(crate) fn any(&mut self) -> (u32, Reply) {
        reply_of(&self.packet().unwrap())
    }

    /// The reply to a request.
    pub(crate) fn wait(&mut self, id: u32) -> Reply {
        if let Some(at) = self.early.iter().position(|(early, _)| *early == id) {
            return self.early.remove(at).1;
        }
        loop {
            match self.any() {
                (other, reply) if other == id => return reply,
                early => self.early.push(early),
            }
        }
    }

    pub(crate) fn call(&mut self, kind: u8, body: &Body) -> Reply {
        let id = self.send(kind, body);
        self.wait(id)
    }

    /// A request that has nothing but a path.
    pub(crate) fn path(&mut self, kind: u8, path: impl AsRef<[u8]>) -> Reply {
        self.call(kind, &Body::new().string(path))
    }

    /// A request that has nothing but a handle.
    pub(crate) fn handle(&mut self, kind: u8, handle: &[u8]) -> Reply {
        self.call(kind, &Body::new().string(handle))
    }

    pub(crate) fn open(&mut self, path: impl AsRef<[u8]>, flags: u32) -> Reply {
        self.call(
            fxp::OPEN,
            &Body::new().string(path).word(flags).word(4).word(0o644),
        )
    }

    pub(crate) fn read(&mut self, handle: &[u8], offset: u64, length: u32) -> Reply {
        self.call(
            fxp::READ,
            &Body::new().string(handle).long(offset).word(length),
        )
    }

    pub(crate) fn write(&mut self, handle: &[u8], offset: u64, data: impl AsRef<[u8]>) -> Reply {
        self.call(
            fxp::WRITE,
            &Body::new().string(handle).long(offset).string(data),
        )
    }

    pub(crate) fn mkdir(&mut self, path: impl AsRef<[u8]>, mode: u32) -> Reply {
        self.call(fxp::MKDIR, &Body::new().string(path).word(4).word(mode))
    }

    pub(crate) fn two(
        &mut self,
        kind: u8,
        one: impl AsRef<[u8]>,
        other: impl AsRef<[u8]>,
    ) -> Reply {
        self.call(kind, &Body::new().string(one).string(other))
    }

    pub(crate) fn extended(&mut self, name: &str, body: &Body) -> Reply {
        let body = [Body::new().string(name).0.as_slice(), &body.0].concat();
        self.call(fxp::EXTENDED, &Body(body))
    }

    pub(crate) fn extended_two(
        &mut self,
        name: &str,
        one: impl AsRef<[u8]>,
        other: impl AsRef<[u8]>,
    ) -> Reply {
        self.extended(name, &Body::new().string(one).string(other))
    }

    /// Changes attributes: the body behind the path.
    pub(crate) fn setstat(&mut self, path: impl AsRef<[u8]>, changes: &Body) -> Reply {
        let body = [Body::new().string(path).0.as_slice(), &changes.0].concat();
        self.call(fxp::SETSTAT, &Body(body))
    }

    /// All of a file.
    pub(crate) fn read_file(&mut self, path: &str) -> Result<Vec<u8>, Reply> {
        let handle = match self.open(path, fxf::READ) {
            Reply::Handle(handle) => handle,
            refused => return Err(refused),
        };
        let mut whole = Vec::new();
        loop {
            match self.read(&handle, whole.len() as u64, 32 * 1024) {
                Reply::Data(data) => whole.extend_from_slice(&data),
                Reply::EOF => break,
                failed => return Err(failed),
            }
        }
        assert_eq!(self.handle(fxp::CLOSE, &handle), Reply::OK);
        Ok(whole)
    }

    /// All names of a directory, in order.
    pub(crate) fn list(&mut self, path: &str) -> Result<Vec<Vec<u8>>, Reply> {
        let handle = match self.path(fxp::OPENDIR, path) {
            Reply::Handle(handle) => handle,
            refused => return Err(refused),
        };
        let mut all = Vec::new();
        loop {
            match self.handle(fxp::READDIR, &handle) {
                Reply::Names(names) => all.extend(names.into_iter().map(|(name, _)| name)),
                Reply::EOF => break,
                failed => return Err(failed),
            }
        }
        assert_eq!(self.handle(fxp::CLOSE, &handle), Reply::OK);
        all.sort();
        Ok(all)
    }
}

/// A packet of a type.
pub(crate) fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 1).unwrap().to_be_bytes();
    [length.as_slice(), &[kind], body].concat()
}

struct Words<'packet>(&'packet [u8]);

impl Words<'_> {
    fn take(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken.to_vec()
    }

    fn word(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn long(&mut self) -> u64 {
        u64::from_be_bytes(self.take(8).try_into().unwrap())
    }

    fn string(&mut self) -> Vec<u8> {
        let length = self.word() as usize;
        self.take(length)
    }

    fn attributes(&mut self) -> Option<Attributes> {
        match self.word() {
            0 => None,
            0xf => Some(Attributes {
                size: self.long(),
                uid: self.word(),
                gid: self.word(),
                mode: self.word(),
                accessed: self.word(),
                modified: self.word(),
            }),
            flags => panic!("attributes with flags {flags:#x}"),
        }
    }
}

/// A reply and the number of its request.
pub(crate) fn reply_of(packet: &[u8]) -> (u32, Reply) {
    let mut words = Words(&packet[1..]);
    let id = words.word();
    (id, reply(packet[0], &mut words))
}

fn reply(kind: u8, words: &mut Words<'_>) -> Reply {
    let reply = match kind {
        101 => {
            let status = words.word();
            words.string();
            words.string();
            Reply::Status(status)
        }
        102 => Reply::Handle(words.string()),
        103 => Reply::Data(words.string()),
        104 => {
            let count = words.word();
            let name = |_| {
                let name = words.string();
                words.string();
                (name, words.attributes())
            };
            Reply::Names((0..count).map(name).collect())
        }
        105 => Reply::Attributes(words.attributes().unwrap()),
        201 => {
            let mut values = Vec::new();
            while !words.0.is_empty() {
                values.push(words.long());
            }
            Reply::Extended(values)
        }
        other => panic!("a reply of type {other}"),
    };
    assert!(words.0.is_empty(), "bytes after a reply: {:?}", words.0);
    reply
}

/// Everything beneath a directory: names, kinds, contents, lengths.
pub(crate) fn snapshot(directory: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut ahead = vec![directory.to_path_buf()];
    while let Some(directory) = ahead.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let content = if metadata.is_dir() {
                ahead.push(path.clone());
                Vec::new()
            } else if metadata.is_file() {
                std::fs::read(&path).unwrap()
            } else if metadata.is_symlink() {
                std::fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else {
                Vec::new()
            };
            let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
            all.push(format!("{} {mode:o} {content:?}", path.display()));
        }
    }
    all.sort();
    all
}

/// Ends a thread that goes on until it is told, also when a test fails meanwhile.
#[cfg(target_os = "linux")]
pub(crate) struct Stop<'flag>(pub(crate) &'flag std::sync::atomic::AtomicBool);

#[cfg(target_os = "linux")]
impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
