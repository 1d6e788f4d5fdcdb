//! A client that sends what a test wants, and reads what comes.

use std::net::IpAddr;

use berth_dns::wire::message::{Message, Section};
use berth_dns::wire::{Rcode, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Duration, timeout};

/// Longer than any answer may take: a detector of hangs.
const HANG: Duration = Duration::from_secs(30);

/// How a question is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Udp,
    /// With EDNS, and this payload.
    Edns(u16),
    Tcp,
}

pub(crate) const WAYS: [Way; 3] = [Way::Udp, Way::Edns(1232), Way::Tcp];

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply(pub(crate) Vec<u8>);

impl Reply {
    fn message(&self) -> Message<'_> {
        Message::check(&self.0).expect("answers are well formed")
    }

    pub(crate) fn id(&self) -> u16 {
        self.message().id()
    }

    pub(crate) fn rcode(&self) -> Rcode {
        self.message().rcode()
    }

    pub(crate) fn is_truncated(&self) -> bool {
        self.message().is_truncated()
    }

    pub(crate) fn answers(&self) -> usize {
        self.message()
            .records()
            .filter(|record| record.section == Section::Answer)
            .count()
    }

    pub(crate) fn has_opt(&self) -> bool {
        self.message()
            .records()
            .any(|record| record.kind == RecordType::OPT)
    }

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let records = self.message().records();
        records
            .filter(|record| record.section == Section::Answer)
            .filter_map(|record| record.address())
            .collect()
    }
}

/// A socket of one client.
pub(crate) struct Client {
    udp: UdpSocket,
    ports: (u16, u16),
}

impl Client {
    pub(crate) async fn new(ports: (u16, u16)) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        udp.connect(("127.0.0.1", ports.0)).await.unwrap();
        Self { udp, ports }
    }

    pub(crate) async fn send(&self, packet: &[u8]) {
        self.udp.send(packet).await.unwrap();
    }

    pub(crate) async fn receive(&self) -> Reply {
        let mut buffer = vec![0; 65_536];
        let length = timeout(HANG, self.udp.recv(&mut buffer))
            .await
            .expect("an answer")
            .unwrap();
        buffer.truncate(length);
        Reply(buffer)
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection(
            TcpStream::connect(("127.0.0.1", self.ports.1))
                .await
                .unwrap(),
        )
    }

    pub(crate) async fn ask(&self, name: &str, kind: RecordType, way: Way) -> Reply {
        let packet = question(0x1234, name, kind, way);
        let reply = if way == Way::Tcp {
            let mut connection = self.connect().await;
            connection.send(&packet).await;
            connection.receive().await
        } else {
            self.send(&packet).await;
            self.receive().await
        };
        assert_eq!(reply.id(), 0x1234);
        assert_eq!(
            reply.has_opt(),
            matches!(way, Way::Edns(_)),
            "{name} {kind} {way:?}"
        );
        let asked = packet.len() - if reply.has_opt() { 11 } else { 0 };
        assert_eq!(
            reply.0[12..asked],
            packet[12..asked],
            "the question is repeated as it was"
        );
        assert_eq!(reply.0[3] & 0x80, 0x80, "recursion is available");
        reply
    }

    pub(crate) async fn address(&self, name: &str) -> Vec<IpAddr> {
        self.ask(name, RecordType::A, Way::Udp).await.addresses()
    }
}

/// A connection of a client.
pub(crate) struct Connection(TcpStream);

impl Connection {
    pub(crate) async fn send(&mut self, packet: &[u8]) {
        let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
        self.0.write_all(&[&length, packet].concat()).await.unwrap();
    }

    pub(crate) async fn receive(&mut self) -> Reply {
        let length = timeout(HANG, self.0.read_u16())
            .await
            .expect("an answer")
            .unwrap();
        let mut bytes = vec![0; length.into()];
        self.0.read_exact(&mut bytes).await.unwrap();
        Reply(bytes)
    }

    /// Whether the server has closed it.
    pub(crate) async fn is_closed(&mut self) -> bool {
        matches!(timeout(HANG, self.0.read_u8()).await, Ok(Err(_)))
    }

    pub(crate) async fn finish(&mut self) {
        self.0.shutdown().await.unwrap();
    }
}

/// A query, written by hand: what is tested does not also write the test's.
pub(crate) fn question(id: u16, name: &str, kind: RecordType, way: Way) -> Vec<u8> {
    let additional = u8::from(matches!(way, Way::Edns(_)));
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, additional]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(kind.0.to_be_bytes());
    packet.extend([0, 1]);
    if let Way::Edns(payload) = way {
        packet.extend([0, 0, 41]);
        packet.extend(payload.to_be_bytes());
        packet.extend([0; 6]);
    }
    packet
}
