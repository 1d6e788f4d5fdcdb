//! Pacing, of which a connection within one machine has nothing.

use std::io;
use std::os::fd::AsFd;

use rustix::net::sockopt::{set_tcp_congestion, tcp_congestion};

/// The congestion control that is in every kernel, and allowed to everybody. It sends as fast as windows allow.
const RENO: &str = "reno";

/// Keeps a socket from spacing out what it sends, as BBR does where it is the system's default. It has to be done before the socket
/// is connected, or before it listens, because BBR sets its timers up when a connection begins.
pub fn send_unpaced(socket: &impl AsFd) -> io::Result<()> {
    if may_pace(&tcp_congestion(socket)?) {
        set_tcp_congestion(socket, RENO)?;
    }
    Ok(())
}

fn may_pace(congestion_control: &str) -> bool {
    !matches!(congestion_control, RENO | "cubic")
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use socket2::{Domain, Socket, Type};

    use super::*;

    fn tcp() -> Socket {
        Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
    }

    #[test]
    fn only_what_may_pace_is_replaced() {
        let all = ["reno", "cubic", "bbr", "dctcp"];
        assert_eq!(all.map(may_pace), [false, false, true, true]);
    }

    #[test]
    fn connections_have_what_their_listener_has() {
        let listener = tcp();
        set_tcp_congestion(&listener, RENO).unwrap();
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        listener.bind(&anywhere.into()).unwrap();
        listener.listen(1).unwrap();
        let client = tcp();
        client.connect(&listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(tcp_congestion(&accepted).unwrap(), RENO);
    }

    #[test]
    fn a_socket_that_may_pace_gives_it_up() {
        let allowed = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
        let allowed = std::fs::read_to_string(allowed).unwrap();
        let Some(paced) = allowed.split_whitespace().find(|name| may_pace(name)) else {
            println!("NOT TRIED: this kernel has none that may pace: {allowed}");
            return;
        };
        let socket = tcp();
        set_tcp_congestion(&socket, paced).unwrap();
        send_unpaced(&socket).unwrap();
        assert_eq!(tcp_congestion(&socket).unwrap(), RENO);
    }

    #[test]
    fn a_socket_without_congestion_control_is_an_error() {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        assert!(send_unpaced(&socket).is_err());
    }
}
