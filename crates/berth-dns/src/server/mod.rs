//! The two sockets that the guest's questions come to.

mod tcp;
mod udp;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::counters::Counts;
use crate::host::{HostConfig, HostFiles, HostKind};
use crate::resolver::{Policy, Resolver};
use crate::sys::HostChanges;
use crate::system::SystemResolver;
use crate::upstream::ServerStatus;

/// The sockets of a name server, bound, on loopback.
#[derive(Debug)]
pub struct Sockets {
    /// Questions by datagram.
    pub udp: UdpSocket,
    /// Questions over connections.
    pub tcp: TcpListener,
}

impl Sockets {
    /// Their ports (UDP, TCP).
    #[must_use]
    pub fn ports(&self) -> (u16, u16) {
        let port = |address: io::Result<SocketAddr>| address.map_or(0, |a| a.port());
        (port(self.udp.local_addr()), port(self.tcp.local_addr()))
    }
}

/// What a name server needs to know.
#[derive(Debug)]
pub struct Setup {
    /// What the instance's configuration says.
    pub policy: Policy,
    /// Which host it is.
    pub host: HostKind,
    /// Where the host's files are.
    pub files: HostFiles,
}

/// A running name server; ends with its tasks' token.
#[derive(Debug, Clone)]
pub struct NameServer {
    resolver: Arc<Resolver>,
    files: HostFiles,
    host: HostKind,
}

/// What a name server has done, and whom it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReport {
    /// Counters.
    pub counts: Counts,
    /// Answers that are kept.
    pub cached: usize,
    /// The host's servers.
    pub upstreams: Vec<ServerStatus>,
    /// The host asks systemd-resolved.
    pub is_resolved: bool,
    /// Addresses come from the system's own resolver.
    pub asks_system: bool,
}

impl NameServer {
    /// Takes over the sockets and begins to answer.
    ///
    /// # Errors
    /// When the sockets cannot be used with the runtime. Must be called within one.
    pub fn start(
        sockets: Sockets,
        setup: Setup,
        tracker: &TaskTracker,
        cancel: &CancellationToken,
    ) -> io::Result<Self> {
        // Before the first look, so that nothing falls between.
        let changes = HostChanges::watch(&setup.files)
            .inspect_err(|why| {
                tracing::warn!(%why, "changes of the host's name servers will not be noticed");
            })
            .ok();
        Self::start_following(changes, sockets, setup, (tracker, cancel))
    }

    fn start_following(
        changes: Option<HostChanges>,
        sockets: Sockets,
        setup: Setup,
        (tracker, cancel): (&TaskTracker, &CancellationToken),
    ) -> io::Result<Self> {
        let Setup {
            policy,
            host,
            files,
        } = setup;
        let config = HostConfig::read(host, &files);
        tracing::debug!(?config.servers, ?config.addresses, "names are looked up as the host does");
        let tasks = (tracker.clone(), cancel.clone());
        let resolver = Resolver::new(policy, config, SystemResolver::default(), tasks);
        let resolver = Arc::new(resolver);
        make_room(&sockets.udp);
        sockets.udp.set_nonblocking(true)?;
        sockets.tcp.set_nonblocking(true)?;
        let udp = tokio::net::UdpSocket::from_std(sockets.udp)?;
        let tcp = tokio::net::TcpListener::from_std(sockets.tcp)?;
        let server = Self {
            resolver,
            files,
            host,
        };
        let at = (
            Arc::clone(&server.resolver),
            tracker.clone(),
            cancel.clone(),
        );
        tracker.spawn(udp::serve(udp, at.clone()));
        tracker.spawn(tcp::serve(tcp, at));
        if let Some(changes) = changes {
            let follower = server.clone();
            let cancel = cancel.clone();
            tracker.spawn(async move {
                cancel.run_until_cancelled(follower.follow(changes)).await;
            });
        }
        Ok(server)
    }

    /// What it has done so far.
    #[must_use]
    pub fn report(&self) -> ServerReport {
        let host = self.resolver.host();
        ServerReport {
            counts: self.resolver.counters.counts(),
            cached: self.resolver.cached(),
            upstreams: host.upstream.status(),
            is_resolved: host.config.is_resolved,
            asks_system: host.config.addresses == crate::host::AddressSource::System,
        }
    }

    /// Forgets what was learned, and reads the host's files again: its network may be another.
    pub fn host_changed(&self) {
        let config = HostConfig::read(self.host, &self.files);
        tracing::debug!(?config.servers, "the host's names may have changed");
        self.resolver.host_changed(config);
    }

    async fn follow(self, mut changes: HostChanges) {
        loop {
            if let Err(why) = changes.next().await {
                tracing::warn!(%why, "changes of the host's name servers are no longer noticed");
                return;
            }
            self.host_changed();
        }
    }
}

/// Room for a burst of questions while the agent does something else, in bytes: a kernel has it for some 270, and drops what
/// comes after. It counts a short datagram as 768 bytes, and gives no more than its own limit.
const ROOM: usize = 1 << 20;

fn make_room(socket: &UdpSocket) {
    if let Err(why) = socket2::SockRef::from(socket).set_recv_buffer_size(ROOM) {
        tracing::debug!(%why, "there is less room for questions");
    }
}

/// What the tasks of a server share.
type Shared = (Arc<Resolver>, TaskTracker, CancellationToken);

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write as _;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use tokio::task::spawn_blocking;
    use tokio::time::timeout;

    use super::*;
    use crate::statics::StaticNames;
    use crate::wire::query::{Query, Received, Transport};
    use crate::wire::reply::{OwnRecord, write_own};
    use crate::wire::{Rcode, RecordType};

    /// Finds tests that hang.
    const HANG: Duration = Duration::from_secs(30);

    /// Answers one question, with an address that is good for ten minutes.
    fn answer_one(upstream: &UdpSocket) {
        let mut packet = [0; 512];
        let (length, from) = upstream.recv_from(&mut packet).expect("a question");
        let Received::Query(query) = Query::read(&packet[..length], Transport::Udp) else {
            panic!("no question");
        };
        let address = OwnRecord::Address([10, 0, 0, 1].into());
        let mut reply = Vec::new();
        write_own(&query, Rcode::NO_ERROR, 600, [address], &mut reply);
        let _ = upstream.send_to(&reply, from);
    }

    /// More than a kernel has room for by itself: 50 questions of each of 8 clients, before the server looks for the first time.
    #[tokio::test(flavor = "current_thread")]
    async fn a_burst_of_questions_is_answered_whole() {
        let sockets = Sockets {
            udp: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            tcp: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
        };
        let at = sockets.udp.local_addr().unwrap();
        let policy = Policy {
            statics: StaticNames::new([("a.test", "10.0.0.1")]).unwrap(),
            ..Policy::default()
        };
        let root = tempfile::tempdir().unwrap();
        let setup = Setup {
            policy,
            host: HostKind::Linux,
            files: HostFiles::beneath(root.path()),
        };
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        NameServer::start_following(None, sockets, setup, (&tracker, &cancel)).unwrap();
        let query = crate::client::message(&"a.test".parse().unwrap(), RecordType::A).unwrap();
        let clients: Vec<_> = (0..8)
            .map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
            .collect();
        for client in &clients {
            client.set_read_timeout(Some(HANG)).unwrap();
            for _ in 0..50 {
                client.send_to(&query, at).unwrap();
            }
        }
        let answered = spawn_blocking(move || {
            for client in &clients {
                for _ in 0..50 {
                    client.recv(&mut [0; 512]).expect("an answer to each");
                }
            }
        });
        answered.await.unwrap();
        cancel.cancel();
        tracker.close();
        tracker.wait().await;
    }

    /// An hour may have passed, in another network: nothing of before is told.
    #[tokio::test(flavor = "current_thread")]
    async fn waking_up_empties_the_cache() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(
            root.path().join("etc/resolv.conf"),
            "nameserver 127.0.0.1\n",
        )
        .unwrap();
        let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        upstream.set_read_timeout(Some(HANG)).unwrap();
        let setup = Setup {
            policy: Policy::default(),
            host: HostKind::Linux,
            files: HostFiles {
                server_port: upstream.local_addr().unwrap().port(),
                ..HostFiles::beneath(root.path())
            },
        };
        let sockets = Sockets {
            udp: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            tcp: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
        };
        let ports = sockets.ports();
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let (sleep, mut wake) = std::io::pipe().unwrap();
        let changes = HostChanges::with_waking_up(&setup.files, sleep.into()).unwrap();
        let server =
            NameServer::start_following(Some(changes), sockets, setup, (&tracker, &cancel));
        let server = server.unwrap();
        let name = "a.example.com".parse().unwrap();
        let ask = Arc::new(move || {
            crate::client::ask(ports, &name, RecordType::A, Transport::Udp).unwrap();
        });
        let asked = |ask: Arc<dyn Fn() + Send + Sync>| async move {
            spawn_blocking(move || ask()).await.unwrap();
        };
        for times in 1..3 {
            let other = upstream.try_clone().unwrap();
            let answered = spawn_blocking(move || answer_one(&other));
            asked(ask.clone()).await;
            answered.await.unwrap();
            asked(ask.clone()).await;
            assert_eq!(server.report().cached, 1, "the second needed nobody");
            wake.write_all(&[1]).unwrap();
            let woken = async {
                while server.report().counts.changes < times {
                    tokio::task::yield_now().await;
                }
            };
            timeout(HANG, woken).await.expect("it wakes up");
            assert_eq!(server.report().cached, 0);
        }
        cancel.cancel();
        tracker.close();
        tracker.wait().await;
    }
}
