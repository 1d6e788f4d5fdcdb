//! A name server of the host: answers every name with one address, until it is dropped.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) struct Upstream {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Listens at an address that nobody has.
    #[track_caller]
    pub(crate) fn start(at: SocketAddrV4, answer: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind(at).expect("an address that nobody has");
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a limit");
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || serve(&socket, answer, &ends));
        Self {
            is_over,
            thread: Some(thread),
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it does not panic");
        }
    }
}

fn serve(socket: &UdpSocket, answer: Ipv4Addr, is_over: &AtomicBool) {
    let mut buffer = [0; 1500];
    while !is_over.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                // A client that has gone is no matter.
                let _ = socket.send_to(&reply(&buffer[..length], answer), from);
            }
            Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(why) => panic!("{why}"),
        }
    }
}

/// An address for A, nothing for other types. The time is long: that nothing old is told must not be owed to it.
fn reply(query: &[u8], answer: Ipv4Addr) -> Vec<u8> {
    let mut end = 12;
    while query[end] != 0 {
        end += 1 + usize::from(query[end]);
    }
    end += 5;
    let is_a = query[end - 4..end] == [0, 1, 0, 1];
    let mut reply = query[..end].to_vec();
    reply[2..4].copy_from_slice(&[0x81, 0x80]);
    reply[6..12].copy_from_slice(&[0, u8::from(is_a), 0, 0, 0, 0]);
    if is_a {
        reply.extend(b"\xc0\x0c\0\x01\0\x01\0\0\x02\x58\0\x04");
        reply.extend(answer.octets());
    }
    reply
}
