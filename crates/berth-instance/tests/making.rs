//! Making and removing instances, also when that fails half-way.
#![cfg(unix)]

mod support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use berth_config::name::InstanceName;
use berth_instance::create::{CreateError, NewInstance};
use berth_instance::delete::{self, DeleteError};
use berth_instance::home::LimaHome;
use berth_instance::record::Record;
use support::{Home, names_in, platform, run_alone};

fn name(name: &str) -> InstanceName {
    InstanceName::parse(name).expect(name)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("there").mode() & 0o7777
}

#[test]
fn a_new_instance_has_its_files_and_modes() {
    let home = Home::new();
    std::fs::remove_dir(home.home.path()).unwrap();
    let new =
        NewInstance::create(&home.home, &name("a.b"), "cpus: 2\n", "2.2.0", &platform()).unwrap();
    let dir = new.keep();
    assert_eq!(names_in(dir.path()), ["lima-version", "lima.yaml"]);
    assert_eq!(
        std::fs::read_to_string(dir.lima_yaml()).unwrap(),
        "cpus: 2\n"
    );
    assert_eq!(
        std::fs::read_to_string(dir.lima_version()).unwrap(),
        "2.2.0"
    );
    let modes = [
        home.home.path(),
        dir.path(),
        &dir.lima_yaml(),
        &dir.lima_version(),
    ]
    .map(mode);
    assert_eq!(modes, [0o700, 0o700, 0o644, 0o444]);
    assert!(!dir.is_used());
    std::fs::write(dir.cidata_iso(), "").unwrap();
    assert!(dir.is_used());
}

#[test]
fn an_instance_that_is_not_finished_is_removed() {
    let home = Home::new();
    let new = NewInstance::create(&home.home, &name("a"), "", "2.2.0", &platform()).unwrap();
    std::fs::write(new.dir().image(), "half an image").unwrap();
    drop(new);
    assert!(names_in(home.home.path()).is_empty());
}

#[test]
fn an_instance_that_exists_is_left_alone() {
    let home = Home::new();
    let dir = home.instance("a", "cpus: 1\n");
    let why = NewInstance::create(&home.home, &name("a"), "", "2.2.0", &platform()).unwrap_err();
    assert!(matches!(why, CreateError::Exists { .. }));
    assert!(
        why.to_string()
            .starts_with("instance \"a\" already exists (/"),
        "{why}"
    );
    assert_eq!(
        std::fs::read_to_string(dir.lima_yaml()).unwrap(),
        "cpus: 1\n"
    );
}

#[test]
fn a_path_too_long_for_sockets_is_refused_before_anything_is_made() {
    let home = Home::new();
    let deep = LimaHome::at(&home.beside().join("d".repeat(80))).unwrap();
    let why = NewInstance::create(&deep, &name("a"), "", "2.2.0", &platform()).unwrap_err();
    assert!(
        why.to_string().contains("ssh.sock.1234567890123456"),
        "{why}"
    );
    assert!(!deep.path().exists());
}

#[test]
fn a_home_that_is_a_file_is_named() {
    let home = Home::new();
    let file = home.beside().join("file");
    std::fs::write(&file, "").unwrap();
    let home = LimaHome::at(&file).unwrap();
    let why = NewInstance::create(&home, &name("a"), "", "2.2.0", &platform()).unwrap_err();
    assert_eq!(
        why.to_string(),
        format!("cannot create {}/a", file.display())
    );
}

/// The body of the next test, in a process that cannot write a byte to any file, as on a full disk.
#[test]
#[ignore = "not a test: the next one runs it"]
fn instance_on_a_full_disk() {
    let home = LimaHome::at(Path::new(&std::env::var_os("BERTH_TEST_HOME").unwrap())).unwrap();
    let why =
        NewInstance::create(&home, &name("new"), "cpus: 2\n", "2.2.0", &platform()).unwrap_err();
    assert!(
        why.to_string().ends_with("new/lima.yaml") && why.to_string().starts_with("cannot write")
    );
    assert!(std::error::Error::source(&why).is_some());
    assert_eq!(names_in(home.path()), ["old"]);

    let old = home.instance(&name("old"));
    let mut record = Record::load(&old).unwrap();
    record.boots += 1;
    let why = record.save(&old).unwrap_err();
    assert!(why.to_string().ends_with("old/berth.json"), "{why}");
    assert_eq!(
        Record::load(&old).unwrap().boots,
        7,
        "the old record is whole"
    );
    assert_eq!(
        names_in(old.path()),
        ["berth.json", "lima-version", "lima.yaml"]
    );
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let home = Home::new();
    let old = home.instance("old", "");
    Record {
        boots: 7,
        ..Record::default()
    }
    .save(&old)
    .unwrap();
    run_alone(
        "trap '' XFSZ; ulimit -f 0",
        "instance_on_a_full_disk",
        "BERTH_TEST_HOME",
        home.home.path(),
    );
}

#[test]
fn a_sweep_removes_what_belongs_to_a_life() {
    let home = Home::new();
    let dir = home.instance("a", "");
    for file in [
        "ha.pid",
        "qemu.pid",
        "x.sock",
        "berth.json.7-0.tmp",
        "disk",
        "ssh.config",
        "pid",
        "sock.x",
    ] {
        std::fs::write(dir.path().join(file), "").unwrap();
    }
    let _socket = std::os::unix::net::UnixListener::bind(dir.ha_sock()).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link.sock")).unwrap();
    std::fs::create_dir(dir.path().join("dir.tmp")).unwrap();
    assert!(delete::sweep(&dir).is_empty());
    assert_eq!(
        names_in(dir.path()),
        [
            "dir.tmp",
            "disk",
            "lima-version",
            "lima.yaml",
            "pid",
            "sock.x",
            "ssh.config"
        ]
    );
    assert!(Path::new("/etc/passwd").exists());
    delete::remove(&dir).unwrap();
    assert!(
        delete::sweep(&dir).is_empty(),
        "one that is gone has nothing to sweep"
    );
}

#[test]
fn a_protected_instance_stays() {
    let home = Home::new();
    let dir = home.instance("a", "");
    // Also a link that leads nowhere protects: Lima looks with lstat.
    std::os::unix::fs::symlink("/nowhere", dir.protected()).unwrap();
    let why = delete::remove(&dir).unwrap_err();
    assert!(matches!(why, DeleteError::Protected(_)), "{why}");
    assert!(dir.lima_yaml().exists());
    std::fs::remove_file(dir.protected()).unwrap();
    delete::remove(&dir).unwrap();
    delete::remove(&dir).expect("removing again");
    assert!(names_in(home.home.path()).is_empty());
}

#[test]
fn links_out_of_an_instance_are_not_followed() {
    let home = Home::new();
    let dir = home.instance("a", "");
    let precious = home.beside().join("precious");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("file"), "").unwrap();
    std::os::unix::fs::symlink(&precious, dir.path().join("cidata")).unwrap();
    delete::remove(&dir).unwrap();
    assert!(precious.join("file").exists());
}

#[test]
fn records_are_for_their_owner() {
    let home = Home::new();
    let dir = home.instance("a", "");
    Record::default().save(&dir).unwrap();
    assert_eq!(mode(&dir.record()), 0o600);
    std::fs::set_permissions(dir.record(), std::fs::Permissions::from_mode(0o644)).unwrap();
    Record::default().save(&dir).unwrap();
    assert_eq!(mode(&dir.record()), 0o600);
}
