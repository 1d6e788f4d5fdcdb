//! Following cloud-init's log for the host, from the first request until cloud-init has finished.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth_link::guest::Board;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::guest::Guest;
use crate::watch::Watcher;

const LOG: &str = "/var/log/cloud-init-output.log";
/// Appears when cloud-init has finished in this boot.
const RESULT: &str = "/run/cloud-init/result.json";
/// There when cloud-init does nothing in this boot.
const DISABLED: &str = "/run/cloud-init/disabled";

/// Long past the host's patience.
const LIMIT: Duration = Duration::from_hours(1);

/// So much of the log is read at once, in bytes.
const CHUNK: usize = 16 * 1024;

/// So much of the log is searched for the beginning of this boot, in bytes.
const MAX_LOG: u64 = 1 << 20;

/// A line longer than this is cut into several.
const MAX_LINE: usize = 8 * 1024;

/// Waits for a request, then follows.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    was_asked: AtomicBool,
    asked: Notify,
}

impl Follower {
    /// Begins to follow; a second request joins the first. What came before is on the board: that it has finished, or its last line.
    pub(crate) fn request(&self) {
        if !self.was_asked.swap(true, Ordering::Relaxed) {
            self.asked.notify_one();
        }
    }

    /// Waits for the request and follows until cloud-init has finished.
    pub(crate) async fn run(&self, guest: &Guest, board: &Board) {
        self.asked.notified().await;
        if let Err(why) = follow(guest, |line| board.cloud_init_line(line)).await {
            tracing::warn!("cloud-init's log is not followed: {why}");
        }
        board.cloud_init_completed();
    }
}

/// Passes on each line of this boot, and ends when cloud-init has finished.
async fn follow(guest: &Guest, mut each: impl FnMut(&str)) -> io::Result<()> {
    let (log, result) = (guest.path(LOG), guest.path(RESULT));
    let is_over = || result.exists() || guest.has(DISABLED) || !is_installed(guest);
    let deadline = Instant::now() + LIMIT;
    let mut watcher = Watcher::new()?;
    let mut lines = Lines::from(begin_of_boot(&log)?);
    loop {
        watcher.cover(&[log.clone(), result.clone()])?;
        if log.exists() {
            watcher.cover_writes(&log)?;
        }
        // Asked before the log is read: what is written before the end is read after it.
        let over = is_over();
        while let Some(next) = lines.next(&log)? {
            pass_on(next, &mut each).await;
        }
        if over {
            pass_on(lines.last(), &mut each).await;
            return Ok(());
        }
        match timeout_at(deadline, watcher.changed()).await {
            Ok(changed) => changed?,
            Err(_) => {
                return Err(io::Error::other(format!(
                    "it did not end within {} s",
                    LIMIT.as_secs()
                )));
            }
        }
    }
}

/// One by one: whoever listens has room for a few, and gets its turn between them.
async fn pass_on(lines: impl IntoIterator<Item = String>, each: &mut impl FnMut(&str)) {
    for line in lines {
        each(&line);
        tokio::task::yield_now().await;
    }
}

fn is_installed(guest: &Guest) -> bool {
    guest.has_program("cloud-init") || guest.has("/run/cloud-init")
}

/// Where this boot's lines begin: the log goes on from boot to boot, and each ends with a line that says so. What ends with
/// the last such line may be this boot's own.
fn begin_of_boot(log: &Path) -> io::Result<u64> {
    let mut file = match File::open(log) {
        Ok(file) => file,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(why) => return Err(why),
    };
    let skipped = file.metadata()?.len().saturating_sub(MAX_LOG);
    file.seek(SeekFrom::Start(skipped))?;
    let mut text = Vec::new();
    file.take(MAX_LOG).read_to_end(&mut text)?;
    let (mut begin, mut at) = (0, 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        at += line.len();
        let is_end =
            line.starts_with(b"Cloud-init v.") && line.windows(9).any(|word| word == b" finished");
        if is_end && at < text.len() {
            begin = at;
        }
    }
    Ok(skipped + begin as u64)
}

/// The lines of a growing file.
struct Lines {
    at: u64,
    /// The beginning of a line whose end is not written yet.
    open: Vec<u8>,
}

impl Lines {
    fn from(at: u64) -> Self {
        Self {
            at,
            open: Vec::new(),
        }
    }

    /// The lines of the next piece of the file; `None` at its end.
    fn next(&mut self, log: &Path) -> io::Result<Option<Vec<String>>> {
        let mut file = match File::open(log) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(why),
        };
        if file.metadata()?.len() < self.at {
            // It was rotated.
            self.at = 0;
        }
        file.seek(SeekFrom::Start(self.at))?;
        let mut piece = vec![0; CHUNK];
        let length = file.read(&mut piece)?;
        self.at += length as u64;
        Ok((length > 0).then(|| self.split(&piece[..length])))
    }

    fn split(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.open.extend(part);
            if part.ends_with(b"\n") || self.open.len() > MAX_LINE {
                lines.extend(self.last());
            }
        }
        lines
    }

    /// What is read and not passed on yet, as a line, unless it is empty.
    fn last(&mut self) -> Option<String> {
        let line = String::from_utf8_lossy(&self.open).trim_end().to_owned();
        self.open.clear();
        (!line.is_empty()).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;

    use super::*;
    use crate::boot::testing::Scene;

    #[tokio::test(flavor = "current_thread")]
    async fn this_boots_lines_come_as_they_are_written() {
        let scene = Scene::new();
        let end = "Cloud-init v. 22.4.2 finished at Thu, 01 Jan 1970. Up 9.1 seconds\n";
        scene.write(LOG, &format!("old\n{end}first of this boot\n"));
        scene.write("/run/cloud-init/status.json", "{}");
        let lines = RefCell::default();
        let follow = follow(&scene.guest, |line| {
            let lines: &RefCell<Vec<String>> = &lines;
            lines.borrow_mut().push(line.to_owned());
        });
        let cloud_init = async {
            let append = |text: &str| {
                let old = fs::read_to_string(scene.path(LOG)).unwrap();
                fs::write(scene.path(LOG), old + text).unwrap();
            };
            append("half a ");
            tokio::task::yield_now().await;
            append("line\n\n");
            append(end);
            scene.write(RESULT, "{}");
        };
        let (followed, ()) = tokio::join!(follow, cloud_init);
        followed.unwrap();
        assert_eq!(
            *lines.borrow(),
            ["first of this boot", "half a line", end.trim_end()]
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_boot_that_is_over_is_told_at_once_with_its_last_lines() {
        let scene = Scene::new();
        let end = "Cloud-init v. 22.4.2 finished at now\n";
        scene.write(LOG, &format!("{end}running\n{end}"));
        scene.write(RESULT, "{}");
        let mut lines = Vec::new();
        follow(&scene.guest, |line| lines.push(line.to_owned()))
            .await
            .unwrap();
        assert_eq!(lines, ["running", end.trim_end()]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_guest_without_cloud_init_has_finished() {
        let scene = Scene::new();
        follow(&scene.guest, |line| panic!("{line}")).await.unwrap();
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut lines = Lines::from(0);
        for _ in 0..100 {
            for line in lines.split(&[b'x'; 1000]) {
                assert!(line.len() <= MAX_LINE + 1000, "{}", line.len());
            }
            assert!(lines.open.len() <= MAX_LINE);
        }
    }
}
