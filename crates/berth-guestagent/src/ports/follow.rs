//! When to look at the guest's sockets: at once when something changes, never twice at the same time, and the less often the more
//! it costs.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::by_number::ByNumber;
use super::filter::UdpFilter;
use super::scan::{Found, Scanner, Search};
use super::source::Source;
use super::{GuestSocket, PortInterest, Sockets, Transport};
use crate::guest::Guest;
use crate::netlink::SocketDiag;

/// Shortest pause after a look: a burst of changes costs two.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// Longest pause, however long a look takes.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// So many times as long as looking has taken is the pause after it: a tenth of one processor at most.
const PAUSE_PER_COST: u32 = 9;

/// How often to look at once for the end of a socket that was about to go: its process has microseconds of work left to do.
const PROMPTLY: u32 = 2;

/// How often to look for it after that. The time between doubles from [`SHORTEST_PAUSE`] on: a second in all, which the process can
/// be kept from closing it on a busy machine.
const PATIENCE: u32 = 10;

/// How long to wait when the kernel does not answer; doubles from the first to the second.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];

/// Follows the sockets and publishes them.
pub(super) struct Follower<'a> {
    source: Source,
    guest: &'a Guest,
    scanner: Scanner,
    filter: UdpFilter,
    by_number: ByNumber,
    interest: watch::Receiver<Option<PortInterest>>,
    services: watch::Receiver<BTreeSet<GuestSocket>>,
    /// What the last look showed.
    sockets: &'a watch::Sender<Sockets>,
    /// What was published last.
    published: Option<Sockets>,
    /// Ports of UDP sockets that the last look showed.
    udp_ports: BTreeSet<u16>,
    /// Sockets that are about to go.
    ending: BTreeSet<u64>,
    /// How often one of them was still there.
    lingered: u32,
    /// How often in a row the kernel has not answered.
    failures: u32,
    /// The next look makes sure that the end of all services is told.
    enrol: bool,
    /// When to look again even if nothing tells of a change.
    again: Option<Instant>,
    /// Not before this.
    rested: Instant,
    /// What looking has cost since the last pause.
    cost: Duration,
}

impl<'a> Follower<'a> {
    /// Follows what `source` tells. `sockets` gets what each look shows, without `services`.
    pub(super) fn begin(
        source: Source,
        guest: &'a Guest,
        interest: watch::Receiver<Option<PortInterest>>,
        services: watch::Receiver<BTreeSet<GuestSocket>>,
        sockets: &'a watch::Sender<Sockets>,
    ) -> Self {
        let mut follower = Self {
            source,
            guest,
            scanner: Scanner::new(SocketDiag::open),
            by_number: ByNumber::open(guest),
            filter: UdpFilter::new(PortInterest::default()),
            interest,
            services,
            sockets,
            published: None,
            udp_ports: BTreeSet::new(),
            ending: BTreeSet::new(),
            lingered: 0,
            failures: 0,
            enrol: true,
            again: None,
            rested: Instant::now(),
            cost: Duration::ZERO,
        };
        follower.source.take_over(&follower.by_number);
        follower.take_interest();
        follower
    }

    /// Works until nobody can change the interest any more.
    pub(super) async fn run(mut self, publish: &impl Fn(Sockets)) {
        loop {
            self.look().await;
            self.publish(publish);
            if self.is_pressed() {
                continue;
            }
            loop {
                match self.next().await {
                    Next::Look => break,
                    Next::Publish => self.publish(publish),
                    Next::End => return,
                }
            }
            // A deadline of this moment would be the timer's next tick.
            if self.rested > Instant::now() {
                sleep_until(self.rested).await;
            }
        }
    }

    /// Whether a socket that was about to go should be gone by now.
    fn is_pressed(&self) -> bool {
        (1..=PROMPTLY).contains(&self.lingered) && !self.ending.is_empty()
    }

    fn take_interest(&mut self) {
        let interest = self.interest.borrow_and_update().clone();
        self.filter = UdpFilter::new(interest.unwrap_or_default());
        self.source.obey(&self.filter);
        self.enrol = true;
    }

    /// Waits for a reason to do something.
    async fn next(&mut self) -> Next {
        let again = self.again;
        let wake_up = async {
            match again {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            told = self.source.wait(&self.udp_ports) => {
                if let Err(why) = told {
                    tracing::warn!("ports are watched by looking from now on: {why}");
                    self.source = Source::ticks();
                }
                self.rested = self.rested.max(Instant::now() + self.source.delay());
                Next::Look
            }
            changed = self.interest.changed() => {
                if changed.is_err() {
                    return Next::End;
                }
                self.take_interest();
                Next::Look
            }
            Ok(()) = self.services.changed() => Next::Publish,
            () = wake_up => Next::Look,
        }
    }

    async fn look(&mut self) {
        let news = self.source.take();
        let is_pressed = self.is_pressed();
        if !news.ending.is_empty() {
            self.ending.extend(news.ending);
            // Those who close sockets without end must not keep us looking without a pause.
            self.lingered = if is_pressed { self.lingered } else { 0 };
        }
        self.filter.refresh(self.guest);
        let began = Instant::now();
        let search = Search {
            filter: &self.filter,
            source: &self.source,
            ending: &self.ending,
            enrol: self.enrol,
        };
        let found = self.scanner.scan(search).await;
        let now = Instant::now();
        let before = if is_pressed {
            self.cost
        } else {
            Duration::ZERO
        };
        self.cost = before + (now - began);
        let pause = self.cost * PAUSE_PER_COST;
        self.rested = now + pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        self.again = match found {
            Ok(found) => {
                let again = news.unnamed.then_some(now);
                self.accept(found, now).or(again)
            }
            Err(why) => Some(now + self.fail(&why)),
        };
    }

    /// Takes what a look showed. Gives the time to look again, if nothing is told before.
    fn accept(&mut self, found: Found, now: Instant) -> Option<Instant> {
        self.failures = 0;
        self.by_number.keep(found.by_number);
        // Between the look and its being told, the end of a stranger has gone unnoticed.
        self.enrol = false;
        let again = found.has_strangers.then_some(now);
        self.ending = found.lingering;
        let linger = (!self.ending.is_empty()).then(|| {
            let slept = self.lingered.saturating_sub(PROMPTLY);
            self.lingered += 1;
            SHORTEST_PAUSE * 2_u32.pow(slept)
        });
        let linger = linger.filter(|_| self.lingered <= PROMPTLY + PATIENCE);
        if linger.is_none() {
            self.ending.clear();
        }
        let udp = found.sockets.iter();
        let udp = udp.filter(|socket| socket.transport() == Transport::Udp);
        self.udp_ports = udp.map(|socket| socket.address().port()).collect();
        self.sockets.send_if_modified(|sockets| {
            let has_changed = **sockets != found.sockets;
            if has_changed {
                *sockets = Arc::new(found.sockets);
            }
            has_changed
        });
        again.or(linger.map(|wait| now + wait))
    }

    /// What was known stays known. Gives the time until the next attempt.
    fn fail(&mut self, why: &io::Error) -> Duration {
        if self.failures == 0 {
            tracing::warn!("the guest's ports are not known anew: {why}");
        }
        let [first, last] = RETRY;
        let wait = first * 2_u32.pow(self.failures.min(16));
        self.failures += 1;
        wait.min(last)
    }

    fn publish(&mut self, publish: &impl Fn(Sockets)) {
        let sockets = self.sockets.borrow().clone();
        let services = self.services.borrow_and_update();
        // Before the first look, nothing is known.
        if self.failures > 0 && self.published.is_none() {
            return;
        }
        let all = merge(sockets, &services);
        if self.published.as_ref() != Some(&all) {
            self.published = Some(Arc::clone(&all));
            publish(all);
        }
    }
}

/// Why the follower woke up.
enum Next {
    /// Sockets may have changed.
    Look,
    /// Services have.
    Publish,
    /// Nobody is interested any more.
    End,
}

/// Services beside sockets. One whose port has a socket is that socket.
fn merge(sockets: Sockets, services: &BTreeSet<GuestSocket>) -> Sockets {
    if services.is_empty() {
        return sockets;
    }
    let port = |socket: &GuestSocket| (socket.transport(), socket.address().port());
    let taken: BTreeSet<_> = sockets.iter().map(port).collect();
    let free = services
        .iter()
        .filter(|service| !taken.contains(&port(service)));
    let all = sockets.iter().chain(free).copied();
    Arc::new(all.collect())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::boot::testing::Scene;

    fn follower<'a>(scene: &'a Scene, sockets: &'a watch::Sender<Sockets>) -> Follower<'a> {
        let (_, interest) = watch::channel(Some(PortInterest::default()));
        let (_, services) = watch::channel(BTreeSet::new());
        Follower::begin(Source::ticks(), &scene.guest, interest, services, sockets)
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_kernel_that_does_not_answer_closes_no_port() {
        let scene = Scene::new();
        let sockets = watch::Sender::default();
        let mut follower = follower(&scene, &sockets);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let socket = GuestSocket::new(Transport::Tcp, address).unwrap();
        let is_known = || sockets.borrow().contains(&socket);

        let answers = std::mem::replace(
            &mut follower.scanner,
            Scanner::new(|| Err(io::ErrorKind::OutOfMemory.into())),
        );
        follower.look().await;
        follower.publish(&|_| panic!("nothing is known"));
        let silent = std::mem::replace(&mut follower.scanner, answers);
        follower.look().await;
        assert_eq!(follower.again, None);
        assert!(is_known());

        drop(listener);
        follower.scanner = silent;
        for wait in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            follower.look().await;
            assert_eq!(
                follower.again,
                Some(Instant::now() + Duration::from_millis(wait))
            );
            assert!(is_known());
        }
        follower.scanner = Scanner::new(SocketDiag::open);
        follower.look().await;
        assert!(!is_known());
        assert_eq!(follower.again, None);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_socket_that_is_slow_to_go_is_looked_for_again_but_not_for_ever() {
        let scene = Scene::new();
        let sockets = watch::Sender::default();
        let mut follower = follower(&scene, &sockets);
        let now = Instant::now();
        let lingering = |follower: &mut Follower<'_>| {
            let lingering = BTreeSet::from([7]);
            let found = Found {
                lingering,
                ..Found::default()
            };
            follower.accept(found, now)
        };
        for (wait, is_pressed) in [(1, true), (1, true), (1, false), (2, false), (4, false)]
            .into_iter()
            .chain([8, 16, 32, 64, 128, 256, 512].map(|wait| (wait, false)))
        {
            assert_eq!(
                lingering(&mut follower),
                Some(now + Duration::from_millis(wait))
            );
            assert_eq!(follower.is_pressed(), is_pressed);
        }
        assert_eq!(lingering(&mut follower), None);
        assert!(follower.ending.is_empty());
    }

    #[test]
    fn a_service_whose_port_has_a_socket_is_that_socket() {
        let set = |texts: &[(Transport, &str)]| {
            let sockets = texts.iter().map(|(transport, address)| {
                GuestSocket::new(*transport, address.parse().unwrap()).unwrap()
            });
            sockets.collect::<BTreeSet<_>>()
        };
        let sockets = set(&[
            (Transport::Tcp, "127.0.0.1:80"),
            (Transport::Udp, "[::]:53"),
        ]);
        let services = set(&[
            (Transport::Tcp, "0.0.0.0:80"),
            (Transport::Udp, "0.0.0.0:80"),
            (Transport::Tcp, "0.0.0.0:53"),
            (Transport::Udp, "0.0.0.0:53"),
        ]);
        let merged = merge(Arc::new(sockets), &services);
        let expected = set(&[
            (Transport::Tcp, "0.0.0.0:53"),
            (Transport::Tcp, "127.0.0.1:80"),
            (Transport::Udp, "0.0.0.0:80"),
            (Transport::Udp, "[::]:53"),
        ]);
        assert_eq!(*merged, expected);
    }
}
