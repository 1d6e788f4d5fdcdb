//! A virtio-serial port whose guest end is a unix socket at the device's path.
//!
//! Host and guest both connect, so the two are joined here, by splice. One host client at a time, others wait in the
//! backlog, as QEMU's chardev has it. When the host leaves, the guest reads end of file and opens again; when the guest
//! closes, the host stays, and the next open goes on with what the host sends from then on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::net::SocketFlags;

use super::direction::{Direction, Progress};
use super::pipe::PipePool;

/// One port.
#[derive(Debug)]
pub(super) struct Port {
    hosts: OwnedFd,
    guests: Option<OwnedFd>,
    host: Option<OwnedFd>,
    guest: Option<OwnedFd>,
    to_guest: Direction,
    to_host: Direction,
}

/// A socket of a port that wants to be watched.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A host client was accepted.
    Host,
    /// The guest opened the port.
    Guest,
}

/// What a port wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortState {
    /// To hear when a socket is ready.
    Waiting,
    /// Another turn.
    Busy,
}

impl Port {
    /// A port with the chardev's listening socket; no guest yet.
    pub(super) fn new(hosts: OwnedFd) -> Self {
        Self {
            hosts,
            guests: None,
            host: None,
            guest: None,
            to_guest: Direction::default(),
            to_host: Direction::default(),
        }
    }

    /// The chardev's listening socket.
    pub(super) fn hosts(&self) -> &OwnedFd {
        &self.hosts
    }

    /// The listening socket of the guest's side, anew at each boot.
    pub(super) fn attach(&mut self, guests: OwnedFd) -> &OwnedFd {
        self.guest = None;
        self.guests.insert(guests)
    }

    /// The socket that arrived last, to be registered.
    pub(super) fn arrived(&self, arrival: &Arrival) -> Option<&OwnedFd> {
        match arrival {
            Arrival::Host => self.host.as_ref(),
            Arrival::Guest => self.guest.as_ref(),
        }
    }

    /// Whether the guest has the port open.
    pub(super) fn is_open(&self) -> bool {
        self.guest.is_some()
    }

    /// Takes in whoever waits and is wanted.
    pub(super) fn accept(&mut self) -> Option<Arrival> {
        let accept = |listener: &OwnedFd| {
            rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()
        };
        if self.host.is_none() {
            self.host = accept(&self.hosts);
            if self.host.is_some() {
                return Some(Arrival::Host);
            }
        }
        if self.guest.is_none()
            && let Some(guests) = &self.guests
        {
            self.guest = accept(guests);
            return self.guest.is_some().then_some(Arrival::Guest);
        }
        None
    }

    /// Moves bytes, and lets go of ends that left.
    pub(super) fn turn(&mut self, pipes: &mut PipePool) -> PortState {
        let (Some(host), Some(guest)) = (&self.host, &self.guest) else {
            self.host.take_if(|host| has_left(host));
            self.guest.take_if(|guest| has_left(guest));
            return PortState::Waiting;
        };
        let inward = self.to_guest.pump(host.as_fd(), guest.as_fd(), pipes);
        let outward = self.to_host.pump(guest.as_fd(), host.as_fd(), pipes);
        let busy = [&inward, &outward]
            .iter()
            .any(|progress| matches!(progress, Ok(Progress::More)));
        let failed = inward.is_err() || outward.is_err();
        let guest_left = ended(&outward) || failed && has_left(guest);
        let host_left = ended(&inward) || failed && (has_left(host) || !guest_left);
        if host_left {
            self.host = None;
        }
        if host_left || guest_left {
            self.guest = None;
            for direction in [&mut self.to_guest, &mut self.to_host] {
                direction.release(pipes);
                *direction = Direction::default();
            }
        }
        if busy {
            PortState::Busy
        } else {
            PortState::Waiting
        }
    }
}

fn ended(progress: &io::Result<Progress>) -> bool {
    matches!(progress, Ok(Progress::Ended))
}

fn has_left(socket: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::RDHUP)];
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    rustix::event::poll(&mut polled, Some(&rustix::time::Timespec::default()))
        .is_ok_and(|_| polled[0].revents().intersects(gone))
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;

    use super::*;

    struct Machine {
        dir: tempfile::TempDir,
        port: Port,
        pipes: PipePool,
    }

    impl Machine {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut port = Port::new(listener(dir.path().join("host")));
            port.attach(listener(dir.path().join("guest")));
            Self {
                dir,
                port,
                pipes: PipePool::default(),
            }
        }

        fn connect(&mut self, end: &str) -> UnixStream {
            let stream = UnixStream::connect(self.dir.path().join(end)).unwrap();
            stream.set_nonblocking(true).unwrap();
            self.settle();
            stream
        }

        /// What the event loop does when sockets are ready.
        fn settle(&mut self) {
            loop {
                self.port.turn(&mut self.pipes);
                if self.port.accept().is_none() {
                    return;
                }
            }
        }

        fn read(&mut self, mut stream: &UnixStream) -> String {
            self.settle();
            let mut buffer = [0; 64];
            let length = stream.read(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        }
    }

    fn listener(path: PathBuf) -> OwnedFd {
        let listener = UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener.into()
    }

    #[test]
    fn both_ends_connect_and_talk() {
        let mut machine = Machine::new();
        let mut host = machine.connect("host");
        host.write_all(b"early").unwrap();
        assert!(!machine.port.is_open());
        let mut guest = machine.connect("guest");
        assert!(machine.port.is_open());
        assert_eq!(machine.read(&guest), "early");
        guest.write_all(b"hello").unwrap();
        assert_eq!(machine.read(&host), "hello");
    }

    #[test]
    fn the_guest_reopens_while_the_host_stays() {
        let mut machine = Machine::new();
        let mut host = machine.connect("host");
        let mut first = machine.connect("guest");
        first.write_all(b"last words").unwrap();
        drop(first);
        assert_eq!(machine.read(&host), "last words");
        assert!(!machine.port.is_open());
        let second = machine.connect("guest");
        host.write_all(b"again").unwrap();
        assert_eq!(machine.read(&second), "again");
    }

    #[test]
    fn when_the_host_leaves_the_guest_reads_the_end() {
        let mut machine = Machine::new();
        let mut host = machine.connect("host");
        let guest = machine.connect("guest");
        host.write_all(b"bye").unwrap();
        drop(host);
        assert_eq!(machine.read(&guest), "bye");
        assert_eq!(machine.read(&guest), "");
        assert!(!machine.port.is_open());
        let mut host = machine.connect("host");
        let guest = machine.connect("guest");
        host.write_all(b"new").unwrap();
        assert_eq!(machine.read(&guest), "new");
    }

    #[test]
    fn a_second_host_waits_for_the_first_to_leave() {
        let mut machine = Machine::new();
        let first = machine.connect("host");
        let mut second = machine.connect("host");
        let guest = machine.connect("guest");
        second.write_all(b"second").unwrap();
        machine.settle();
        let silence = (&guest).read(&mut [0]).unwrap_err();
        assert_eq!(silence.kind(), ErrorKind::WouldBlock);
        drop(first);
        assert_eq!(machine.read(&guest), "", "the first host's end");
        let guest = machine.connect("guest");
        assert_eq!(machine.read(&guest), "second");
    }

    #[test]
    fn an_end_that_leaves_alone_makes_room() {
        let mut machine = Machine::new();
        drop(machine.connect("host"));
        drop(machine.connect("guest"));
        machine.settle();
        assert!(!machine.port.is_open());
        let mut host = machine.connect("host");
        let guest = machine.connect("guest");
        host.write_all(b"fresh").unwrap();
        assert_eq!(machine.read(&guest), "fresh");
    }
}
