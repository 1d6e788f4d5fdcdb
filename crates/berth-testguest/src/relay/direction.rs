//! One direction of a flow: from one socket through a pipe into another.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::pipe::{CAPACITY, Pipe, PipePool};

/// Bytes that one flow moves before others get their turn.
const TURN: usize = 4 * CAPACITY;

/// What became of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing more to do until one of the sockets is ready again.
    Waiting,
    /// The turn is over, and there is more.
    More,
    /// The source has ended, and all that it sent is delivered.
    Ended,
}

/// The state of one direction.
#[derive(Debug, Default)]
pub(super) struct Direction {
    pipe: Option<Pipe>,
    held: usize,
    source_ended: bool,
}

impl Direction {
    /// Moves what can be moved.
    pub(super) fn pump(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        pipes: &mut PipePool,
    ) -> io::Result<Progress> {
        let mut moved = 0;
        let progress = loop {
            let filled = self.fill(from, pipes)?;
            let drained = self.drain(to)?;
            moved += drained;
            if self.source_ended && self.held == 0 {
                break Progress::Ended;
            }
            if filled == 0 && drained == 0 {
                break Progress::Waiting;
            }
            if moved >= TURN {
                break Progress::More;
            }
        };
        if self.held == 0 {
            self.release(pipes);
        }
        Ok(progress)
    }

    /// Source into pipe.
    fn fill(&mut self, from: BorrowedFd<'_>, pipes: &mut PipePool) -> io::Result<usize> {
        if self.source_ended || self.held >= CAPACITY {
            return Ok(0);
        }
        let pipe = match &self.pipe {
            Some(pipe) => pipe,
            None => self.pipe.insert(pipes.take()?),
        };
        let taken = splice(from, &pipe.write, CAPACITY - self.held)?;
        match taken {
            Some(0) => self.source_ended = true,
            Some(count) => self.held += count,
            None => {}
        }
        Ok(taken.unwrap_or(0))
    }

    /// Pipe into destination.
    fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let Some(pipe) = self.pipe.as_ref().filter(|_| self.held > 0) else {
            return Ok(0);
        };
        let given = splice(&pipe.read, to, self.held)?.unwrap_or(0);
        self.held -= given;
        Ok(given)
    }

    /// Hands an empty pipe back; one with bytes in it is closed.
    pub(super) fn release(&mut self, pipes: &mut PipePool) {
        if let Some(pipe) = self.pipe.take()
            && self.held == 0
        {
            pipes.give_back(pipe);
        }
        self.held = 0;
    }
}

/// `None`: would block.
fn splice(
    from: impl std::os::fd::AsFd,
    to: impl std::os::fd::AsFd,
    most: usize,
) -> io::Result<Option<usize>> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    match rustix::pipe::splice(from, None, to, None, most, flags) {
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    struct Chain {
        writer: UnixStream,
        from: UnixStream,
        to: UnixStream,
        reader: UnixStream,
        direction: Direction,
        pipes: PipePool,
    }

    impl Chain {
        fn new() -> Self {
            let (writer, from) = UnixStream::pair().unwrap();
            let (to, reader) = UnixStream::pair().unwrap();
            for socket in [&from, &to] {
                socket.set_nonblocking(true).unwrap();
            }
            Self {
                writer,
                from,
                to,
                reader,
                direction: Direction::default(),
                pipes: PipePool::default(),
            }
        }

        fn pump(&mut self) -> io::Result<Progress> {
            self.direction
                .pump(self.from.as_fd(), self.to.as_fd(), &mut self.pipes)
        }
    }

    #[test]
    fn bytes_and_then_the_end_pass_through() {
        let mut chain = Chain::new();
        chain.writer.write_all(b"hello").unwrap();
        assert_eq!(chain.pump().unwrap(), Progress::Waiting);
        assert!(chain.direction.pipe.is_none(), "an idle flow holds no pipe");
        let mut buffer = [0; 5];
        chain.reader.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"hello");
        chain.writer.write_all(b"last").unwrap();
        chain.writer.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(chain.pump().unwrap(), Progress::Ended);
        chain.reader.read_exact(&mut buffer[..4]).unwrap();
        assert_eq!(&buffer[..4], b"last");
    }

    #[test]
    fn a_reader_that_stops_holds_bytes_back_without_losing_any() {
        let mut chain = Chain::new();
        chain.writer.set_nonblocking(true).unwrap();
        let block = vec![7; 65536];
        let mut sent = 0usize;
        loop {
            match chain.writer.write(&block) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let before = chain.direction.held;
                    assert_eq!(chain.pump().unwrap(), Progress::Waiting);
                    if chain.direction.held == before && before > 0 {
                        break;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(chain.direction.held <= CAPACITY);
        chain.writer.shutdown(std::net::Shutdown::Write).unwrap();
        let reader = chain.reader.try_clone().unwrap();
        let counter = std::thread::spawn(move || io::copy(&mut &reader, &mut io::sink()).unwrap());
        while chain.pump().unwrap() != Progress::Ended {
            std::thread::yield_now();
        }
        chain.to.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(counter.join().unwrap(), sent as u64);
    }

    #[test]
    fn a_vanished_reader_is_an_error() {
        let mut chain = Chain::new();
        chain.writer.write_all(b"hello").unwrap();
        let (_, closed) = UnixStream::pair().unwrap();
        closed.set_nonblocking(true).unwrap();
        chain.to = closed;
        assert_eq!(chain.pump().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
