//! What a client asks a server for, on any stream of bytes. A request is nine bytes: what, and how many bytes of it (big
//! endian). When it is done, the next one may follow on the same stream.

use std::io::{self, Read, Write};

/// Size of a request.
const LENGTH: usize = 9;

/// What to do with how many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// The server takes them, and answers with one byte when it has all.
    Upload(u64),
    /// The server sends them.
    Download(u64),
    /// The server sends back what it gets.
    Echo(u64),
}

impl Task {
    /// The bytes that ask for it.
    pub(super) fn encode(self) -> [u8; LENGTH] {
        let (kind, amount) = match self {
            Self::Upload(amount) => (b'u', amount),
            Self::Download(amount) => (b'd', amount),
            Self::Echo(amount) => (b'e', amount),
        };
        let mut bytes = [kind; LENGTH];
        bytes[1..].copy_from_slice(&amount.to_be_bytes());
        bytes
    }

    fn decode([kind, amount @ ..]: [u8; LENGTH]) -> io::Result<Self> {
        let amount = u64::from_be_bytes(amount);
        match kind {
            b'u' => Ok(Self::Upload(amount)),
            b'd' => Ok(Self::Download(amount)),
            b'e' => Ok(Self::Echo(amount)),
            _ => Err(io::Error::other("not a request of the traffic program")),
        }
    }
}

/// Serves one stream until its end.
pub(super) fn serve(stream: &mut (impl Read + Write), buffer: &mut [u8]) -> io::Result<()> {
    let mut request = [0; LENGTH];
    while read_all_or_none(stream, &mut request)? {
        match Task::decode(request)? {
            Task::Upload(amount) => {
                let mut left = amount;
                while left > 0 {
                    left -= read_some(stream, buffer, left)? as u64;
                }
                stream.write_all(b"!")?;
            }
            Task::Download(amount) => send(stream, buffer, amount)?,
            Task::Echo(amount) => {
                let mut left = amount;
                while left > 0 {
                    let count = read_some(stream, buffer, left)?;
                    stream.write_all(&buffer[..count])?;
                    left -= count as u64;
                }
            }
        }
    }
    Ok(())
}

/// Writes so many bytes of whatever the buffer holds.
pub(super) fn send(stream: &mut impl Write, buffer: &[u8], amount: u64) -> io::Result<()> {
    let mut left = amount;
    while left > 0 {
        let count = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&buffer[..count])?;
        left -= count as u64;
    }
    Ok(())
}

/// Reads at least one byte and at most `most`; the end is an error.
pub(super) fn read_some(stream: &mut impl Read, buffer: &mut [u8], most: u64) -> io::Result<usize> {
    let most = buffer
        .len()
        .min(usize::try_from(most).unwrap_or(usize::MAX));
    match stream.read(&mut buffer[..most])? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

/// `false`: the stream ended before the first byte.
fn read_all_or_none(stream: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match stream.read(bytes)? {
        0 => Ok(false),
        count => stream.read_exact(&mut bytes[count..]).map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn requests_survive_the_wire() {
        for task in [Task::Upload(0), Task::Download(u64::MAX), Task::Echo(258)] {
            assert_eq!(Task::decode(task.encode()).unwrap(), task);
        }
        assert!(Task::decode(*b"GET / HTT").is_err());
    }

    #[test]
    fn a_stream_carries_one_request_after_the_other() {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        let serving = std::thread::spawn(move || serve(&mut server, &mut [7; 64]));
        client.write_all(&Task::Upload(100).encode()).unwrap();
        client.write_all(&[0; 100]).unwrap();
        client.write_all(&Task::Download(70).encode()).unwrap();
        client.write_all(&Task::Echo(3).encode()).unwrap();
        client.write_all(b"abc").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        serving.join().unwrap().unwrap();
        assert_eq!(answer.len(), 1 + 70 + 3);
        assert!(answer.starts_with(b"!") && answer.ends_with(b"abc"));
    }

    #[test]
    fn an_end_in_the_middle_is_an_error() {
        for sent in [
            &b"u\0"[..],
            &Task::Echo(1).encode(),
            &Task::Upload(2).encode(),
        ] {
            let (mut client, mut server) = UnixStream::pair().unwrap();
            client.write_all(sent).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let error = serve(&mut server, &mut [0; 64]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
