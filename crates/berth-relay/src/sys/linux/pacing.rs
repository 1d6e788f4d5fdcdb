//! What a TCP socket does against congestion.

use std::io;
use std::os::fd::AsFd;

use rustix::net::sockopt::{set_tcp_congestion, tcp_congestion};

/// Algorithms that send as fast as windows allow; the last is in every kernel, and allowed to everybody.
const UNPACED: [&str; 2] = ["cubic", "reno"];

/// Keeps a socket from spacing out what it sends, as BBR does where it is the system's default. It has to be done before the socket
/// is connected, or before it listens: pacing that has begun does not end.
pub fn send_unpaced(socket: &impl AsFd) -> io::Result<()> {
    let used = tcp_congestion(socket)?;
    if UNPACED.contains(&used.as_str()) {
        return Ok(());
    }
    Ok(set_tcp_congestion(socket, UNPACED[1])?)
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn a_connection_of_an_unpaced_listener_is_unpaced() {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        send_unpaced(&listener).unwrap();
        let here: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        listener.bind(&here.into()).unwrap();
        listener.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.connect(&address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(UNPACED.contains(&tcp_congestion(&accepted).unwrap().as_str()));
    }

    #[test]
    fn another_algorithm_gives_way() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let allowed = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
        let allowed = std::fs::read_to_string(allowed).unwrap();
        let Some(other) = allowed.split_whitespace().find(|it| !UNPACED.contains(it)) else {
            println!("NOT TRIED: this kernel has no other algorithm than {UNPACED:?}");
            return;
        };
        set_tcp_congestion(&socket, other).unwrap();
        send_unpaced(&socket).unwrap();
        assert_eq!(tcp_congestion(&socket).unwrap(), "reno");
    }

    #[test]
    fn a_socket_that_has_none_is_an_error() {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        assert!(send_unpaced(&socket).is_err());
    }
}
