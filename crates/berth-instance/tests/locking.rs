//! Who is the agent of an instance, also when agents are killed, and who uses a disk.
#![cfg(unix)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use berth_instance::dir::InstanceDir;
use berth_instance::disk::DiskLockError;
use berth_instance::lock::{Holder, InstanceLock, LockError};
use berth_instance::pids::Processes;
use berth_instance::record::{Record, VmRecord};
use berth_process::identity::ProcessIdentity;
use support::{Home, Process};

#[test]
fn there_is_one_agent_at_a_time() {
    let home = Home::new();
    let dir = home.instance("a", "");
    assert_eq!(InstanceLock::is_held(&dir).unwrap(), None);
    let lock = InstanceLock::try_acquire(&dir).unwrap();
    let me = std::process::id();
    assert_eq!(
        InstanceLock::is_held(&dir).unwrap(),
        Some(Holder { pid: Some(me) })
    );
    let why = InstanceLock::try_acquire(&dir).unwrap_err();
    assert!(
        matches!(why, LockError::Held { pid: Some(pid), .. } if pid == me),
        "{why}"
    );
    assert!(why.to_string().contains(&format!("(pid {me})")), "{why}");
    drop(lock);
    assert_eq!(InstanceLock::is_held(&dir).unwrap(), None);
    assert!(!dir.lock().exists(), "the lock file is left");
    InstanceLock::try_acquire(&dir).unwrap();
}

#[test]
fn a_lock_file_of_the_past_means_nothing() {
    let home = Home::new();
    let dir = home.instance("a", "");
    for content in ["", "4711\n", "no number"] {
        std::fs::write(dir.lock(), content).unwrap();
        assert_eq!(InstanceLock::is_held(&dir).unwrap(), None);
        let _lock = InstanceLock::try_acquire(&dir).unwrap();
        let pid = std::fs::read_to_string(dir.lock()).unwrap();
        assert_eq!(pid, format!("{}\n", std::process::id()));
    }
}

#[test]
fn an_instance_that_is_gone_cannot_be_locked() {
    let dir = InstanceDir::new("/no/such/instance".into());
    let why = InstanceLock::try_acquire(&dir).unwrap_err();
    assert_eq!(why.to_string(), "cannot open /no/such/instance/berth.lock");
    assert_eq!(InstanceLock::is_held(&dir).unwrap(), None);
}

#[test]
fn questions_do_not_keep_an_agent_out() {
    let home = Home::new();
    let dir = home.instance("a", "");
    std::fs::write(dir.lock(), "").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                InstanceLock::is_held(&dir).unwrap();
            }
        });
        for _ in 0..500 {
            InstanceLock::try_acquire(&dir).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        asking.join().unwrap();
    });
}

#[test]
fn of_many_that_start_at_once_one_wins() {
    let home = Home::new();
    let dir = home.instance("a", "");
    for _ in 0..50 {
        let start = std::sync::Barrier::new(4);
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        InstanceLock::try_acquire(&dir)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(
            results.iter().filter(|result| result.is_ok()).count(),
            1,
            "{results:?}"
        );
    }
}

/// The agent of the next test, in a process of its own.
#[test]
#[ignore = "not a test: the next one runs it"]
fn agent_that_is_killed() {
    let dir = InstanceDir::new(std::env::var_os("BERTH_TEST_INSTANCE").unwrap().into());
    let _lock = InstanceLock::try_acquire(&dir).unwrap();
    // A VM that outlives the agent must not hold its lock.
    let vm = Process::start();
    println!("\nLOCKED {}", vm.pid());
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn a_killed_agent_gives_its_lock_back() {
    let home = Home::new();
    let dir = home.instance("a", "");
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args([
            "agent_that_is_killed",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env("BERTH_TEST_INSTANCE", dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(agent.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    lines
        .find(|line| line.starts_with("LOCKED"))
        .expect("the agent ended early");
    let holder = InstanceLock::is_held(&dir).unwrap();
    assert_eq!(
        holder,
        Some(Holder {
            pid: Some(agent.id())
        })
    );
    assert!(matches!(
        InstanceLock::try_acquire(&dir),
        Err(LockError::Held { .. })
    ));
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_eq!(InstanceLock::is_held(&dir).unwrap(), None);
    InstanceLock::try_acquire(&dir).unwrap();
}

#[test]
fn pid_files_of_dead_processes_are_removed() {
    let home = Home::new();
    let dir = home.instance("a", "");
    let dead = Process::start().kill();
    std::fs::write(dir.ha_pid(), format!("{dead}\n")).unwrap();
    std::fs::write(dir.vm_pid("qemu"), format!("{dead}")).unwrap();
    let found = Processes::look(&dir, Some("qemu"));
    assert_eq!(found, Processes::default());
    assert!(!found.any());
    assert!(!dir.ha_pid().exists() && !dir.vm_pid("qemu").exists());
}

#[test]
fn pid_files_of_lima_s_living_processes_count() {
    let home = Home::new();
    let dir = home.instance("a", "");
    let (agent, vm) = (Process::start(), Process::start());
    std::fs::write(dir.ha_pid(), format!("{}\n", agent.pid())).unwrap();
    std::fs::write(dir.vm_pid("qemu"), format!("{}\n", vm.pid())).unwrap();
    for driver in [Some("qemu"), None] {
        let found = Processes::look(&dir, driver);
        assert_eq!(
            (found.agent, found.vm, found.locked),
            (Some(agent.pid()), Some(vm.pid()), false)
        );
    }
    assert_eq!(Processes::look(&dir, Some("vz")).vm, None);
}

#[test]
fn a_pid_that_was_given_to_another_is_not_taken_for_the_vm() {
    let home = Home::new();
    let dir = home.instance("a", "");
    let another = Process::start();
    let identity = another.identity();
    let earlier = ProcessIdentity {
        start_time: identity.start_time - 1,
        ..identity.clone()
    };
    let before_the_reboot = ProcessIdentity {
        boot_id: "another".into(),
        ..identity.clone()
    };
    for (recorded, expected) in [
        (earlier, None),
        (before_the_reboot, None),
        (identity, Some(another.pid())),
    ] {
        std::fs::write(dir.ha_pid(), format!("{}\n", another.pid())).unwrap();
        std::fs::write(dir.vm_pid("qemu"), format!("{}\n", another.pid())).unwrap();
        let vm = VmRecord {
            driver: "qemu".into(),
            identity: recorded.clone(),
        };
        let record = Record {
            agent: Some(recorded),
            vm: Some(vm),
            ..Record::default()
        };
        record.save(&dir).unwrap();
        let found = Processes::look(&dir, Some("qemu"));
        assert_eq!((found.agent, found.vm), (expected, expected));
        assert!(
            dir.vm_pid("qemu").exists(),
            "files that name living processes stay"
        );
    }
}

#[test]
fn a_vm_is_known_by_its_record_alone() {
    let home = Home::new();
    let dir = home.instance("a", "");
    let vm = Process::start();
    let vm_record = VmRecord {
        driver: "qemu".into(),
        identity: vm.identity(),
    };
    Record {
        vm: Some(vm_record),
        ..Record::default()
    }
    .save(&dir)
    .unwrap();
    assert_eq!(Processes::look(&dir, None).vm, Some(vm.pid()));
    vm.kill();
    assert_eq!(Processes::look(&dir, None).vm, None);
}

#[test]
fn a_living_agent_removes_its_own_files() {
    let home = Home::new();
    let dir = home.instance("a", "");
    let _lock = InstanceLock::try_acquire(&dir).unwrap();
    let dead = Process::start().kill();
    std::fs::write(dir.vm_pid("qemu"), format!("{dead}\n")).unwrap();
    let found = Processes::look(&dir, Some("qemu"));
    assert_eq!(
        (found.locked, found.agent, found.vm),
        (true, Some(std::process::id()), None)
    );
    assert!(dir.vm_pid("qemu").exists());
}

#[test]
fn what_cannot_be_read_is_told_and_counts_as_running() {
    let home = Home::new();
    let dir = home.instance("a", "");
    std::fs::write(dir.ha_pid(), "garbage").unwrap();
    std::fs::write(dir.record(), "{").unwrap();
    let found = Processes::look(&dir, Some("qemu"));
    assert!(found.any());
    assert_eq!(found.problems.len(), 2, "{:?}", found.problems);
    assert!(found.problems[0].contains("berth.json") && found.problems[0].contains("EOF"));
    assert!(found.problems[1].contains("ha.pid") && found.problems[1].contains("garbage"));
}

#[test]
fn a_disk_has_one_user() {
    let home = Home::new();
    let (a, b) = (home.instance("a", ""), home.instance("b", ""));
    let disk = home.disk("data");
    let vm = Process::start();
    std::fs::write(a.vm_pid("qemu"), format!("{}\n", vm.pid())).unwrap();
    disk.lock(&a).unwrap();
    disk.lock(&a).expect("locking again");
    assert_eq!(
        std::fs::read_link(disk.in_use_by()).unwrap(),
        a.path(),
        "as Lima writes it"
    );
    let why = disk.lock(&b).unwrap_err();
    assert!(matches!(why, DiskLockError::InUse { .. }));
    assert_eq!(
        why.to_string(),
        "disk \"data\" is in use by instance \"a\"; stop that instance first"
    );
    assert!(!disk.unlock(&b).unwrap(), "only its owner unlocks it");
    assert_eq!(disk.owner().unwrap(), Some(a.clone()));
    assert!(disk.unlock(&a).unwrap());
    assert!(!disk.unlock(&a).unwrap());
    disk.lock(&b).unwrap();
}

#[test]
fn the_lock_of_a_dead_vm_is_taken_over() {
    let home = Home::new();
    let (a, b) = (home.instance("a", ""), home.instance("b", ""));
    let disk = home.disk("data");
    let vm = Process::start();
    let vm_record = VmRecord {
        driver: "qemu".into(),
        identity: vm.identity(),
    };
    Record {
        vm: Some(vm_record),
        ..Record::default()
    }
    .save(&a)
    .unwrap();
    disk.lock(&a).unwrap();
    assert!(disk.lock(&b).is_err());
    vm.kill();
    disk.lock(&b).unwrap();
    assert_eq!(disk.owner().unwrap(), Some(b.clone()));
    std::fs::remove_dir_all(b.path()).unwrap();
    disk.lock(&a).expect("its owner was deleted");
}

#[test]
fn of_many_that_take_over_one_wins() {
    let home = Home::new();
    let disk = home.disk("data");
    let dead = home.instance("dead", "");
    let vm = Process::start();
    let instances: Vec<_> = ["a", "b", "c", "d"]
        .map(|name| {
            let dir = home.instance(name, "");
            std::fs::write(dir.vm_pid("qemu"), format!("{}\n", vm.pid())).unwrap();
            dir
        })
        .into();
    for _ in 0..50 {
        let _ = std::fs::remove_file(disk.in_use_by());
        disk.lock(&dead).unwrap();
        let start = std::sync::Barrier::new(instances.len());
        let winners = std::thread::scope(|scope| {
            let threads: Vec<_> = instances
                .iter()
                .map(|dir| {
                    let (start, disk) = (&start, &disk);
                    scope.spawn(move || {
                        start.wait();
                        disk.lock(dir).is_ok()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap())
                .filter(|&won| won)
                .count()
        });
        assert_eq!(winners, 1);
    }
}

#[test]
fn a_disk_that_does_not_exist_is_named() {
    let home = Home::new();
    let why = home
        .home
        .disk("data")
        .lock(&home.instance("a", ""))
        .unwrap_err();
    assert!(
        why.to_string()
            .starts_with("disk \"data\" does not exist; make it with"),
        "{why}"
    );
}
