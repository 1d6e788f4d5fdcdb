//! FIFOs, sockets and devices: seen, renamed and removed, but never opened.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_sftp::Share;

use crate::client::{Body, Client, MODES, Place, Reply, fxf, fxp};

fn make_fifo(place: &Place, name: &str) {
    let made = Command::new("mkfifo")
        .arg(place.share(name))
        .status()
        .unwrap();
    assert!(made.success());
}

const FLAGS: [u32; 5] = [
    fxf::READ,
    fxf::WRITE,
    fxf::READ | fxf::WRITE,
    fxf::WRITE | fxf::CREAT,
    fxf::WRITE | fxf::CREAT | fxf::TRUNC,
];

#[test]
fn nobody_notices_that_a_fifo_was_asked_for() {
    for mode in MODES {
        let place = Place::new();
        make_fifo(&place, "fifo");
        symlink("fifo", place.share("link")).unwrap();
        let noticed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Waits until somebody opens the other end.
            scope.spawn(|| {
                let end = fs::File::options().write(true).open(place.share("fifo"));
                noticed.store(true, Ordering::SeqCst);
                drop(end);
            });
            for follow_symlinks in [false, true] {
                let share = Share {
                    follow_symlinks,
                    ..place.writable()
                };
                let mut client = Client::start(share, mode);
                for flags in FLAGS {
                    assert_eq!(client.open("fifo", flags), Reply::DENIED);
                    let link = client.open("link", flags);
                    assert!(matches!(link, Reply::Status(2 | 3)), "{link:?}");
                }
                assert_eq!(client.path(fxp::OPENDIR, "fifo"), Reply::NO_SUCH_FILE);
                let length = Body::new().word(1).long(0);
                assert_eq!(client.setstat("fifo", &length), Reply::DENIED);
                let mode = Body::new().word(4).word(0o640);
                assert_eq!(client.setstat("fifo", &mode), Reply::OK);
                let seen = client.path(fxp::LSTAT, "fifo").attributes();
                assert_eq!(seen.mode, 0o010_640);
            }
            assert!(!noticed.load(Ordering::SeqCst), "{mode:?}");
            drop(fs::File::open(place.share("fifo")).unwrap());
        });
        let mut client = Client::at(&place, mode);
        assert_eq!(client.two(fxp::RENAME, "fifo", "other"), Reply::OK);
        assert_eq!(client.path(fxp::REMOVE, "other"), Reply::OK);
    }
}

/// File events: the client's kernel hears of a change, and the host's file stays as it is.
#[test]
fn the_agreed_time_is_taken_for_a_touch_that_changes_nothing() {
    for mode in MODES {
        let place = Place::new();
        fs::write(place.share("file"), "x").unwrap();
        symlink("../outside", place.share("out")).unwrap();
        let written = fs::metadata(place.share("file")).unwrap();
        let times =
            |accessed: u32, modified: u32| Body::new().word(8).word(accessed).word(modified);
        for writable in [false, true] {
            let share = Share {
                writable,
                touch: Some(77),
                ..place.writable()
            };
            let mut client = Client::start(share, mode);
            for there in ["file", "", "out"] {
                assert_eq!(
                    client.setstat(there, &times(77, 77)),
                    Reply::OK,
                    "{there:?}"
                );
            }
            assert_eq!(client.setstat("none", &times(77, 77)), Reply::NO_SUCH_FILE);
            let out = client.setstat("out/file", &times(77, 77));
            assert!(matches!(out, Reply::Status(2..=4)), "{out:?}");
            let seen = fs::metadata(place.share("file")).unwrap();
            let changed = |file: &fs::Metadata| (file.ctime(), file.ctime_nsec());
            assert_eq!(changed(&seen), changed(&written));
            let more = Body::new().word(12).word(0o600).word(77).word(77);
            for other in [times(77, 78), times(78, 77), more] {
                let reply = client.setstat("file", &other);
                assert_eq!(reply == Reply::OK, writable, "{reply:?}");
            }
        }
    }
}

#[test]
fn sockets_and_devices_stay_closed() {
    for mode in MODES {
        let place = Place::new();
        let _socket = UnixListener::bind(place.share("socket")).unwrap();
        let mut client = Client::at(&place, mode);
        for flags in FLAGS {
            assert_eq!(client.open("socket", flags), Reply::DENIED);
        }
        let mut client = Client::start(Share::new("/dev"), mode);
        for device in ["null", "zero", "tty"] {
            assert_eq!(client.open(device, fxf::READ), Reply::DENIED, "{device}");
        }
        let null = client.path(fxp::LSTAT, "null").attributes();
        assert_eq!(null.mode & 0o170_000, 0o020_000);
    }
}

/// A file that is now and then a FIFO: opening it never waits.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_becomes_a_fifo_does_not_hold_anybody_up() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};

    for mode in MODES {
        let place = Place::new();
        make_fifo(&place, "one");
        fs::write(place.share("other"), "a file").unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = crate::client::Stop(&stop);
            scope.spawn(|| {
                let (one, other) = (place.share("one"), place.share("other"));
                while !stop.load(Ordering::Relaxed) {
                    renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                }
            });
            let mut client = Client::at(&place, mode);
            // Until both were met often enough.
            let (mut opened, mut refused) = (0, 0);
            while opened < 50 || refused < 50 {
                match client.open("one", fxf::READ) {
                    Reply::Handle(handle) => {
                        opened += 1;
                        let read = client.read(&handle, 0, 100);
                        assert_eq!(read, Reply::Data(b"a file".to_vec()));
                        client.handle(fxp::CLOSE, &handle);
                    }
                    reply => {
                        refused += 1;
                        assert_eq!(reply, Reply::DENIED);
                    }
                }
            }
        });
    }
}
