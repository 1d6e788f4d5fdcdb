//! Whatever happens in whatever order: in the end exactly that listens which ought to.
//!
//! The model knows the rules of this test only, and the oracle is the kernel's own table of sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use berth_config::model::Proto;
use berth_forward::address::{GuestPorts, Transport};
use berth_forward::reconcile::{ForwardState, ForwardStatus};
use proptest::prelude::*;

use crate::support::{Forwards, ask, fixed, free_port, ignore_all, one, port, rule, start};

/// What the guest may listen on.
const POOL: [&str; 14] = [
    "tcp 127.0.0.1:1001",
    "tcp [::1]:1001",
    "tcp 0.0.0.0:1001",
    "udp 127.0.0.1:1001",
    "tcp 127.0.0.1:1002",
    "tcp 10.9.9.9:1002",
    "udp [::]:1003",
    "tcp 127.0.0.1:1004",
    "tcp [::1]:1004",
    "udp 127.0.0.1:1004",
    "tcp 127.0.0.1:1005",
    "tcp 127.0.0.1:1006",
    "tcp 10.9.9.9:1001",
    "tcp 0.0.0.0:22",
];

#[derive(Debug, Clone)]
enum Event {
    /// The guest reports these.
    Report(BTreeSet<usize>),
    /// Nothing is known of the guest.
    Forget,
    /// Somebody else takes a place of the host, or lets it go.
    Occupy(usize),
    LetGo(usize),
    Kick,
    /// Everything else has its turn.
    Pause,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let places = 0..PLACES;
    let event = prop_oneof![
        4 => proptest::collection::btree_set(0..POOL.len(), 0..8).prop_map(Event::Report),
        1 => Just(Event::Forget),
        2 => places.clone().prop_map(Event::Occupy),
        3 => places.prop_map(Event::LetGo),
        1 => Just(Event::Kick),
        3 => Just(Event::Pause),
    ];
    proptest::collection::vec(event, 1..40)
}

/// Places of the host that the rules lead to.
const PLACES: usize = 8;

/// The host of one case: an address that no other case uses, and a port for `localhost`.
struct Host {
    address: String,
    localhost: u16,
}

impl Host {
    fn at(&self, transport: Transport, port: u16) -> (Transport, SocketAddr) {
        let ip: IpAddr = self.address.parse().unwrap();
        (transport, SocketAddr::new(ip, port))
    }

    fn place(&self, index: usize) -> (Transport, SocketAddr) {
        use Transport::{Tcp, Udp};
        match index {
            0 => self.at(Tcp, 21001),
            1 => self.at(Udp, 21001),
            2 => self.at(Tcp, 21002),
            3 => self.at(Udp, 21003),
            4 => self.at(Tcp, 21005),
            5 => (Tcp, ([127, 0, 0, 1], self.localhost).into()),
            6 => (Tcp, (Ipv6Addr::LOCALHOST, self.localhost).into()),
            _ => (Udp, (Ipv6Addr::LOCALHOST, self.localhost).into()),
        }
    }

    fn start(&self) -> Forwards {
        let every = |rule| berth_config::model::PortForward {
            guest_ip: "0.0.0.0".parse().unwrap(),
            ..rule
        };
        let mut statics = fixed(one(1005, &self.address, 21005));
        statics.proto = Proto::Tcp;
        start([
            one(1001, &self.address, 21001),
            // Port 1002 leads to where 1001 does.
            every(rule([1002, 1003], &self.address, [21001, 21002])),
            one(1004, "localhost", self.localhost),
            statics,
            ignore_all(),
        ])
    }

    /// Which places ought to be listened on, all of each set or none of it, and where each leads.
    fn wanted(&self, guest: &BTreeSet<usize>) -> BTreeMap<Vec<(Transport, SocketAddr)>, Vec<&str>> {
        use Transport::{Tcp, Udp};
        let reported = |names: &[&'static str]| -> Vec<&'static str> {
            let all = guest.iter().map(|index| POOL[*index]);
            all.filter(|name| names.contains(name)).collect()
        };
        let mut wanted = BTreeMap::new();
        let mut want = |place: Vec<(Transport, SocketAddr)>, leads_to: Vec<&'static str>| {
            if !leads_to.is_empty() {
                wanted.insert(place, leads_to);
            }
        };
        let mut first = reported(&POOL[0..3]);
        if first.is_empty() {
            first = reported(&POOL[4..6]);
        }
        want(vec![self.at(Tcp, 21001)], first);
        want(vec![self.at(Udp, 21001)], reported(&POOL[3..4]));
        want(vec![self.at(Udp, 21002)], reported(&POOL[6..7]));
        let both = |transport| {
            let port = self.localhost;
            vec![
                (transport, SocketAddr::from(([127, 0, 0, 1], port))),
                (transport, SocketAddr::from((Ipv6Addr::LOCALHOST, port))),
            ]
        };
        want(both(Tcp), reported(&POOL[7..9]));
        want(both(Udp), reported(&POOL[9..10]));
        want(vec![self.at(Tcp, 21005)], vec!["tcp 127.0.0.1:1005"]);
        wanted
    }

    /// How the status names these places.
    fn name(&self, places: &[(Transport, SocketAddr)]) -> String {
        let (transport, at) = places[0];
        if at.port() == self.localhost {
            format!("{transport} localhost:{}", self.localhost)
        } else {
            format!("{transport} {at}")
        }
    }

    /// Compares with what of this host is listened on. The kernel's table is read in pieces and may skip a line while others of
    /// the machine come and go, so a difference counts if it stays.
    fn assert_listened_on(&self, expected: &BTreeSet<(Transport, SocketAddr)>) {
        let differs = (0..20).all(|_| self.listened_on() != *expected);
        if differs {
            assert_eq!(self.listened_on(), *expected);
        }
    }

    /// What of this host is listened on, as the kernel tells it.
    fn listened_on(&self) -> BTreeSet<(Transport, SocketAddr)> {
        let mut all = BTreeSet::new();
        for (table, transport) in [
            ("tcp", Transport::Tcp),
            ("tcp6", Transport::Tcp),
            ("udp", Transport::Udp),
            ("udp6", Transport::Udp),
        ] {
            let text = std::fs::read_to_string(format!("/proc/self/net/{table}")).unwrap();
            for line in text.lines().skip(1) {
                let fields: Vec<&str> = line.split_ascii_whitespace().collect();
                let listens = transport == Transport::Udp || fields[3] == "0A";
                let at = local_address(fields[1]);
                let is_ours = at.ip().to_string() == self.address || at.port() == self.localhost;
                if listens && is_ours {
                    all.insert((transport, at));
                }
            }
        }
        all
    }
}

/// `0100007F:1F90`: words in the machine's order.
fn local_address(text: &str) -> SocketAddr {
    let (ip, port) = text.split_once(':').unwrap();
    let bytes: Vec<u8> = (0..ip.len() / 8)
        .flat_map(|word| {
            let word = u32::from_str_radix(&ip[word * 8..word * 8 + 8], 16).unwrap();
            word.to_ne_bytes()
        })
        .collect();
    let port = u16::from_str_radix(port, 16).unwrap();
    match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(four) => (four, port).into(),
        Err(_) => (<[u8; 16]>::try_from(&bytes[..]).unwrap(), port).into(),
    }
}

/// Somebody else's socket.
#[allow(dead_code, reason = "held for as long as it is there")]
enum Other {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Other {
    fn bind((transport, at): (Transport, SocketAddr)) -> Option<Self> {
        match transport {
            Transport::Tcp => TcpListener::bind(at).map(Self::Tcp).ok(),
            Transport::Udp => UdpSocket::bind(at).map(Self::Udp).ok(),
        }
    }
}

async fn play(host: &Host, events: Vec<Event>) {
    let f = host.start();
    let mut guest = BTreeSet::new();
    let mut others = BTreeMap::new();
    for event in events {
        match event {
            Event::Report(indices) => {
                f.reports(&indices.iter().map(|i| POOL[*i]).collect::<Vec<_>>());
                guest = indices;
            }
            Event::Forget => drop(f.ports.send_replace(GuestPorts::default())),
            Event::Occupy(index) => {
                let at = host.place(index);
                if !others.contains_key(&at)
                    && let Some(other) = Other::bind(at)
                {
                    others.insert(at, other);
                }
            }
            Event::LetGo(index) => drop(others.remove(&host.place(index))),
            Event::Kick => f.handle.kick(),
            Event::Pause => tokio::time::sleep(std::time::Duration::from_millis(2)).await,
        }
    }
    // What was said last may have been overtaken by a `Forget`.
    f.reports(&guest.iter().map(|i| POOL[*i]).collect::<Vec<_>>());
    settle_and_compare(host, &f, &guest, &others).await;
    others.clear();
    f.handle.kick();
    settle_and_compare(host, &f, &guest, &others).await;
    f.stop().await;
    host.assert_listened_on(&BTreeSet::new());
}

async fn settle_and_compare(
    host: &Host,
    f: &Forwards,
    guest: &BTreeSet<usize>,
    others: &BTreeMap<(Transport, SocketAddr), Other>,
) {
    let wanted = host.wanted(guest);
    let (waiting, listening): (Vec<_>, Vec<_>) = wanted
        .iter()
        .partition(|(places, _)| places.iter().any(|place| others.contains_key(place)));
    let names = |forwards: &[(&Vec<(Transport, SocketAddr)>, _)]| -> BTreeSet<String> {
        let names = forwards.iter().map(|(places, _)| host.name(places));
        names.collect()
    };
    let model = (names(&listening), names(&waiting));
    f.until(&format!("as the model says: {model:?}"), |status| {
        let own = status.forwards.iter().filter(|f| {
            // Those whose place an earlier rule has are shown, too.
            !matches!(&f.state, ForwardState::Waiting { why } if why.starts_with("an earlier rule"))
        });
        let (listens, waits): (Vec<_>, Vec<_>) =
            own.partition(|f| f.state == ForwardState::Listening);
        let names = |forwards: &[&ForwardStatus]| -> BTreeSet<String> {
            let names = forwards.iter();
            names
                .map(|f| format!("{} {}", f.guests[0].protocol(), f.host))
                .collect()
        };
        (names(&listens), names(&waits)) == model
    })
    .await;
    let expected: BTreeSet<_> = listening
        .iter()
        .flat_map(|(places, _)| places.iter().copied())
        .chain(others.keys().copied())
        .collect();
    host.assert_listened_on(&expected);
    for (places, leads_to) in listening {
        for (transport, at) in places {
            if *transport == Transport::Tcp {
                let answer = ask(&at.to_string()).await.unwrap_or_default();
                let label = answer.lines().next().unwrap_or_default();
                let known = leads_to.iter().map(|name| port(name).address.to_string());
                let is_static = at.port() == 21005;
                assert!(
                    known.clone().any(|known| known == label) || is_static,
                    "{at} leads to {label:?}, not one of {:?}",
                    known.collect::<Vec<_>>()
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_the_end_exactly_that_listens_which_ought_to(events in events(), number in 1_u8..250) {
        let host = Host {
            address: format!("127.78.{number}.{}", std::process::id() % 200 + 1),
            localhost: free_port(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(play(&host, events));
    }
}
