//! SFTP version 3 on the wire: draft-ietf-secsh-filexfer-02, and OpenSSH's extensions to it (its file `PROTOCOL`).

pub(crate) mod attributes;
pub(crate) mod reply;
pub(crate) mod request;

/// The version that is spoken.
pub(crate) const VERSION: u32 = 3;

/// Longest packet that is accepted, in bytes, without its length: OpenSSH's limit.
pub(crate) const MAX_PACKET: u32 = 256 * 1024;

/// Most data in one READ or WRITE, in bytes: a packet less what may stand around it, as OpenSSH reckons.
pub(crate) const MAX_DATA: u32 = MAX_PACKET - 1024;

/// Types of the client's packets.
pub(crate) mod fxp {
    pub(crate) const INIT: u8 = 1;
    pub(crate) const VERSION: u8 = 2;
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
    pub(crate) const STATUS: u8 = 101;
    pub(crate) const HANDLE: u8 = 102;
    pub(crate) const DATA: u8 = 103;
    pub(crate) const NAME: u8 = 104;
    pub(crate) const ATTRS: u8 = 105;
    pub(crate) const EXTENDED: u8 = 200;
    pub(crate) const EXTENDED_REPLY: u8 = 201;
}

/// Names of the extensions, with the version of each that is offered.
pub(crate) mod extension {
    pub(crate) const POSIX_RENAME: &[u8] = b"posix-rename@openssh.com";
    pub(crate) const STATVFS: &[u8] = b"statvfs@openssh.com";
    pub(crate) const FSTATVFS: &[u8] = b"fstatvfs@openssh.com";
    pub(crate) const HARDLINK: &[u8] = b"hardlink@openssh.com";
    pub(crate) const FSYNC: &[u8] = b"fsync@openssh.com";
    pub(crate) const LSETSTAT: &[u8] = b"lsetstat@openssh.com";
    pub(crate) const LIMITS: &[u8] = b"limits@openssh.com";

    pub(crate) const OFFERED: [(&[u8], &[u8]); 7] = [
        (POSIX_RENAME, b"1"),
        (STATVFS, b"2"),
        (FSTATVFS, b"2"),
        (HARDLINK, b"1"),
        (FSYNC, b"1"),
        (LSETSTAT, b"1"),
        (LIMITS, b"1"),
    ];
}

/// What a request came to, when it is not data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Status {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    Unsupported = 8,
}

impl Status {
    /// For people who debug a client.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Ok => "Success",
            Self::Eof => "End of file",
            Self::NoSuchFile => "No such file",
            Self::PermissionDenied => "Permission denied",
            Self::Failure => "Failure",
            Self::BadMessage => "Bad message",
            Self::Unsupported => "Operation unsupported",
        }
    }
}
