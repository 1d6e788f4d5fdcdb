//! When a guest's console, or another log in the same directory, said what.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify;

/// A line, and when it was seen: within a millisecond of the write, on a machine that has a processor to spare.
type Line = (Instant, String);

/// Follows log files in a directory, from what they hold now on.
#[derive(Debug)]
pub(super) struct Console {
    seen: Vec<Line>,
    lines: Receiver<Line>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Console {
    /// Begins. Files that do not exist yet, or begin anew, are read from their beginning.
    pub(super) fn follow(directory: &Path, names: &[&str]) -> Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .context("make an inotify instance")?;
        inotify::add_watch(&inotify, directory, inotify::WatchFlags::CREATE)
            .with_context(|| format!("watch {}", directory.display()))?;
        let mut files: Vec<Followed> = names
            .iter()
            .map(|name| Followed::at_end(directory.join(name), &inotify))
            .collect();
        let stop = eventfd(0, EventfdFlags::CLOEXEC).context("make an eventfd")?;
        let stopped = stop.try_clone().context("duplicate an eventfd")?;
        let (sender, lines) = channel();
        let thread = std::thread::spawn(move || run(&inotify, &stopped, &mut files, &sender));
        Ok(Self {
            seen: Vec::new(),
            lines,
            stop,
            thread: Some(thread),
        })
    }

    /// When a line with this text was first seen; waits for it until the limit has passed.
    pub(super) fn moment(&mut self, text: &str, limit: Duration) -> Result<Instant> {
        if let Some((moment, _)) = self.seen.iter().find(|(_, line)| line.contains(text)) {
            return Ok(*moment);
        }
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok((moment, line)) => {
                    let found = line.contains(text);
                    self.seen.push((moment, line));
                    if found {
                        return Ok(moment);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!(
                    "waited {} s for {text:?} on the console; its last lines:\n{}",
                    limit.as_secs(),
                    self.last_lines()
                ),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the console is not followed any more")
                }
            }
        }
    }

    fn last_lines(&self) -> String {
        let first = self.seen.len().saturating_sub(10);
        let lines = self.seen[first..]
            .iter()
            .map(|(_, line)| line.escape_debug().to_string());
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // An eventfd takes eight bytes at any time.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(inotify: &OwnedFd, stop: &OwnedFd, files: &mut [Followed], lines: &Sender<Line>) {
    loop {
        let mut sources = [
            PollFd::new(inotify, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        if poll(&mut sources, None).is_err() || !sources[1].revents().is_empty() {
            return;
        }
        let now = Instant::now();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        let mut created = false;
        while let Ok(event) = events.next() {
            created |= event.events().contains(inotify::ReadFlags::CREATE);
        }
        for file in &mut *files {
            if created {
                file.watch(inotify);
            }
            file.read_on();
            for line in file.complete_lines() {
                if lines.send((now, line)).is_err() {
                    return;
                }
            }
        }
    }
}

/// One file, as far as it was read.
#[derive(Debug)]
struct Followed {
    path: PathBuf,
    read: u64,
    rest: Vec<u8>,
}

impl Followed {
    fn at_end(path: PathBuf, inotify: &OwnedFd) -> Self {
        let followed = Self {
            read: std::fs::metadata(&path).map_or(0, |metadata| metadata.len()),
            path,
            rest: Vec::new(),
        };
        followed.watch(inotify);
        followed
    }

    /// Watches the file itself, if it is there: in its directory, a disk changes all the time.
    fn watch(&self, inotify: &OwnedFd) {
        let _ = inotify::add_watch(inotify, &self.path, inotify::WatchFlags::MODIFY);
    }

    /// Reads what is new. A file that cannot be read now has nothing new.
    fn read_on(&mut self) {
        let Ok(mut file) = File::open(&self.path) else {
            return;
        };
        if file
            .metadata()
            .is_ok_and(|metadata| metadata.len() < self.read)
        {
            self.read = 0;
            self.rest.clear();
        }
        if file.seek(SeekFrom::Start(self.read)).is_ok() {
            let before = self.rest.len();
            let _ = file.read_to_end(&mut self.rest);
            self.read += (self.rest.len() - before) as u64;
        }
    }

    fn complete_lines(&mut self) -> Vec<String> {
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let complete: Vec<u8> = self.rest.drain(..=end).collect();
        String::from_utf8_lossy(&complete)
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

/// What a machine has said of the stages of a guest's boot; the texts are systemd's, cloud-init's and berth's own.
pub(super) mod stage {
    /// systemd: everything that belongs to the boot has been started.
    pub(in crate::bench) const MULTI_USER: &str = "Multi-User System";
    /// cloud-init: all of its work is done.
    pub(in crate::bench) const CLOUD_INIT: &str = "finished at";
    /// berth's guest agent: keys, user and steps are in place, and sshd listens.
    pub(in crate::bench) const BERTH: &str = "berth: boot done";
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    const HANG: Duration = Duration::from_secs(60);

    #[test]
    fn lines_of_a_file_that_begins_anew_are_seen() {
        let directory =
            std::env::temp_dir().join(format!("berth-xtask-console.{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let log = directory.join("serial.log");
        fs::write(&log, "an old line that is long enough\n").unwrap();
        let begin = Instant::now();
        let mut console = Console::follow(&directory, &["serial.log"]).unwrap();
        let mut file = File::create(&log).unwrap();
        file.write_all(b"first\nsec").unwrap();
        let first = console.moment("first", HANG).unwrap();
        file.write_all(b"ond\n").unwrap();
        let second = console.moment("second", HANG).unwrap();
        assert!(begin <= first && first <= second);
        assert_eq!(console.moment("first", HANG).unwrap(), first, "it is kept");
        let missing = console
            .moment("old", Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(
            missing.contains("\"old\"") && missing.ends_with("first\nsecond"),
            "{missing}"
        );
        drop(console);
        fs::remove_dir_all(&directory).unwrap();
    }
}
