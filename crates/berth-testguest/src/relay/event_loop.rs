//! The relay's thread: one epoll over all sockets, a turn for each that is ready.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::sockopt;

use super::gateway::{Gateway, UdpFlow};
use super::pair::{Pair, PairState};
use super::pipe::PipePool;
use super::port::{Port, PortState};
use super::{Command, PortChange, accept, connect, new_tcp};
use crate::arguments::UserNetwork;
use crate::network::{self, HostNamespace, Networks};

/// Connections taken from one listener before others get their turn.
const ACCEPTS: usize = 64;

/// UDP flows kept at most.
const UDP_FLOWS: usize = 1024;

/// A socket's place in epoll: what it belongs to, and which of that thing's sockets it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key(u64);

const WAKE: Key = Key(0);

enum Member {
    Forward(OwnedFd, SocketAddrV4),
    GatewayTcp,
    GatewayUdp,
    Pair(Box<Pair>),
    Flow(UdpFlow),
    Port(usize, Box<Port>),
}

pub(super) struct EventLoop {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    members: HashMap<Key, Member>,
    next_key: u64,
    busy: VecDeque<Key>,
    forwards: HashMap<SocketAddrV4, Key>,
    ports: Vec<Key>,
    udp_flows: usize,
    gateway: Option<Gateway>,
    host: HostNamespace,
    pipes: PipePool,
    datagram: Vec<u8>,
}

impl EventLoop {
    /// Makes the networks, for which the calling thread leaves the host's; returns the guest's namespace too.
    pub(super) fn new(
        network: Option<&UserNetwork>,
        mac: Option<&str>,
        ports: Vec<OwnedFd>,
        wake: Arc<OwnedFd>,
    ) -> Result<(Self, OwnedFd)> {
        let Networks {
            guest,
            gateway: namespace,
            host,
        } = network::set_up(network, mac)?;
        let gateway = network
            .map(|network| Gateway::open(network, namespace.as_fd()))
            .transpose()
            .context("answer for the gateway (needs Linux 5.9 with BPF)")?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("make an epoll")?;
        let mut relay = Self {
            epoll,
            wake,
            members: HashMap::new(),
            next_key: WAKE.0 + 1,
            busy: VecDeque::new(),
            forwards: HashMap::new(),
            ports: Vec::new(),
            udp_flows: 0,
            gateway,
            host,
            pipes: PipePool::default(),
            datagram: vec![0; 65536],
        };
        relay.watch(&relay.wake, WAKE, epoll::EventFlags::IN)?;
        relay.register_gateway()?;
        for hosts in ports {
            relay.add_port(hosts)?;
        }
        Ok((relay, guest))
    }

    fn register_gateway(&mut self) -> Result<()> {
        let Some(gateway) = self.gateway.take() else {
            return Ok(());
        };
        let tcp = self.add(Member::GatewayTcp);
        self.watch(gateway.tcp(), tcp, epoll::EventFlags::IN)?;
        let udp = self.add(Member::GatewayUdp);
        self.watch(gateway.udp(), udp, epoll::EventFlags::IN)?;
        self.gateway = Some(gateway);
        Ok(())
    }

    fn add_port(&mut self, hosts: OwnedFd) -> Result<()> {
        let port = Box::new(Port::new(hosts));
        let number = self.ports.len();
        let key = Key(self.next_key);
        self.watch(port.hosts(), key, edges())?;
        self.add(Member::Port(number, port));
        self.ports.push(key);
        Ok(())
    }

    fn add(&mut self, member: Member) -> Key {
        let key = Key(self.next_key);
        self.next_key += 1;
        self.members.insert(key, member);
        key
    }

    fn watch(&self, socket: &OwnedFd, key: Key, flags: epoll::EventFlags) -> io::Result<()> {
        let data = epoll::EventData::new_u64(key.0);
        Ok(epoll::add(&self.epoll, socket, data, flags)?)
    }

    /// Works until it is told to end.
    pub(super) fn run(&mut self, inbox: &Receiver<Command>, mut report: impl FnMut(PortChange)) {
        let mut events = Vec::with_capacity(256);
        loop {
            let wait = (!self.busy.is_empty()).then(rustix::time::Timespec::default);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), wait.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("epoll fails only on our mistakes: {error}"),
            }
            let ready = events.drain(..).map(|event| Key(event.data.u64()));
            // One turn for each: a socket that is ready and a flow that was cut short count alike.
            let turns: Vec<Key> = self.busy.drain(..).chain(ready).collect();
            for key in turns {
                if key != WAKE {
                    self.turn(key, &mut report);
                } else if self.obey(inbox, &mut report) {
                    return;
                }
            }
        }
    }

    /// Takes commands; `true`: the end.
    fn obey(&mut self, inbox: &Receiver<Command>, report: &mut impl FnMut(PortChange)) -> bool {
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        while let Ok(command) = inbox.try_recv() {
            match command {
                Command::End => return true,
                Command::Forward(listen, listener, target) => {
                    let key = Key(self.next_key);
                    if self.watch(&listener, key, epoll::EventFlags::IN).is_ok() {
                        self.add(Member::Forward(listener, target));
                        self.forwards.insert(listen, key);
                    }
                }
                Command::Unforward(listen, done) => {
                    if let Some(key) = self.forwards.remove(&listen) {
                        self.members.remove(&key);
                    }
                    let _ = done.send(());
                }
                Command::AttachPort(number, guests) => self.attach_port(number, guests, report),
            }
        }
        false
    }

    fn attach_port(&mut self, number: usize, guests: OwnedFd, report: &mut impl FnMut(PortChange)) {
        let Some(&key) = self.ports.get(number) else {
            return;
        };
        if let Some(Member::Port(_, mut port)) = self.members.remove(&key) {
            let was_open = port.is_open();
            let watched = self.watch(port.attach(guests), key, edges());
            debug_assert!(watched.is_ok(), "a new socket can be watched");
            if was_open {
                report(PortChange {
                    port: number,
                    open: false,
                });
            }
            self.members.insert(key, Member::Port(number, port));
            self.turn(key, report);
        }
    }

    fn turn(&mut self, key: Key, report: &mut impl FnMut(PortChange)) {
        // Taken out for its turn, so that the turn may add members.
        let Some(member) = self.members.remove(&key) else {
            return;
        };
        let kept = match member {
            Member::Forward(listener, target) => {
                self.accept_forwards(&listener, target);
                Some(Member::Forward(listener, target))
            }
            Member::GatewayTcp => {
                self.accept_from_guest();
                Some(Member::GatewayTcp)
            }
            Member::GatewayUdp => {
                self.receive_from_guest();
                Some(Member::GatewayUdp)
            }
            Member::Pair(mut pair) => match pair.turn(&mut self.pipes) {
                PairState::Over => None,
                state => {
                    self.mark_busy(key, state == PairState::Busy);
                    Some(Member::Pair(pair))
                }
            },
            Member::Flow(mut flow) => {
                flow.turn(&mut self.datagram);
                Some(Member::Flow(flow))
            }
            Member::Port(number, mut port) => {
                self.turn_port(key, number, &mut port, report);
                Some(Member::Port(number, port))
            }
        };
        if let Some(member) = kept {
            self.members.insert(key, member);
        }
    }

    fn mark_busy(&mut self, key: Key, busy: bool) {
        if busy {
            self.busy.push_back(key);
        }
    }

    fn accept_forwards(&mut self, listener: &OwnedFd, target: SocketAddrV4) {
        for _ in 0..ACCEPTS {
            let Some(client) = accept(listener) else {
                return;
            };
            let dialled = new_tcp().and_then(|server| {
                connect(&server, target)?;
                Ok(server)
            });
            self.join(client, dialled);
        }
    }

    fn accept_from_guest(&mut self) {
        for _ in 0..ACCEPTS {
            let Some(gateway) = &self.gateway else {
                return;
            };
            let Some(client) = accept(gateway.tcp()) else {
                return;
            };
            let dialled = gateway.dial(&client, &self.host);
            self.join(client, dialled);
        }
    }

    /// Makes a pair of the two; the client of a failed dial sees a reset.
    fn join(&mut self, client: OwnedFd, dialled: io::Result<OwnedFd>) {
        let Ok(server) = dialled else {
            let _ = sockopt::set_socket_linger(&client, Some(Duration::ZERO));
            return;
        };
        let _ = sockopt::set_tcp_nodelay(&client, true);
        let pair = Pair::new(client, server);
        let key = Key(self.next_key);
        let [client, server] = pair.sockets();
        let watched = self
            .watch(client, key, edges())
            .and_then(|()| self.watch(server, key, edges()));
        if watched.is_ok() {
            self.add(Member::Pair(Box::new(pair)));
        }
    }

    fn receive_from_guest(&mut self) {
        for _ in 0..ACCEPTS {
            let Some(gateway) = &self.gateway else {
                return;
            };
            // A datagram for nobody is dropped, as on any network.
            match gateway.receive(&mut self.datagram, &self.host) {
                Ok(Some(flow)) => self.add_udp_flow(flow),
                Ok(None) => return,
                Err(_) => {}
            }
        }
    }

    fn add_udp_flow(&mut self, flow: UdpFlow) {
        if self.udp_flows >= UDP_FLOWS {
            let now = Instant::now();
            self.members
                .retain(|_, member| !matches!(member, Member::Flow(flow) if flow.is_idle(now)));
            let is_flow = |member: &&Member| matches!(member, Member::Flow(_));
            self.udp_flows = self.members.values().filter(is_flow).count();
        }
        if self.udp_flows >= UDP_FLOWS {
            return;
        }
        let key = Key(self.next_key);
        let watched = flow
            .sockets()
            .into_iter()
            .all(|socket| self.watch(socket, key, epoll::EventFlags::IN).is_ok());
        if watched {
            self.add(Member::Flow(flow));
            self.udp_flows += 1;
        }
    }

    fn turn_port(
        &mut self,
        key: Key,
        number: usize,
        port: &mut Port,
        report: &mut impl FnMut(PortChange),
    ) {
        loop {
            let was_open = port.is_open();
            let state = port.turn(&mut self.pipes);
            let still_open = port.is_open();
            if was_open && !still_open {
                report(PortChange {
                    port: number,
                    open: false,
                });
            }
            let Some(arrival) = port.accept() else {
                self.mark_busy(key, state == PortState::Busy);
                return;
            };
            if let Some(socket) = port.arrived(&arrival) {
                let watched = self.watch(socket, key, edges());
                debug_assert!(watched.is_ok(), "a new socket can be watched");
            }
            if !still_open && port.is_open() {
                report(PortChange {
                    port: number,
                    open: true,
                });
            }
        }
    }
}

/// Both directions, told once for each change.
fn edges() -> epoll::EventFlags {
    epoll::EventFlags::IN
        | epoll::EventFlags::OUT
        | epoll::EventFlags::RDHUP
        | epoll::EventFlags::ET
}
