//! Servers that are gone for a whole minute under steady questions, and come back.

use std::fs;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use berth_dns::wire::{Rcode, RecordType};
use futures_util::future::join_all;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, interval};

use crate::client::Way;
use crate::lab::{Lab, Plan};
use crate::nsd::{Nsd, free_port};

/// Longer than any time that the name server knows.
const OUTAGE: Duration = Duration::from_secs(60);
/// Between two questions to one name server.
const PACE: Duration = Duration::from_millis(200);
/// A detector of hangs. The client has one for each answer.
const HANG: Duration = Duration::from_secs(30);

const GONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 51);
const HANGING: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 52);
const WELL: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

/// A name server of ours, and what it had before the outage.
struct Asked {
    lab: Lab,
    tasks: usize,
}

impl Asked {
    async fn new(servers: &[Ipv4Addr], port: u16) -> Rc<Self> {
        let lab = Lab::new(&Plan::default(), servers, port);
        let tasks = lab.tasks();
        let asked = Self { lab, tasks };
        assert_eq!(asked.ask("kept".to_owned()).await, Rcode::NO_ERROR);
        Rc::new(asked)
    }

    /// How the question for a name ends, one in four over TCP.
    async fn ask(&self, label: String) -> Rcode {
        let way = if label.ends_with(['0', '4', '8']) {
            Way::Tcp
        } else {
            Way::Udp
        };
        let name = format!("{label}.wild.example.org");
        let reply = self.lab.client().await.ask(&name, RecordType::A, way).await;
        let is_found = reply.rcode() == Rcode::NO_ERROR;
        assert_eq!(reply.answers(), usize::from(is_found), "{name}");
        reply.rcode()
    }

    /// Asks for other names at a steady pace, whether answers come or not, until the outage is over.
    async fn ask_all_along(self: Rc<Self>, begin: Instant) -> Vec<Rcode> {
        let mut pace = interval(PACE);
        let mut asked = JoinSet::new();
        for n in 0.. {
            pace.tick().await;
            if begin.elapsed() >= OUTAGE {
                break;
            }
            let asks = Rc::clone(&self);
            asked.spawn_local(async move { asks.ask(format!("n{n}")).await });
        }
        asked.join_all().await
    }

    /// What needs no server is there without one.
    async fn knows_what_it_knew(&self) {
        assert_eq!(self.ask("kept".to_owned()).await, Rcode::NO_ERROR);
        let own = self.lab.client().await.address("host.lima.internal").await;
        assert_eq!(own.len(), 1);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_minute_without_servers_leaves_nothing_behind() {
    LocalSet::new().run_until(outage()).await;
}

async fn outage() {
    let port = free_port();
    let (gone, hanging) = (
        Nsd::start(GONE, port).await,
        Nsd::start(HANGING, port).await,
    );
    let _well = Nsd::start(WELL, port).await;
    let refused = Asked::new(&[GONE], port).await;
    let silent = Asked::new(&[HANGING], port).await;
    let raced = Asked::new(&[HANGING, GONE, WELL], port).await;
    let elsewhere = Asked::new(&[WELL], port).await;
    let all = [&refused, &silent, &raced, &elsewhere];

    drop(gone);
    hanging.hang();
    let begin = Instant::now();
    let ends = join_all(all.map(|asked| Rc::clone(asked).ask_all_along(begin))).await;
    for (ends, expected) in ends.iter().zip([
        Rcode::SERV_FAIL,
        Rcode::SERV_FAIL,
        Rcode::NO_ERROR,
        Rcode::NO_ERROR,
    ]) {
        assert!(ends.len() > 100, "{}", ends.len());
        assert!(ends.iter().all(|end| *end == expected), "{ends:?}");
    }
    for asked in all {
        asked.knows_what_it_knew().await;
    }
    // Those who have another server do not wait for the one that hangs: it is only looked after.
    let servers = raced.lab.report().upstreams;
    assert!(servers[0].is_silent && servers[0].asked < servers[2].asked / 2);

    hanging.go_on().await;
    let _back = Nsd::start(GONE, port).await;
    for asked in all {
        let end = asked.ask("back".to_owned()).await;
        assert_eq!(end, Rcode::NO_ERROR, "{:?}", asked.lab.report().upstreams);
    }
    let until = Instant::now() + HANG;
    let mut pace = interval(PACE);
    for n in 0.. {
        pace.tick().await;
        let is_silent = raced
            .lab
            .report()
            .upstreams
            .iter()
            .any(|server| server.is_silent);
        if !is_silent
            && sockets_to(port) == 0
            && all.iter().all(|asked| asked.lab.tasks() == asked.tasks)
        {
            break;
        }
        assert!(
            Instant::now() < until,
            "{:?}, {} sockets",
            raced.lab.report(),
            sockets_to(port)
        );
        assert_eq!(raced.ask(format!("again{n}")).await, Rcode::NO_ERROR);
    }
}

/// How many sockets are connected to a server at this port.
fn sockets_to(port: u16) -> usize {
    let table = fs::read_to_string("/proc/net/udp").unwrap();
    let peers = table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2));
    peers
        .filter(|peer| peer.ends_with(&format!(":{port:04X}")))
        .count()
}
