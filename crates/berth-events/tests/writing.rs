//! Events on their way out: to files, pipes, full disks and readers that have gone.
#![cfg(unix)]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};

use berth_events::event::{Event, EventTime, Status};
use berth_events::writer::EventWriter;
use jiff::Timestamp;
use jiff::tz::Offset;

fn event_at(second: i64, errors: Vec<String>) -> Event {
    let time = EventTime {
        at: Timestamp::from_second(second).expect("in range"),
        offset: Offset::UTC,
    };
    Event {
        time,
        status: Status {
            errors,
            ..Status::default()
        },
        phase: None,
    }
}

fn events(path: &Path) -> Vec<Event> {
    let text = std::fs::read(path).expect("readable");
    assert!(
        text.is_empty() || text.ends_with(b"\n"),
        "the last line is torn"
    );
    let lines = text.split(|&b| b == b'\n');
    lines
        .filter_map(|line| Event::parse(line).expect("an event"))
        .collect()
}

#[test]
fn times_never_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ha.stdout.log");
    let writer = EventWriter::new(File::create(&path).unwrap());
    for second in [100, 200, 150, 200, 250] {
        assert!(writer.write(event_at(second, Vec::new())));
    }
    let seconds: Vec<_> = events(&path)
        .iter()
        .map(|e| e.time.at.as_second())
        .collect();
    assert_eq!(seconds, [100, 200, 200, 200, 250]);
}

#[test]
fn threads_do_not_mix_their_lines() {
    const THREADS: i64 = 8;
    const EACH: i64 = 200;
    let (reader, writer) = std::io::pipe().unwrap();
    let writer = Arc::new(EventWriter::new(std::os::fd::OwnedFd::from(writer)));
    let start = Arc::new(Barrier::new(8));
    let lines: Vec<Event> = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let lines = BufReader::new(reader).lines().map(|line| line.unwrap());
            lines
                .map(|line| Event::parse(line.as_bytes()).unwrap().unwrap())
                .collect()
        });
        let writing: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (writer, start) = (Arc::clone(&writer), Arc::clone(&start));
                scope.spawn(move || {
                    start.wait();
                    // Some longer than what a pipe takes in one piece.
                    let text = "x".repeat(usize::try_from(thread * 1000).unwrap());
                    (0..EACH).for_each(|i| {
                        assert!(writer.write(event_at(thread * 10_000 + i, vec![text.clone()])));
                    });
                })
            })
            .collect();
        for thread in writing {
            thread.join().unwrap();
        }
        drop(writer);
        reading.join().unwrap()
    });
    assert_eq!(lines.len(), usize::try_from(THREADS * EACH).unwrap());
    assert!(lines.is_sorted_by_key(|event| event.time.at));
}

#[test]
fn each_event_is_one_write_with_its_line_feed() {
    // A socket that keeps packets apart shows the writes as they were.
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let writer = EventWriter::new(std::os::fd::OwnedFd::from(ours));
    for i in 1..=5 {
        assert!(writer.write(event_at(i, vec!["e".repeat(1000)])));
        let mut packet = [0; 4096];
        let length = theirs.recv(&mut packet).unwrap();
        let (last, line) = packet[..length].split_last().unwrap();
        assert_eq!(*last, b'\n');
        assert_eq!(Event::parse(line).unwrap().unwrap().time.at.as_second(), i);
    }
}

#[test]
fn a_reader_that_has_gone_is_survived() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let writer = EventWriter::new(std::os::fd::OwnedFd::from(writer));
    assert!(!writer.write(event_at(1, Vec::new())));
    assert!(!writer.write(event_at(2, Vec::new())));
    assert_eq!(writer.dropped(), 2);
}

#[test]
fn a_reader_that_does_not_read_holds_nobody_up() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let writer = EventWriter::new(std::os::fd::OwnedFd::from(writer));
    // Ends only if no write waits for ever.
    let mut written = 0_u64;
    while writer.write(event_at(1, vec!["x".repeat(5000)])) {
        written += 1;
    }
    assert!(!writer.write(event_at(2, vec!["x".repeat(5000)])));
    assert_eq!(writer.dropped(), 2);
    let mut buffer = vec![0; 1 << 20];
    let mut received = reader.read(&mut buffer).unwrap();
    assert!(writer.write(event_at(3, Vec::new())), "there is room again");
    received += reader.read(&mut buffer[received..]).unwrap();
    let lines = buffer[..received]
        .split(|&b| b == b'\n')
        .filter(|line| !line.is_empty());
    let whole: Vec<_> = lines
        .filter_map(|line| Event::parse(line).ok().flatten())
        .collect();
    assert_eq!(
        whole.len() as u64,
        written + 1,
        "a torn line took another one with it"
    );
    assert_eq!(whole.last().unwrap().time.at.as_second(), 3);
}

#[test]
fn texts_are_cut_before_they_are_too_long() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ha.stdout.log");
    let writer = EventWriter::new(File::create(&path).unwrap());
    writer.write(event_at(1, vec!["ä".repeat(100_000)]));
    let event = events(&path).remove(0);
    assert!(event.status.errors[0].len() <= 16 * 1024);
    assert!(event.status.errors[0].ends_with(" […]"));
}

#[test]
fn a_device_without_space_is_survived() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let writer = EventWriter::new(full);
    assert!(!writer.write(event_at(1, Vec::new())));
    assert_eq!(writer.dropped(), 1);
}

/// The body of the next test, in a process that may write 2 KiB to each file: writes are cut short there as on a full disk.
#[test]
#[ignore = "not a test: the next one runs it"]
fn writer_on_a_full_disk() {
    let path = std::env::var_os("BERTH_TEST_FILE").unwrap();
    let path = Path::new(&path);
    let writer = EventWriter::new(File::create(path).unwrap());
    while writer.write(event_at(1, vec!["x".repeat(700)])) {}
    assert_eq!(
        events(path).len(),
        2,
        "the third does not fit, and nothing of it is left"
    );
    assert!(writer.write(event_at(2, Vec::new())), "a shorter one fits");
    let whole = events(path);
    assert_eq!(whole.last().unwrap().time.at.as_second(), 2);
    assert_eq!(writer.dropped(), 1);
}

#[test]
fn a_full_disk_tears_no_line() {
    let dir = tempfile::tempdir().unwrap();
    // Blocks of 512 bytes. Without the trap the limit would kill by signal.
    let output = Command::new("/bin/sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["writer_on_a_full_disk", "--exact", "--ignored"])
        .env("BERTH_TEST_FILE", dir.path().join("ha.stdout.log"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    std::io::stderr().write_all(&output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("1 passed"),
        "it did not run"
    );
}
