//! Telling systemd that the agent is ready (`sd_notify(3)`).

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Whom to tell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readiness {
    socket: Option<OsString>,
}

impl Readiness {
    /// Tells the socket that systemd named; nobody when there is none.
    pub(crate) fn new(socket: Option<OsString>) -> Self {
        Self { socket }
    }

    /// Says so. Saying it again does no harm.
    pub(crate) fn tell(&self) -> io::Result<()> {
        let Some(name) = &self.socket else {
            return Ok(());
        };
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(name)?,
        };
        UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_it_where_it_was_asked_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        Readiness::new(Some(path.into())).tell().unwrap();
        let mut said = [0; 32];
        let length = systemd.recv(&mut said).unwrap();
        assert_eq!(&said[..length], b"READY=1");
        Readiness::default().tell().unwrap();
    }
}
