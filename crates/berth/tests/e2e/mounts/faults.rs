//! What carries the files is killed, cut or rebooted: data stays intact or there is an error, and nobody hangs.

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};

use super::{directory, entry, lines, mounted, until_says};
use crate::instance::{BOOT, Home, Instance, Lines};

const POINT: &str = "/mnt/x";

/// What `berth shell` runs to look at the share, and what it says when that takes too long.
const LOOK: &str = "timeout 5 ls /mnt/x >/dev/null 2>&1; test $? -ne 124 && echo answered";

struct Scene<'a, 'home> {
    instance: &'a Instance<'home>,
    log: Lines<'home>,
}

impl Scene<'_, '_> {
    #[track_caller]
    fn until(&mut self, message: &str) {
        until_says(&mut self.log, message, POINT);
    }

    #[track_caller]
    fn guest(&self, script: &str) -> String {
        self.instance.shell(script).success()
    }

    /// Nobody who looks waits for more than five seconds.
    #[track_caller]
    fn look(&self) {
        assert_eq!(self.guest(LOOK), "answered\n");
    }

    /// Begins to write a file in the guest, and waits until some of it is on the host.
    #[track_caller]
    fn begin_to_write(&self, file: &Path) {
        let name = file.file_name().expect("a name").to_string_lossy();
        let script = format!(
            "rm -f /tmp/ended; (dd if=/dev/zero of={POINT}/{name} bs=1M count=1024; echo $? > /tmp/ended) >/tmp/dd.log 2>&1 &"
        );
        let _ = self.guest(&script);
        let written = || fs::metadata(file).map_or(0, |file| file.len());
        self.instance.home.within("the first bytes", async {
            while written() < 32 << 20 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(written() < 1 << 30, "the write was over before the fault");
    }

    /// Whoever wrote must have been told, unless all of it is there.
    #[track_caller]
    fn check_written(&self, file: &Path) {
        let ended =
            "for i in $(seq 100); do test -s /tmp/ended && break; sleep 0.1; done; cat /tmp/ended";
        let code = self.guest(ended);
        let length = fs::metadata(file).expect("a file").len();
        if code == "0\n" {
            assert_eq!(length, 1 << 30, "lost bytes, and no error");
        } else {
            let said = self.guest("cat /tmp/dd.log");
            let told = [
                "Input/output error",
                "endpoint is not connected",
                "connection abort",
            ];
            assert!(told.iter().any(|told| said.contains(told)), "{said}");
        }
        fs::remove_file(file).expect("a file");
    }

    /// The share is there again, once, and can be written.
    #[track_caller]
    fn check(&self, directory: &Path, what: &str) {
        // A guest that goes down may have mounted it once more before.
        let deadline = Instant::now() + Duration::from_mins(1);
        while mounted(self.instance, POINT).len() != 1 {
            assert!(Instant::now() < deadline, "{what}");
            thread::sleep(Duration::from_millis(100));
        }
        // A name of its own: for a second, the guest's kernel believes in files that the host has removed.
        let name = what.replace(' ', "-");
        let script = format!("echo '{what}' > {POINT}/{name} && cat {POINT}/{name}");
        assert_eq!(self.guest(&script), format!("{what}\n"));
        let note = fs::read_to_string(directory.join(name)).expect("a file");
        assert_eq!(note, format!("{what}\n"));
    }
}

#[test]
fn whatever_dies_the_files_come_back() {
    let home = Home::native();
    let shared = directory(&home, "shared");
    let entries = [entry(
        &shared,
        POINT,
        ", writable: true, sshfs: {cache: false}",
    )];
    let instance = home.instance("x", &lines(&entries));
    let _ = instance.start(&[]).success();
    let mut scene = Scene {
        instance: &instance,
        log: instance.follow("ha.stderr.log"),
    };
    scene.check(&shared, "at first");
    cut_the_link(&mut scene, &shared);
    kill_the_guest_agent(&mut scene, &shared);
    kill_sshfs(&mut scene, &shared);
    unmount_in_the_guest(&mut scene, &shared);
    delete_the_directory(&mut scene, &shared);
    reboot(&mut scene, &shared);
    instance.stop();
    home.assert_nothing_left();
}

/// A file system in memory, with so many MiB of room, as long as a test lives.
struct Memory<'a>(&'a Path);

impl<'a> Memory<'a> {
    #[track_caller]
    fn mount(at: &'a Path, mebibytes: u32) -> Self {
        let options = CString::new(format!("size={mebibytes}m,mode=755")).expect("no NUL");
        let options = Some(options.as_c_str());
        rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::empty(), options)
            .expect("root may mount: run `cargo xtask test` as root");
        Self(at)
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0, UnmountFlags::DETACH).expect("it is mounted");
    }
}

#[test]
fn a_full_disk_is_told_and_a_huge_directory_is_listed() {
    const FILES: usize = 200_000;
    let home = Home::native();
    let shared = directory(&home, "shared");
    let memory = Memory::mount(&shared, 64);
    let entries = [entry(&shared, POINT, ", writable: true")];
    let instance = home.instance("x", &lines(&entries));
    let _ = instance.start(&[]).success();
    let scene = Scene {
        instance: &instance,
        log: instance.follow("ha.stderr.log"),
    };

    let write = instance.shell("dd if=/dev/zero of=/mnt/x/big bs=1M count=100");
    assert_ne!(write.code, Some(0), "{write:?}");
    assert!(write.stderr.contains("Input/output error"), "{write:?}");
    scene.look();
    assert_eq!(
        scene.guest("rm /mnt/x/big; echo ok > /mnt/x/ok; cat /mnt/x/ok"),
        "ok\n"
    );
    assert_eq!(
        fs::read_to_string(shared.join("ok")).expect("a file"),
        "ok\n"
    );

    fs::create_dir(shared.join("huge")).expect("a directory");
    for at in 0..FILES {
        fs::write(shared.join(format!("huge/a name of some length, {at}")), "").expect("a file");
    }
    let count = "ls -U /mnt/x/huge > /tmp/huge & while kill -0 $! 2>/dev/null; do timeout 5 ls /mnt/x >/dev/null || echo late; done; wc -l < /tmp/huge";
    assert_eq!(scene.guest(count), format!("{FILES}\n"));
    instance.stop();
    drop(memory);
    home.assert_nothing_left();
}

fn cut_the_link(scene: &mut Scene<'_, '_>, shared: &Path) {
    let file = shared.join("big");
    scene.begin_to_write(&file);
    let carrier = scene.instance.path("ga-link.sock");
    scene.instance.agent().shut_down_connection_to(&carrier);
    scene.look();
    scene.until("not mounted any more");
    scene.until("mounted in the guest");
    scene.check_written(&file);
    scene.check(shared, "after the link was cut");
}

fn kill_the_guest_agent(scene: &mut Scene<'_, '_>, shared: &Path) {
    let file = shared.join("big");
    scene.begin_to_write(&file);
    scene
        .instance
        .guest_agent()
        .signal(rustix::process::Signal::KILL);
    scene.look();
    scene.until("not mounted any more");
    scene.until("mounted in the guest");
    scene.check_written(&file);
    scene.check(shared, "after the guest agent was killed");
}

fn kill_sshfs(scene: &mut Scene<'_, '_>, shared: &Path) {
    let _ = scene.guest("sudo pkill -KILL -x sshfs");
    scene.look();
    scene.until("not mounted any more");
    scene.until("mounted in the guest");
    scene.check(shared, "after sshfs was killed");
}

fn unmount_in_the_guest(scene: &mut Scene<'_, '_>, shared: &Path) {
    let _ = scene.guest("sudo umount /mnt/x");
    scene.until("not mounted any more");
    scene.until("mounted in the guest");
    scene.check(shared, "after somebody unmounted it");
}

fn delete_the_directory(scene: &mut Scene<'_, '_>, shared: &Path) {
    let mut events = scene.instance.follow("ha.stdout.log");
    fs::remove_dir_all(shared).expect("a directory");
    let event = events.until("the cause", |event| event["status"]["degraded"] == true);
    let causes = event["status"]["errors"].to_string();
    assert!(
        causes.contains(POINT) && causes.contains("does not exist"),
        "{causes}"
    );
    scene.look();
    let write = scene.instance.shell("echo lost > /mnt/x/lost");
    assert_ne!(write.code, Some(0), "{write:?}");
    fs::create_dir(shared).expect("a directory");
    events.until("its end", |event| {
        event["status"]["running"] == true && event["status"]["degraded"] != true
    });
    scene.check(shared, "after the directory was made again");
}

fn reboot(scene: &mut Scene<'_, '_>, shared: &Path) {
    let open = "exec 3> /mnt/x/open; echo kept >&3; sleep 1000 >/dev/null 2>&1 &";
    let _ = scene.guest(open);
    let before = scene.guest(BOOT);
    // How the connection ends is a matter of luck.
    let _ = scene.instance.shell("sudo systemctl reboot");
    scene.until("not mounted any more");
    await_login(scene, &before);
    assert_eq!(
        fs::read_to_string(shared.join("open")).expect("a file"),
        "kept\n"
    );
    scene.check(shared, "after the reboot");
    // The file was open, so the agent that ended held the mount still when it was asked to mount it anew.
    let log = fs::read_to_string(scene.instance.path("ha.stderr.log")).expect("a log");
    assert!(!log.contains("ordered twice"), "{log}");
}

/// Waits for a login to a boot that is not the one `before`: a guest that goes down may still let somebody in.
#[track_caller]
fn await_login(scene: &Scene<'_, '_>, before: &str) {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let boot = scene.instance.shell(BOOT);
        if boot.code == Some(0) && boot.stdout != before {
            return;
        }
        assert!(Instant::now() < deadline, "no login: {boot:?}");
        thread::sleep(Duration::from_millis(100));
    }
}
