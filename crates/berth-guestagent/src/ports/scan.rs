//! One look at the guest's sockets.

use std::collections::BTreeSet;
use std::io;

use super::filter::{UdpFilter, Verdict};
use super::source::Source;
use super::{GuestSocket, Transport};
use crate::netlink::{BoundSocket, Question, SocketDiag};

/// Most sockets that are kept: more than a host wants to know of. Of more, those that sort first.
const MAX_SOCKETS: usize = 16 * 1024;

/// Looks at sockets.
#[derive(Debug)]
pub(super) struct Scanner {
    open: fn() -> io::Result<SocketDiag>,
    /// What this kernel has told before.
    answered: Vec<Question>,
    /// What it has never told: it was built without, or its module is not there.
    unknown: Vec<Question>,
}

/// What a look shows.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The services.
    pub(super) sockets: BTreeSet<GuestSocket>,
    /// Of the sockets that were about to go, those that are still there.
    pub(super) lingering: BTreeSet<u64>,
    /// Of the services, the UDP sockets that count because they asked for their port.
    pub(super) by_number: BTreeSet<u64>,
    /// There were sockets whose end would not have been told until now.
    pub(super) has_strangers: bool,
}

/// What to look for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search<'a> {
    /// Tells services from clients.
    pub(super) filter: &'a UdpFilter,
    /// Knows which ports were asked for.
    pub(super) source: &'a Source,
    /// Cookies of sockets that are about to go.
    pub(super) ending: &'a BTreeSet<u64>,
    /// Have the end of every service told: there may be some that the source has not seen beginning.
    pub(super) enrol: bool,
}

impl Scanner {
    /// Will ask in this way.
    pub(super) fn new(open: fn() -> io::Result<SocketDiag>) -> Self {
        Self {
            open,
            answered: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// Looks. An error means that nothing is known, not that there are no sockets.
    pub(super) async fn scan(&mut self, search: Search<'_>) -> io::Result<Found> {
        let mut whole = Found::default();
        let mut diag = (self.open)()?;
        let tcp = Question::TCP.map(|question| (Transport::Tcp, question));
        let udp = Question::UDP.map(|question| (Transport::Udp, question));
        for (transport, question) in tcp.into_iter().chain(udp) {
            if self.unknown.contains(&question) {
                continue;
            }
            let answer = diag.ask(question, Found::default, |found, socket| {
                found.note(transport, socket, search);
            });
            let was_answered = self.answered.contains(&question);
            match answer.await {
                Ok(found) => {
                    whole.join(found);
                    if !was_answered {
                        self.answered.push(question);
                    }
                }
                // To ask again would have the kernel look for a module each time.
                Err(why) if why.kind() == io::ErrorKind::NotFound && !was_answered => {
                    tracing::warn!("the kernel cannot tell {question}: {why}");
                    self.unknown.push(question);
                    diag = (self.open)()?;
                }
                Err(why) => return Err(why),
            }
        }
        Ok(whole)
    }
}

impl Found {
    fn note(&mut self, transport: Transport, socket: BoundSocket, search: Search<'_>) {
        let BoundSocket { address, cookie } = socket;
        if search.ending.contains(&cookie) {
            self.lingering.insert(cookie);
        }
        let Some(service) = GuestSocket::new(transport, address) else {
            return;
        };
        let verdict = match transport {
            Transport::Tcp => Verdict::Counts,
            Transport::Udp => search.filter.verdict(address.port()),
        };
        match verdict {
            Verdict::Counts => {}
            Verdict::CountsByNumber if search.source.is_by_number(cookie) => {
                self.by_number.insert(cookie);
            }
            Verdict::CountsByNumber | Verdict::Not => return,
        }
        if search.enrol {
            self.has_strangers |= search.source.remember(cookie);
        }
        self.sockets.insert(service);
        cap(&mut self.sockets);
        cap(&mut self.by_number);
    }

    fn join(&mut self, other: Self) {
        self.sockets.extend(other.sockets);
        self.lingering.extend(other.lingering);
        self.by_number.extend(other.by_number);
        self.has_strangers |= other.has_strangers;
        cap(&mut self.sockets);
        cap(&mut self.by_number);
    }
}

fn cap<T: Ord>(set: &mut BTreeSet<T>) {
    while set.len() > MAX_SOCKETS {
        set.pop_last();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::ports::PortInterest;

    #[tokio::test(flavor = "current_thread")]
    async fn a_million_sockets_are_more_than_are_kept() {
        let (filter, source) = (UdpFilter::new(PortInterest::default()), Source::ticks());
        let search = Search {
            filter: &filter,
            source: &source,
            ending: &BTreeSet::from([7]),
            enrol: true,
        };
        let mut found = Found::default();
        for number in (0..1_000_000_u32).rev() {
            let address = (Ipv4Addr::from(0x7f00_0000 | number >> 8), 80).into();
            let cookie = number.into();
            found.note(Transport::Tcp, BoundSocket { address, cookie }, search);
        }
        // 256 for each address.
        assert_eq!(found.sockets.len(), 1_000_000_usize.div_ceil(256));
        assert_eq!(found.lingering, BTreeSet::from([7]));
        for port in 1..=65_535 {
            let address = ([10, 0, 0, 1], port).into();
            found.note(Transport::Tcp, BoundSocket { address, cookie: 0 }, search);
        }
        assert_eq!(found.sockets.len(), MAX_SOCKETS);
        let first = found.sockets.first().unwrap();
        assert_eq!(first.to_string(), "tcp 10.0.0.1:1");
    }
}
