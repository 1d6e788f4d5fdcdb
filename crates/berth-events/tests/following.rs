//! Following a file through everything that its writer may do to it.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_events::follow::Follower;

struct Log {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Log {
    fn absent() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ha.stdout.log");
        Self { _dir: dir, path }
    }

    fn holding(text: &str) -> Self {
        let log = Self::absent();
        log.create(text);
        log
    }

    /// As the CLI does before each start.
    fn create(&self, text: &str) {
        let _ = std::fs::remove_file(&self.path);
        std::fs::write(&self.path, text).expect("writable");
    }

    fn append(&self, text: &str) {
        let mut file = OpenOptions::new()
            .append(true)
            .open(&self.path)
            .expect("there");
        file.write_all(text.as_bytes()).expect("writable");
    }
}

/// Waits for a line; only a hang takes this long.
async fn line(follower: &mut Follower) -> String {
    let line = tokio::time::timeout(Duration::from_secs(90), follower.next()).await;
    let line = line.expect("no line came").expect("readable");
    String::from_utf8(line.bytes).expect("text")
}

/// Starts waiting, lets something happen meanwhile, and gives the line that ends the waiting.
async fn line_after(follower: &mut Follower, happens: impl FnOnce()) -> String {
    let happens = async {
        tokio::task::yield_now().await;
        happens();
    };
    tokio::join!(line(follower), happens).0
}

#[tokio::test]
async fn lines_come_from_the_beginning_and_then_as_they_are_written() {
    let log = Log::holding("one\ntwo\n");
    let mut follower = Follower::from_start(&log.path).unwrap();
    assert_eq!(line(&mut follower).await, "one");
    assert_eq!(line(&mut follower).await, "two");
    assert_eq!(follower.try_next().unwrap(), None);
    assert_eq!(
        line_after(&mut follower, || log.append("three\n")).await,
        "three"
    );
}

#[tokio::test]
async fn a_file_that_is_not_there_yet_is_waited_for() {
    let log = Log::absent();
    let mut follower = Follower::from_start(&log.path).unwrap();
    assert_eq!(follower.try_next().unwrap(), None);
    assert_eq!(
        line_after(&mut follower, || log.create("first\n")).await,
        "first"
    );
    assert_eq!(
        line_after(&mut follower, || log.append("second\n")).await,
        "second"
    );
}

#[tokio::test]
async fn only_whole_lines_are_delivered() {
    let log = Log::holding("{\"time\":");
    let mut follower = Follower::from_start(&log.path).unwrap();
    assert_eq!(follower.try_next().unwrap(), None);
    log.append("1");
    assert_eq!(follower.try_next().unwrap(), None);
    assert_eq!(
        line_after(&mut follower, || log.append("}\nnext")).await,
        "{\"time\":1}"
    );
    assert_eq!(follower.try_next().unwrap(), None);
}

#[tokio::test]
async fn a_file_made_anew_is_read_from_its_beginning() {
    let log = Log::holding("old\nold, torn");
    let mut follower = Follower::from_start(&log.path).unwrap();
    assert_eq!(line(&mut follower).await, "old");
    assert_eq!(
        line_after(&mut follower, || log.create("new\n")).await,
        "new"
    );
    assert_eq!(
        line_after(&mut follower, || log.append("newer\n")).await,
        "newer"
    );
}

#[tokio::test]
async fn a_file_moved_into_place_is_read_from_its_beginning() {
    let log = Log::holding("old\n");
    let mut follower = Follower::from_start(&log.path).unwrap();
    assert_eq!(line(&mut follower).await, "old");
    let other = log.path.with_extension("tmp");
    std::fs::write(&other, "moved\n").unwrap();
    let rename = || std::fs::rename(&other, &log.path).unwrap();
    assert_eq!(line_after(&mut follower, rename).await, "moved");
}

#[tokio::test]
async fn what_was_written_last_to_a_replaced_file_is_not_lost() {
    let log = Log::holding("");
    let mut old = File::options().append(true).open(&log.path).unwrap();
    let mut follower = Follower::from_start(&log.path).unwrap();
    assert_eq!(follower.try_next().unwrap(), None);
    old.write_all(b"last of the old\n").unwrap();
    log.create("first of the new\n");
    assert_eq!(line(&mut follower).await, "last of the old");
    assert_eq!(line(&mut follower).await, "first of the new");
}

#[tokio::test]
async fn a_truncated_file_begins_anew() {
    let log = Log::holding("a long line of the past\n");
    let mut follower = Follower::from_start(&log.path).unwrap();
    assert_eq!(line(&mut follower).await, "a long line of the past");
    let truncate = || std::fs::write(&log.path, "new\n").unwrap();
    assert_eq!(line_after(&mut follower, truncate).await, "new");
}

#[tokio::test]
async fn a_deleted_file_may_still_speak() {
    let log = Log::holding("");
    let mut writer = File::options().append(true).open(&log.path).unwrap();
    let mut follower = Follower::from_start(&log.path).unwrap();
    assert_eq!(follower.try_next().unwrap(), None);
    std::fs::remove_file(&log.path).unwrap();
    assert_eq!(follower.try_next().unwrap(), None);
    let write = || writer.write_all(b"still here\n").unwrap();
    assert_eq!(line_after(&mut follower, write).await, "still here");
}

#[tokio::test]
async fn the_past_is_skipped_where_it_is_not_wanted() {
    let log = Log::holding("past\n");
    let mut follower = Follower::from_end(&log.path).unwrap();
    assert_eq!(
        line_after(&mut follower, || log.append("present\n")).await,
        "present"
    );
    let later = Log::absent();
    let mut follower = Follower::from_end(&later.path).unwrap();
    assert_eq!(
        line_after(&mut follower, || later.create("first\n")).await,
        "first"
    );
}

#[tokio::test]
async fn a_cancelled_wait_loses_nothing() {
    let log = Log::holding("");
    let mut follower = Follower::from_start(&log.path).unwrap();
    for i in 0..50 {
        assert!(
            tokio::time::timeout(Duration::ZERO, follower.next())
                .await
                .is_err()
        );
        log.append(&format!("line {i}\n"));
        assert_eq!(line(&mut follower).await, format!("line {i}"));
    }
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let why = Follower::from_start(Path::new("/no/such/dir/ha.stdout.log")).unwrap_err();
    assert_eq!(
        why.to_string(),
        "cannot watch the directory of /no/such/dir/ha.stdout.log"
    );
}
