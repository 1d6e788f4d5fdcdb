//! What the guest said of its ports, put together and capped.

use std::collections::BTreeSet;

use crate::event::{GuestSocket, MAX_PORTS, PortsUpdate};

/// The guest's sockets: what it told, and what the reader of events was told of that.
///
/// The reader gets the difference whenever it takes one, so that a guest whose ports flap faster than it reads costs no memory.
#[derive(Debug, Default)]
pub(super) struct PortBook {
    known: BTreeSet<GuestSocket>,
    /// Sockets that the guest left out by itself.
    untold: u32,
    /// Sockets for which there was no room.
    refused: u32,
    told: BTreeSet<GuestSocket>,
    told_left_out: u32,
    /// The reader was told of this session's ports.
    begun: bool,
    /// Something was noted since the reader was told.
    changed: bool,
    /// The guest has announced more that belongs to it.
    incomplete: bool,
}

impl PortBook {
    /// Takes in what the guest says. Sockets beyond [`MAX_PORTS`] are counted, and known only if the guest tells them again.
    pub(super) fn note(&mut self, update: PortsUpdate) {
        if update.all {
            self.known.clear();
            self.refused = 0;
        }
        for socket in update.removed {
            self.known.remove(&socket);
        }
        for socket in update.added {
            if self.known.len() < MAX_PORTS {
                self.known.insert(socket);
            } else if !self.known.contains(&socket) {
                self.refused = self.refused.saturating_add(1);
            }
        }
        self.untold = update.left_out;
        self.incomplete = update.more;
        self.changed = true;
    }

    /// Whether there is something whole to tell.
    pub(super) fn is_due(&self) -> bool {
        self.changed && !self.incomplete
    }

    /// What the reader does not know yet; `None` if that is nothing.
    pub(super) fn take(&mut self) -> Option<PortsUpdate> {
        self.changed = false;
        let all = !std::mem::replace(&mut self.begun, true);
        let missing_in = |set: &BTreeSet<GuestSocket>, of: &BTreeSet<GuestSocket>| {
            of.difference(set).copied().collect::<Vec<_>>()
        };
        let added = missing_in(&self.told, &self.known);
        let removed = missing_in(&self.known, &self.told);
        let is_news = !added.is_empty() || !removed.is_empty();
        let left_out = self.untold.saturating_add(self.refused);
        if !all && !is_news && left_out == self.told_left_out {
            return None;
        }
        if is_news {
            self.told.clone_from(&self.known);
        }
        self.told_left_out = left_out;
        Some(PortsUpdate {
            all,
            more: false,
            added,
            removed,
            left_out,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Transport;

    fn socket(number: usize) -> GuestSocket {
        let (high, low) = (number / 60_000, number % 60_000 + 1);
        let address = format!("10.0.0.{high}:{low}").parse().unwrap();
        GuestSocket::new(Transport::Tcp, address).unwrap()
    }

    fn added(numbers: impl IntoIterator<Item = usize>) -> PortsUpdate {
        PortsUpdate {
            added: numbers.into_iter().map(socket).collect(),
            ..PortsUpdate::default()
        }
    }

    fn removed(numbers: impl IntoIterator<Item = usize>) -> PortsUpdate {
        PortsUpdate {
            removed: numbers.into_iter().map(socket).collect(),
            ..PortsUpdate::default()
        }
    }

    fn all(update: PortsUpdate) -> PortsUpdate {
        PortsUpdate {
            all: true,
            ..update
        }
    }

    #[test]
    fn the_first_one_holds_all_even_if_that_is_nothing() {
        let mut book = PortBook::default();
        assert!(!book.is_due());
        book.note(PortsUpdate::default());
        assert!(book.is_due());
        assert_eq!(book.take(), Some(all(PortsUpdate::default())));
        book.note(added([1]));
        assert_eq!(book.take(), Some(added([1])));
    }

    #[test]
    fn parts_are_told_as_one() {
        let mut book = PortBook::default();
        let part = |update| PortsUpdate {
            more: true,
            ..update
        };
        book.note(part(all(added([1, 2]))));
        assert!(!book.is_due());
        book.note(part(added([3])));
        assert!(!book.is_due());
        book.note(removed([2]));
        assert_eq!(book.take(), Some(all(added([1, 3]))));
        // A second list of all is a difference to the reader.
        book.note(part(all(added([1]))));
        book.note(added([4]));
        let told = book.take().unwrap();
        assert_eq!(
            (told.all, told.added, told.removed),
            (false, vec![socket(4)], vec![socket(3)])
        );
    }

    #[test]
    fn flapping_costs_nothing_and_what_went_and_came_back_is_no_news() {
        let mut book = PortBook::default();
        book.note(all(added([1, 2])));
        book.take();
        for _ in 0..10_000 {
            book.note(removed([1]));
            book.note(added([1, 3]));
            book.note(removed([3]));
        }
        assert!(book.is_due());
        assert_eq!(book.take(), None);
        assert!(!book.is_due());
        book.note(removed([2]));
        assert_eq!(book.take(), Some(removed([2])));
    }

    #[test]
    fn ports_without_end_are_a_few_thousand_and_a_count() {
        const ALL: usize = 100_000;
        let mut book = PortBook::default();
        for from in (0..ALL).step_by(1000) {
            book.note(added(from..from + 1000));
        }
        let told = book.take().unwrap();
        assert_eq!(told.added.len(), MAX_PORTS);
        assert_eq!(told.left_out as usize, ALL - MAX_PORTS);
        book.note(removed([5]));
        book.note(added([5, ALL - 1]));
        let told = book.take().unwrap();
        assert_eq!((told.added.len(), told.removed.len()), (0, 0));
        assert_eq!(told.left_out as usize, ALL + 1 - MAX_PORTS);
        book.note(all(added([5])));
        let told = book.take().unwrap();
        assert_eq!((told.removed.len(), told.left_out), (MAX_PORTS - 1, 0));
    }
}
