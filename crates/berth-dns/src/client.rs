//! Asking a name server, for people who debug. Blocks.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use crate::wire::message::Message;
use crate::wire::name::Name;
use crate::wire::query::{Query, Transport};
use crate::wire::reply::write_opt;
use crate::wire::{HEADER, Rcode, RecordType, flag, put_u16};

/// The server has so long for all of its own attempts, and a little more.
const LIMIT: Duration = Duration::from_secs(7);

/// Asks the name server of an instance at these ports of 127.0.0.1 (UDP, TCP): over UDP, and over TCP where that does not fit or is
/// asked for. Returns the answer's message.
pub fn ask(
    ports: (u16, u16),
    name: &Name,
    kind: RecordType,
    transport: Transport,
) -> io::Result<Vec<u8>> {
    let query = message(name, kind)?;
    let over_tcp = || over_tcp(ports.1, &query);
    let answer = match transport {
        Transport::Tcp => over_tcp()?,
        Transport::Udp => {
            let answer = over_udp(ports.0, &query)?;
            let is_cut = Message::check(&answer).is_some_and(|message| message.is_truncated());
            if is_cut { over_tcp()? } else { answer }
        }
    };
    let is_ours = Message::check(&answer)
        .is_some_and(|message| answer[..2] == query[..2] && message.flags() & flag::RESPONSE != 0);
    is_ours
        .then_some(answer)
        .ok_or_else(|| io::Error::other("the answer is malformed"))
}

pub(crate) fn message(name: &Name, kind: RecordType) -> io::Result<Vec<u8>> {
    let asked = Query::new(name, kind, Transport::Udp);
    let mut message = vec![0; HEADER];
    getrandom::fill(&mut message[..2]).map_err(io::Error::other)?;
    put_u16(&mut message, 2, flag::RECURSION_DESIRED);
    put_u16(&mut message, 4, 1);
    put_u16(&mut message, 10, 1);
    message.extend_from_slice(&asked.question);
    write_opt(Rcode::NO_ERROR, false, &mut message);
    Ok(message)
}

fn over_udp(port: u16, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.send(query)?;
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn over_tcp(port: u16, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
