//! A client that wants out. Nothing beyond the share is read, changed, or confirmed to be there: every attempt is made at something that
//! exists and at something that does not, and both must look the same.

use std::fs;
use std::os::unix::fs::symlink;

use berth_sftp::Share;

use crate::client::{Body, Client, MODES, Place, Reply, fxf, fxp, snapshot};

const SECRET: &[u8] = b"what nobody may see";

/// A place with a secret outside, and every link to it that there is.
fn place() -> Place {
    let place = Place::new();
    fs::write(place.outside("secret"), SECRET).unwrap();
    fs::create_dir(place.outside("dir")).unwrap();
    fs::write(place.outside("dir/deep"), SECRET).unwrap();
    fs::create_dir(place.share("inside")).unwrap();
    fs::write(place.share("inside/open"), "for all").unwrap();
    let outside = place.outside("");
    let outside = outside.to_str().unwrap().trim_end_matches('/');
    for (name, target) in [
        ("rel", "../outside".to_owned()),
        ("abs", outside.to_owned()),
        ("far", format!("../../../../../../../../../../..{outside}")),
        ("round", format!("inside/../../outside/../..{outside}")),
        ("chain", "rel".to_owned()),
        ("inside/up", "../../outside".to_owned()),
        ("root", "/".to_owned()),
        ("proc", "/proc/self/root".to_owned()),
        ("loop", "loop".to_owned()),
    ] {
        symlink(target, place.share(name)).unwrap();
    }
    for name in ["secret", "nothing"] {
        symlink(
            format!("../outside/{name}"),
            place.share(&format!("to-{name}")),
        )
        .unwrap();
        symlink(
            format!("{outside}/{name}"),
            place.share(&format!("at-{name}")),
        )
        .unwrap();
    }
    place
}

/// Ways to something outside, with what is there put in.
fn ways(place: &Place, there: &str, follows: bool) -> Vec<String> {
    let outside = place.outside("");
    let outside = outside.to_str().unwrap().trim_end_matches('/');
    let mut ways: Vec<String> = [
        "../outside",
        "/../outside",
        "inside/../../outside",
        "./../outside",
        "rel",
        "abs",
        "far",
        "round",
        "chain",
        "inside/up",
        "rel/../outside",
        "loop",
    ]
    .iter()
    .map(|way| format!("{way}/{there}"))
    .collect();
    ways.extend([
        format!("{outside}/{there}"),
        format!("/{outside}/{there}"),
        format!("root{outside}/{there}"),
        format!("proc{outside}/{there}"),
        format!("/proc/self/root{outside}/{there}"),
        format!("/dev/fd/../root/{outside}/{there}"),
    ]);
    // Not followed, these are links, which may be looked at.
    if follows && matches!(there, "secret" | "nothing") {
        ways.extend([format!("to-{there}"), format!("at-{there}")]);
    }
    ways
}

/// All that can be asked of a path, but for what concerns a last link itself; what comes of it.
fn attempts(client: &mut Client, path: &str) -> Vec<Reply> {
    let mut replies = vec![
        client.path(fxp::STAT, path),
        client.path(fxp::OPENDIR, path),
        client.open(path, fxf::READ),
        client.open(path, fxf::WRITE),
        client.open(path, fxf::READ | fxf::WRITE | fxf::TRUNC),
        client.open(path, fxf::WRITE | fxf::APPEND),
        client.extended("statvfs@openssh.com", &Body::new().string(path)),
    ];
    for changes in [
        Body::new().word(1).long(0),
        Body::new().word(4).word(0o777),
        Body::new().word(8).word(1).word(1),
        Body::new().word(2).word(0).word(0),
    ] {
        replies.push(client.setstat(path, &changes));
    }
    // Beneath it, should it be a directory.
    for name in ["x", "secret"] {
        let path = format!("{path}/{name}");
        replies.extend([
            client.path(fxp::LSTAT, &path),
            client.path(fxp::READLINK, &path),
            client.path(fxp::REMOVE, &path),
            client.path(fxp::RMDIR, &path),
        ]);
        replies.extend([
            client.mkdir(&path, 0o755),
            client.open(&path, fxf::WRITE | fxf::CREAT),
            client.open(&path, fxf::WRITE | fxf::CREAT | fxf::EXCL),
            client.two(fxp::SYMLINK, "target", &path),
            client.two(fxp::RENAME, "inside/open", &path),
            client.extended_two("posix-rename@openssh.com", "inside/open", &path),
            client.extended_two("hardlink@openssh.com", "inside/open", &path),
            client.two(fxp::RENAME, &path, "stolen"),
            client.extended_two("posix-rename@openssh.com", &path, "stolen"),
            client.extended_two("hardlink@openssh.com", &path, "stolen"),
        ]);
    }
    replies
}

fn shares(place: &Place) -> [Share; 2] {
    [false, true].map(|follow_symlinks| Share {
        follow_symlinks,
        ..place.writable()
    })
}

#[test]
fn nothing_outside_is_there() {
    let place = place();
    let before = (snapshot(&place.outside("")), snapshot(&place.share("")));
    for mode in MODES {
        for share in shares(&place) {
            let follows = share.follow_symlinks;
            let mut client = Client::start(share, mode);
            for (real, unreal) in [
                ("secret", "nothing"),
                ("dir", "none"),
                ("dir/deep", "dir/none"),
            ] {
                for (way, other) in ways(&place, real, follows)
                    .iter()
                    .zip(ways(&place, unreal, follows))
                {
                    let real = attempts(&mut client, way);
                    let unreal = attempts(&mut client, &other);
                    assert_eq!(real, unreal, "{way} can be told from {other} ({mode:?})");
                    let refused = |reply: &Reply| matches!(reply, Reply::Status(2..=5));
                    assert!(real.iter().all(refused), "{way} ({mode:?}): {real:?}");
                }
            }
            assert_eq!(place_now(&place), before);
        }
    }
}

fn place_now(place: &Place) -> (Vec<String>, Vec<String>) {
    (snapshot(&place.outside("")), snapshot(&place.share("")))
}

#[test]
fn links_inside_are_followed_only_if_the_share_says_so() {
    let place = place();
    let inside = place.share("inside");
    symlink("inside", place.share("in")).unwrap();
    symlink(&inside, place.share("in-abs")).unwrap();
    symlink(
        "../in-abs/up/../share/in/open",
        place.share("inside/twisted"),
    )
    .unwrap();
    symlink("../in-abs/open", place.share("inside/back")).unwrap();
    for mode in MODES {
        for share in shares(&place) {
            let follows = share.follow_symlinks;
            let mut client = Client::start(share, mode);
            for path in ["in/open", "in-abs/open", "inside/back", "in/../in-abs/back"] {
                let read = client.read_file(path);
                let wanted = if follows {
                    Ok(b"for all".to_vec())
                } else {
                    Err(Reply::NO_SUCH_FILE)
                };
                assert_eq!(read, wanted, "{path} ({mode:?})");
            }
            // The way leads out and in again: out is out.
            let twisted = client.read_file("inside/twisted").unwrap_err();
            assert!(matches!(twisted, Reply::Status(2 | 3)), "{twisted:?}");
            // A link is still a link to whoever asks for it.
            let link = client.path(fxp::LSTAT, "in").attributes();
            assert_eq!(link.mode & 0o170_000, 0o120_000);
            assert_eq!(client.path(fxp::READLINK, "in").name(), b"inside");
            let itself = client.path(fxp::LSTAT, "loop");
            let seen = client.path(fxp::STAT, "loop");
            assert_eq!(seen, if follows { Reply::NO_SUCH_FILE } else { itself });
        }
    }
}

#[test]
fn what_is_above_looks_like_what_is_shared() {
    let place = place();
    for mode in MODES {
        let mut client = Client::at(&place, mode);
        let top = client.path(fxp::LSTAT, "/").attributes();
        assert_eq!(client.path(fxp::LSTAT, "..").attributes(), top);
        assert_eq!(client.path(fxp::REALPATH, "../../x").name(), b"/x");
        let handle = client.path(fxp::OPENDIR, "/").handle();
        let Reply::Names(names) = client.handle(fxp::READDIR, &handle) else {
            panic!("an empty directory");
        };
        let above = names.iter().find(|(name, _)| name == b"..").unwrap();
        let itself = names.iter().find(|(name, _)| name == b".").unwrap();
        assert_eq!(above.1, itself.1);
    }
}

#[test]
fn a_read_only_share_stays_as_it_is() {
    let place = place();
    let before = place_now(&place);
    for mode in MODES {
        let share = Share {
            writable: false,
            ..place.writable()
        };
        let mut client = Client::start(share, mode);
        let mut refused = vec![
            client.mkdir("new", 0o755),
            client.path(fxp::REMOVE, "inside/open"),
            client.path(fxp::RMDIR, "inside"),
            client.two(fxp::SYMLINK, "x", "new"),
            client.two(fxp::RENAME, "inside", "new"),
            client.extended_two("posix-rename@openssh.com", "inside", "new"),
            client.extended_two("hardlink@openssh.com", "inside/open", "new"),
            client.setstat("inside/open", &Body::new().word(4).word(0o777)),
            client.setstat("inside/open", &Body::new().word(1).long(0)),
            client.extended(
                "lsetstat@openssh.com",
                &Body::new().string("rel").word(8).word(1).word(1),
            ),
        ];
        for flags in [
            fxf::WRITE,
            fxf::READ | fxf::TRUNC,
            fxf::CREAT,
            fxf::WRITE | fxf::APPEND,
        ] {
            refused.push(client.open("inside/open", flags));
        }
        let file = client.open("inside/open", fxf::READ).handle();
        let directory = client.path(fxp::OPENDIR, "inside").handle();
        for handle in [&file, &directory] {
            let body = Body::new().string(handle).word(4).word(0o777);
            refused.push(client.call(fxp::FSETSTAT, &body));
        }
        assert!(
            refused.iter().all(|reply| *reply == Reply::DENIED),
            "{refused:?}"
        );
        assert_eq!(client.write(&file, 0, "x"), Reply::NO_SUCH_FILE);
        let space = client.extended("statvfs@openssh.com", &Body::new().string("/"));
        let Reply::Extended(space) = space else {
            panic!("{space:?}");
        };
        assert_eq!(space[9] & 1, 1, "it says that it is read-only");
        assert_eq!(place_now(&place), before);
    }
}

/// Something in the share that is now a directory, now a link to the outside, while it is gone through.
#[cfg(target_os = "linux")]
#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    for mode in MODES {
        for follow_symlinks in [false, true] {
            let place = place();
            fs::create_dir(place.share("swap")).unwrap();
            fs::create_dir(place.share("swap/dir")).unwrap();
            for name in ["secret", "dir/deep"] {
                fs::write(place.share(&format!("swap/{name}")), "for all").unwrap();
            }
            symlink("../outside", place.share("other")).unwrap();
            let before = snapshot(&place.outside(""));
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let _stop = crate::client::Stop(&stop);
                scope.spawn(|| {
                    let (one, other) = (place.share("swap"), place.share("other"));
                    while !stop.load(Ordering::Relaxed) {
                        renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                    }
                });
                let share = Share {
                    follow_symlinks,
                    ..place.writable()
                };
                let mut client = Client::start(share, mode);
                for round in 0..50 {
                    harass(&mut client, round);
                }
            });
            assert_eq!(snapshot(&place.outside("")), before, "{mode:?}");
        }
    }
}

#[cfg(target_os = "linux")]
fn harass(client: &mut Client, round: u32) {
    for name in ["swap/secret", "swap/dir/deep"] {
        if let Ok(read) = client.read_file(name) {
            assert_ne!(read, SECRET, "round {round}");
        }
        if let Reply::Attributes(attributes) = client.path(fxp::STAT, name) {
            assert_ne!(attributes.size, SECRET.len() as u64, "round {round}");
        }
        if let Reply::Handle(handle) = client.open(name, fxf::WRITE | fxf::CREAT) {
            client.write(&handle, 0, "for all");
            client.handle(fxp::CLOSE, &handle);
        }
        client.setstat(name, &Body::new().word(4).word(0o600));
    }
    let new = format!("swap/new-{round}");
    client.mkdir(&new, 0o755);
    client.path(fxp::RMDIR, &new);
    client.open("swap/created", fxf::WRITE | fxf::CREAT);
    client.two(fxp::SYMLINK, "x", "swap/link");
    client.path(fxp::REMOVE, "swap/link");
    client.extended_two("hardlink@openssh.com", "swap/secret", "stolen");
    if let Ok(read) = client.read_file("stolen") {
        assert_ne!(read, SECRET, "round {round}");
    }
    client.path(fxp::REMOVE, "stolen");
    if let Ok(names) = client.list("swap") {
        assert!(names.iter().any(|name| name == b"secret"));
    }
}

/// `/proc` has links that lead where their text does not.
#[cfg(target_os = "linux")]
#[test]
fn links_of_the_kernel_lead_nowhere() {
    for mode in MODES {
        for follow_symlinks in [false, true] {
            let mut share = Share::new("/proc");
            share.follow_symlinks = follow_symlinks;
            let mut client = Client::start(share, mode);
            let this = std::process::id();
            for path in [
                "root/etc/passwd",
                "cwd/Cargo.toml",
                "exe",
                "fd/0",
                "root",
                "cwd",
            ] {
                let path = format!("{this}/{path}");
                let opened = client.open(&path, fxf::READ);
                assert!(
                    matches!(opened, Reply::Status(_)),
                    "{path} ({mode:?}): {opened:?}"
                );
                let listed = client.path(fxp::OPENDIR, &path);
                assert!(
                    matches!(listed, Reply::Status(_)),
                    "{path} ({mode:?}): {listed:?}"
                );
            }
            assert!(client.read_file(&format!("{this}/status")).is_ok());
        }
    }
}

#[test]
fn a_directory_that_is_made_anew_is_shared_again() {
    for mode in MODES {
        let place = place();
        let mut client = Client::at(&place, mode);
        let old = client.open("inside/open", fxf::READ).handle();
        fs::remove_dir_all(place.share("")).unwrap();
        assert_eq!(client.path(fxp::LSTAT, "inside"), Reply::NO_SUCH_FILE);
        assert_eq!(client.mkdir("new", 0o755), Reply::NO_SUCH_FILE);
        assert_eq!(client.list("/"), Err(Reply::NO_SUCH_FILE));
        fs::create_dir(place.share("")).unwrap();
        fs::write(place.share("again"), "here").unwrap();
        assert_eq!(client.read_file("again").unwrap(), b"here", "{mode:?}");
        assert_eq!(client.mkdir("new", 0o755), Reply::OK);
        assert_eq!(client.list("/").unwrap().len(), 4);
        assert_eq!(client.read(&old, 0, 100), Reply::Data(b"for all".to_vec()));
    }
}

#[test]
fn names_of_any_bytes_go_through() {
    const NAME: &[u8] = b"caf\xe9 \n\x01\\'\"%*";
    for mode in MODES {
        let place = place();
        let mut client = Client::at(&place, mode);
        let handle = client.open(NAME, fxf::WRITE | fxf::CREAT).handle();
        assert_eq!(client.write(&handle, 0, "x"), Reply::OK);
        assert_eq!(client.path(fxp::LSTAT, NAME).attributes().size, 1);
        let there: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(NAME);
        assert_eq!(fs::read(place.share("").join(there)).unwrap(), b"x");
        assert!(client.list("/").unwrap().iter().any(|name| name == NAME));
        assert_eq!(client.path(fxp::LSTAT, b"in\0side"), Reply::BAD_MESSAGE);
        assert_eq!(client.two(fxp::SYMLINK, b"\xff\xfe", b"\xfd"), Reply::OK);
        assert_eq!(client.path(fxp::READLINK, b"\xfd").name(), b"\xff\xfe");
    }
}
