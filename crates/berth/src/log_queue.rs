//! A bounded queue between whoever logs and the file that the lines go to.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use serde_json::Map;
use tracing::Level;

use crate::logging::{self, Severity, Shape};

/// Lines that wait at most; one more is dropped and counted.
const CAPACITY: usize = 512;
/// How long the end of the program waits for the last lines.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The queue, its thread, and the promise that what was logged is written before it is dropped.
#[derive(Debug)]
pub(crate) struct LogQueue {
    handle: QueueHandle,
}

/// A way into the queue. Writing never blocks and never fails.
#[derive(Debug, Clone)]
pub(crate) struct QueueHandle {
    sender: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Barrier(SyncSender<()>),
}

impl LogQueue {
    /// Starts the thread that writes to `sink`. It sleeps while nothing is logged.
    pub(crate) fn start(sink: impl Write + Send + 'static) -> io::Result<Self> {
        Self::with_capacity(sink, CAPACITY)
    }

    fn with_capacity(sink: impl Write + Send + 'static, capacity: usize) -> io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(capacity);
        let dropped = Arc::new(AtomicU64::new(0));
        let handle = QueueHandle {
            sender,
            dropped: Arc::clone(&dropped),
        };
        thread::Builder::new()
            .name("log".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || write_lines(sink, &receiver, &dropped))?;
        Ok(Self { handle })
    }

    pub(crate) fn handle(&self) -> QueueHandle {
        self.handle.clone()
    }
}

impl Drop for LogQueue {
    fn drop(&mut self) {
        let (written, all_written) = mpsc::sync_channel(1);
        // A full queue here means a sink that hangs: then the last lines are lost, not the end of the program.
        if self.handle.sender.try_send(Item::Barrier(written)).is_ok() {
            let _ = all_written.recv_timeout(LAST_WORDS);
        }
    }
}

impl Write for QueueHandle {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.sender.try_send(Item::Line(line.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A failing sink (full disk) costs lines, never the agent.
fn write_lines(mut sink: impl Write, receiver: &Receiver<Item>, dropped: &AtomicU64) {
    for item in receiver {
        match item {
            Item::Line(line) => {
                let _ = sink.write_all(&line);
            }
            Item::Barrier(written) => {
                let _ = sink.flush();
                let _ = written.send(());
            }
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let message = format!(
                "{lost} log lines were dropped, because they came faster than they could be written"
            );
            let line = logging::line(
                Shape::Json,
                Severity::Level(Level::WARN),
                &message,
                &Map::new(),
            );
            let _ = sink.write_all(line.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A sink that hangs until it is let go, and keeps what it got.
    #[derive(Clone, Default)]
    struct Gate {
        open: Arc<Mutex<()>>,
        got: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.open.lock().unwrap();
            self.got.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Gate {
        fn text(&self) -> String {
            String::from_utf8(self.got.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn dropping_the_queue_writes_what_was_logged() {
        let gate = Gate::default();
        let queue = LogQueue::start(gate.clone()).unwrap();
        for n in 0..100 {
            queue
                .handle()
                .write_all(format!("{n}\n").as_bytes())
                .unwrap();
        }
        drop(queue);
        assert_eq!(gate.text().lines().count(), 100);
        assert!(gate.text().ends_with("98\n99\n"));
    }

    #[test]
    fn a_hanging_sink_holds_nobody_up_and_the_loss_is_told() {
        let gate = Gate::default();
        let queue = LogQueue::with_capacity(gate.clone(), 4).unwrap();
        {
            let _shut = gate.open.lock().unwrap();
            for _ in 0..50 {
                queue.handle().write_all(b"line\n").unwrap();
            }
        }
        // The queue may still be full: hand in the barrier as soon as there is room.
        let (written, all_written) = mpsc::sync_channel(1);
        queue.handle.sender.send(Item::Barrier(written)).unwrap();
        all_written.recv().unwrap();
        drop(queue);
        let text = gate.text();
        let kept = text.matches("line\n").count();
        assert!((4..=5).contains(&kept), "{text}");
        assert!(
            text.contains(&format!("{} log lines were dropped", 50 - kept)),
            "{text}"
        );
    }
}
