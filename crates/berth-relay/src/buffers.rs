//! The buffers that busy connections share.
//!
//! An idle connection has none: it takes one when it is woken, and keeps it only while the other side takes nothing. However many
//! connections are stuck that way, only [`MOST_LARGE`] of them have large ones.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sys;

/// Length of a buffer in bytes: enough that a system call moves much, and for the longest datagram with its length.
pub(crate) const LARGE: usize = 64 * 1024;

/// Length of a buffer in bytes when there are too many large ones.
const SMALL: usize = 4 * 1024;

/// Large buffers that may be in use.
const MOST_LARGE: usize = 64;

/// Unused buffers that are kept for the next who wants one, while there is anybody.
const MOST_SPARE: usize = 8;

/// So many users at once leave memory behind that the allocator keeps; it is asked for it when they are gone.
const CROWD: usize = 256;

static POOL: Mutex<Pool> = Mutex::new(Pool {
    spare: Vec::new(),
    large: 0,
    users: 0,
    most_users: 0,
});

#[derive(Debug)]
struct Pool {
    spare: Vec<Box<[u8]>>,
    /// Large buffers in use.
    large: usize,
    users: usize,
    /// The most at a time since there were none.
    most_users: usize,
}

/// Who has left.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    /// Others are still there.
    One,
    /// Nobody is there now, and there never were many.
    Last,
    /// Nobody is there now, after many were.
    LastOfCrowd,
}

fn pool() -> MutexGuard<'static, Pool> {
    // Nothing panics between two changes that belong together.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A large buffer, or a small one where many are in use.
    fn give(&mut self) -> Box<[u8]> {
        if self.large >= MOST_LARGE {
            return vec![0; SMALL].into();
        }
        self.give_large()
    }

    fn give_large(&mut self) -> Box<[u8]> {
        self.large += 1;
        let spare = self.spare.pop();
        spare.unwrap_or_else(|| vec![0; LARGE].into())
    }

    fn take_back(&mut self, bytes: Box<[u8]>) {
        if bytes.len() < LARGE {
            return;
        }
        self.large -= 1;
        if self.spare.len() < MOST_SPARE && self.users > 0 {
            self.spare.push(bytes);
        }
    }

    fn enter(&mut self) {
        self.users += 1;
        self.most_users = self.most_users.max(self.users);
    }

    /// One user less.
    fn leave(&mut self) -> Left {
        self.users -= 1;
        if self.users > 0 {
            return Left::One;
        }
        self.spare = Vec::new();
        if std::mem::take(&mut self.most_users) < CROWD {
            Left::Last
        } else {
            Left::LastOfCrowd
        }
    }
}

/// Somebody who may want buffers. When the last one is gone, so are the spare buffers.
#[derive(Debug)]
pub(crate) struct User(());

impl User {
    pub(crate) fn new() -> Self {
        pool().enter();
        Self(())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let left = pool().leave();
        if left != Left::One {
            sys::close_spare();
        }
        if left == Left::LastOfCrowd {
            sys::give_memory_back();
        }
    }
}

/// Whether there is anybody who may want buffers, or pipes.
#[cfg(target_os = "linux")]
pub(crate) fn has_users() -> bool {
    pool().users > 0
}

/// Bytes on their way from one side to the other.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty buffer: a large one, or a small one where many are stuck.
    pub(crate) fn take() -> Self {
        Self::new(pool().give())
    }

    /// An empty buffer that is large in any case, for whoever keeps it only for a moment.
    pub(crate) fn take_large() -> Self {
        Self::new(pool().give_large())
    }

    fn new(bytes: Box<[u8]>) -> Self {
        Self {
            bytes,
            start: 0,
            end: 0,
        }
    }

    /// What was put in and not taken out.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Where more can be put.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// Notes that `count` bytes were put into the room.
    pub(crate) fn put(&mut self, count: usize) {
        self.end += count;
    }

    /// Puts bytes in, for which there is room.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.room()[..bytes.len()].copy_from_slice(bytes);
        self.put(bytes.len());
    }

    /// Notes that the first `count` unread bytes were taken out.
    pub(crate) fn advance(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        pool().take_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_few_and_spare_ones_fewer() {
        let mut pool = Pool {
            spare: Vec::new(),
            large: 0,
            users: 1,
            most_users: 1,
        };
        let buffers: Vec<_> = (0..=MOST_LARGE).map(|_| pool.give()).collect();
        assert_eq!(
            (buffers[MOST_LARGE - 1].len(), buffers[MOST_LARGE].len()),
            (LARGE, SMALL)
        );
        for buffer in buffers {
            pool.take_back(buffer);
        }
        assert_eq!((pool.large, pool.spare.len()), (0, MOST_SPARE));
        drop(pool.give());
        assert_eq!((pool.large, pool.spare.len()), (1, MOST_SPARE - 1));
        assert_eq!(pool.leave(), Left::Last);
        assert_eq!(pool.spare.len(), 0);
    }

    #[test]
    fn the_last_of_many_is_told_from_the_last_of_few() {
        let mut pool = Pool {
            spare: Vec::new(),
            large: 0,
            users: 0,
            most_users: 0,
        };
        for (crowd, last) in [(CROWD, Left::LastOfCrowd), (CROWD - 1, Left::Last)] {
            (0..crowd).for_each(|_| pool.enter());
            for _ in 1..crowd {
                assert_eq!(pool.leave(), Left::One);
            }
            assert_eq!(pool.leave(), last);
        }
    }

    #[test]
    fn what_is_put_in_comes_out() {
        let mut buffer = Buffer::take();
        buffer.append(b"abc");
        buffer.advance(1);
        assert_eq!(buffer.unread(), b"bc");
        buffer.advance(2);
        assert_eq!(buffer.room().len(), buffer.bytes.len());
    }
}
