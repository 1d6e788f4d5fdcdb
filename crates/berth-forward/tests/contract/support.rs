//! A guest that is a value, and forwards into it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use berth_config::model::{HostIp, PortForward, Proto};
use berth_config::platform::HostOs;
use berth_forward::address::{GuestPort, GuestPorts, GuestTarget, Transport};
use berth_forward::guest::{Access, Dialer, GuestStream, Notice, NoticeKind, Reverse};
use berth_forward::limits::Limits;
use berth_forward::reconcile::{ForwardState, ForwardsHandle, Reconciler, Setting, Status};
use berth_forward::rules::{Reserved, RuleList};
use berth_relay::Copied;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// More than anything here needs; what takes longer hangs.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// What a socket of the guest does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Says its address, then returns what it is sent, and says `bye` at the end.
    Echo,
    /// Refuses.
    Refuses,
    /// Takes for ever to answer.
    Hangs,
}

/// The guest's sockets. Those that are not named refuse.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    pub(crate) services: Mutex<BTreeMap<String, Service>>,
    pub(crate) link: Link,
    tracker: TaskTracker,
}

/// Whether there is a way into the guest.
#[derive(Debug)]
pub(crate) struct Link(pub(crate) watch::Sender<bool>);

impl Default for Link {
    fn default() -> Self {
        Self(watch::channel(true).0)
    }
}

impl Guest {
    pub(crate) fn serves(&self, addresses: &[&str]) {
        let mut services = self.services.lock().unwrap();
        services.extend(addresses.iter().map(|at| ((*at).to_owned(), Service::Echo)));
    }

    pub(crate) fn does(&self, address: &str, service: Service) {
        let mut services = self.services.lock().unwrap();
        services.insert(address.to_owned(), service);
    }

    pub(crate) fn service(&self, target: &GuestTarget) -> Service {
        let services = self.services.lock().unwrap();
        let known = services.get(&target.to_string()).copied();
        known.unwrap_or(Service::Refuses)
    }
}

#[async_trait]
impl Dialer for Guest {
    async fn dial(&self, target: &GuestTarget) -> io::Result<Box<dyn GuestStream>> {
        match self.service(target) {
            Service::Refuses => return Err(io::ErrorKind::ConnectionRefused.into()),
            Service::Hangs => std::future::pending::<()>().await,
            Service::Echo => {}
        }
        let (near, far) = tokio::io::duplex(4096);
        let label = target.to_string();
        if matches!(target, GuestTarget::Udp(_)) {
            self.tracker.spawn(echo_datagrams(far, label));
        } else {
            self.tracker.spawn(echo(far, label));
        }
        Ok(Box::new(Copied(near)))
    }

    async fn ready(&self) {
        let mut link = self.link.0.subscribe();
        link.wait_for(|is_up| *is_up).await.unwrap();
    }
}

pub(crate) async fn echo(mut stream: DuplexStream, label: String) -> io::Result<()> {
    stream.write_all(format!("{label}\n").as_bytes()).await?;
    let mut buffer = [0; 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        stream.write_all(&buffer[..count]).await?;
    }
    stream.write_all(b"bye").await?;
    stream.shutdown().await
}

async fn echo_datagrams(mut stream: DuplexStream, label: String) -> io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut datagram = vec![0; length.into()];
        stream.read_exact(&mut datagram).await?;
        let mut answer = format!("{label} ").into_bytes();
        answer.append(&mut datagram);
        stream.write_u16(answer.len().try_into().unwrap()).await?;
        stream.write_all(&answer).await?;
    }
}

/// A rule as it is after the defaults of lima.yaml are filled in: these guest ports of loopback to `host`'s.
pub(crate) fn rule(guest: [u16; 2], host: &str, ports: [u16; 2]) -> PortForward {
    PortForward {
        guest_ip_must_be_zero: false,
        guest_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        guest_port: 0,
        guest_port_range: guest,
        guest_socket: String::new(),
        host_ip: host.parse::<HostIp>().unwrap(),
        host_port: 0,
        host_port_range: ports,
        host_socket: None,
        proto: Proto::Any,
        reverse: false,
        ignore: false,
        is_static: false,
    }
}

/// A rule for one port.
pub(crate) fn one(guest: u16, host: &str, port: u16) -> PortForward {
    rule([guest; 2], host, [port; 2])
}

pub(crate) fn ignore_all() -> PortForward {
    PortForward {
        guest_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        ignore: true,
        ..rule([1, 65535], "127.0.0.1", [1, 65535])
    }
}

pub(crate) fn fixed(rule: PortForward) -> PortForward {
    PortForward {
        is_static: true,
        ..rule
    }
}

pub(crate) fn to_socket(guest: &str, host: &Path) -> PortForward {
    PortForward {
        guest_socket: guest.to_owned(),
        host_socket: Some(host.to_owned()),
        ..rule([1, 65535], "127.0.0.1", [0, 0])
    }
}

/// Forwards of one instance, and what was told of them.
pub(crate) struct Forwards {
    pub(crate) handle: ForwardsHandle,
    pub(crate) guest: Arc<Guest>,
    pub(crate) ports: watch::Sender<GuestPorts>,
    pub(crate) notices: Arc<Mutex<Vec<Notice>>>,
    pub(crate) own_dir: tempfile::TempDir,
    pub(crate) tracker: TaskTracker,
}

/// How the forwards of a test begin.
pub(crate) struct Beginning {
    pub(crate) rules: Vec<PortForward>,
    pub(crate) limits: Limits,
    pub(crate) os: HostOs,
    pub(crate) access: Option<Access>,
    pub(crate) own_dir: tempfile::TempDir,
}

impl Beginning {
    pub(crate) fn new(rules: impl IntoIterator<Item = PortForward>) -> Self {
        Self {
            rules: rules.into_iter().collect(),
            limits: Limits::default(),
            os: HostOs::Linux,
            access: None,
            own_dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn start(self) -> Forwards {
        let guest = Arc::new(Guest::default());
        let (ports, watched) = watch::channel(GuestPorts::default());
        let notices: Arc<Mutex<Vec<Notice>>> = Arc::default();
        let told = Arc::clone(&notices);
        let reserved = Reserved {
            ssh_port: 60022,
            agent_ports: Vec::new(),
        };
        let setting = Setting {
            rules: RuleList::new(&self.rules, &reserved),
            os: self.os,
            own_dir: self.own_dir.path().to_owned(),
            limits: self.limits,
        };
        let access = self.access.unwrap_or_else(|| Access::Agent {
            dialer: Arc::clone(&guest) as Arc<dyn Dialer>,
            reverse: Reverse::None,
        });
        let tracker = TaskTracker::new();
        let handle = Reconciler::start(
            setting,
            access,
            watched,
            Box::new(move |notice| told.lock().unwrap().push(notice)),
            &tracker,
            &CancellationToken::new(),
        );
        Forwards {
            handle,
            guest,
            ports,
            notices,
            own_dir: self.own_dir,
            tracker,
        }
    }
}

pub(crate) fn start(rules: impl IntoIterator<Item = PortForward>) -> Forwards {
    Beginning::new(rules).start()
}

impl Forwards {
    /// The guest listens on these, e.g. `tcp 127.0.0.1:80`, and serves them.
    pub(crate) fn reports(&self, ports: &[&str]) {
        let ports: BTreeSet<GuestPort> = ports.iter().map(|text| port(text)).collect();
        for port in &ports {
            self.guest.serves(&[&port.address.to_string()]);
        }
        self.ports.send_replace(GuestPorts {
            known: true,
            ports: Arc::new(ports),
        });
    }

    /// Waits until the status is as asked. Counters change without a word, so it is looked at again and again.
    pub(crate) async fn until(
        &self,
        what: &str,
        mut reached: impl FnMut(&Status) -> bool,
    ) -> Status {
        let end = Instant::now() + LONG;
        loop {
            let status = self.handle.status();
            if reached(&status) {
                return status;
            }
            assert!(Instant::now() < end, "not {what}: {status:#?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until these host addresses listen, and no others are wanted.
    pub(crate) async fn until_listening(&self, hosts: &[&str]) -> Status {
        self.until(&format!("listening on {hosts:?}"), |status| {
            let mut shown: Vec<_> = status.forwards.iter().map(|f| f.host.to_string()).collect();
            shown.sort();
            let mut wanted = hosts.to_vec();
            wanted.sort_unstable();
            shown == wanted
                && status
                    .forwards
                    .iter()
                    .all(|f| f.state == ForwardState::Listening)
        })
        .await
    }

    /// What was told since the last call, in short.
    pub(crate) fn told(&self) -> Vec<String> {
        let notices = std::mem::take(&mut *self.notices.lock().unwrap());
        notices.iter().map(in_short).collect()
    }

    pub(crate) async fn stop(self) {
        timeout(LONG, self.handle.stop()).await.expect("stops");
        self.tracker.close();
        timeout(LONG, self.tracker.wait())
            .await
            .expect("no task is left");
    }
}

fn in_short(notice: &Notice) -> String {
    let host = notice.host.as_ref();
    let host = host.map_or_else(String::new, |host| format!(" to {host}"));
    let error = notice.error.as_ref();
    let error = error.map_or_else(String::new, |error| format!(": {error}"));
    let kind = match notice.kind {
        NoticeKind::Forwarding => "forwarding",
        NoticeKind::NotForwarding => "not forwarding",
        NoticeKind::Stopping => "stopping",
        NoticeKind::Failed => "failed",
    };
    format!(
        "{kind} {} {}{host}{error}",
        notice.guest.protocol(),
        notice.guest
    )
}

pub(crate) fn port(text: &str) -> GuestPort {
    let (transport, address) = text.split_once(' ').expect("a transport and an address");
    GuestPort {
        transport: match transport {
            "tcp" => Transport::Tcp,
            _ => Transport::Udp,
        },
        address: address.parse().expect("an address"),
    }
}

/// A port that nobody has, below those that the system gives to clients.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = 22_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000;
        let streams = std::net::TcpListener::bind(("::", port));
        let datagrams = std::net::UdpSocket::bind(("::", port));
        if streams.is_ok() && datagrams.is_ok() {
            return port;
        }
    }
}

/// A client of this machine.
pub(crate) async fn connect(address: &str) -> TcpStream {
    let address: SocketAddr = address.parse().unwrap();
    TcpStream::connect(address).await.expect("connects")
}

/// Says `hello` and reads everything up to the end.
pub(crate) async fn ask(address: &str) -> io::Result<String> {
    let mut stream = connect(address).await;
    converse(&mut stream).await
}

pub(crate) async fn converse<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    stream: &mut S,
) -> io::Result<String> {
    let talk = async {
        stream.write_all(b"hello ").await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    timeout(LONG, talk).await.expect("an answer")
}

/// Whether connecting is refused, as where nobody listens.
pub(crate) async fn is_refused(address: &str) -> bool {
    let address: SocketAddr = address.parse().unwrap();
    let connected = TcpStream::connect(address).await;
    connected.is_err_and(|why| why.kind() == io::ErrorKind::ConnectionRefused)
}
