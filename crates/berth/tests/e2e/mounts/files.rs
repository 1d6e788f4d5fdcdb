//! What can be done with files, and what cannot.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::{directory, entry, lines, mounted};
use crate::instance::Home;
use crate::outcome::assert_says;
use crate::variant::Variant;

/// Characters that shells, YAML, HTML, mount tables and Lima's own check read in their own way.
const ODD: &str = "/mnt/odd +&<>'\"$(x)`y`\\ ü\n#";

#[test]
fn a_directory_is_used_as_if_it_were_the_guests() {
    let home = Home::native();
    let [writable, read_only, inner] =
        ["writable", "read-only", "inner"].map(|name| directory(&home, name));
    fs::write(read_only.join("here"), "from the host\n").expect("a file");
    let instance = home.instance(
        "x",
        &lines(&[
            entry(&inner, "/mnt/w/in/ner", ", writable: true"),
            entry(
                &writable,
                "/mnt/w",
                ", writable: true, sshfs: {cache: false}",
            ),
            entry(
                &read_only,
                ODD,
                ", sshfs: {sftpDriver: openssh-sftp-server}",
            ),
        ]),
    );
    let _ = instance.start(&[]).success();
    assert!(instance.events().words().contains(&"mounts=ok".to_owned()));
    let log = instance.read("ha.stderr.log");
    assert_eq!(log.matches("is not confined").count(), 1, "{log}");

    assert_eq!(mounted(&instance, "/mnt/w").len(), 1);
    assert_eq!(mounted(&instance, "/mnt/w/in/ner").len(), 1);
    let read_only_mount = mounted(&instance, ODD);
    assert_eq!(read_only_mount.len(), 1);
    assert!(
        read_only_mount[0].starts_with("fuse.sshfs ro,"),
        "{read_only_mount:?}"
    );

    let work = "set -e; cd /mnt/w
        echo one > a; mv a b; ln -s b link; mkdir -p d/e; cp link d/e/c; echo two >> b
        cat link; readlink link; cat d/e/c; rm -r d; stat -c %U .; umask 022; : > mode; chmod 751 mode
        echo deep > in/ner/file";
    assert_eq!(instance.shell(work).success(), "one\ntwo\nb\none\nlima\n");
    assert_eq!(
        fs::read_to_string(writable.join("b")).unwrap(),
        "one\ntwo\n"
    );
    assert_eq!(
        fs::read_link(writable.join("link")).unwrap().to_str(),
        Some("b")
    );
    assert!(!writable.join("d").exists());
    let mode = fs::metadata(writable.join("mode")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o751);
    assert_eq!(fs::read_to_string(inner.join("file")).unwrap(), "deep\n");
    fs::write(writable.join("new"), "late\n").unwrap();
    assert_eq!(instance.shell("cat /mnt/w/new").success(), "late\n");

    let quoted = ODD.replace('\'', "'\\''");
    let read = instance.shell(&format!("cat '{quoted}/here'"));
    assert_eq!(read.success(), "from the host\n");
    let write = instance.shell(&format!("echo x > '{quoted}/not'"));
    assert_ne!(write.code, Some(0));
    assert!(write.stderr.contains("Read-only"), "{write:?}");
    assert!(!read_only.join("not").exists());

    // Written, and not closed when the guest is stopped.
    let open = "exec 3> /mnt/w/open; echo kept >&3; sleep 1000 >/dev/null 2>&1 &";
    let _ = instance.shell(open).success();
    instance.stop();
    assert_eq!(instance.events().exit_errors(), Vec::<String>::new());
    assert_eq!(fs::read_to_string(writable.join("open")).unwrap(), "kept\n");
    home.assert_nothing_left();
}

#[test]
fn a_mount_that_fails_degrades_and_is_named_until_it_works() {
    let home = Home::native();
    let broken = "#!/bin/sh\necho 'no luck today' >&2\nexit 7\n";
    let guest = Variant::with_files(&home, &[("usr/local/bin/sshfs", broken)]);
    home.set("BERTH_TESTGUEST_ROOTFS", guest.root());
    let shared = directory(&home, "shared");
    let instance = home.instance("x", &lines(&[entry(&shared, "/mnt/x", "")]));
    let started = instance.start(&[]);
    assert_says(
        &started.stderr,
        &["/mnt/x", "sshfs exited with code 7: no luck today"],
    );
    assert_eq!(mounted(&instance, "/mnt/x"), Vec::<String>::new());
    let mut events = instance.follow("ha.stdout.log");
    let _ = instance.shell("sudo rm /usr/local/bin/sshfs").success();
    events.until("the instance to be healthy", |event| {
        event["status"]["running"] == true && event["status"]["degraded"] != true
    });
    assert_eq!(mounted(&instance, "/mnt/x").len(), 1);
    instance.stop();
    home.assert_nothing_left();
}
