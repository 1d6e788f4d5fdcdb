//! Datagrams of one client that wait for its stream.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::framing;

/// Bytes of one client that may wait. One datagram may always, so that the longest gets through.
const MOST_OF_ONE: usize = 64 * 1024;

/// A vector that is longer is given back when there is nothing to put into it.
const SPARE: usize = 4 * 1024;

/// Bytes of all clients that wait.
#[derive(Debug, Clone)]
pub(super) struct Total {
    waiting: Arc<AtomicUsize>,
    most: usize,
}

impl Total {
    pub(super) fn new(most: usize) -> Self {
        Self {
            waiting: Arc::default(),
            most,
        }
    }

    fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= self.most
    }

    fn add(&self, bytes: usize) {
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
    }

    fn subtract(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Datagrams of one client that wait for its stream, framed as it wants them.
#[derive(Debug)]
pub(super) struct Backlog {
    queue: Mutex<Queue>,
    total: Total,
}

#[derive(Debug, Default)]
struct Queue {
    framed: Vec<u8>,
    /// Bytes that were taken and are being written.
    taken: usize,
    waker: Option<Waker>,
}

impl Backlog {
    pub(super) fn new(total: Total) -> Self {
        Self {
            queue: Mutex::default(),
            total,
        }
    }

    /// Appends a datagram, unless too much waits already: then it is dropped, and the answer is `false`.
    pub(super) fn push(&self, datagram: &[u8]) -> bool {
        let mut queue = self.queue();
        let before = queue.framed.len();
        let length = before + framing::PREFIX + datagram.len();
        if before > 0 && (length > MOST_OF_ONE || self.total.is_full()) {
            return false;
        }
        if !framing::append(&mut queue.framed, datagram) {
            return false;
        }
        self.total.add(length - before);
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
        true
    }

    /// Waits for datagrams and swaps them with `written`, which holds those of the last time.
    pub(super) async fn take(&self, written: &mut Vec<u8>) {
        written.clear();
        std::future::poll_fn(|cx| self.poll_take(cx, written)).await;
    }

    fn poll_take(&self, cx: &Context<'_>, written: &mut Vec<u8>) -> Poll<()> {
        let mut queue = self.queue();
        self.total.subtract(std::mem::take(&mut queue.taken));
        if queue.framed.is_empty() {
            if written.capacity() > SPARE {
                *written = Vec::new();
            }
            if queue.framed.capacity() > SPARE {
                queue.framed = Vec::new();
            }
            queue.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        std::mem::swap(&mut queue.framed, written);
        queue.taken = written.len();
        Poll::Ready(())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        let queue = self.queue();
        self.total.subtract(queue.taken + queue.framed.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::MAX_DATAGRAM;

    #[tokio::test]
    async fn what_waits_is_bounded_for_one_and_for_all() {
        let total = Total::new(100_000);
        let (one, other) = (Backlog::new(total.clone()), Backlog::new(total.clone()));
        assert!(one.push(&vec![0; MAX_DATAGRAM]));
        assert!(!one.push(&[0; 100]));
        // However full it is, everybody may have one.
        assert!(other.push(&vec![0; 40_000]));
        assert!(!other.push(b"more than all may have"));

        let mut written = Vec::new();
        one.take(&mut written).await;
        assert_eq!(written.len(), framing::PREFIX + MAX_DATAGRAM);
        // What is being written counts until the next is taken.
        assert!(one.push(b"next"));
        assert!(!other.push(b"more than all may have"));
        one.take(&mut written).await;
        assert_eq!(written, b"\0\x04next");
        assert!(other.push(b"room again"));
        drop((one, other));
        assert_eq!(total.waiting.load(Ordering::Relaxed), 0);
    }
}
