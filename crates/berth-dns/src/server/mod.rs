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
        let Setup {
            policy,
            host,
            files,
        } = setup;
        // Before the first look, so that nothing falls between.
        let changes = HostChanges::watch(&files)
            .inspect_err(|why| {
                tracing::warn!(%why, "changes of the host's name servers will not be noticed");
            })
            .ok();
        let config = HostConfig::read(host, &files);
        tracing::debug!(?config.servers, ?config.addresses, "names are looked up as the host does");
        let tasks = (tracker.clone(), cancel.clone());
        let resolver = Resolver::new(policy, config, SystemResolver::default(), tasks);
        let resolver = Arc::new(resolver);
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

/// What the tasks of a server share.
type Shared = (Arc<Resolver>, TaskTracker, CancellationToken);
