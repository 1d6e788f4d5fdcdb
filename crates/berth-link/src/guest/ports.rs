//! Telling the host which ports there are.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::board::Board;
use super::talk::send;
use crate::event::{GuestEvent, GuestSocket, MAX_PORTS, MAX_PORTS_PER_UPDATE, PortsUpdate};
use crate::session::SessionEnd;

/// Tells ports once the host has asked for them: all there are, then differences. However often they change, there is one
/// difference for each time that the host takes one.
pub(super) async fn tell_ports(
    board: &Board,
    out: mpsc::Sender<Bytes>,
    mut asked: watch::Receiver<bool>,
) -> SessionEnd {
    if asked.wait_for(|asked| *asked).await.is_err() {
        return pending().await;
    }
    let mut ports = board.ports();
    let mut told = None;
    // The board is borrowed, so it lives.
    while ports.changed().await.is_ok() {
        let Some(now) = ports.borrow_and_update().as_ref().map(Told::of) else {
            continue;
        };
        for update in updates(told.as_ref(), &now) {
            send(&out, GuestEvent::Ports(update).into()).await;
        }
        told = Some(now);
    }
    pending().await
}

/// What a host is told of a set of sockets.
#[derive(Debug)]
struct Told {
    sockets: Arc<BTreeSet<GuestSocket>>,
    left_out: usize,
}

impl Told {
    fn of(all: &Arc<BTreeSet<GuestSocket>>) -> Self {
        let left_out = all.len().saturating_sub(MAX_PORTS);
        let sockets = if left_out == 0 {
            all.clone()
        } else {
            Arc::new(all.iter().take(MAX_PORTS).copied().collect())
        };
        Self { sockets, left_out }
    }
}

/// The way from what was told before, if anything, to what there is now, in messages that a host takes.
fn updates(before: Option<&Told>, now: &Told) -> Vec<PortsUpdate> {
    let none = BTreeSet::new();
    let known = before.map_or(&none, |before| before.sockets.as_ref());
    // Removed ones first: the host has no room for more than it may know.
    let changes: Vec<_> = known
        .difference(&now.sockets)
        .map(|socket| (false, *socket))
        .chain(now.sockets.difference(known).map(|socket| (true, *socket)))
        .collect();
    let mut updates: Vec<_> = changes
        .chunks(MAX_PORTS_PER_UPDATE)
        .map(|chunk| part(chunk, now))
        .collect();
    if updates.is_empty() && before.is_none_or(|before| before.left_out != now.left_out) {
        updates.push(part(&[], now));
    }
    if let Some(first) = updates.first_mut() {
        first.all = before.is_none();
    }
    if let Some(last) = updates.last_mut() {
        last.more = false;
    }
    updates
}

/// One message of several, neither the first nor the last.
fn part(changes: &[(bool, GuestSocket)], now: &Told) -> PortsUpdate {
    let split = changes.partition_point(|(is_added, _)| !is_added);
    let sockets = |changes: &[(bool, GuestSocket)]| changes.iter().map(|change| change.1).collect();
    PortsUpdate {
        all: false,
        more: true,
        added: sockets(&changes[split..]),
        removed: sockets(&changes[..split]),
        left_out: u32::try_from(now.left_out).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Transport;

    fn told(ports: impl IntoIterator<Item = u16>) -> Told {
        let socket = |port| GuestSocket::new(Transport::Tcp, ([0, 0, 0, 0], port).into()).unwrap();
        Told::of(&Arc::new(ports.into_iter().map(socket).collect()))
    }

    fn shape(updates: &[PortsUpdate]) -> Vec<(bool, bool, usize, usize)> {
        let shape = |it: &PortsUpdate| (it.all, it.more, it.removed.len(), it.added.len());
        updates.iter().map(shape).collect()
    }

    #[test]
    fn the_first_update_holds_all_even_if_that_is_nothing() {
        assert_eq!(shape(&updates(None, &told([]))), [(true, false, 0, 0)]);
        assert_eq!(
            shape(&updates(None, &told([80, 22]))),
            [(true, false, 0, 2)]
        );
    }

    #[test]
    fn differences_are_told_and_sameness_is_not() {
        let before = told([22, 80]);
        assert_eq!(updates(Some(&before), &told([22, 80])), []);
        let update = &updates(Some(&before), &told([22, 443]))[0];
        assert_eq!(update.removed[0].address().port(), 80);
        assert_eq!(update.added[0].address().port(), 443);
    }

    #[test]
    fn many_sockets_come_in_parts_and_too_many_are_counted() {
        let full = told(1..=5000);
        let first = updates(None, &full);
        assert_eq!(
            shape(&first),
            [
                (true, true, 0, 1024),
                (false, true, 0, 1024),
                (false, true, 0, 1024),
                (false, false, 0, 1024),
            ]
        );
        assert!(first.iter().all(|update| update.left_out == 904));
        // As soon as one goes, the next takes its place.
        let next = updates(Some(&full), &told(2..=5000));
        assert_eq!(shape(&next), [(false, false, 1, 1)]);
        assert_eq!(
            (next[0].added[0].address().port(), next[0].left_out),
            (4097, 903)
        );
        let beyond = updates(Some(&full), &told(1..=4999));
        assert_eq!(
            (shape(&beyond), beyond[0].left_out),
            (vec![(false, false, 0, 0)], 903)
        );
        let other = updates(Some(&full), &told(10_000..=14_000));
        assert_eq!(shape(&other).iter().map(|part| part.2).sum::<usize>(), 4096);
        assert_eq!(shape(&other)[3], (false, true, 1024, 0));
    }
}
