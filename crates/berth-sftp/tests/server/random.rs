//! Random operations, as fsx does them, with a directory of this machine as the oracle: each is done through the server and directly, to
//! twins, and both must come to the same. Writes are not waited for before the next operations are sent.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;

use crate::client::{Body, Client, MODES, Place, Reply, fxf, fxp, snapshot};

/// The share follows no links, so the oracle does not either.
const NO_LINKS: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// Numbers that look random, the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    fn path(&mut self) -> String {
        let names = ["a", "b", "c", "d/a", "d/b", "d/e/a", "d/e", "d", "e"];
        names[usize::try_from(self.below(names.len() as u64)).unwrap()].to_owned()
    }
}

struct Twins<'place> {
    client: Client,
    place: &'place Place,
    random: Random,
    /// Open twins: the server's handle, and the file beside it.
    open: BTreeMap<Vec<u8>, fs::File>,
    /// Replies that are still to come, with what they should be.
    expected: Vec<(u32, bool)>,
}

#[test]
fn twins_stay_alike() {
    for mode in MODES {
        for seed in [0x2545_f491_4f6c_dd1d, 88] {
            let place = Place::new();
            let mut twins = Twins {
                client: Client::at(&place, mode),
                place: &place,
                random: Random(seed),
                open: BTreeMap::new(),
                expected: Vec::new(),
            };
            for step in 0..500 {
                twins.step();
                if step % 100 == 0 {
                    twins.compare(&format!("{mode:?}, seed {seed}, step {step}"));
                }
            }
            twins.compare(&format!("{mode:?}, seed {seed}, at the end"));
        }
    }
}

impl Twins<'_> {
    fn oracle(&self, path: &str) -> PathBuf {
        self.place.outside(path)
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..=2 => self.open_twins(),
            3..=7 => self.write(),
            8..=10 => self.read(),
            11 => self.close(),
            12 => self.change_names(),
            13 => self.truncate_open(),
            14 => self.stat(),
            15 => self.make(),
            16 => self.remove(),
            17 => self.attributes(),
            18 => self.settle(),
            _ => self.list(),
        }
    }

    /// Waits for everything that was sent.
    fn settle(&mut self) {
        for (id, fine) in std::mem::take(&mut self.expected) {
            let reply = self.client.wait(id);
            assert_eq!(reply == Reply::OK, fine, "{reply:?}");
        }
    }

    /// Sends something that needs no answer now; it should come to what the oracle came to.
    fn send(&mut self, kind: u8, body: &Body, fine: bool) {
        let id = self.client.send(kind, body);
        self.expected.push((id, fine));
    }

    fn any_open(&mut self) -> Option<Vec<u8>> {
        let count = self.open.len() as u64;
        let at = usize::try_from(self.random.below(count.max(1))).unwrap();
        self.open.keys().nth(at).cloned()
    }

    fn open_twins(&mut self) {
        if self.open.len() > 8 {
            return self.close();
        }
        let path = self.random.path();
        let (create, truncate) = (self.random.below(2) == 0, self.random.below(4) == 0);
        let mut flags = fxf::READ | fxf::WRITE;
        flags += if create { fxf::CREAT } else { 0 };
        flags += if truncate { fxf::TRUNC } else { 0 };
        let twin = fs::File::options()
            .read(true)
            .write(true)
            .create(create)
            .truncate(truncate)
            .custom_flags(NO_LINKS)
            .open(self.oracle(&path));
        match (self.client.open(&path, flags), twin) {
            (Reply::Handle(handle), Ok(twin)) => {
                assert!(self.open.insert(handle, twin).is_none());
            }
            (Reply::Status(_), Err(_)) => {}
            (reply, twin) => panic!("{path} {flags}: {reply:?}, {twin:?}"),
        }
    }

    fn write(&mut self) {
        let Some(handle) = self.any_open() else {
            return;
        };
        let (offset, length) = (self.random.below(300_000), self.random.below(40_000));
        let byte = self.random.next().to_le_bytes()[3];
        let data = vec![byte; usize::try_from(length).unwrap()];
        self.open[&handle].write_all_at(&data, offset).unwrap();
        let body = Body::new().string(&handle).long(offset).string(&data);
        self.send(fxp::WRITE, &body, true);
    }

    fn read(&mut self) {
        let Some(handle) = self.any_open() else {
            return;
        };
        let (offset, length) = (self.random.below(300_000), self.random.below(60_000));
        let mut wanted = vec![0; usize::try_from(length).unwrap()];
        let mut count = 0;
        while count < wanted.len() {
            let at = offset + count as u64;
            match self.open[&handle]
                .read_at(&mut wanted[count..], at)
                .unwrap()
            {
                0 => break,
                more => count += more,
            }
        }
        wanted.truncate(count);
        let length = u32::try_from(length).unwrap();
        let read = match self.client.read(&handle, offset, length) {
            Reply::Data(data) => data,
            Reply::EOF => Vec::new(),
            other => panic!("{other:?}"),
        };
        assert!(read == wanted, "{length} bytes at {offset} differ");
    }

    fn truncate_open(&mut self) {
        if let Some(handle) = self.any_open() {
            let size = self.random.below(300_000);
            self.open[&handle].set_len(size).unwrap();
            let body = Body::new().string(&handle).word(1).long(size);
            self.send(fxp::FSETSTAT, &body, true);
        }
    }

    fn close(&mut self) {
        if let Some(handle) = self.any_open() {
            self.open.remove(&handle);
            self.send(fxp::CLOSE, &Body::new().string(&handle), true);
        }
    }

    fn change_names(&mut self) {
        let (from, to) = (self.random.path(), self.random.path());
        let (old, new) = (self.oracle(&from), self.oracle(&to));
        if self.random.below(2) == 0 {
            let fine = fs::rename(old, new).is_ok();
            let body = Body::new().string("posix-rename@openssh.com");
            self.send(fxp::EXTENDED, &body.string(from).string(to), fine);
        } else {
            let fine = fs::hard_link(old, new).is_ok();
            let body = Body::new().string("hardlink@openssh.com");
            self.send(fxp::EXTENDED, &body.string(from).string(to), fine);
        }
    }

    fn make(&mut self) {
        let path = self.random.path();
        if self.random.below(2) == 0 {
            let fine = fs::create_dir(self.oracle(&path)).is_ok();
            self.send(fxp::MKDIR, &Body::new().string(path).word(0), fine);
        } else {
            // To nowhere: the oracle would follow it.
            let fine = symlink("nowhere", self.oracle(&path)).is_ok();
            self.send(
                fxp::SYMLINK,
                &Body::new().string("nowhere").string(path),
                fine,
            );
        }
    }

    fn remove(&mut self) {
        let path = self.random.path();
        if self.random.below(2) == 0 {
            let fine = fs::remove_file(self.oracle(&path)).is_ok();
            self.send(fxp::REMOVE, &Body::new().string(path), fine);
        } else {
            let fine = fs::remove_dir(self.oracle(&path)).is_ok();
            self.send(fxp::RMDIR, &Body::new().string(path), fine);
        }
    }

    fn attributes(&mut self) {
        let path = self.random.path();
        let twin = self.oracle(&path);
        if twin.is_symlink() {
            return;
        }
        if self.random.below(2) == 0 {
            let size = self.random.below(300_000);
            let cut = fs::File::options().write(true).open(&twin);
            let fine = cut.and_then(|open| open.set_len(size)).is_ok();
            self.send(
                fxp::SETSTAT,
                &Body::new().string(path).word(1).long(size),
                fine,
            );
        } else {
            let mode = 0o700 + u32::try_from(self.random.below(0o100)).unwrap();
            let fine = fs::set_permissions(&twin, fs::Permissions::from_mode(mode)).is_ok();
            self.send(
                fxp::SETSTAT,
                &Body::new().string(path).word(4).word(mode),
                fine,
            );
        }
    }

    fn stat(&mut self) {
        let path = self.random.path();
        let twin = self.oracle(&path).symlink_metadata();
        match (self.client.path(fxp::LSTAT, &path), twin) {
            (Reply::Attributes(seen), Ok(twin)) => {
                assert_eq!(seen.mode, twin.permissions().mode(), "{path}");
                assert!(twin.is_dir() || seen.size == twin.len(), "{path}");
            }
            (Reply::NO_SUCH_FILE, Err(_)) => {}
            (reply, twin) => panic!("{path}: {reply:?}, {twin:?}"),
        }
    }

    fn list(&mut self) {
        let path = ["/", "d", "d/e"][usize::try_from(self.random.below(3)).unwrap()];
        let twin = fs::read_dir(self.oracle(path.trim_start_matches('/')));
        match (self.client.list(path), twin) {
            (Ok(names), Ok(twin)) => assert_eq!(names.len(), twin.count() + 2, "{path}"),
            (Err(_), Err(_)) => {}
            (seen, twin) => panic!("{path}: {seen:?}, {twin:?}"),
        }
    }

    fn compare(&mut self, when: &str) {
        self.settle();
        let strip = |all: Vec<String>, from: PathBuf| -> Vec<String> {
            let from = from.to_str().unwrap().to_owned();
            all.into_iter()
                .map(|line| line.replace(&from, ""))
                .collect()
        };
        let seen = strip(snapshot(&self.place.share("")), self.place.share(""));
        let twin = strip(snapshot(&self.place.outside("")), self.place.outside(""));
        for (seen, twin) in seen.iter().zip(&twin) {
            let short = |line: &str| line.chars().take(80).collect::<String>();
            assert!(
                seen == twin,
                "{when}: {} is not {}",
                short(seen),
                short(twin)
            );
        }
        assert_eq!(seen.len(), twin.len(), "{when}");
    }
}
