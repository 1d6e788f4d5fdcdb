//! A guest for tests: a temporary directory as its root, and programs that are noted instead of run.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::rc::Rc;

use berth_link::boot::{BOOT_SPEC_VERSION, BootSpec, BootUser};
use berth_link::event::StepReport;
use tempfile::TempDir;

use crate::accounts::Owner;
use crate::boot::step::{Done, Site, StepError, Work};
use crate::console::Console;
use crate::guest::Guest;
use crate::programs::{Command, Finished, Output, Programs, Running};
use crate::progress::{Progress, RUNTIME_DIRECTORY};
use crate::ready::Readiness;

/// A guest with a user named `lima`, and the notes of what was run in it.
pub(crate) struct Scene {
    root: TempDir,
    /// The guest.
    pub(crate) guest: Guest,
    /// What the host asks for: little, until the test says more.
    pub(crate) spec: BootSpec,
    volume: TempDir,
    notes: Rc<Notes>,
    readiness: Readiness,
}

#[derive(Debug, Default)]
struct Notes {
    commands: RefCell<Vec<Command>>,
    /// First words of a command line, exit code, output.
    answers: RefCell<Vec<(String, i32, String)>>,
}

impl Programs for Rc<Notes> {
    fn run<'a>(&'a self, command: &'a Command, output: Output) -> Running<'a> {
        self.commands.borrow_mut().push(command.clone());
        let words = command.words();
        let answers = self.answers.borrow();
        let found = answers
            .iter()
            .find(|(first, _, _)| words.starts_with(first.as_str()));
        let (code, mut answer) =
            found.map_or((0, String::new()), |(_, code, text)| (*code, text.clone()));
        if let Output::Log(mut log) = output {
            log.write_all(answer.as_bytes()).unwrap();
            answer.clear();
        }
        Box::pin(std::future::ready(Ok(Finished { code, answer })))
    }
}

impl Scene {
    /// A guest without any init system.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// A guest with systemd.
    pub(crate) fn systemd() -> Self {
        Self::with(&["run/systemd/system"])
    }

    fn with(directories: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["etc", "run", "var/log", "home/lima", "usr/bin"]
            .iter()
            .chain(directories)
        {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let Owner { uid, gid } = me();
        let passwd =
            format!("root:x:0:0:root:/root:/bin/sh\nlima:x:{uid}:{gid}:Me:/home/lima:/bin/sh\n");
        fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        let notes = Rc::<Notes>::default();
        Self {
            guest: Guest::at(root.path(), Box::new(Rc::clone(&notes))),
            root,
            spec: spec(),
            volume: tempfile::tempdir().unwrap(),
            notes,
            readiness: Readiness::default(),
        }
    }

    /// Where a path of the guest really is.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.guest.path(path)
    }

    /// Writes a file of the guest, with its directories.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Installs a program that is only looked for.
    pub(crate) fn install(&self, program: &str) {
        self.write(&format!("/usr/bin/{program}"), "");
    }

    /// Makes a symbolic link in the guest.
    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    /// Reads a file of the guest.
    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
    }

    /// Permission bits of a file of the guest.
    pub(crate) fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.path(path)).unwrap().permissions().mode() & 0o7777
    }

    /// Writes a file of the cidata volume.
    pub(crate) fn write_volume(&self, file: &str, text: &str) {
        let path = self.volume.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Has command lines that begin so end with a code and print something. Others succeed silently. The first that fits counts.
    pub(crate) fn answer(&self, first_words: &str, code: i32, output: &str) {
        let answer = (first_words.to_owned(), code, output.to_owned());
        self.notes.answers.borrow_mut().push(answer);
    }

    /// The command lines run since the last call.
    pub(crate) fn ran(&self) -> Vec<String> {
        self.commands().iter().map(Command::words).collect()
    }

    /// The commands run since the last call.
    pub(crate) fn commands(&self) -> Vec<Command> {
        self.notes.commands.take()
    }

    /// What the engine works with.
    pub(crate) fn site(&self) -> Site<'_> {
        Site {
            spec: &self.spec,
            guest: &self.guest,
            volume: self.volume.path(),
            readiness: &self.readiness,
        }
    }

    /// Runs one step.
    pub(crate) async fn run(
        &self,
        step: impl AsyncFn(&Work<'_>) -> Result<Done, StepError>,
    ) -> Result<Done, StepError> {
        step(&Work::new(&self.site(), "step")).await
    }

    /// Runs one step that waits for nothing.
    pub(crate) fn now(
        &self,
        step: impl Fn(&Work<'_>) -> Result<Done, StepError>,
    ) -> Result<Done, StepError> {
        step(&Work::new(&self.site(), "step"))
    }

    /// Runs one step that waits for nothing twice: it must change something, then nothing.
    pub(crate) fn now_twice(&self, step: impl Fn(&Work<'_>) -> Result<Done, StepError>) {
        assert_eq!(self.now(&step).unwrap(), Done::Changed);
        assert_eq!(self.now(&step).unwrap(), Done::Already);
    }

    /// Asks something of one step's code.
    pub(crate) async fn run_for<T>(&self, ask: impl AsyncFn(&Work<'_>) -> T) -> T {
        ask(&Work::new(&self.site(), "step")).await
    }

    /// Runs one step twice: it must change something, then nothing.
    pub(crate) async fn run_twice(&self, step: impl AsyncFn(&Work<'_>) -> Result<Done, StepError>) {
        assert_eq!(self.run(&step).await.unwrap(), Done::Changed);
        let ran = self.ran();
        assert_eq!(self.run(&step).await.unwrap(), Done::Already);
        assert_eq!(self.ran(), Vec::<String>::new(), "first: {ran:?}");
        self.notes
            .commands
            .replace(ran.iter().map(Command::new).collect());
    }

    /// The record of this guest's boot.
    pub(crate) fn progress(&self) -> Progress {
        Progress::open(&self.path(RUNTIME_DIRECTORY), "boot", None, Console::none()).unwrap()
    }

    /// The steps that have ended in this guest's boot.
    pub(crate) fn reports(&self) -> Vec<StepReport> {
        self.progress().steps()
    }

    /// The root, for what is outside the guest's own view.
    pub(crate) fn root(&self) -> &std::path::Path {
        self.root.path()
    }
}

/// Who runs the tests: files can be given to nobody else without being root.
pub(crate) fn me() -> Owner {
    Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    }
}

fn spec() -> BootSpec {
    BootSpec {
        version: BOOT_SPEC_VERSION,
        instance: "default".to_owned(),
        instance_id: "iid-1700000000".to_owned(),
        hostname: "lima-default".to_owned(),
        vm_type: "qemu".to_owned(),
        plain: false,
        user: BootUser {
            name: "lima".to_owned(),
            uid: 1000,
            comment: String::new(),
            home: "/home/lima".to_owned(),
            shell: "/bin/sh".to_owned(),
            passwordless_sudo: true,
        },
        authorized_keys: Vec::new(),
        host_keys: Vec::new(),
        nics: Vec::new(),
        dns: Vec::new(),
        host_resolver: None,
        hosts: BTreeMap::default(),
        timezone: String::new(),
        env: BTreeMap::default(),
        param: BTreeMap::default(),
        ca_certs: Vec::new(),
        ca_remove_defaults: false,
        mounts: Vec::new(),
        mount_type: String::new(),
        disks: Vec::new(),
        provision: Vec::new(),
        skip_default_dependencies: false,
        upgrade_packages: false,
        containerd_system: false,
        containerd_user: false,
        containerd_archive: String::new(),
        guest_install_prefix: "/usr/local".to_owned(),
        make_user: false,
        ssh_port: 22,
        early_sshd: false,
        rosetta: None,
        debug: false,
    }
}
