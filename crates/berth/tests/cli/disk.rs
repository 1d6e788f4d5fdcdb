//! `disk`, with the real qemu-img.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Stdio};

use crate::sandbox::{Outcome, Sandbox, lima_yaml};

fn disk(sandbox: &Sandbox, arguments: &[&str]) -> Outcome {
    Outcome::of(sandbox.berth().arg("disk").args(arguments))
}

fn done(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let outcome = disk(sandbox, arguments);
    assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
    outcome.stdout
}

fn refused(sandbox: &Sandbox, arguments: &[&str], why: &str) {
    let outcome = disk(sandbox, arguments);
    assert_eq!(outcome.code, Some(1), "{arguments:?}: {}", outcome.stderr);
    let told = outcome.stderr.replace('\\', "");
    assert!(told.contains(why), "{arguments:?}: {told}");
}

#[test]
fn a_disks_whole_life() {
    let sandbox = Sandbox::new();
    done(&sandbox, &["create", "data", "--size", "10GiB"]);
    done(
        &sandbox,
        &["create", "plain", "--size", "1MiB", "--format", "raw"],
    );
    let dir = sandbox.lima_home().join("_disks/data");
    let mode = fs::metadata(&dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    done(&sandbox, &["resize", "data", "--size", "20GiB"]);
    let listed = done(&sandbox, &["ls", "data", "--json"]);
    let expected = format!(
        r#"{{"name":"data","size":{},"format":"qcow2","dir":"{}","instance":"","instanceDir":"","mountPoint":"/mnt/lima-data"}}"#,
        20_u64 << 30,
        dir.display()
    );
    assert_eq!(listed.trim_end(), expected);
    let table = done(&sandbox, &["list"]);
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["NAME", "SIZE", "FORMAT", "DIR", "IN-USE-BY"]);
    assert_eq!(&lines[1][..3], ["data", "20GiB", "qcow2"]);
    assert_eq!(&lines[2][..3], ["plain", "1MiB", "raw"]);
    done(&sandbox, &["delete", "data", "plain", "neither"]);
    assert_eq!(done(&sandbox, &["list"]), "");
    assert!(!dir.exists());
}

#[test]
fn what_fails_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    refused(
        &sandbox,
        &["create", "../x", "--size", "1GiB"],
        "name \"../x\" is no identifier",
    );
    refused(&sandbox, &["create", "x", "--size", "many"], "--size");
    refused(&sandbox, &["create", "x", "--size", "0"], "--size");
    let missing = sandbox.root().join("no such image");
    refused(
        &sandbox,
        &["import", "x", missing.to_str().unwrap()],
        "no such image",
    );
    refused(
        &sandbox,
        &["resize", "x", "--size", "1GiB"],
        "disk \"x\" does not exist",
    );
    assert!(!sandbox.lima_home().join("_disks/x").exists());
    done(&sandbox, &["create", "x", "--size", "2GiB"]);
    refused(
        &sandbox,
        &["create", "x", "--size", "1GiB"],
        "disk \"x\" already exists",
    );
    refused(
        &sandbox,
        &["resize", "x", "--size", "1GiB"],
        "it has 2GiB already, and disks cannot shrink",
    );
}

#[test]
fn an_imported_image_keeps_its_content() {
    let sandbox = Sandbox::new();
    let image = sandbox.image("image", 4);
    let mut content = fs::read(&image).unwrap();
    content[1 << 20..][..5].copy_from_slice(b"hello");
    fs::write(&image, &content).unwrap();
    done(&sandbox, &["import", "data", image.to_str().unwrap()]);
    let data = sandbox.lima_home().join("_disks/data/datadisk");
    assert!(fs::read(data).unwrap() == content);
}

#[test]
fn a_disk_in_use_is_let_alone_and_a_dead_owner_has_none() {
    let sandbox = Sandbox::new();
    done(&sandbox, &["create", "data", "--size", "1GiB"]);
    let owner = sandbox.existing("x", &lima_yaml(std::path::Path::new("/i")));
    let lock = sandbox.lima_home().join("_disks/data/in_use_by");
    symlink(&owner, &lock).unwrap();
    let mut agent = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    fs::write(owner.join("ha.pid"), format!("{}\n", agent.id())).unwrap();
    for arguments in [
        &["delete", "data"][..],
        &["delete", "-f", "data"],
        &["unlock", "data"],
        &["resize", "data", "--size", "2GiB"],
    ] {
        refused(
            &sandbox,
            arguments,
            "disk \"data\" is in use by instance \"x\"",
        );
    }
    assert!(done(&sandbox, &["ls", "--json"]).contains(r#""instance":"x""#));
    agent.kill().unwrap();
    agent.wait().unwrap();
    done(&sandbox, &["unlock", "data"]);
    assert!(fs::symlink_metadata(&lock).is_err());
    done(&sandbox, &["delete", "data"]);
}

#[test]
fn a_disk_that_a_stopped_instance_names_is_deleted_only_by_force() {
    let sandbox = Sandbox::new();
    done(&sandbox, &["create", "data", "--size", "1GiB"]);
    let yaml = lima_yaml(std::path::Path::new("/i")) + "additionalDisks: [data]\n";
    sandbox.existing("x", &yaml);
    let outcome = disk(&sandbox, &["delete", "data"]);
    assert_eq!(outcome.code, Some(0));
    assert!(
        outcome.stderr.contains("instance \\\"x\\\" names it"),
        "{}",
        outcome.stderr
    );
    assert!(sandbox.lima_home().join("_disks/data").exists());
    done(&sandbox, &["delete", "-f", "data"]);
    assert!(!sandbox.lima_home().join("_disks/data").exists());
}
