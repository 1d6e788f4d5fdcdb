//! Upstream servers that behave as servers do, and as they should not.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::task::AbortOnDropHandle;

/// How a server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Answers with this address, and a TTL.
    Address(Ipv4Addr, u32),
    /// Says that there is no such name.
    NoSuchName,
    /// Says that it failed.
    Fails,
    /// Says that it will not.
    Refuses,
    /// Over UDP says that the answer does not fit; over TCP answers with 100 addresses.
    Truncating,
    /// Sends 100 addresses over UDP, fitting or not.
    Huge,
    /// Answers after a while.
    Slow(Duration),
    /// Takes everything, says nothing.
    Silent,
    /// Answers with another id, then rightly.
    WrongId,
    /// Answers to another question, then rightly.
    WrongQuestion,
    /// Answers with bytes that mean nothing.
    Noise,
    /// Answers with the right header and question, and cut records.
    CutRecords,
    /// Knows no EDNS.
    OldFashioned,
    /// Truncating over UDP; over TCP closes in the middle of its answer.
    CutConnection,
    /// Truncating over UDP; over TCP says nothing.
    SilentConnection,
}

/// Who asked for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) from: SocketAddr,
    pub(crate) id: u16,
    pub(crate) question: Vec<u8>,
    pub(crate) has_edns: bool,
    pub(crate) is_tcp: bool,
}

/// A server; ends with the value.
pub(crate) struct Upstream {
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    behaviour: Arc<Mutex<Behaviour>>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Upstream {
    /// Listens at 127.0.0.1, at any port.
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let port = udp.local_addr().unwrap().port();
            if let Some(server) = Self::with(udp, Ipv4Addr::LOCALHOST, port, behaviour).await {
                return server;
            }
        }
    }

    /// Listens at another address, at the port of the first.
    pub(crate) async fn beside(&self, last: u8, behaviour: Behaviour) -> Self {
        let address = Ipv4Addr::new(127, 0, 0, last);
        let udp = UdpSocket::bind((address, self.port)).await.unwrap();
        Self::with(udp, address, self.port, behaviour)
            .await
            .expect("nobody has that port")
    }

    async fn with(udp: UdpSocket, address: Ipv4Addr, port: u16, first: Behaviour) -> Option<Self> {
        let tcp = TcpListener::bind((address, port)).await.ok()?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let behaviour = Arc::new(Mutex::new(first));
        let shared = (Arc::clone(&asked), Arc::clone(&behaviour));
        let tasks = [
            AbortOnDropHandle::new(tokio::task::spawn_local(over_udp(udp, shared.clone()))),
            AbortOnDropHandle::new(tokio::task::spawn_local(over_tcp(tcp, shared))),
        ];
        Some(Self {
            address,
            port,
            asked,
            behaviour,
            _tasks: tasks,
        })
    }

    pub(crate) fn becomes(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

type Shared = (Arc<Mutex<Vec<Asked>>>, Arc<Mutex<Behaviour>>);

fn note(shared: &Shared, packet: &[u8], from: SocketAddr, is_tcp: bool) -> Behaviour {
    let end = question_end(packet);
    shared.0.lock().unwrap().push(Asked {
        from,
        id: u16::from_be_bytes([packet[0], packet[1]]),
        question: packet[12..end].to_vec(),
        has_edns: packet.len() > end,
        is_tcp,
    });
    *shared.1.lock().unwrap()
}

fn question_end(packet: &[u8]) -> usize {
    let mut at = 12;
    while packet[at] != 0 {
        at += 1 + usize::from(packet[at]);
    }
    at + 5
}

async fn over_udp(socket: UdpSocket, shared: Shared) {
    let socket = Arc::new(socket);
    let mut buffer = [0; 2048];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let packet = buffer[..length].to_vec();
        let behaviour = note(&shared, &packet, from, false);
        let socket = Arc::clone(&socket);
        tokio::task::spawn_local(async move {
            if let Behaviour::Slow(delay) = behaviour {
                tokio::time::sleep(delay).await;
            }
            for answer in datagrams(&packet, behaviour) {
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

async fn over_tcp(listener: TcpListener, shared: Shared) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            continue;
        };
        let shared = shared.clone();
        tokio::task::spawn_local(async move {
            let _ = serve(stream, from, &shared).await;
        });
    }
}

async fn serve(mut stream: TcpStream, from: SocketAddr, shared: &Shared) -> std::io::Result<()> {
    let length = stream.read_u16().await?;
    let mut packet = vec![0; length.into()];
    stream.read_exact(&mut packet).await?;
    match note(shared, &packet, from, true) {
        Behaviour::SilentConnection => std::future::pending().await,
        Behaviour::CutConnection => {
            stream.write_u16(1000).await?;
            stream.write_all(&many(&packet)[..500]).await
        }
        _ => {
            let answer = many(&packet);
            stream
                .write_u16(u16::try_from(answer.len()).unwrap())
                .await?;
            stream.write_all(&answer).await
        }
    }
}

const USUAL: Ipv4Addr = Ipv4Addr::new(10, 7, 7, 7);

fn datagrams(packet: &[u8], behaviour: Behaviour) -> Vec<Vec<u8>> {
    let right = || answer(packet, 0, &[USUAL], 60);
    match behaviour {
        Behaviour::Address(address, ttl) => vec![answer(packet, 0, &[address], ttl)],
        Behaviour::NoSuchName => vec![answer(packet, 3, &[], 0)],
        Behaviour::Fails => vec![answer(packet, 2, &[], 0)],
        Behaviour::Refuses => vec![answer(packet, 5, &[], 0)],
        Behaviour::Truncating | Behaviour::CutConnection | Behaviour::SilentConnection => {
            let mut cut = answer(packet, 0, &[], 0);
            cut[2] |= 2;
            vec![cut]
        }
        Behaviour::Huge => vec![many(packet)],
        Behaviour::Silent => vec![],
        Behaviour::WrongId => {
            let mut wrong = answer(packet, 0, &[Ipv4Addr::new(6, 6, 6, 6)], 60);
            wrong[0] ^= 0xff;
            vec![wrong, right()]
        }
        Behaviour::WrongQuestion => {
            let mut wrong = answer(packet, 0, &[Ipv4Addr::new(6, 6, 6, 6)], 60);
            wrong[13] = if wrong[13] == b'z' { b'y' } else { b'z' };
            vec![wrong, right()]
        }
        Behaviour::Noise => vec![vec![0xff; 40], vec![1], vec![]],
        Behaviour::CutRecords => {
            let mut cut = right();
            cut.truncate(cut.len() - 3);
            vec![cut]
        }
        Behaviour::OldFashioned if packet.len() > question_end(packet) => {
            vec![vec![
                packet[0], packet[1], 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0,
            ]]
        }
        Behaviour::Slow(_) | Behaviour::OldFashioned => vec![right()],
    }
}

fn many(packet: &[u8]) -> Vec<u8> {
    let addresses: Vec<_> = (0..100).map(|n| Ipv4Addr::new(10, 9, 9, n)).collect();
    answer(packet, 0, &addresses, 60)
}

fn answer(packet: &[u8], rcode: u8, addresses: &[Ipv4Addr], ttl: u32) -> Vec<u8> {
    let mut bytes = vec![
        packet[0],
        packet[1],
        0x81,
        0x80 | rcode,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    bytes[7] = u8::try_from(addresses.len()).unwrap();
    bytes.extend(&packet[12..question_end(packet)]);
    for address in addresses {
        bytes.extend(b"\xc0\x0c\0\x01\0\x01");
        bytes.extend(ttl.to_be_bytes());
        bytes.extend(b"\0\x04");
        bytes.extend(address.octets());
    }
    bytes
}
