//! Windows. QEMU's sockets cannot be reached from here yet: tokio has no unix sockets on Windows. Type-checked in CI, never run.
#![allow(unsafe_code, reason = "a socket's address is made by hand")]

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::TcpStream as StdStream;
use std::os::windows::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use tokio::net::TcpStream;
use windows_sys::Win32::Networking::WinSock::AF_HYPERV;
use windows_sys::Win32::System::Hypervisor::{HV_PROTOCOL_RAW, SOCKADDR_HV};
use windows_sys::core::GUID;

use crate::wsl2::Guid;

/// Stands in for a unix socket; there is never one.
pub(crate) type LocalStream = tokio::io::DuplexStream;

/// Whether the file is there.
pub(crate) fn is_executable(path: &Path) -> bool {
    path.is_file()
}

/// File names that a program may have.
pub(crate) fn program_names(program: &str) -> impl Iterator<Item = String> + use<> {
    [format!("{program}.exe"), program.to_owned()].into_iter()
}

/// Doubles commas, as QEMU's option lists want.
pub(crate) fn double_commas(text: &OsStr) -> OsString {
    let comma = u16::from(b',');
    let doubled = text.encode_wide().flat_map(|unit| {
        let copies = if unit == comma { 2 } else { 1 };
        std::iter::repeat_n(unit, copies)
    });
    OsString::from_wide(&doubled.collect::<Vec<_>>())
}

/// Refuses.
#[allow(clippy::unused_async, reason = "the signature of the unix version")]
pub(crate) async fn connect(_path: &Path) -> io::Result<LocalStream> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Connects to a service of a virtual machine of Hyper-V.
pub(crate) async fn connect_hyperv(machine: Guid, service: Guid) -> io::Result<TcpStream> {
    let connecting = move || {
        let domain = Domain::from(i32::from(AF_HYPERV));
        let protocol = Protocol::from(HV_PROTOCOL_RAW.cast_signed());
        let socket = Socket::new(domain, Type::STREAM, Some(protocol))?;
        socket.connect(&hyperv_address(machine, service)?)?;
        socket.set_nonblocking(true)?;
        Ok::<_, io::Error>(StdStream::from(socket))
    };
    // Connecting waits. A machine that is gone is told after two seconds.
    let socket = tokio::task::spawn_blocking(connecting).await;
    // Reading, writing and shutting down a stream do not depend on its family.
    TcpStream::from_std(socket.map_err(io::Error::other)??)
}

fn hyperv_address(machine: Guid, service: Guid) -> io::Result<SockAddr> {
    let length = i32::try_from(size_of::<SOCKADDR_HV>()).map_err(io::Error::other)?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: an address of Hyper-V is one of this platform's, and smaller than the room for any of them.
    let address = unsafe { storage.view_as::<SOCKADDR_HV>() };
    address.Family = AF_HYPERV;
    address.VmId = GUID::from_u128(machine.0);
    address.ServiceId = GUID::from_u128(service.0);
    // SAFETY: the storage holds such an address, of that length.
    Ok(unsafe { SockAddr::new(storage, length) })
}

/// Makes a directory.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

/// Stands in for a unix socket that listens; there is never one.
#[derive(Debug)]
pub(crate) struct LocalListener(std::convert::Infallible);

impl LocalListener {
    /// Refuses.
    pub(crate) fn bind(_path: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never called.
    #[allow(clippy::unused_async, reason = "the signature of the unix version")]
    pub(crate) async fn accept(&self) -> io::Result<LocalStream> {
        match self.0 {}
    }
}

/// Not told here.
pub(crate) fn peer_pid(_stream: &LocalStream) -> Option<u32> {
    None
}

/// A program's name without the ending that programs have.
pub(crate) fn without_program_ending(name: &str) -> Option<&str> {
    name.strip_suffix(".exe")
}
