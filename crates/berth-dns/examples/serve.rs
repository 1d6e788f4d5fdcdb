//! The name server alone, to be measured and looked at: `serve PORT [RESOLV_CONF]` answers at 127.0.0.1:PORT until it is killed.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;

use berth_dns::host::{HostFiles, HostKind};
use berth_dns::statics::{GuestNetwork, StaticNames};
use berth_dns::{NameServer, Policy, Setup, Sockets};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let port: u16 = words
        .next()
        .ok_or("usage: serve PORT [RESOLV_CONF]")?
        .parse()?;
    let mut files = HostFiles::beneath(Path::new("/"));
    if let Some(path) = words.next() {
        files.resolv_conf = path.into();
    }
    let network = GuestNetwork {
        gateway: Ipv4Addr::new(192, 168, 5, 2),
        guest: Ipv4Addr::new(192, 168, 5, 15),
    };
    let (host, guest) = ("host.lima.internal".parse()?, "lima-default".parse()?);
    let setup = Setup {
        policy: Policy {
            statics: StaticNames::default().with_network(network, &host, &guest),
            ipv6: true,
            network: Some(network),
        },
        host: HostKind::Linux,
        files,
    };
    let sockets = Sockets {
        udp: UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?,
        tcp: TcpListener::bind((Ipv4Addr::LOCALHOST, port))?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        NameServer::start(sockets, setup, &tracker, &cancel)?;
        tracker.close();
        tracker.wait().await;
        Ok(())
    })
}
