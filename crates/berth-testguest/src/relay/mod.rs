//! Everything that carries bytes between host and guest: forwarded ports, the way out through the gateway, and
//! virtio-serial ports. One thread, one epoll; bytes are spliced, never copied through this process.

mod direction;
mod event_loop;
mod gateway;
mod lookup;
mod pair;
mod pipe;
mod port;

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::arguments::UserNetwork;
use event_loop::EventLoop;

/// What the relay tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortChange {
    /// Number of the port in the machine's list.
    pub(crate) port: usize,
    /// Whether the guest has it open now.
    pub(crate) open: bool,
}

enum Command {
    Forward(SocketAddrV4, OwnedFd, SocketAddrV4),
    Unforward(SocketAddrV4, Sender<()>),
    AttachPort(usize, OwnedFd),
    End,
}

/// The running relay. Dropping it ends it and closes every connection.
#[derive(Debug)]
pub(crate) struct Relay {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    changes: Receiver<PortChange>,
    bell: Arc<OwnedFd>,
    guest: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Makes the networks and starts the thread. `ports` are the listening sockets of virtio-serial chardevs.
    pub(crate) fn start(
        network: Option<&UserNetwork>,
        mac: Option<&str>,
        ports: Vec<OwnedFd>,
    ) -> Result<Self> {
        let wake = Arc::new(new_eventfd()?);
        let bell = Arc::new(new_eventfd()?);
        let (commands, inbox) = mpsc::channel();
        let (report, changes) = mpsc::channel();
        let (tell, ready) = mpsc::channel();
        let (network, mac) = (network.cloned(), mac.map(str::to_owned));
        let (wake_side, bell_side) = (Arc::clone(&wake), Arc::clone(&bell));
        let thread = std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || {
                let made = EventLoop::new(network.as_ref(), mac.as_deref(), ports, wake_side);
                match made {
                    Ok((mut relay, guest)) => {
                        let _ = tell.send(Ok(guest));
                        relay.run(&inbox, |change| {
                            let _ = report.send(change);
                            raise(&bell_side);
                        });
                    }
                    Err(error) => drop(tell.send(Err(error))),
                }
            })
            .context("start the relay's thread")?;
        let guest = ready.recv().context("the relay's thread ended")??;
        Ok(Self {
            commands,
            wake,
            changes,
            bell,
            guest,
            thread: Some(thread),
        })
    }

    /// The guest's network namespace.
    pub(crate) fn guest_network(&self) -> &OwnedFd {
        &self.guest
    }

    /// Readable when [`Self::next_change`] has something.
    pub(crate) fn changes(&self) -> &OwnedFd {
        &self.bell
    }

    /// The next port that the guest opened or closed.
    pub(crate) fn next_change(&self) -> Option<PortChange> {
        let _ = rustix::io::read(&*self.bell, &mut [0; 8]);
        self.changes.try_recv().ok()
    }

    /// Forwards what `listener` accepts.
    pub(crate) fn forward(&self, listen: SocketAddrV4, listener: OwnedFd, target: SocketAddrV4) {
        self.send(Command::Forward(listen, listener, target));
    }

    /// Closes a listener; its port is free on return. Connections live on.
    pub(crate) fn unforward(&self, listen: SocketAddrV4) {
        let (tell, done) = mpsc::channel();
        self.send(Command::Unforward(listen, tell));
        let _ = done.recv();
    }

    /// Gives a port its guest end, at each boot.
    pub(crate) fn attach_port(&self, port: usize, guests: OwnedFd) {
        self.send(Command::AttachPort(port, guests));
    }

    fn send(&self, command: Command) {
        let _ = self.commands.send(command);
        raise(&self.wake);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.send(Command::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Opens the listening socket of a rule, in the caller's network namespace, and says where it listens.
pub(crate) fn listen(at: SocketAddrV4) -> io::Result<(OwnedFd, SocketAddrV4)> {
    let socket = new_tcp()?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &at)?;
    rustix::net::listen(&socket, 1024)?;
    let bound = SocketAddrV4::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((socket, bound))
}

/// Starts a connection without waiting for it.
fn connect(socket: &OwnedFd, to: SocketAddrV4) -> io::Result<()> {
    match rustix::net::connect(socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(sockopt::set_tcp_nodelay(socket, true)?)
}

fn new_eventfd() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("make an eventfd")
}

fn raise(event: &OwnedFd) {
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

fn new_tcp() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()
}
