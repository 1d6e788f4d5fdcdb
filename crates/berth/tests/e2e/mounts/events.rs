//! `mountInotify`: whoever watches a share in the guest hears of changes on the host.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::{directory, entry, lines, mounted};
use crate::instance::{Home, Instance};

/// Prints a line for each thing that happens to a directory's entries: its name, and whether attributes changed.
const WATCH: &str = "import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
watcher = libc.inotify_init()
names = {libc.inotify_add_watch(watcher, path.encode(), 0xfc6): path for path in sys.argv[1:]}
print('ready', flush=True)
while True:
    events = os.read(watcher, 1 << 16)
    while events:
        watch, mask, _, length = struct.unpack_from('iIII', events)
        name = events[16:16 + length].rstrip(b'\\0').decode()
        print(f'{names[watch]}/{name}', 'attributes' if mask & 4 else 'other', flush=True)
        events = events[16 + length:]
";

const LOG: &str = "/tmp/events";

struct Scene<'a, 'home>(&'a Instance<'home>);

impl Scene<'_, '_> {
    #[track_caller]
    fn watch(&self, directories: &str) {
        let program = shell_words::quote(WATCH);
        let script = format!("python3 -c {program} {directories} >{LOG} 2>&1 &");
        let _ = self.0.shell(&script).success();
        self.until("ready");
    }

    /// Waits until the guest's watcher has printed a line that begins so.
    #[track_caller]
    fn until(&self, line: &str) {
        let script = format!(
            "for i in $(seq 600); do grep -q '^{line}' {LOG} && exit; sleep 0.1; done; tail {LOG}; exit 1"
        );
        let waited = self.0.shell(&script);
        assert_eq!(waited.code, Some(0), "{line}: {waited:#?}");
    }

    /// How often the watcher has printed a line.
    #[track_caller]
    fn count(&self, line: &str) -> usize {
        let counted = self.0.shell(&format!("grep -c '^{line}$' {LOG} || true"));
        counted.success().trim().parse().expect("a number")
    }
}

#[test]
fn a_watcher_in_the_guest_hears_of_changes_on_the_host() {
    let home = Home::native();
    let [writable, read_only] = ["writable", "read-only"].map(|name| directory(&home, name));
    for share in [&writable, &read_only] {
        fs::create_dir(share.join("deep")).expect("a directory");
        for file in ["old", "mode"] {
            fs::write(share.join(file), "old\n").expect("a file");
        }
    }
    let entries = [
        entry(&writable, "/mnt/w", ", writable: true"),
        entry(&read_only, "/mnt/r", ""),
    ];
    let instance = home.instance("x", &format!("mountInotify: true\n{}", lines(&entries)));
    let _ = instance.start(&[]).success();
    assert!(
        instance
            .events()
            .words()
            .contains(&"file events=ok".to_owned())
    );
    let scene = Scene(&instance);
    scene.watch("/mnt/w /mnt/w/deep /mnt/r /mnt/r/deep");
    for (share, point) in [(&writable, "/mnt/w"), (&read_only, "/mnt/r")] {
        hears(&scene, share, point);
    }
    let mount = mounted(&instance, "/mnt/r");
    assert!(
        mount[0].starts_with("fuse.sshfs ro,nosuid,nodev,"),
        "{mount:?}"
    );
    for script in ["sudo touch /mnt/r/old", "sudo sh -c 'echo x >/mnt/r/new'"] {
        let refused = instance.shell(script);
        assert!(
            refused.stderr.contains("Read-only file system"),
            "{refused:?}"
        );
    }

    // What the guest itself does comes back once at most.
    let _ = instance.shell("echo mine >/mnt/w/mine").success();
    for end in ["1", "2", "3"] {
        fs::write(writable.join(end), "").expect("a file");
        scene.until(&format!("/mnt/w/{end} attributes"));
    }
    assert!(scene.count("/mnt/w/mine attributes") <= 3);

    for number in 0..3000 {
        fs::write(writable.join(format!("deep/{number}")), "").expect("a file");
    }
    let all = format!(
        "for i in $(seq 600); do test $(grep '^/mnt/w/deep/.* attributes' {LOG} | sort -u | wc -l) -ge 3000 && exit; sleep 0.1; done; exit 1"
    );
    let _ = instance.shell(&all).success();
    instance.stop();
    assert_eq!(instance.events().exit_errors(), Vec::<String>::new());
    home.assert_nothing_left();
}

/// New, written and changed files, none of which the guest changes on the host.
#[track_caller]
fn hears(scene: &Scene<'_, '_>, share: &Path, point: &str) {
    let told = |name: &str, change: &dyn Fn(&Path)| {
        let path = share.join(name);
        change(&path);
        let changed = fs::metadata(&path).expect("a file");
        scene.until(&format!("{point}/{name} attributes"));
        let now = fs::metadata(&path).expect("a file");
        assert_eq!(stamp(&now), stamp(&changed), "{name}");
    };
    let write = |path: &Path| fs::write(path, "written on the host\n").expect("a file");
    told("old", &write);
    let read = scene.0.shell(&format!("cat {point}/old")).success();
    assert_eq!(read, "written on the host\n");
    told("new", &write);
    told("deep/er", &write);
    let mode = fs::Permissions::from_mode(0o711);
    told("mode", &|path| {
        fs::set_permissions(path, mode.clone()).expect("a mode");
    });
}

fn stamp(file: &fs::Metadata) -> (i64, i64) {
    (file.ctime(), file.ctime_nsec())
}
