//! The carriers, and how the host opens each.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SocketType, socket};

use super::machine::{GUEST_CID, Machine};
use crate::program::find;
use crate::sys::VsockAddress;
use crate::traffic::carriers::PORT;
use crate::traffic::client;

/// The device that the kernel has for it.
const KERNEL_VSOCK: &str = "/dev/vhost-vsock";

/// How long a carrier may say nothing, the guest's boot included: a limit against hanging.
const SILENCE: Duration = Duration::from_secs(300);

/// What serves the guest's vsock device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Vsock {
    /// Nothing: there is no such device.
    None,
    /// The host's kernel.
    Kernel,
    /// This program, over shared memory.
    Program(PathBuf),
}

/// A way between host and guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Carrier {
    /// A virtio-serial port, which is a unix socket on the host.
    Serial,
    /// A port of QEMU's user network, forwarded to TCP in the guest.
    UserNetwork,
    /// vsock.
    Vsock(Vsock),
}

/// A stream that knows no more than its bytes.
pub(super) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Vsock {
    /// The kinds that this machine has; what it has not is said.
    pub(super) fn available(program: Option<&Path>) -> Vec<Self> {
        let mut kinds = Vec::new();
        if Path::new(KERNEL_VSOCK).exists() {
            kinds.push(Self::Kernel);
        } else {
            println!("LEFT OUT: the kernel's vhost-vsock: there is no {KERNEL_VSOCK}");
        }
        match program
            .map(Path::to_path_buf)
            .or_else(|| find("vhost-device-vsock"))
        {
            Some(program) => kinds.push(Self::Program(program)),
            None => println!(
                "LEFT OUT: a vhost-user vsock device: `vhost-device-vsock` is not on PATH (`cargo install vhost-device-vsock`)"
            ),
        }
        if kinds.is_empty() {
            kinds.push(Self::None);
        }
        kinds
    }
}

impl Carrier {
    /// What a guest with this vsock device has.
    pub(super) fn of(vsock: &Vsock) -> Vec<Self> {
        let mut carriers = vec![Self::Serial, Self::UserNetwork];
        if *vsock != Vsock::None {
            carriers.push(Self::Vsock(vsock.clone()));
        }
        carriers
    }

    /// A stream to the guest's end. The first one waits until the guest has booted.
    pub(super) fn open(&self, machine: &Machine) -> Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Serial => Box::new(unix(&machine.serial_socket())?),
            Self::UserNetwork => {
                let to = (Ipv4Addr::LOCALHOST, machine.port()).into();
                Box::new(client::connect(to).context("connect to the user network")?)
            }
            Self::Vsock(Vsock::Program(_)) => Box::new(dial_device(&machine.vsock_socket())?),
            Self::Vsock(_) => Box::new(dial_kernel().context("connect to a vsock port")?),
        })
    }
}

fn unix(path: &Path) -> Result<UnixStream> {
    let connect = || {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        io::Result::Ok(stream)
    };
    connect().with_context(|| format!("connect to {}", path.display()))
}

/// The device's socket takes the port as a line, and answers with one.
fn dial_device(path: &Path) -> Result<UnixStream> {
    let mut stream = unix(path)?;
    writeln!(stream, "CONNECT {PORT}").context("ask the vsock device for a port")?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while answer.last() != Some(&b'\n') && answer.len() < 64 {
        stream
            .read_exact(&mut byte)
            .context("hear from the vsock device")?;
        answer.push(byte[0]);
    }
    if !answer.starts_with(b"OK ") {
        bail!(
            "the vsock device answered {:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    Ok(stream)
}

fn dial_kernel() -> io::Result<File> {
    let stream = socket(AddressFamily::VSOCK, SocketType::STREAM, None)?;
    rustix::net::connect(&stream, &VsockAddress::new(GUEST_CID, PORT.into()))?;
    Ok(File::from(stream))
}

impl fmt::Display for Vsock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no vsock",
            Self::Kernel => "vsock by the kernel (vhost-vsock)",
            Self::Program(_) => "vsock by a process (vhost-user)",
        })
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial => f.write_str("virtio-serial"),
            Self::UserNetwork => f.write_str("user network (hostfwd)"),
            Self::Vsock(vsock) => vsock.fmt(f),
        }
    }
}
