//! Futures of one task that do not wake each other.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Runs a future as if it had a task of its own: it is polled when it was woken, not whenever the task is.
///
/// A branch of `select!` or `join!` beside one that is woken thousands of times a second, as the driver of a session is, would
/// otherwise be polled as often.
pub async fn apart<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let bell = Arc::new(Bell {
        rung: AtomicBool::new(true),
        task: AtomicWaker::new(),
    });
    let waker = Waker::from(bell.clone());
    std::future::poll_fn(|cx| {
        // First, so that whoever rings after the look at the bell wakes the task that is here now.
        bell.task.register(cx.waker());
        if bell.rung.swap(false, Ordering::AcqRel) {
            future.as_mut().poll(&mut Context::from_waker(&waker))
        } else {
            Poll::Pending
        }
    })
    .await
}

/// What the future that runs apart is woken by.
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;

    use tokio::sync::Notify;
    use tokio::task::yield_now;

    use super::apart;

    #[tokio::test]
    async fn it_is_polled_when_it_was_woken_and_only_then() {
        let (polls, bell) = (AtomicUsize::new(0), Notify::new());
        let mut rung = std::pin::pin!(bell.notified());
        let quiet = poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            rung.as_mut().poll(cx)
        });
        let busy = async {
            for _ in 0..100 {
                yield_now().await;
            }
            bell.notify_one();
        };
        tokio::join!(apart(quiet), busy);
        assert_eq!(polls.load(Ordering::Relaxed), 2);
        assert_eq!(apart(poll_fn(|_| Poll::Ready(7))).await, 7);
    }
}
