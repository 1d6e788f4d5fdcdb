//! `create`: an instance, or nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::sandbox::{Outcome, Sandbox, dying_qemu, lima_yaml};

fn with_qemu() -> Sandbox {
    let mut sandbox = Sandbox::new();
    let qemu = sandbox.program("qemu-system-x86_64", &dying_qemu("no"));
    sandbox.set("QEMU_SYSTEM_X86_64", qemu);
    sandbox
}

/// Refuses, says why, and leaves nothing.
#[track_caller]
fn refused(sandbox: &Sandbox, lima_yaml: &str, arguments: &[&str]) -> String {
    sandbox.write("t.yaml", lima_yaml);
    let line = [&["create", "--name", "x"], arguments, &["t.yaml"]].concat();
    let message = sandbox.run(&line).fatal();
    assert_eq!(
        sandbox.instances(),
        Vec::<String>::new(),
        "left behind after: {message}"
    );
    message
}

#[test]
fn the_instance_has_its_files_and_their_modes() {
    let sandbox = with_qemu();
    let image = sandbox.image("disk.raw", 8);
    let text = lima_yaml(&image);
    sandbox.write("t.yaml", &text);
    let outcome = sandbox.run(&["create", "t.yaml"]);
    assert!(
        outcome.stderr.contains("Run `berth start t`"),
        "{}",
        outcome.stderr
    );
    let _ = outcome.success();
    let dir = sandbox.instance("t");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("lima.yaml")), 0o644);
    assert_eq!(mode(&dir.join("lima-version")), 0o444);
    assert_eq!(
        fs::read_to_string(dir.join("lima.yaml")).unwrap(),
        text,
        "as it was written"
    );
    assert_eq!(
        fs::metadata(dir.join("disk")).unwrap().len(),
        64 << 20,
        "grown to `disk`"
    );
    assert!(!dir.join("image").exists());
    assert_eq!(
        fs::metadata(&image).unwrap().len(),
        8 << 20,
        "the template's image is untouched"
    );
    assert_eq!(sandbox.run(&["ls", "-q"]).success(), "t\n");
    let message = sandbox.run(&["create", "t.yaml"]).fatal();
    assert_eq!(message, "instance \"t\" already exists");
}

#[test]
fn a_template_on_standard_input_needs_a_name() {
    let sandbox = with_qemu();
    let path = sandbox.write("in", &lima_yaml(&sandbox.image("disk.raw", 1)));
    let from_stdin = |arguments: &[&str]| {
        let stdin = fs::File::open(&path).unwrap();
        Outcome::of(sandbox.berth().args(arguments).stdin(stdin))
    };
    let message = from_stdin(&["create", "-"]).fatal();
    assert!(message.contains("--name"), "{message}");
    let _ = from_stdin(&["create", "--name=s", "-"]).success();
    assert_eq!(sandbox.instances(), ["s"]);
}

#[test]
fn an_image_that_is_not_there() {
    let message = refused(&with_qemu(), &lima_yaml(Path::new("/no/such.img")), &[]);
    assert_eq!(
        message,
        "cannot create instance \"x\": cannot open /no/such.img: No such file or directory (os error 2)"
    );
}

#[test]
fn an_image_with_the_wrong_digest() {
    let sandbox = with_qemu();
    let image = sandbox.image("disk.raw", 1);
    let text = format!("{}  digest: sha256:{}\n", lima_yaml(&image), "0".repeat(64));
    let message = refused(&sandbox, &text, &[]);
    assert!(
        message.contains("disk.raw has the wrong digest: expected sha256:0000"),
        "{message}"
    );
}

#[test]
fn a_disk_smaller_than_its_image() {
    let sandbox = with_qemu();
    let message = refused(&sandbox, &lima_yaml(&sandbox.image("disk.raw", 65)), &[]);
    assert!(
        message.contains("`disk` is 64MiB") && message.contains("needs 65MiB"),
        "{message}"
    );
}

#[test]
fn an_image_that_points_at_other_files() {
    let sandbox = with_qemu();
    let image = sandbox.root().join("work/evil.qcow2");
    let made = std::process::Command::new("qemu-img")
        .args([
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            "/etc/passwd",
        ])
        .arg(&image)
        .arg("1M")
        .status()
        .expect("qemu-img is installed");
    assert!(made.success());
    let message = refused(&sandbox, &lima_yaml(&image), &[]);
    assert!(message.contains("is refused"), "{message}");
}

#[test]
fn no_image_for_the_architecture() {
    let text = lima_yaml(Path::new("/i")).replace("  arch: x86_64", "  arch: aarch64");
    let message = refused(&with_qemu(), &text, &[]);
    assert!(message.contains("images"), "{message}");
}

#[test]
fn text_that_is_no_configuration() {
    let sandbox = with_qemu();
    let path = sandbox.root().join("work/t.yaml");
    let message = refused(&sandbox, "images: []\n  cpus: 1\n", &[]);
    assert!(
        message.contains(&format!("{}:2:", path.display())),
        "{message}"
    );
    let message = refused(&sandbox, "images: [{location: /i}]\narch: z80\n", &[]);
    assert!(
        message.contains(":2:7: field `arch`: unknown value `z80`"),
        "{message}"
    );
}

#[test]
fn a_name_that_is_none() {
    let sandbox = with_qemu();
    sandbox.write("t.yaml", "images: []\n");
    for name in ["a b", "../x", "x.yaml", ""] {
        let message = sandbox.run(&["create", "--name", name, "t.yaml"]).fatal();
        assert!(message.contains("name"), "{name:?}: {message}");
    }
    assert_eq!(sandbox.instances(), Vec::<String>::new());
}

#[test]
fn a_path_that_is_too_long_for_a_socket() {
    let mut sandbox = with_qemu();
    let text = lima_yaml(&sandbox.image("disk.raw", 1));
    sandbox.set("LIMA_HOME", sandbox.root().join("l".repeat(90)));
    sandbox.write("t.yaml", &text);
    let message = sandbox.run(&["create", "t.yaml"]).fatal();
    assert!(message.contains("a unix socket allows 107"), "{message}");
    assert!(!sandbox.root().join("l".repeat(90)).exists());
}

#[test]
fn a_directory_that_cannot_be_written() {
    let mut sandbox = with_qemu();
    let text = lima_yaml(&sandbox.image("disk.raw", 1));
    sandbox.write("t.yaml", &text);
    // Also where root may write everywhere: below a file there can be no directory.
    let file = sandbox.write("file", "");
    sandbox.set("LIMA_HOME", file.join("lima"));
    let message = sandbox.run(&["create", "t.yaml"]).fatal();
    assert!(
        message.contains("LIMA_HOME") || message.contains("cannot create"),
        "{message}"
    );
    assert!(message.contains(&file.display().to_string()), "{message}");
}

#[test]
fn a_missing_qemu() {
    let mut sandbox = Sandbox::new();
    sandbox.set("QEMU_SYSTEM_X86_64", "/no/such/qemu");
    let text = lima_yaml(&sandbox.image("disk.raw", 1));
    let message = refused(&sandbox, &text, &[]);
    assert!(message.contains("/no/such/qemu"), "{message}");
}

#[test]
fn a_guest_agent_that_is_not_installed() {
    let mut sandbox = with_qemu();
    let text = lima_yaml(&sandbox.image("disk.raw", 1))
        .replace("plain: true\n", "containerd: {user: false}\n");
    let message = refused(&sandbox, &text, &[]);
    assert!(
        message.contains("berth-guestagent.Linux-x86_64") && message.contains("plain: true"),
        "{message}"
    );
    sandbox.set("BERTH_GUESTAGENT", "/no/such/agent");
    let message = refused(&sandbox, &text, &[]);
    assert!(
        message.contains("BERTH_GUESTAGENT names the guest agent /no/such/agent"),
        "{message}"
    );
    let agent = sandbox.write("agent", "");
    sandbox.set("BERTH_GUESTAGENT", agent);
    let _ = sandbox.run(&["create", "--name=x", "t.yaml"]).success();
}

#[test]
fn an_interrupted_download_leaves_nothing() {
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;
    let sandbox = with_qemu();
    // A server that accepts and says nothing.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/disk.raw", server.local_addr().unwrap());
    sandbox.write("t.yaml", &lima_yaml(Path::new(&url)));
    let mut child = sandbox
        .berth()
        .args(["create", "--name=x", "t.yaml"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _asked = server.accept().unwrap();
    assert_eq!(
        sandbox.instances(),
        ["x"],
        "the test is about an instance in the making"
    );
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let last = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .last();
    assert!(last.unwrap().contains("interrupted"));
    assert_eq!(sandbox.instances(), Vec::<String>::new());
}
