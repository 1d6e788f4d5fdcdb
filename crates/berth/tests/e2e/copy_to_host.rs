//! `copyToHost`: files of the guest on the host, from the end of a start to the stop.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use crate::full_disk::TinyDisk;
use crate::instance::Home;
use crate::outcome::assert_says;

/// One entry of `copyToHost`, in YAML.
fn rule(guest: &str, host: &Path, more: &str) -> String {
    let host = serde_json::to_string(host).expect("a path");
    format!("- {{guest: {guest}, host: {host}{more}}}\n")
}

#[test]
fn files_come_at_the_start_and_go_at_the_stop() {
    let home = Home::native();
    let [to, shared, precious, tiny] =
        ["to", "shared", "precious", "tiny"].map(|name| home.path(name));
    for directory in [&shared, &precious, &tiny] {
        fs::create_dir(directory).expect("a directory");
    }
    let disk = TinyDisk::mount(&tiny, 1024);
    // As a guest could have made it.
    symlink(&precious, shared.join("link")).expect("a link");
    fs::write(precious.join("copy"), "precious").expect("a file");
    let rules = [
        rule(
            "/etc/hostname",
            &to.join("hostname"),
            ", deleteOnStop: true",
        ),
        rule("/etc/shadow", &to.join("shadow"), ""),
        rule("/no/such/file", &to.join("none"), ", skipIfMissing: true"),
        rule("/no/such/file", &to.join("none"), ""),
        rule("/var/tmp/big", &to.join("big"), ""),
        rule("/var/tmp/big", &tiny.join("big"), ""),
        rule(
            "/etc/hostname",
            &shared.join("link/copy"),
            ", deleteOnStop: true",
        ),
        rule("/etc/hostname", &shared.join("real/copy"), ""),
    ];
    let instance = home.instance(
        "x",
        &format!(
            "mountType: reverse-sshfs\nmounts: [{{location: {}, writable: true, mountPoint: /mnt/x}}]\n\
             provision: [{{mode: system, script: 'test -e /var/tmp/big || head -c 20000000 /dev/urandom >/var/tmp/big'}}]\n\
             copyToHost:\n{}",
            shared.display(),
            rules.concat()
        ),
    );
    let started = instance.start(&[]);
    assert_says(
        &started.stderr,
        &[
            "copyToHost[3]",
            "No such file or directory",
            "copyToHost[5]",
            "the guest sends more than",
            "copyToHost[6]",
            "the guest could have made it do so",
        ],
    );
    for spared in ["copyToHost[0]", "copyToHost[2]", "copyToHost[7]"] {
        assert!(!started.stderr.contains(spared), "{started:#?}");
    }
    assert!(instance.events().words().contains(&"degraded".to_owned()));

    let read = |path: &Path| fs::read_to_string(path).expect("a copy");
    assert_eq!(read(&to.join("hostname")), "lima-x\n");
    assert_eq!(read(&shared.join("real/copy")), "lima-x\n");
    assert_says(&read(&to.join("shadow")), &["root:", "lima:"]);
    let mode = fs::metadata(to.join("shadow"))
        .expect("a copy")
        .permissions();
    assert_eq!(mode.mode() & 0o7777, 0o600);
    let sum = |output: String| output.split(' ').next().unwrap_or_default().to_owned();
    let theirs = sum(instance.shell("sha256sum /var/tmp/big").success());
    let big = to.join("big");
    let ours = home.run_program(Path::new("sha256sum"), &[big.to_str().expect("a text")]);
    assert_eq!(sum(ours.success()), theirs);
    assert_eq!(names(&to), ["big", "hostname", "shadow"]);
    assert_eq!(names(&tiny), Vec::<String>::new());

    instance.stop();
    assert_eq!(names(&to), ["big", "shadow"]);
    assert_eq!(read(&precious.join("copy")), "precious");
    assert_says(
        &instance.events().exit_errors().concat(),
        &["copyToHost", "the guest could have made it do so"],
    );
    home.assert_nothing_left();
    drop(disk);
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> = entries
        .map(|entry| name(entry.expect("an entry")))
        .collect();
    names.sort();
    names
}
