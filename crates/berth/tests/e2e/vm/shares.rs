//! The host's directories in a virtual machine, by what only QEMU can do: 9p and virtiofs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::instance::{Home, Instance};
use crate::mounts::{directory, entry, mounted};

/// Prints the names, kinds and contents of all that lies beneath the current directory.
const LISTING: &str = "find . -printf '%P %y %l\\n' | LC_ALL=C sort; find . -type f -print0 | LC_ALL=C sort -z | xargs -0 cat | sha256sum";

/// What happens in the writable share.
const WORK: &str = "set -e; cd /mnt/writable
mkdir -p made/deep
head -c 4194304 /dev/urandom > made/data.part
sha256sum < made/data.part
mv made/data.part made/deep/data
printf more >> tree/a.txt
ln -s ../a.txt made/link
rm tree/doomed
sync";

/// A directory that everybody may read, and one that everybody may change.
pub(super) struct Shares {
    writable: PathBuf,
    readable: PathBuf,
}

impl Shares {
    /// Makes both, with something in them.
    pub(super) fn new(home: &Home) -> Self {
        let shares = Self {
            writable: directory(home, "writable"),
            readable: directory(home, "read able"),
        };
        for root in [&shares.writable, &shares.readable] {
            let tree = root.join("tree/sub dir");
            fs::create_dir_all(&tree).expect("a directory");
            for (name, text) in [
                ("../a.txt", "a"),
                ("../doomed", "d"),
                ("übung \u{1f980}", "u"),
            ] {
                fs::write(tree.join(name), text.repeat(70_000)).expect("a file");
            }
            symlink("../a.txt", tree.join("link")).expect("a link");
            // The guest's user has the number of the host's, unless that is root's.
            let root = root.to_string_lossy();
            let arguments = ["-R", "a+rwX", &*root];
            let _ = home.run_program("chmod".as_ref(), &arguments).success();
        }
        shares
    }

    /// `lima.yaml`'s lines for them.
    pub(super) fn lines(&self, kind: &str) -> String {
        let entries = [
            entry(&self.writable, "/mnt/writable", ", writable: true"),
            entry(&self.readable, "/mnt/read able", ""),
        ];
        format!("mountType: {kind}\nmounts:\n{}", entries.concat())
    }

    /// Reads, changes and fails to change, from the guest, whose kernel must call them `kind`.
    #[track_caller]
    pub(super) fn check(&self, instance: &Instance<'_>, kind: &str) {
        for (root, point, options) in [
            (&self.writable, "/mnt/writable", "rw"),
            (&self.readable, "/mnt/read able", "ro"),
        ] {
            let [table] = &mounted(instance, point)[..] else {
                panic!("{point} is not mounted once");
            };
            assert!(table.starts_with(&format!("{kind} {options},")), "{table}");
            let of_guest = instance
                .shell(&format!("cd '{point}' && {LISTING}"))
                .success();
            assert_eq!(of_guest, listing(instance.home, root), "{point}");
        }
        let sum = instance.shell(WORK).success();
        let data = self.writable.join("made/deep/data");
        let read = instance
            .home
            .run_program("sha256sum".as_ref(), &[&data.to_string_lossy()]);
        assert_eq!(read.success().split(' ').next(), sum.split(' ').next());
        let grown = fs::read(self.writable.join("tree/a.txt")).expect("a file");
        assert!(grown.ends_with(b"aaamore"));
        assert!(!self.writable.join("tree/doomed").exists());
        let link = instance.shell("readlink /mnt/writable/made/link").success();
        assert_eq!(link, "../a.txt\n");
        self.check_read_only(instance);
    }

    /// Nobody changes the other one, the guest's root neither.
    #[track_caller]
    fn check_read_only(&self, instance: &Instance<'_>) {
        let before = listing(instance.home, &self.readable);
        let attempts = "cd '/mnt/read able'; sudo mount -o remount,rw . 2>&1
            for change in 'touch new' 'rm tree/a.txt' 'mkdir new' 'chmod 0 tree/a.txt' 'mv tree other'; do
                sudo $change 2>/dev/null && echo \"$change: done\"
            done; true";
        let changes = instance.shell(attempts).success();
        assert!(!changes.contains("done"), "{changes}");
        assert_eq!(listing(instance.home, &self.readable), before);
    }
}

/// What the guest's listing must be like.
#[track_caller]
fn listing(home: &Home, root: &Path) -> String {
    let script = "cd \"$1\" && ".to_owned() + LISTING;
    let root = root.to_string_lossy();
    home.run_program("sh".as_ref(), &["-c", &script, "sh", &root])
        .success()
}
