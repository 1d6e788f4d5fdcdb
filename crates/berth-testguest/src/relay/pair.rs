//! Two sockets whose bytes go to one another, each direction ending on its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{Shutdown, sockopt};

use super::direction::{Direction, Progress};
use super::pipe::PipePool;

/// A forwarded connection.
#[derive(Debug)]
pub(super) struct Pair {
    client: OwnedFd,
    server: OwnedFd,
    connecting: bool,
    forth: Flow,
    back: Flow,
}

#[derive(Debug, Default)]
struct Flow {
    direction: Direction,
    ended: bool,
}

/// What a pair wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PairState {
    /// To hear when a socket is ready.
    Waiting,
    /// Another turn.
    Busy,
    /// To be dropped.
    Over,
}

impl Pair {
    /// Joins an accepted socket with one whose connect is under way.
    pub(super) fn new(client: OwnedFd, server: OwnedFd) -> Self {
        Self {
            client,
            server,
            connecting: true,
            forth: Flow::default(),
            back: Flow::default(),
        }
    }

    /// The sockets, to be registered.
    pub(super) fn sockets(&self) -> [&OwnedFd; 2] {
        [&self.client, &self.server]
    }

    /// Takes a turn after one of the sockets became ready.
    pub(super) fn turn(&mut self, pipes: &mut PipePool) -> PairState {
        let state = self.try_turn(pipes).unwrap_or_else(|_| {
            self.reset();
            PairState::Over
        });
        if state == PairState::Over {
            self.forth.direction.release(pipes);
            self.back.direction.release(pipes);
        }
        state
    }

    fn try_turn(&mut self, pipes: &mut PipePool) -> io::Result<PairState> {
        if self.connecting {
            sockopt::socket_error(&self.server)??;
            if rustix::net::getpeername(&self.server).is_err() {
                return Ok(PairState::Waiting);
            }
            self.connecting = false;
        }
        let forth = self.forth.turn(&self.client, &self.server, pipes)?;
        let back = self.back.turn(&self.server, &self.client, pipes)?;
        Ok(match (forth, back) {
            (Progress::Ended, Progress::Ended) => PairState::Over,
            (Progress::More, _) | (_, Progress::More) => PairState::Busy,
            _ => PairState::Waiting,
        })
    }

    /// Has the peers see a reset, as when the other end refuses or vanishes.
    fn reset(&self) {
        for socket in self.sockets() {
            // Fails only for sockets that are reset already, and for unix sockets, which need none.
            let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
        }
    }
}

impl Flow {
    fn turn(&mut self, from: &OwnedFd, to: &OwnedFd, pipes: &mut PipePool) -> io::Result<Progress> {
        if self.ended {
            return Ok(Progress::Ended);
        }
        let progress = self.direction.pump(from.as_fd(), to.as_fd(), pipes)?;
        if progress == Progress::Ended {
            self.ended = true;
            rustix::net::shutdown(to, Shutdown::Write)?;
        }
        Ok(progress)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::super::{connect, new_tcp};
    use super::*;

    /// A client, a server, and the pair between them.
    fn chain() -> (TcpStream, TcpStream, Pair) {
        let outside = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(outside.local_addr().unwrap()).unwrap();
        let (accepted, _) = outside.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let inside = TcpListener::bind("127.0.0.1:0").unwrap();
        let dialled = new_tcp().unwrap();
        let to = inside.local_addr().unwrap().to_string().parse().unwrap();
        connect(&dialled, to).unwrap();
        let (server, _) = inside.accept().unwrap();
        (client, server, Pair::new(accepted.into(), dialled))
    }

    fn turns(pair: &mut Pair, pipes: &mut PipePool, until: PairState) {
        while pair.turn(pipes) != until {
            std::thread::yield_now();
        }
    }

    #[test]
    fn one_direction_ends_and_the_other_goes_on() {
        let (mut client, mut server, mut pair) = chain();
        let mut pipes = PipePool::default();
        client.write_all(b"question").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let worker = std::thread::spawn(move || {
            let mut question = String::new();
            server.read_to_string(&mut question).unwrap();
            server.write_all(b"answer to ").unwrap();
            server.write_all(question.as_bytes()).unwrap();
        });
        turns(&mut pair, &mut pipes, PairState::Over);
        worker.join().unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer to question");
    }

    #[test]
    fn a_refused_dial_resets_the_client() {
        let outside = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(outside.local_addr().unwrap()).unwrap();
        let (accepted, _) = outside.accept().unwrap();
        let nobody = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let dialled = new_tcp().unwrap();
        connect(&dialled, nobody.to_string().parse().unwrap()).unwrap();
        let mut pair = Pair::new(accepted.into(), dialled);
        turns(&mut pair, &mut PipePool::default(), PairState::Over);
        drop(pair);
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
