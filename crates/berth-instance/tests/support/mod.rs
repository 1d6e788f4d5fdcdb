//! What the tests of this crate have in common: a LIMA_HOME of their own, and processes to watch.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use berth_config::model::Arch;
use berth_config::name::InstanceName;
use berth_config::platform::{HostOs, HostPlatform};
use berth_config::size::Size;
use berth_instance::create::NewInstance;
use berth_instance::dir::InstanceDir;
use berth_instance::home::LimaHome;
use berth_process::identity::ProcessIdentity;

pub(crate) struct Home {
    dir: tempfile::TempDir,
    pub(crate) home: LimaHome,
}

impl Home {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let home = LimaHome::at(&dir.path().join("lima")).expect("a home");
        std::fs::create_dir(home.path()).expect("writable");
        Self { dir, home }
    }

    pub(crate) fn instance(&self, name: &str, lima_yaml: &str) -> InstanceDir {
        let name = InstanceName::parse(name).expect(name);
        NewInstance::create(&self.home, &name, lima_yaml, "2.2.0", &platform())
            .expect("made")
            .keep()
    }

    pub(crate) fn disk(&self, name: &str) -> berth_instance::disk::DiskDir {
        let disk = self.home.disk(name);
        std::fs::create_dir_all(disk.path()).expect("writable");
        disk
    }

    pub(crate) fn beside(&self) -> &Path {
        self.dir.path()
    }
}

pub(crate) fn platform() -> HostPlatform {
    HostPlatform {
        os: HostOs::Linux,
        arch: Arch::X8664,
        os_version: String::new(),
        cpus: 4,
        memory: Size::from_bytes(8 << 30),
        home: "/home/jane".into(),
        user: "jane".into(),
        user_comment: String::new(),
        uid: 1000,
        machine_id: "m".into(),
        timezone: String::new(),
        temp_dir: "/tmp".into(),
    }
}

pub(crate) fn names_in(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|e| {
            e.expect("an entry")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    names.sort();
    names
}

/// A process that lives until this is dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start() -> Self {
        // Ends with its standard input at the latest: nothing is left behind when a test is killed.
        let child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self(child.expect("cat"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn identity(&self) -> ProcessIdentity {
        ProcessIdentity::of(self.pid()).expect("alive")
    }

    /// Kills it and gives the pid that nobody has now.
    pub(crate) fn kill(mut self) -> u32 {
        self.0.kill().expect("killed");
        self.0.wait().expect("reaped");
        self.pid()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails when it was killed before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs one ignored test of this binary in a process of its own, behind a shell prelude; it must pass.
pub(crate) fn run_alone(prelude: &str, test: &str, variable: &str, value: &Path) {
    let output = Command::new("/bin/sh")
        .args(["-c", &format!("{prelude}\nexec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().expect("an executable"))
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env(variable, value)
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{output:?}"
    );
}
