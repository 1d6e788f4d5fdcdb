//! The host's end of a test: connects, sends and reads.

use std::io::{self, ErrorKind, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Finds answers that never come.
pub(crate) const HANG: Duration = Duration::from_secs(30);

/// Connects to a port.
pub(crate) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, HANG)?;
    stream.set_read_timeout(Some(HANG))?;
    stream.set_write_timeout(Some(HANG))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects to a socket.
pub(crate) fn connect_unix(to: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(to)?;
    stream.set_read_timeout(Some(HANG))?;
    stream.set_write_timeout(Some(HANG))?;
    Ok(stream)
}

/// Sends `payload` and its end, and returns everything that comes back.
pub(crate) fn tcp(to: SocketAddr, payload: &str) -> io::Result<String> {
    let mut stream = connect(to)?;
    stream.write_all(payload.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    read_all(stream)
}

/// The same over a unix socket.
pub(crate) fn unix(to: &Path, payload: &str) -> io::Result<String> {
    let mut stream = connect_unix(to)?;
    stream.write_all(payload.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    read_all(stream)
}

/// Sends a datagram, and returns the answer. An answer from any other address is not seen.
pub(crate) fn udp(to: SocketAddr, payload: &str) -> io::Result<String> {
    let socket = udp_socket(to)?;
    socket.send(payload.as_bytes())?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A UDP socket of a client.
pub(crate) fn udp_socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(HANG))?;
    Ok(socket)
}

/// Everything until the end.
pub(crate) fn read_all(mut stream: impl Read) -> io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Whether nobody listens there.
pub(crate) fn is_refused(protocol: &str, to: SocketAddr) -> bool {
    let answer = match protocol {
        "udp" => udp(to, "anybody?"),
        _ => tcp(to, "anybody?"),
    };
    answer.is_err_and(|why| why.kind() == ErrorKind::ConnectionRefused)
}

/// Whether a connection was broken off, or was none.
pub(crate) fn is_broken(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
    )
}
