//! Machines that do not come up say why, as QEMU does, and leave nothing.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;

use crate::machine::{Parts, program};

#[test]
fn only_root_can_run_one() {
    let output = program().args(["-name", "x"]).uid(65534).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(
        complaint.starts_with("berth-testguest: needs root"),
        "{complaint}"
    );
}

#[test]
fn questions_are_answered_without_root_or_a_system() {
    for (words, want) in [
        (&["--version"][..], "QEMU emulator version 7.2"),
        (&["-M", "none", "-accel", "help"], "\ntcg\n"),
        (&["-M", "none", "-netdev", "help"], "\nuser\n"),
        (&["-machine", "help"], "q35 "),
        (&["-machine", "q35", "-cpu", "help"], "x86 max "),
    ] {
        let output = program()
            .args(words)
            .env_clear()
            .uid(65534)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        let answer = String::from_utf8(output.stdout).unwrap();
        assert!(answer.contains(want), "{words:?}: {answer}");
    }
}

#[test]
fn the_system_must_be_named() {
    let output = program()
        .args(["-name", "x"])
        .env_remove("BERTH_TESTGUEST_ROOTFS")
        .output();
    let complaint = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(
        complaint.contains("BERTH_TESTGUEST_ROOTFS is not set"),
        "{complaint}"
    );
}

#[test]
fn a_busy_port_ends_the_start() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let rule = format!("tcp:{}-:22", busy.local_addr().unwrap());
    let complaint = Parts::new()
        .with_network(&format!(",hostfwd={rule}"))
        .fail();
    let want = format!("Could not set up host forwarding rule '{rule}'\n");
    assert!(complaint.ends_with(&want), "{complaint}");
}

#[test]
fn missing_files_are_named() {
    let parts = Parts::new().with(&["-drive", "file=/nonexistent/disk2,if=virtio"]);
    let complaint = parts.fail();
    assert_eq!(
        complaint,
        "berth-testguest: -drive file=/nonexistent/disk2,if=virtio: Could not open '/nonexistent/disk2': \
         No such file or directory\n"
    );
    let parts = Parts::new().with(&[
        "-chardev",
        "socket,id=a,path=/nonexistent/a,server=on,wait=off",
    ]);
    let complaint = parts.fail();
    let want = "Failed to bind socket to /nonexistent/a: No such file or directory\n";
    assert!(complaint.ends_with(want), "{complaint}");
}

#[test]
fn one_disk_serves_one_machine() {
    let mut first = Parts::new().boot();
    first.output("true");
    let disk = format!("file={},if=virtio", first.parts.path("di,,sk").display());
    let second = program().args(["-drive", &disk]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let complaint = String::from_utf8(second.stderr).unwrap();
    assert!(
        complaint.contains("Failed to get \"write\" lock"),
        "{complaint}"
    );
    assert_eq!(first.output("echo still here"), "still here");
}

#[test]
fn a_cidata_volume_of_garbage_is_said() {
    let parts = Parts::new();
    std::fs::write(parts.path("cidata.iso"), vec![7; 1 << 20]).unwrap();
    let complaint = parts.fail();
    assert!(
        complaint.contains("could not read the cidata volume"),
        "{complaint}"
    );
    assert!(
        complaint.contains("the guest could not be started"),
        "{complaint}"
    );
}
