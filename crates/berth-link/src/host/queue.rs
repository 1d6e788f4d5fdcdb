//! Events on their way to a reader who may be slow.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::LinkEvent;
use super::ports::PortBook;
use crate::event::{CloudInitProgress, GuestEvent};

/// Lines of cloud-init's log that wait; older ones are dropped and counted.
const MAX_LINES: usize = 256;

/// Other events that wait; with more of them the guest is not read.
const MAX_OTHERS: usize = 32;

/// Holds what the channel has no room for. Bounded, and never drops anything but lines of a log.
#[derive(Debug)]
pub(super) struct EventQueue {
    reader: mpsc::Sender<LinkEvent>,
    waiting: VecDeque<LinkEvent>,
    lines: usize,
    /// Ports of the session to which the last event belongs; told when nothing else waits.
    ports: PortBook,
}

/// The reader of events is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReaderGone;

impl EventQueue {
    pub(super) fn new(reader: mpsc::Sender<LinkEvent>) -> Self {
        Self {
            reader,
            waiting: VecDeque::new(),
            lines: 0,
            ports: PortBook::default(),
        }
    }

    /// Whether the guest may say more.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() - self.lines < MAX_OTHERS
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && !self.ports.is_due()
    }

    pub(super) fn push(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Guest(GuestEvent::Ports(update)) => return self.ports.note(update),
            LinkEvent::Guest(GuestEvent::Snapshot(_)) => self.forget_before_snapshot(),
            // What the ended session did not tell in time, the next one tells anew.
            LinkEvent::Up { .. } | LinkEvent::Down { .. } => self.ports = PortBook::default(),
            LinkEvent::Guest(_) => {}
        }
        if line_of(&event).is_some() {
            if self.lines == MAX_LINES {
                self.drop_oldest_line();
            }
            self.lines += 1;
        }
        self.waiting.push_back(event);
    }

    /// A snapshot holds all that stages and steps of its session said before.
    fn forget_before_snapshot(&mut self) {
        let is_superseded = |event: &LinkEvent| {
            matches!(
                event,
                LinkEvent::Guest(
                    GuestEvent::Snapshot(_) | GuestEvent::Stage(_) | GuestEvent::Step(_)
                )
            )
        };
        let session = self
            .waiting
            .iter()
            .rposition(|event| matches!(event, LinkEvent::Up { .. }))
            .unwrap_or(0);
        let mut at = 0;
        self.waiting.retain(|event| {
            at += 1;
            at <= session || !is_superseded(event)
        });
    }

    /// Makes room for a line; the line behind it says how many are missing.
    fn drop_oldest_line(&mut self) {
        let Some(oldest) = self
            .waiting
            .iter()
            .position(|event| line_of(event).is_some())
        else {
            return;
        };
        let dropped = self.waiting.remove(oldest);
        self.lines -= 1;
        let missing = 1 + dropped
            .as_ref()
            .and_then(line_of)
            .map_or(0, |line| line.dropped);
        let next = self
            .waiting
            .iter_mut()
            .skip(oldest)
            .find_map(|event| match event {
                LinkEvent::Guest(GuestEvent::CloudInit(progress)) => Some(progress),
                _ => None,
            });
        if let Some(next) = next {
            next.dropped = next.dropped.saturating_add(missing);
        }
    }

    /// Waits until nobody reads events any more.
    pub(super) async fn reader_gone(&self) {
        self.reader.closed().await;
    }

    /// Hands the oldest event to the reader as soon as it takes one; while there is none, only notices that it went away.
    /// Cancel-safe.
    pub(super) async fn deliver_one(&mut self) -> Result<(), ReaderGone> {
        if self.is_empty() {
            self.reader_gone().await;
            return Err(ReaderGone);
        }
        let place = self.reader.reserve().await.map_err(|_| ReaderGone)?;
        if let Some(event) = self.waiting.pop_front() {
            self.lines -= usize::from(line_of(&event).is_some());
            place.send(event);
        } else if let Some(update) = self.ports.take() {
            place.send(LinkEvent::Guest(GuestEvent::Ports(update)));
        }
        Ok(())
    }

    /// Hands over all there is.
    pub(super) async fn deliver_all(&mut self) -> Result<(), ReaderGone> {
        while !self.is_empty() {
            self.deliver_one().await?;
        }
        Ok(())
    }
}

/// A line that may be dropped: the end of cloud-init may not.
fn line_of(event: &LinkEvent) -> Option<&CloudInitProgress> {
    match event {
        LinkEvent::Guest(GuestEvent::CloudInit(progress)) if !progress.completed => Some(progress),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::{GuestSocket, PortsUpdate, Stage, StageReached, Transport};
    use crate::session::SessionEnd;

    fn line(number: usize) -> LinkEvent {
        LinkEvent::Guest(GuestEvent::CloudInit(CloudInitProgress {
            line: Some(format!("line {number}")),
            ..CloudInitProgress::default()
        }))
    }

    fn stage() -> LinkEvent {
        LinkEvent::Guest(GuestEvent::Stage(StageReached {
            stage: Stage::KernelUp,
            uptime: Duration::ZERO,
        }))
    }

    async fn read_all(
        mut queue: EventQueue,
        mut reader: mpsc::Receiver<LinkEvent>,
    ) -> Vec<LinkEvent> {
        let mut read = Vec::new();
        while !queue.is_empty() {
            queue.deliver_one().await.unwrap();
            read.push(reader.try_recv().unwrap());
        }
        read
    }

    #[tokio::test]
    async fn lines_are_dropped_oldest_first_and_counted_and_stages_never() {
        let (sender, reader) = mpsc::channel(1);
        let mut queue = EventQueue::new(sender);
        queue.push(stage());
        for number in 0..10_000 {
            queue.push(line(number));
            if number == 5000 {
                queue.push(stage());
            }
        }
        let read = read_all(queue, reader).await;
        assert_eq!(read.len(), 2 + MAX_LINES);
        let stages = read.iter().filter(|event| line_of(event).is_none()).count();
        assert_eq!(stages, 2);
        let lines: Vec<_> = read.iter().filter_map(line_of).collect();
        let lost: u64 = lines.iter().map(|line| line.dropped).sum();
        assert_eq!(lost, (10_000 - MAX_LINES) as u64);
        assert_eq!(lines[0].dropped, lost);
        assert_eq!(lines[MAX_LINES - 1].line.as_deref(), Some("line 9999"));
    }

    #[tokio::test]
    async fn the_end_of_cloud_init_inherits_the_count_and_is_kept() {
        let (sender, reader) = mpsc::channel(1);
        let mut queue = EventQueue::new(sender);
        queue.push(line(0));
        queue.push(LinkEvent::Guest(GuestEvent::CloudInit(CloudInitProgress {
            completed: true,
            ..CloudInitProgress::default()
        })));
        for number in 1..=MAX_LINES {
            queue.push(line(number));
        }
        let read = read_all(queue, reader).await;
        let LinkEvent::Guest(GuestEvent::CloudInit(end)) = &read[0] else {
            panic!("{read:?}");
        };
        assert!(end.completed && end.dropped == 1);
    }

    #[test]
    fn stages_fill_the_queue_and_lines_do_not() {
        let (sender, _reader) = mpsc::channel(1);
        let mut queue = EventQueue::new(sender);
        for number in 0..1000 {
            queue.push(line(number));
        }
        for _ in 0..MAX_OTHERS {
            assert!(queue.has_room());
            queue.push(stage());
        }
        assert!(!queue.has_room());
    }

    fn ports(port: u16, all: bool) -> LinkEvent {
        let address = ([127, 0, 0, 1], port).into();
        LinkEvent::Guest(GuestEvent::Ports(PortsUpdate {
            all,
            added: GuestSocket::new(Transport::Tcp, address)
                .into_iter()
                .collect(),
            ..PortsUpdate::default()
        }))
    }

    fn down() -> LinkEvent {
        LinkEvent::Down {
            generation: 1,
            reason: SessionEnd::HungUp,
        }
    }

    #[tokio::test]
    async fn ports_are_told_as_one_update_behind_what_waits_and_not_after_their_session() {
        let (sender, reader) = mpsc::channel(9);
        let mut queue = EventQueue::new(sender);
        queue.push(ports(1, true));
        queue.push(down());
        queue.push(ports(2, true));
        queue.push(stage());
        queue.push(ports(3, false));
        assert!(queue.has_room());
        let read = read_all(queue, reader).await;
        let [
            LinkEvent::Down { .. },
            LinkEvent::Guest(GuestEvent::Stage(_)),
            LinkEvent::Guest(GuestEvent::Ports(told)),
        ] = &read[..]
        else {
            panic!("{read:?}");
        };
        let told_ports: Vec<_> = told.added.iter().map(|it| it.address().port()).collect();
        assert_eq!((told.all, told_ports), (true, vec![2, 3]));
    }

    #[tokio::test]
    async fn a_reader_that_went_away_is_noticed() {
        let (sender, reader) = mpsc::channel(1);
        let mut queue = EventQueue::new(sender);
        drop(reader);
        assert_eq!(queue.deliver_one().await, Err(ReaderGone));
        queue.push(stage());
        assert_eq!(queue.deliver_all().await, Err(ReaderGone));
    }
}
