//! Writing events: one `write(2)` each, in the order of their times.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::event::Event;
use crate::sys;

/// How long a reader that does not read may hold an event back, once.
const PATIENCE: Duration = Duration::from_millis(250);

/// Longest text in `errors` and in a log line; the rest is dropped, so that no event grows beyond what readers take.
const MAX_TEXT: usize = 16 * 1024;

/// Writes events to one descriptor, for all threads.
///
/// - Each event is one `write(2)`, with its line feed.
/// - Times never go back: an event that would be earlier than the one before gets that one's time.
/// - An event that cannot be written is counted and dropped, and the first one is logged: no failure of the reader or the disk
///   stops the agent. A line torn by a full disk is taken back, or ended before the next event.
/// - A pipe that is full delays the caller by at most 250 ms; until somebody reads again, later events are dropped at once.
#[derive(Debug)]
pub struct EventWriter {
    out: Mutex<Out>,
}

#[derive(Debug)]
struct Out {
    file: File,
    last: Timestamp,
    /// Part of a line stands at the end of the output.
    torn: bool,
    /// The last event found no room.
    full: bool,
    dropped: u64,
}

impl EventWriter {
    /// Takes the descriptor to write to: a file, a pipe, a terminal.
    #[must_use]
    pub fn new(out: impl Into<File>) -> Self {
        let out = Out {
            file: out.into(),
            last: Timestamp::MIN,
            torn: false,
            full: false,
            dropped: 0,
        };
        Self {
            out: Mutex::new(out),
        }
    }

    /// Writes one event. Returns whether it was written.
    pub fn write(&self, mut event: Event) -> bool {
        let mut out = self.lock();
        event.time.at = event.time.at.max(out.last);
        out.last = event.time.at;
        limit_texts(&mut event);
        let result = serde_json::to_vec(&event)
            .map_err(io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                out.write_line(line)
            });
        let Err(why) = result else { return true };
        out.dropped += 1;
        if out.dropped == 1 {
            tracing::warn!(error = %why, "cannot write an event; this is said once");
        }
        false
    }

    /// How many events were lost.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Out {
    fn write_line(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        if self.torn {
            line.insert(0, b'\n');
        }
        // More than one turn only when the disk is full, or a reader is slow and the event longer than what a pipe takes whole.
        let mut written = 0;
        while written < line.len() {
            let result = self
                .wait_for_room()
                .and_then(|()| sys::write_without_waiting(&mut self.file, &line[written..]));
            match result {
                Ok(more) => written += more,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => {
                    self.torn |= written > 0 && self.take_back(written).is_err();
                    return Err(why);
                }
            }
        }
        self.torn = false;
        Ok(())
    }

    fn wait_for_room(&mut self) -> io::Result<()> {
        let patience = if self.full { Duration::ZERO } else { PATIENCE };
        self.full = !sys::has_room(&self.file, patience);
        if self.full {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "nobody reads the events",
            ));
        }
        Ok(())
    }

    /// Removes what was written last from the end of a regular file.
    fn take_back(&mut self, written: usize) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let end = metadata.len().saturating_sub(written as u64);
        self.file.set_len(end)?;
        self.file.seek(SeekFrom::Start(end))?;
        Ok(())
    }
}

fn limit_texts(event: &mut Event) {
    for error in &mut event.status.errors {
        limit(error);
    }
    if let Some(progress) = &mut event.status.cloud_init_progress {
        limit(&mut progress.log_line);
    }
}

fn limit(text: &mut String) {
    const ELLIPSIS: &str = " […]";
    if text.len() > MAX_TEXT {
        let mut end = MAX_TEXT - ELLIPSIS.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(ELLIPSIS);
    }
}
