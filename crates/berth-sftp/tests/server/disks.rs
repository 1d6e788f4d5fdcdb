//! Disks that are full, and files that may not grow.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::client::{Body, Place, Reply, fxf, fxp, packet, reply_of};
use crate::program::SERVER;

/// Starts the server in a shell that sets something up first.
fn in_shell(first: &str, place: &Place) -> (Child, Pipe) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let share = place.share("");
    let child = Command::new("unshare")
        .args(["--map-root-user", "--mount", "--", "sh", "-c"])
        .arg(format!("{first} && exec \"$0\" \"$1\""))
        .arg(SERVER)
        .arg(&share)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(
            theirs.try_clone().unwrap(),
        )))
        .stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .spawn()
        .expect("unshare (util-linux) is installed");
    (child, Pipe::greet(ours))
}

#[test]
fn a_full_disk_is_an_error_and_keeps_what_was_written() {
    let place = Place::new();
    let share = place.share("");
    let share = share.to_str().unwrap().trim_end_matches('/');
    let mount = format!("mount -t tmpfs -o size=1m tmpfs '{share}'");
    let (mut child, mut client) = in_shell(&mount, &place);
    let file = client
        .open("f", fxf::READ | fxf::WRITE | fxf::CREAT)
        .handle();
    let chunk = vec![5; 64 * 1024];
    let mut offset = 0;
    let refused = loop {
        match client.write(&file, offset, &chunk) {
            Reply::Status(0) => offset += chunk.len() as u64,
            refused => break refused,
        }
        assert!(offset <= 1 << 20, "more than there is room for");
    };
    assert_eq!(refused, Reply::FAILURE);
    assert!(offset >= 1 << 19, "only {offset} bytes fit");
    assert_eq!(client.read(&file, offset - 3, 3), Reply::Data(vec![5; 3]));
    let space = client.space("/");
    assert_eq!(space[4], 0, "nothing is available");
    // There is room again, and it is used.
    assert_eq!(client.truncate("f", 0), Reply::OK);
    assert_eq!(client.write(&file, 0, "again"), Reply::OK);
    drop(client);
    assert!(child.wait().unwrap().success());
    assert!(
        is_empty(Path::new(share)),
        "the file system was not the test's own"
    );
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

/// A process that writes more than it may is ended by the system; the server does not try.
#[test]
fn a_file_that_may_not_grow_does_not_end_the_server() {
    let place = Place::new();
    // In blocks of 512 bytes.
    let (mut child, mut client) = in_shell("ulimit -f 8", &place);
    let file = client.open("f", fxf::WRITE | fxf::CREAT).handle();
    assert_eq!(client.write(&file, 0, [1; 4096]), Reply::OK);
    assert_eq!(client.write(&file, 4096, "x"), Reply::FAILURE);
    assert_eq!(client.write(&file, 1 << 40, "x"), Reply::FAILURE);
    assert_eq!(client.truncate("f", 1 << 40), Reply::FAILURE);
    assert_eq!(client.truncate("f", 3), Reply::OK);
    drop(client);
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read(place.share("f")).unwrap(), [1; 3]);
}

/// A client of the program: one request at a time.
pub(crate) struct Pipe(UnixStream);

impl Pipe {
    pub(crate) fn greet(stream: UnixStream) -> Self {
        let minute = Some(std::time::Duration::from_secs(60));
        stream.set_read_timeout(minute).unwrap();
        let mut pipe = Self(stream);
        pipe.0.write_all(&packet(1, &[0, 0, 0, 3])).unwrap();
        assert_eq!(pipe.packet()[0], 2);
        pipe
    }

    fn packet(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut packet = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut packet).unwrap();
        packet
    }

    fn call(&mut self, kind: u8, body: &Body) -> Reply {
        let body = [&[0, 0, 0, 9], body.0.as_slice()].concat();
        self.0.write_all(&packet(kind, &body)).unwrap();
        let (id, reply) = reply_of(&self.packet());
        assert_eq!(id, 9);
        reply
    }

    pub(crate) fn open(&mut self, path: &str, flags: u32) -> Reply {
        self.call(fxp::OPEN, &Body::new().string(path).word(flags).word(0))
    }

    pub(crate) fn write(&mut self, handle: &[u8], offset: u64, data: impl AsRef<[u8]>) -> Reply {
        self.call(
            fxp::WRITE,
            &Body::new().string(handle).long(offset).string(data),
        )
    }

    pub(crate) fn read(&mut self, handle: &[u8], offset: u64, length: u32) -> Reply {
        self.call(
            fxp::READ,
            &Body::new().string(handle).long(offset).word(length),
        )
    }

    pub(crate) fn truncate(&mut self, path: &str, size: u64) -> Reply {
        self.call(fxp::SETSTAT, &Body::new().string(path).word(1).long(size))
    }

    pub(crate) fn space(&mut self, path: &str) -> Vec<u64> {
        let body = Body::new().string("statvfs@openssh.com").string(path);
        match self.call(fxp::EXTENDED, &body) {
            Reply::Extended(space) => space,
            other => panic!("{other:?}"),
        }
    }
}
