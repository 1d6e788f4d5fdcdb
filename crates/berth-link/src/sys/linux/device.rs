//! A virtio-serial port as a byte stream.
//!
//! The kernel reports the host's absence as a level: `POLLHUP` for as long as nobody has the other end, and `read` returns 0.
//! A plain readiness poll would spin on that, and tokio's own registration keeps a hang-up for ever. But the driver
//! (`virtio_console`) wakes its pollers at every change, the host's arrival included, and an edge-triggered epoll passes on
//! just those changes. So the port sits in an epoll of its own, edge-triggered, and tokio watches that epoll, which itself never
//! hangs up: nothing is polled, and nothing sleeps while the host is away.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::task::{Context, Poll, ready};

use rustix::event::epoll::{self, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, ReadBuf};

/// An open port. One task reads and writes it.
#[derive(Debug)]
pub(crate) struct DevicePort {
    port: OwnedFd,
    changes: AsyncFd<OwnedFd>,
    /// A reader waits, so that a change which a writer takes notice of must wake it too.
    reader_waits: bool,
    /// The same the other way round.
    writer_waits: bool,
}

impl DevicePort {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Self::watch(rustix::fs::open(path, flags, Mode::empty())?)
    }

    fn watch(port: OwnedFd) -> io::Result<Self> {
        let changes = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(&changes, &port, epoll::EventData::new_u64(0), interest)?;
        #[allow(
            unsafe_code,
            reason = "tokio cannot know that a descriptor stays what it is"
        )]
        // SAFETY: the epoll was made just now; the `AsyncFd` owns it until both are dropped, and nobody replaces it.
        let changes = unsafe { AsyncFd::register_with_interest(changes, Interest::READABLE) }?;
        Ok(Self {
            port,
            changes,
            reader_waits: false,
            writer_waits: false,
        })
    }

    /// Waits until the host has the other end.
    pub(super) async fn wait_for_host(&mut self) -> io::Result<()> {
        // A change between the look and the wait stays in the epoll.
        while !self.has_host()? {
            std::future::poll_fn(|cx| self.poll_change(cx)).await?;
        }
        Ok(())
    }

    fn has_host(&self) -> io::Result<bool> {
        let mut look = [PollFd::new(&self.port, PollFlags::OUT)];
        poll(&mut look, Some(&Timespec::default()))?;
        Ok(!look[0].revents().contains(PollFlags::HUP))
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match rustix::io::read(&self.port, buf.initialize_unfilled()) {
                Ok(count) => {
                    self.reader_waits = false;
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    self.reader_waits = true;
                    ready!(self.poll_change(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match rustix::io::write(&self.port, bytes) {
                Ok(count) => {
                    self.writer_waits = false;
                    return Poll::Ready(Ok(count));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    self.writer_waits = true;
                    ready!(self.poll_change(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Ready once something changed since the last time.
    fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut watched = ready!(self.changes.poll_read_ready(cx))?;
            let mut events = [epoll::Event {
                flags: EventFlags::empty(),
                data: epoll::EventData::new_u64(0),
            }];
            let changed = epoll::wait(
                self.changes.get_ref().as_fd(),
                &mut events,
                Some(&Timespec::default()),
            )?;
            if changed > 0 {
                if self.reader_waits && self.writer_waits {
                    // The change is taken: whichever direction did not ask just now has to look again.
                    cx.waker().wake_by_ref();
                }
                return Poll::Ready(Ok(()));
            }
            watched.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    /// A pair of sockets behaves as a port does where it matters here: not ready is `EAGAIN`, the other end's absence is
    /// `POLLHUP` for ever and an empty read.
    fn port() -> (DevicePort, UnixStream) {
        let (port, host) = UnixStream::pair().unwrap();
        port.set_nonblocking(true).unwrap();
        host.set_nonblocking(true).unwrap();
        (DevicePort::watch(port.into()).unwrap(), host)
    }

    fn poll_both(
        port: &mut DevicePort,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> (Poll<io::Result<usize>>, Poll<io::Result<usize>>) {
        let written = port.poll_write(cx, bytes);
        let mut space = [0; 64];
        let mut buf = ReadBuf::new(&mut space);
        let read = port.poll_read(cx, &mut buf).map_ok(|()| buf.filled().len());
        (written, read)
    }

    /// Polls both directions in one task, as a session does, until one of them moves.
    async fn either(port: &mut DevicePort, bytes: &[u8]) -> (usize, usize) {
        std::future::poll_fn(|cx| match poll_both(port, cx, bytes) {
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            (written, read) => {
                let moved = |poll: Poll<io::Result<usize>>| match poll {
                    Poll::Ready(count) => count.unwrap(),
                    Poll::Pending => 0,
                };
                Poll::Ready((moved(written), moved(read)))
            }
        })
        .await
    }

    /// Fills the way to the host, so that both directions wait.
    async fn fill(port: &mut DevicePort) {
        let mut filled = std::pin::pin!(async { while either(port, &[0; 4096]).await.0 > 0 {} });
        std::future::poll_fn(|cx| {
            assert!(filled.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn one_task_that_waits_for_both_directions_is_woken_for_each() {
        let (mut port, mut host) = port();
        for _ in 0..3 {
            fill(&mut port).await;
            let ((written, read), ()) = tokio::join!(either(&mut port, b"x"), async {
                tokio::task::yield_now().await;
                host.write_all(b"to the guest").unwrap();
            });
            assert_eq!((written, read), (0, 12));
            let ((written, read), ()) = tokio::join!(either(&mut port, b"x"), async {
                tokio::task::yield_now().await;
                while host.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
            });
            assert_eq!((written, read), (1, 0));
        }
    }

    #[tokio::test]
    async fn the_hosts_absence_is_seen_and_does_not_spin() {
        let (mut port, host) = port();
        port.wait_for_host().await.unwrap();
        drop(host);
        assert!(!port.has_host().unwrap());
        let (_, read) = std::future::poll_fn(|cx| Poll::Ready(poll_both(&mut port, cx, b""))).await;
        assert!(matches!(read, Poll::Ready(Ok(0))), "{read:?}");
        // A socket's other end never comes back, so every turn of this wait beyond the first few is spinning.
        let mut wait = std::pin::pin!(port.wait_for_host());
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(woken.clone());
        let mut turns = 0;
        for _ in 0..1000 {
            if woken.0.swap(false, Ordering::Relaxed) {
                turns += 1;
                assert!(
                    wait.as_mut()
                        .poll(&mut Context::from_waker(&waker))
                        .is_pending()
                );
            }
            tokio::task::yield_now().await;
        }
        assert!(turns < 5, "{turns} turns");
    }

    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
