//! Limits, extensions, the order of what is pipelined, and requests that make no sense.

use std::fs;

use berth_sftp::Share;

use crate::client::{Body, Client, MODES, Place, Reply, fxf, fxp};

#[test]
fn handles_are_counted() {
    for mode in MODES {
        let place = Place::new();
        fs::write(place.share("f"), "x").unwrap();
        let mut share = place.writable();
        share.limits.handles = 3;
        let mut client = Client::start(share, mode);
        let file = client.open("f", fxf::READ).handle();
        let _other = client.open("f", fxf::WRITE).handle();
        let directory = client.path(fxp::OPENDIR, "/").handle();
        assert_eq!(client.open("f", fxf::READ), Reply::FAILURE);
        assert_eq!(client.open("new", fxf::WRITE | fxf::CREAT), Reply::FAILURE);
        assert!(
            !place.share("new").exists(),
            "nothing is made for a handle that there is not"
        );
        assert_eq!(client.path(fxp::OPENDIR, "/"), Reply::FAILURE);
        // What fails takes no room.
        assert_eq!(client.handle(fxp::CLOSE, &directory), Reply::OK);
        assert_eq!(client.open("none", fxf::READ), Reply::NO_SUCH_FILE);
        let again = client.open("f", fxf::READ).handle();
        assert_ne!(again, directory, "names are not used again");
        assert_eq!(client.handle(fxp::CLOSE, &directory), Reply::FAILURE);
        assert_eq!(client.handle(fxp::FSTAT, &file).attributes().size, 1);
    }
}

#[test]
fn handles_are_what_they_are() {
    for mode in MODES {
        let place = Place::new();
        fs::write(place.share("f"), "content").unwrap();
        let mut client = Client::at(&place, mode);
        let file = client.open("f", fxf::READ).handle();
        let directory = client.path(fxp::OPENDIR, "/").handle();
        for handle in [b"".as_slice(), b"x", &[0xff; 8], &[0; 4], &[0; 300]] {
            assert_eq!(client.read(handle, 0, 10), Reply::FAILURE);
            assert_eq!(client.handle(fxp::CLOSE, handle), Reply::FAILURE);
            assert_eq!(client.handle(fxp::READDIR, handle), Reply::FAILURE);
            assert_eq!(client.handle(fxp::FSTAT, handle), Reply::FAILURE);
        }
        assert_eq!(client.read(&directory, 0, 10), Reply::FAILURE);
        assert_eq!(client.write(&directory, 0, "x"), Reply::FAILURE);
        assert_eq!(client.handle(fxp::READDIR, &file), Reply::FAILURE);
        // Not opened for writing.
        assert_eq!(client.write(&file, 0, "x"), Reply::NO_SUCH_FILE);
        let stat = client.handle(fxp::FSTAT, &directory).attributes();
        assert_eq!(stat.mode & 0o170_000, 0o040_000);
        // The end, and beyond, and far beyond.
        assert_eq!(client.read(&file, 3, 100), Reply::Data(b"tent".to_vec()));
        assert_eq!(client.read(&file, 7, 100), Reply::EOF);
        assert_eq!(client.read(&file, 1 << 40, 100), Reply::EOF);
        assert_eq!(client.read(&file, u64::MAX, 100), Reply::BAD_MESSAGE);
        assert_eq!(client.read(&file, 0, 0), Reply::EOF);
        let file = client.open("f", fxf::WRITE).handle();
        let far = client.write(&file, u64::MAX - 2, "xyz");
        assert!(matches!(far, Reply::Status(4 | 5)), "{far:?}");
        assert_eq!(fs::read(place.share("f")).unwrap(), b"content");
    }
}

#[test]
fn a_read_is_as_long_as_it_may_be() {
    for mode in MODES {
        let place = Place::new();
        let content: Vec<u8> = (0..1_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
        fs::write(place.share("f"), &content).unwrap();
        let mut client = Client::at(&place, mode);
        let file = client.open("f", fxf::READ).handle();
        let Reply::Data(data) = client.read(&file, 5, u32::MAX) else {
            panic!("no data");
        };
        assert_eq!(data.len(), 255 * 1024);
        assert!(data == content[5..5 + 255 * 1024]);
        let largest = vec![9; 255 * 1024];
        let file = client.open("g", fxf::WRITE | fxf::CREAT).handle();
        assert_eq!(client.write(&file, 0, &largest), Reply::OK);
        assert!(fs::read(place.share("g")).unwrap() == largest);
    }
}

#[test]
fn extensions() {
    for mode in MODES {
        let place = Place::new();
        fs::write(place.share("f"), "content").unwrap();
        std::os::unix::fs::symlink("f", place.share("l")).unwrap();
        let mut client = Client::at(&place, mode);
        let limits = client.extended("limits@openssh.com", &Body::new());
        assert_eq!(
            limits,
            Reply::Extended(vec![262_144, 261_120, 261_120, 2048])
        );
        let file = client.open("f", fxf::READ | fxf::WRITE).handle();
        let named = Body::new().string(&file);
        assert_eq!(client.extended("fsync@openssh.com", &named), Reply::OK);
        let by_handle = client.extended("fstatvfs@openssh.com", &named);
        let by_path = client.extended("statvfs@openssh.com", &Body::new().string("f"));
        for space in [by_handle, by_path] {
            let Reply::Extended(space) = space else {
                panic!("{space:?}");
            };
            assert!(
                space.len() == 11 && space[0] > 0 && space[2] > 0,
                "{space:?}"
            );
            assert_eq!((space[8], space[9] & 1, space[10]), (0, 0, 255));
        }
        let times = Body::new().string("l").word(8).word(11).word(22);
        assert_eq!(client.extended("lsetstat@openssh.com", &times), Reply::OK);
        assert_eq!(client.path(fxp::LSTAT, "l").attributes().modified, 22);
        assert_ne!(client.path(fxp::LSTAT, "f").attributes().modified, 22);
        let unknown = client.extended("unknown@example.com", &Body::new());
        assert_eq!(unknown, Reply::UNSUPPORTED);
        assert_eq!(client.call(99, &Body::new()), Reply::UNSUPPORTED);
    }
}

#[test]
fn requests_that_are_cut_short_are_answered() {
    for mode in MODES {
        let place = Place::new();
        let mut client = Client::at(&place, mode);
        for kind in (3..=20).chain([200]) {
            assert_eq!(
                client.call(kind, &Body::new()),
                Reply::BAD_MESSAGE,
                "{kind}"
            );
            // A string that says that it is longer than the packet.
            let endless = Body::new().word(u32::MAX);
            assert_eq!(client.call(kind, &endless), Reply::BAD_MESSAGE, "{kind}");
        }
        assert!(matches!(client.path(fxp::LSTAT, "/"), Reply::Attributes(_)));
    }
}

/// As `sshfs` does it: it creates, writes, and looks without waiting.
#[test]
fn what_is_pipelined_is_in_order() {
    const CHUNK: usize = 1000;
    const CHUNKS: u64 = 50;
    for mode in MODES {
        let place = Place::new();
        let mut client = Client::at(&place, mode);
        for round in 0..20 {
            let name = format!("f{round}");
            let create = Body::new()
                .string(&name)
                .word(fxf::WRITE | fxf::CREAT | fxf::READ)
                .word(0);
            let opened = client.send(fxp::OPEN, &create);
            let seen = client.send(fxp::LSTAT, &Body::new().string(&name));
            assert!(
                matches!(client.wait(seen), Reply::Attributes(_)),
                "{mode:?}"
            );
            let handle = client.wait(opened).handle();
            let mut sent = Vec::new();
            for at in 0..CHUNKS {
                let data = vec![at.to_le_bytes()[0]; CHUNK];
                let offset = at * CHUNK as u64;
                let write = Body::new().string(&handle).long(offset).string(data);
                sent.push((client.send(fxp::WRITE, &write), Reply::OK));
                let end = offset + CHUNK as u64;
                let (look, read) = match at % 4 {
                    0 => ((fxp::LSTAT, Body::new().string(&name)), false),
                    1 => ((fxp::FSTAT, Body::new().string(&handle)), false),
                    2 => ((fxp::STAT, Body::new().string(&name)), false),
                    _ => (
                        (fxp::READ, Body::new().string(&handle).long(end - 3).word(9)),
                        true,
                    ),
                };
                let id = client.send(look.0, &look.1);
                if read {
                    sent.push((id, Reply::Data(vec![at.to_le_bytes()[0]; 3])));
                } else {
                    let size = client.wait(id).attributes().size;
                    assert_eq!(size, end, "{mode:?} {name} {at}");
                }
            }
            let cut = Body::new().string(&name).word(1).long(17);
            sent.push((client.send(fxp::SETSTAT, &cut), Reply::OK));
            let other = format!("g{round}");
            let moved = Body::new()
                .string("posix-rename@openssh.com")
                .string(&name)
                .string(&other);
            sent.push((client.send(fxp::EXTENDED, &moved), Reply::OK));
            let gone = Body::new().string(&name);
            sent.push((client.send(fxp::LSTAT, &gone), Reply::NO_SUCH_FILE));
            sent.push((
                client.send(fxp::CLOSE, &Body::new().string(&handle)),
                Reply::OK,
            ));
            let late = Body::new().string(&handle).long(0).word(1);
            sent.push((client.send(fxp::READ, &late), Reply::FAILURE));
            for (id, wanted) in sent {
                assert_eq!(client.wait(id), wanted, "{mode:?}");
            }
            assert_eq!(client.path(fxp::LSTAT, other).attributes().size, 17);
        }
    }
}

#[test]
fn one_thread_is_enough() {
    let place = Place::new();
    let mut share: Share = place.writable();
    share.limits.threads = 1;
    share.limits.requests = 1;
    share.limits.memory = 1;
    let mut client = Client::start(share, MODES[0]);
    let sent: Vec<u32> = (0..50)
        .map(|at| client.send(fxp::MKDIR, &Body::new().string(format!("d{at}")).word(0)))
        .collect();
    for id in sent {
        assert_eq!(client.wait(id), Reply::OK);
    }
    assert_eq!(client.list("/").unwrap().len(), 52);
}
