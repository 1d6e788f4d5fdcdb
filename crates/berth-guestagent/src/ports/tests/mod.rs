//! On the real kernel, as root: each source in turn, in a network namespace and a control group of its own.

mod lab;
mod measure;

use std::cell::Cell;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::thread;

use rustix::net::{AddressFamily, Protocol, SocketType, bind, listen, shutdown, socket, sockopt};

use tokio::sync::watch;
use tokio::time::timeout;

use self::lab::{HANG, Kind, Lab, Observer, empty_network, skipped};
use super::cgroup::News;
use super::{GuestSocket, PortInterest, Transport};
use crate::boot::testing::Scene;

const ALL: [Kind; 3] = [Kind::ControlGroups, Kind::Tracepoints, Kind::Ticks];

fn tcp(address: &str) -> GuestSocket {
    GuestSocket::new(Transport::Tcp, address.parse().unwrap()).unwrap()
}

fn udp(address: &str) -> GuestSocket {
    GuestSocket::new(Transport::Udp, address.parse().unwrap()).unwrap()
}

fn bound_udp(socket: &UdpSocket) -> GuestSocket {
    GuestSocket::new(Transport::Udp, socket.local_addr().unwrap()).unwrap()
}

/// A TCP socket that is bound but does not listen; may share its port with others of its kind, and with the other family.
fn bound_tcp(address: &str) -> OwnedFd {
    let address: SocketAddr = address.parse().unwrap();
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let socket = socket(family, SocketType::STREAM, None).unwrap();
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true).unwrap();
    }
    sockopt::set_socket_reuseport(&socket, true).unwrap();
    bind(&socket, &address).unwrap();
    socket
}

#[test]
fn a_listener_comes_and_goes() {
    Lab::each(&ALL, async |mut seen: Observer| {
        seen.until(&[]).await;
        let first = TcpListener::bind("127.0.0.1:8080").unwrap();
        seen.until(&[tcp("127.0.0.1:8080")]).await;
        let second = TcpListener::bind("[::1]:8080").unwrap();
        seen.until(&[tcp("127.0.0.1:8080"), tcp("[::1]:8080")])
            .await;
        drop(first);
        seen.until(&[tcp("[::1]:8080")]).await;
        drop(second);
        seen.until(&[]).await;
    });
}

#[test]
fn a_bound_socket_counts_when_it_listens_and_until_it_is_shut_down() {
    Lab::each(&ALL, async |mut seen: Observer| {
        let other = bound_tcp("0.0.0.0:81");
        let socket = bound_tcp("0.0.0.0:80");
        seen.until(&[]).await;
        listen(&socket, 5).unwrap();
        seen.until(&[tcp("0.0.0.0:80")]).await;
        shutdown(&socket, rustix::net::Shutdown::Both).unwrap();
        seen.until(&[]).await;
        drop((socket, other));
    });
}

#[test]
fn sockets_of_one_address_count_once_until_the_last_is_gone() {
    Lab::each(&ALL, async |mut seen: Observer| {
        let sockets = [(); 2].map(|()| bound_tcp("0.0.0.0:80"));
        let ipv6 = bound_tcp("[::]:80");
        let [first, second] = &sockets;
        for socket in [first, second, &ipv6] {
            listen(socket, 5).unwrap();
        }
        seen.until(&[tcp("0.0.0.0:80"), tcp("[::]:80")]).await;
        let [first, second] = sockets;
        drop((first, ipv6));
        seen.until(&[tcp("0.0.0.0:80")]).await;
        drop(second);
        seen.until(&[]).await;
    });
}

#[test]
fn an_ipv4_address_in_ipv6_is_ipv4() {
    Lab::each(&ALL, async |mut seen: Observer| {
        let listener = TcpListener::bind("[::ffff:127.0.0.1]:80").unwrap();
        let socket = UdpSocket::bind("[::ffff:127.0.0.1]:53").unwrap();
        seen.until(&[tcp("127.0.0.1:80"), udp("127.0.0.1:53")])
            .await;
        drop((listener, socket));
    });
}

/// What Go listens with. The socket that the program has hides the one that the kernel lists.
#[test]
fn a_listener_of_mptcp_comes_and_goes() {
    let listener = || {
        const MPTCP: Protocol = Protocol::from_raw(NonZeroU32::new(262).unwrap());
        let socket = socket(AddressFamily::INET, SocketType::STREAM, Some(MPTCP)).ok()?;
        bind(&socket, &"127.0.0.1:80".parse::<SocketAddr>().unwrap()).unwrap();
        listen(&socket, 5).unwrap();
        Some(socket)
    };
    let Some(lab) = Lab::enter() else { return };
    let early = Cell::new(listener());
    for kind in ALL {
        lab.run(kind, async |mut seen: Observer| {
            let Some(socket) = early.take().or_else(listener) else {
                return skipped("no MPTCP");
            };
            seen.until(&[tcp("127.0.0.1:80")]).await;
            drop(socket);
            seen.until(&[]).await;
        });
        empty_network();
    }
}

#[test]
fn udp_sockets_of_services_count_and_those_of_clients_do_not() {
    Lab::each(&ALL, async |mut seen: Observer| {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:1000").unwrap();
        connected.connect(client.local_addr().unwrap()).unwrap();
        let unbound = UdpSocket::bind("[::1]:0").unwrap();
        let system = UdpSocket::bind("0.0.0.0:5353").unwrap();
        let service = UdpSocket::bind("[::]:53").unwrap();
        seen.until(&[udp("[::]:53")]).await;
        service.connect("[::1]:9").unwrap();
        seen.until(&[]).await;
        drop((client, connected, unbound, system, service));
    });
}

#[test]
fn a_udp_port_asked_for_by_number_counts_wherever_it_lies() {
    Lab::each(&[Kind::ControlGroups], async |mut seen: Observer| {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let service = UdpSocket::bind("127.0.0.1:51820").unwrap();
        seen.until(&[udp("127.0.0.1:51820")]).await;
        drop(service);
        seen.until(&[]).await;
        drop(client);
    });
}

#[test]
fn udp_ports_that_are_asked_for_count_however_they_are_bound() {
    Lab::each(&ALL, async |mut seen: Observer| {
        let early = UdpSocket::bind("127.0.0.1:0").unwrap();
        let system = UdpSocket::bind("0.0.0.0:68").unwrap();
        seen.until(&[]).await;
        seen.be_interested(PortInterest {
            udp_ranges: vec![1..=1, 32_768..=60_999],
            system_udp: false,
        });
        seen.until(&[bound_udp(&early)]).await;
        let late = UdpSocket::bind("[::1]:0").unwrap();
        seen.until(&[bound_udp(&early), bound_udp(&late)]).await;
        drop(early);
        seen.until(&[bound_udp(&late)]).await;
        drop(late);
        seen.until(&[]).await;
        seen.be_interested(PortInterest {
            udp_ranges: Vec::new(),
            system_udp: true,
        });
        seen.until(&[udp("0.0.0.0:68")]).await;
        seen.be_interested(PortInterest {
            udp_ranges: vec![68..=68],
            system_udp: false,
        });
        drop(system);
        seen.until(&[]).await;
    });
}

#[test]
fn a_hundred_ports_at_once() {
    Lab::each(&ALL, async |mut seen: Observer| {
        let listeners: Vec<_> = (1000..1100)
            .map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap())
            .collect();
        let all: Vec<_> = (1000..1100)
            .map(|port| tcp(&format!("127.0.0.1:{port}")))
            .collect();
        seen.until(&all).await;
        drop(listeners);
        seen.until(&[]).await;
    });
}

#[test]
fn services_without_sockets_count_beside_them() {
    Lab::each(&ALL, async |mut seen: Observer| {
        seen.until(&[]).await;
        let services = [tcp("0.0.0.0:80"), udp("0.0.0.0:80")];
        seen.serve(&services);
        seen.until(&services).await;
        let listener = TcpListener::bind("127.0.0.1:80").unwrap();
        seen.until(&[tcp("127.0.0.1:80"), udp("0.0.0.0:80")]).await;
        seen.serve(&[]);
        seen.until(&[tcp("127.0.0.1:80")]).await;
        drop(listener);
        seen.until(&[]).await;
    });
}

#[test]
fn a_port_that_flaps_ends_as_it_is() {
    Lab::each(&ALL, async |mut seen: Observer| {
        for _ in 0..3 {
            let flapping = thread::spawn(|| {
                for _ in 0..2000 {
                    drop(TcpListener::bind("127.0.0.1:80").unwrap());
                    drop(UdpSocket::bind("127.0.0.1:53").unwrap());
                }
                TcpListener::bind("127.0.0.1:80").unwrap()
            });
            while !flapping.is_finished() {
                tokio::task::yield_now().await;
            }
            seen.until(&[tcp("127.0.0.1:80")]).await;
            drop(flapping.join().unwrap());
            seen.until(&[]).await;
        }
    });
}

/// With whatever source there is here.
#[tokio::test(flavor = "current_thread")]
async fn nothing_is_watched_before_the_host_wants_to_know() {
    let scene = Scene::new();
    let (interest, interests) = watch::channel(None);
    let (sender, mut published) = watch::channel(None);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = GuestSocket::new(Transport::Tcp, address).unwrap();
    let watching = super::watch(&scene.guest, interests, |sockets| {
        sender.send_replace(Some(sockets));
    });
    let host = async {
        for wanted in [false, true, false, true] {
            interest.send_replace(wanted.then(PortInterest::default));
            if wanted {
                let sockets = published.wait_for(Option::is_some).await;
                assert!(sockets.unwrap().as_ref().unwrap().contains(&socket));
            } else {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                sender.send_replace(None);
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(*published.borrow(), None);
            }
        }
        // The end of all.
        drop(interest);
    };
    let both = async { tokio::join!(watching, host) };
    timeout(HANG, both).await.expect("no hang");
}

/// Opened before anybody watched; here so that the programs have not seen them begin.
#[test]
fn sockets_that_were_there_before_are_seen_going() {
    let Some(lab) = Lab::enter() else { return };
    let closed = Cell::new(Some(TcpListener::bind("127.0.0.1:80").unwrap()));
    let shut_down = Cell::new(Some(bound_tcp("0.0.0.0:81")));
    let socket = shut_down.take().unwrap();
    listen(&socket, 5).unwrap();
    shut_down.set(Some(socket));
    let service = Cell::new(Some(UdpSocket::bind("127.0.0.1:53").unwrap()));
    // Nobody can tell any more that it was asked for.
    let unknown = UdpSocket::bind("127.0.0.1:50000").unwrap();
    lab.run(Kind::ControlGroups, async |mut seen: Observer| {
        let all = [tcp("127.0.0.1:80"), tcp("0.0.0.0:81"), udp("127.0.0.1:53")];
        seen.until(&all).await;
        drop(closed.take());
        seen.until(&all[1..]).await;
        let socket = shut_down.take().unwrap();
        shutdown(&socket, rustix::net::Shutdown::Both).unwrap();
        drop(socket);
        seen.until(&all[2..]).await;
        drop(service.take());
        seen.until(&[]).await;
    });
    drop(unknown);
}

#[test]
fn an_agent_that_takes_over_knows_which_ports_were_asked_for() {
    let Some(lab) = Lab::enter() else { return };
    let socket = Cell::new(None);
    lab.run(Kind::ControlGroups, async |mut seen: Observer| {
        socket.set(Some(UdpSocket::bind("127.0.0.1:50000").unwrap()));
        seen.until(&[udp("127.0.0.1:50000")]).await;
    });
    lab.run(Kind::ControlGroups, async |mut seen: Observer| {
        seen.until(&[udp("127.0.0.1:50000")]).await;
        drop(socket.take());
        seen.until(&[]).await;
    });
}

#[test]
fn events_that_may_have_been_lost_are_told() {
    let Some(lab) = Lab::enter() else { return };
    let runtime = crate::runtime::new().unwrap();
    let _inside = runtime.enter();
    let Some(mut programs) = lab.programs() else {
        return;
    };
    for _ in 0..10_000 {
        drop(TcpListener::bind("127.0.0.1:80").unwrap());
    }
    let news = programs.take();
    assert!(news.unnamed, "{} sockets are named", news.ending.len());
    drop(TcpListener::bind("127.0.0.1:80").unwrap());
    let news = programs.take();
    assert_eq!((news.ending.len(), news.unnamed), (1, false));
}

/// The programs tell nothing at all, so nobody wakes up.
#[test]
fn connections_and_clients_tell_nothing() {
    let Some(lab) = Lab::enter() else { return };
    let runtime = crate::runtime::new().unwrap();
    let _inside = runtime.enter();
    let Some(mut programs) = lab.programs() else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:80").unwrap();
    assert!(programs.take().any);
    let server = thread::spawn(move || {
        for _ in 0..20_000 {
            drop(listener.accept().unwrap());
        }
        listener
    });
    for _ in 0..20_000 {
        drop(TcpStream::connect("127.0.0.1:80").unwrap());
    }
    let listener = server.join().unwrap();
    for _ in 0..1000 {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"?", "127.0.0.1:9").unwrap();
        client.connect("127.0.0.1:9").unwrap();
    }
    // Refused, bound before it connects, and half closed.
    TcpStream::connect("127.0.0.1:81").unwrap_err();
    let connection = TcpStream::connect("127.0.0.1:80").unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    drop(connection);
    assert_eq!(programs.take(), News::default());
    drop(listener);
    assert!(!programs.take().ending.is_empty());
}
