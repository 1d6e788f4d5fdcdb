//! Starting a machine: everything that can fail fails here, in the order in which QEMU would notice.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Resource, Rlimit, Signal};

use super::console::SerialLine;
use super::disk::Changes;
use super::guest::Guest;
use super::monitor::Monitor;
use super::{Forward, Machine, RunState};
use crate::arguments::{Chardev, Hardware, VncDisplay};
use crate::cgroup::MachineGroup;
use crate::inside::Boot;
use crate::relay::Relay;
use crate::sys;

/// Longest path that fits into the address of a unix socket.
const SOCKET_PATH: usize = 107;

/// First port of VNC.
const VNC_BASE: u16 = 5900;

/// The display that nothing is shown on: a port that is taken, as a VNC server would.
#[derive(Debug)]
pub(super) struct VncServer {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) password: bool,
    _listener: TcpListener,
}

/// Files to remove at the end; also when the start fails half-way.
#[derive(Debug, Default)]
struct MadeFiles(Vec<PathBuf>);

impl Drop for MadeFiles {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// The listening sockets of all character devices, by number.
#[derive(Debug, Default)]
struct Sockets(Vec<Option<OwnedFd>>);

impl Machine {
    /// Starts a machine that boots `rootfs`.
    pub(crate) fn start(hardware: Hardware, rootfs: PathBuf) -> Result<Self> {
        raise_descriptor_limit();
        let signals = sys::signal_descriptor(&[Signal::TERM, Signal::INT, Signal::HUP])
            .context("watch for signals")?;
        let mut files = MadeFiles::default();
        let mut sockets = Sockets::default();
        for chardev in &hardware.chardevs {
            let socket = listen(chardev, &mut files);
            sockets
                .0
                .push(socket.with_context(|| chardev.origin.clone())?);
        }
        check_files(&hardware)?;
        let changes = hardware.disk.as_deref().map(Changes::open).transpose()?;
        let vnc = hardware.vnc.as_ref().map(VncServer::open).transpose()?;
        let ports = hardware
            .ports
            .iter()
            .map(|port| sockets.take(&hardware, &port.chardev));
        let ports = ports.collect::<Result<Vec<_>>>()?;
        let relay = Relay::start(hardware.network.as_ref(), hardware.mac.as_deref(), ports)?;
        let forwards = open_forwards(&hardware, &relay)?;
        let monitors = hardware
            .monitors
            .iter()
            .map(|id| sockets.take(&hardware, id));
        let monitors = monitors.map(|socket| Ok(Monitor::new(socket?)));
        let monitors = monitors.collect::<Result<_>>()?;
        let (lines, console) = serial_lines(&hardware, sockets)?;
        if let Some(path) = &hardware.pid_file {
            write_pid_file(path, &mut files)?;
        }
        let boot = Boot {
            front: std::process::id(),
            network: relay.guest_network().as_raw_fd(),
            rootfs,
            state: changes.as_ref().map(|changes| changes.path().to_owned()),
            cidata: hardware.cidata.clone(),
            ports: hardware
                .ports
                .iter()
                .map(|port| port.name.clone())
                .collect(),
            vsock: hardware.vsock.clone(),
            name: hardware.name.clone(),
        };
        let group = MachineGroup::create(std::process::id())?;
        let guest = match Guest::boot(&boot) {
            Ok(guest) => guest,
            Err(error) => {
                group.remove()?;
                return Err(error);
            }
        };
        Ok(Self {
            hardware,
            boot,
            signals,
            monitors,
            lines,
            console,
            relay,
            forwards,
            vnc,
            group,
            guest,
            run_state: RunState::Running,
            end: None,
            files: std::mem::take(&mut files.0),
            _changes: changes,
        })
    }
}

/// Opens the forwards that the command line asks for.
fn open_forwards(hardware: &Hardware, relay: &Relay) -> Result<Vec<Forward>> {
    let Some(network) = &hardware.network else {
        return Ok(Vec::new());
    };
    let open = |rule| Forward::open(relay, rule).with_context(|| network.origin.clone());
    network.forwards.iter().map(open).collect()
}

impl Sockets {
    /// The socket of a chardev, which serves one purpose only.
    fn take(&mut self, hardware: &Hardware, id: &str) -> Result<OwnedFd> {
        let number = hardware
            .chardevs
            .iter()
            .position(|chardev| chardev.id == id);
        number
            .and_then(|number| self.0[number].take())
            .ok_or_else(|| anyhow!("chardev \"{id}\" has no socket, or is in use already"))
    }
}

impl VncServer {
    fn open(display: &VncDisplay) -> Result<Self> {
        let mut last = None;
        for number in display.displays.clone() {
            let port = VNC_BASE.saturating_add(number);
            match TcpListener::bind((display.host.as_str(), port)) {
                Ok(listener) => {
                    return Ok(Self {
                        host: display.host.clone(),
                        port,
                        password: display.password,
                        _listener: listener,
                    });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| anyhow!("no display"), anyhow::Error::from)).with_context(|| {
            format!(
                "Failed to find an available port for VNC on {}",
                display.host
            )
        })
    }
}

fn check_files(hardware: &Hardware) -> Result<()> {
    for (origin, path) in &hardware.files {
        File::open(path)
            .map_err(|error| anyhow!("Could not open '{}': {}", path.display(), words(&error)))
            .with_context(|| origin.clone())?;
    }
    Ok(())
}

/// Opens the socket of a character device, in place of one that was left over.
fn listen(chardev: &Chardev, files: &mut MadeFiles) -> Result<Option<OwnedFd>> {
    let Some(path) = &chardev.socket else {
        return Ok(None);
    };
    if path.as_os_str().as_bytes().len() > SOCKET_PATH {
        bail!(
            "UNIX socket path '{}' is too long\nPath must be less than 108 bytes",
            path.display()
        );
    }
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| {
            anyhow!(
                "Failed to bind socket to {}: {}",
                path.display(),
                words(&error)
            )
        })?;
    files.0.push(path.clone());
    Ok(Some(listener.into()))
}

/// Every character device that has no other purpose, and the number of the one that shows the console.
fn serial_lines(hardware: &Hardware, sockets: Sockets) -> Result<(Vec<SerialLine>, Option<usize>)> {
    let mut lines = Vec::new();
    let mut console = None;
    for (chardev, socket) in hardware.chardevs.iter().zip(sockets.0) {
        let log = match &chardev.log {
            Some(path) => Some(File::create(path).with_context(|| {
                format!("{}: Could not open '{}'", chardev.origin, path.display())
            })?),
            None => None,
        };
        if hardware.console.as_ref() == Some(&chardev.id) {
            console = Some(lines.len());
        }
        lines.push(SerialLine::new(socket, log));
    }
    Ok((lines, console))
}

fn write_pid_file(path: &Path, files: &mut MadeFiles) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .open(path)
        .and_then(|mut file| writeln!(file, "{}", std::process::id()));
    written.map_err(|error| {
        let (path, words) = (path.display(), words(&error));
        anyhow!("cannot create PID file: Could not create '{path}': {words}")
    })?;
    files.0.push(path.to_owned());
    Ok(())
}

/// Two descriptors for each connection.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    // Fewer connections at a time is all that a failure means.
    let _ = rustix::process::setrlimit(Resource::Nofile, wanted);
}

/// An error as QEMU words it, without Rust's "(os error N)".
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}
