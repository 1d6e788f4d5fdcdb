//! The least that a relay can be: two threads for each connection, which splice. What a forwarder is held against.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::thread::spawn;

use anyhow::{Context, Result, bail};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// Size of the pipe that each direction passes through.
const PIPE: usize = 256 << 10;

/// Where a relay listens or connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// A listening relay.
#[derive(Debug)]
pub(crate) enum Relay {
    /// On a TCP port.
    Tcp(TcpListener),
    /// On a unix socket.
    Unix(UnixListener),
}

impl Relay {
    /// Listens.
    pub(crate) fn listen(at: &Place) -> Result<Self> {
        match at {
            Place::Tcp(address) => TcpListener::bind(address).map(Self::Tcp),
            Place::Unix(path) => UnixListener::bind(path).map(Self::Unix),
        }
        .with_context(|| format!("listen on {at}"))
    }

    /// Passes connections on for ever.
    pub(crate) fn run(&self, to: &Place) -> Result<()> {
        loop {
            let client = self.accept().context("accept a connection")?;
            let to = to.clone();
            // Connecting in the thread keeps a slow server from holding up the others.
            spawn(move || pass_on(&client, &to));
        }
    }

    fn accept(&self) -> Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }
            Self::Unix(listener) => Ok(listener.accept()?.0.into()),
        }
    }
}

/// Both directions; an error drops the connection, and its peers notice.
fn pass_on(client: &OwnedFd, to: &Place) -> Result<()> {
    let server = to.connect()?;
    let (other_client, other_server) = (client.try_clone()?, server.try_clone()?);
    spawn(move || one_way(&other_server, &other_client));
    one_way(client, &server)
}

fn one_way(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let (end, begin) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setpipe_size(&begin, PIPE)?;
    loop {
        let taken = splice_some(from, &begin, PIPE)?;
        if taken == 0 {
            break;
        }
        let mut left = taken;
        while left > 0 {
            left -= splice_some(&end, to, left)?;
        }
    }
    rustix::net::shutdown(to, rustix::net::Shutdown::Write)?;
    Ok(())
}

fn splice_some(from: impl AsFd, to: impl AsFd, most: usize) -> rustix::io::Result<usize> {
    splice(from, None, to, None, most, SpliceFlags::MOVE)
}

impl Place {
    fn connect(&self) -> Result<OwnedFd> {
        let connected = match self {
            Self::Tcp(address) => TcpStream::connect(address)
                .and_then(|stream| stream.set_nodelay(true).map(|()| stream.into())),
            Self::Unix(path) => UnixStream::connect(path).map(OwnedFd::from),
        };
        connected.with_context(|| format!("connect to {self}"))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Place {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("tcp", address)) => Ok(Self::Tcp(address.parse()?)),
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            _ => bail!("{text:?} is neither tcp:ADDRESS:PORT nor unix:PATH"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::Shutdown;

    use super::*;

    #[test]
    fn bytes_pass_two_relays_and_each_direction_ends_alone() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Place::Tcp(server.local_addr().unwrap());
        let path = std::env::temp_dir().join(format!("berth-xtask-relay.{}", std::process::id()));
        let middle = Place::Unix(path.clone());
        let second = Relay::listen(&middle).unwrap();
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(first.local_addr().unwrap()).unwrap();
        spawn(move || second.run(&target));
        spawn(move || Relay::Tcp(first).run(&middle));
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let (mut stream, _) = server.accept().unwrap();
        let mut question = String::new();
        stream.read_to_string(&mut question).unwrap();
        stream
            .write_all(question.to_uppercase().as_bytes())
            .unwrap();
        drop(stream);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "QUESTION");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn places_are_told_apart() {
        for text in ["tcp:127.0.0.1:80", "unix:/run/x.sock"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        assert!("127.0.0.1:80".parse::<Place>().is_err());
        assert!("tcp:nowhere".parse::<Place>().is_err());
    }
}
