//! The guest's ends of carriers, served by the first process of a guest that runs nothing else.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread::{park, spawn};

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketType, accept, bind, listen, socket};

use super::block::Block;
use super::request;
use super::server;
use crate::program::Program;
use crate::sys::VsockAddress;

/// Name of the virtio-serial port.
pub(crate) const SERIAL_PORT: &str = "berth.carrier";

/// Port of TCP and vsock.
pub(crate) const PORT: u16 = 7000;

/// What QEMU's user network leases first.
const ADDRESS: &str = "10.0.2.15/24";

/// Serves what there is, for ever. What is missing is said on the console.
pub(super) fn run() -> Result<()> {
    for (what, end) in [
        ("virtio-serial", serve_serial as fn() -> Result<()>),
        ("TCP", serve_tcp),
        ("vsock", serve_vsock),
    ] {
        spawn(move || {
            if let Err(error) = end() {
                println!("carriers: no {what}: {error:#}");
            }
        });
    }
    loop {
        park();
    }
}

fn serve_tcp() -> Result<()> {
    Program::new("ip")
        .args(["address", "add", ADDRESS, "dev", "eth0"])
        .run()?;
    Program::new("ip")
        .args(["link", "set", "eth0", "up"])
        .run()?;
    server::start(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)))?;
    Ok(())
}

fn serve_serial() -> Result<()> {
    let device = serial_device()?;
    let mut buffer = Block::new();
    loop {
        let mut port = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&device)
            .with_context(|| format!("open {}", device.display()))?;
        // The end of one host is the beginning of the next.
        let _ = request::serve(&mut port, &mut buffer);
    }
}

/// Found by its name, as udev would.
fn serial_device() -> Result<PathBuf> {
    let class = "/sys/class/virtio-ports";
    for entry in fs::read_dir(class).with_context(|| format!("read {class}"))? {
        let entry = entry.with_context(|| format!("read {class}"))?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == SERIAL_PORT {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    anyhow::bail!("no virtio-serial port is named {SERIAL_PORT}")
}

fn serve_vsock() -> Result<()> {
    Program::new("modprobe")
        .arg("vmw_vsock_virtio_transport")
        .run()?;
    let listener = vsock_listener().context("listen on a vsock port")?;
    loop {
        let stream = accept(&listener).context("accept a vsock connection")?;
        spawn(move || request::serve(&mut File::from(stream), &mut Block::new()));
    }
}

fn vsock_listener() -> io::Result<OwnedFd> {
    let listener = socket(AddressFamily::VSOCK, SocketType::STREAM, None)?;
    bind(
        &listener,
        &VsockAddress::new(VsockAddress::ANY, PORT.into()),
    )?;
    listen(&listener, 128)?;
    Ok(listener)
}
