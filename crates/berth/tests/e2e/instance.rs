//! A LIMA_HOME of its own for each test, and the instances in it.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use berth_events::follow::Follower;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::runtime::Runtime;

use crate::events::Events;
use crate::outcome::Outcome;
use crate::processes::{self, Process};
use crate::{leftovers, setting};

/// What `berth shell` runs to tell one boot from another: when the first process began.
pub(crate) const BOOT: &str = "cut -d' ' -f22 /proc/1/stat";

/// Finds tests that hang. A native-speed guest takes seconds, but its host may be busy.
const HANG: Duration = Duration::from_secs(150);
/// The same for a guest that is emulated.
const HANG_EMULATED: Duration = Duration::from_secs(900);

/// How many lines of each log a failed test shows.
const LOG_LINES: usize = 25;

/// A machine with nobody on it but the test.
pub(crate) struct Home {
    root: TempDir,
    variables: RefCell<Vec<(String, String)>>,
    hardware: String,
    hang: Duration,
    runtime: Runtime,
    /// Pids of the VMs that were seen.
    machines: RefCell<Vec<u32>>,
}

impl Home {
    /// A home whose guests run at native speed.
    pub(crate) fn native() -> Self {
        let mut home = Self::new(HANG);
        home.set("QEMU_SYSTEM_X86_64", setting::testguest());
        home.set("BERTH_TESTGUEST_ROOTFS", setting::rootfs());
        let disk = home.path("disk.raw");
        let file = fs::File::create(&disk).expect("an image");
        file.set_len(64 << 20).expect("a sparse file");
        home.hardware = format!(
            "arch: x86_64\ncpus: 2\nmemory: 1GiB\ndisk: 64MiB\nfirmware: {{legacyBIOS: true}}\n\
             images: [{{location: {}, arch: x86_64}}]\nmounts: []\ncontainerd: {{system: false, user: false}}\n",
            disk.display()
        );
        home
    }

    /// A home whose guests run in a real QEMU, without acceleration.
    pub(crate) fn emulated() -> Self {
        let mut home = Self::new(HANG_EMULATED);
        home.hardware = fs::read_to_string(setting::template()).expect("a template");
        home.set("BERTH_QEMU_ACCEL", "tcg");
        home
    }

    fn new(hang: Duration) -> Self {
        // Sockets need short paths.
        let root = tempfile::Builder::new()
            .prefix("berth")
            .tempdir_in("/tmp")
            .expect("a directory");
        for dir in ["home", "lima"] {
            fs::create_dir(root.path().join(dir)).expect("a directory");
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Self {
            root,
            variables: RefCell::default(),
            hardware: String::new(),
            hang,
            runtime: runtime.expect("a runtime"),
            machines: RefCell::default(),
        }
    }

    /// Sets a variable for every run from now on.
    pub(crate) fn set(&self, name: &str, value: impl AsRef<Path>) {
        let value = value.as_ref().to_str().expect("a text").to_owned();
        let mut variables = self.variables.borrow_mut();
        variables.retain(|(known, _)| known != name);
        variables.push((name.to_owned(), value));
    }

    /// A path outside LIMA_HOME.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn lima_home(&self) -> PathBuf {
        self.path("lima")
    }

    /// An instance, not created yet, whose `lima.yaml` has these lines besides those about its hardware.
    pub(crate) fn instance(&self, name: &'static str, lines: &str) -> Instance<'_> {
        let template = self.path(&format!("{name}.yaml"));
        let mut hardware = self.hardware.clone();
        if lines.lines().any(|line| line.starts_with("mounts:")) {
            hardware = hardware.replace("mounts: []\n", "");
        }
        fs::write(&template, format!("{hardware}{lines}")).expect("a template");
        Instance {
            home: self,
            name,
            template,
        }
    }

    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.path("home"))
            .env("LIMA_HOME", self.lima_home())
            .env("TZ", "UTC")
            .envs(self.variables.borrow().iter().cloned())
            .current_dir(self.root.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn spawn(&self, program: &Path, arguments: &[&str]) -> Child {
        let _entered = self.runtime.enter();
        self.command(program)
            .args(arguments)
            .spawn()
            .expect("a program that can be started")
    }

    /// Runs the program to its end.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_program(&setting::berth(), arguments)
    }

    /// Runs another program with the same environment.
    #[track_caller]
    pub(crate) fn run_program(&self, program: &Path, arguments: &[&str]) -> Outcome {
        let child = self.spawn(program, arguments);
        self.finish(child, &arguments.join(" "))
    }

    #[track_caller]
    fn finish(&self, child: Child, what: &str) -> Outcome {
        let output = self.within(what, child.wait_with_output());
        Outcome::of(output.expect("a program that can be waited for"))
    }

    /// Waits for something that never takes long.
    #[track_caller]
    pub(crate) fn within<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        let result = self
            .runtime
            .block_on(async { tokio::time::timeout(self.hang, work).await });
        result.unwrap_or_else(|_| panic!("hangs for {:?}: {what}", self.hang))
    }

    /// Checks that nothing of any life is left: no process, socket, pid file, lock or half-written file.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        for process in self.processes() {
            process.await_end();
        }
        assert_eq!(leftovers::files(&self.lima_home()), Vec::<PathBuf>::new());
    }

    fn processes(&self) -> Vec<Process> {
        processes::belonging_to(&self.lima_home().to_string_lossy(), &self.machines.borrow())
    }

    #[allow(
        clippy::print_stderr,
        reason = "the test harness shows it with the failure"
    )]
    fn show_logs(&self) {
        for entry in fs::read_dir(self.lima_home())
            .into_iter()
            .flatten()
            .flatten()
        {
            for log in [
                "ha.stdout.log",
                "ha.stderr.log",
                "vm.stderr.log",
                "driver.stderr.log",
                "serial.log",
            ] {
                let path = entry.path().join(log);
                let Ok(bytes) = fs::read(&path) else { continue };
                let text = String::from_utf8_lossy(&bytes);
                let lines: Vec<_> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
                eprintln!("--- the end of {}:\n{}", path.display(), tail.join("\n"));
            }
        }
    }
}

impl Drop for Home {
    /// Shows what a failed test leaves for its reader, and ends what it has left running.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        for process in self.processes() {
            // It may end by itself meanwhile.
            if process.is_alive() {
                process.signal(Signal::KILL);
            }
        }
    }
}

/// One instance.
pub(crate) struct Instance<'home> {
    pub(crate) home: &'home Home,
    pub(crate) name: &'static str,
    template: PathBuf,
}

impl<'home> Instance<'home> {
    /// A file of the instance.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.home.lima_home().join(self.name).join(file)
    }

    /// The content of a file of the instance.
    #[track_caller]
    pub(crate) fn read(&self, file: &str) -> String {
        let path = self.path(file);
        fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
    }

    /// Creates the instance, and does not start it.
    #[track_caller]
    pub(crate) fn create(self) -> Self {
        let _ = self.try_create().success();
        self
    }

    /// Tries to create the instance.
    #[track_caller]
    pub(crate) fn try_create(&self) -> Outcome {
        let template = self.template.to_str().expect("a text");
        self.home.run(&["create", "--name", self.name, template])
    }

    /// Runs `berth start` to its end; creates the instance first if need be.
    #[track_caller]
    pub(crate) fn start(&self, flags: &[&str]) -> Outcome {
        let template = self.template.to_str().expect("a text");
        let target = if self.path("lima.yaml").exists() {
            vec![self.name]
        } else {
            vec!["--name", self.name, template]
        };
        let outcome = self.home.run(&[&["start"], flags, &target].concat());
        self.note_machine();
        outcome
    }

    /// Starts `berth start` of an instance that exists, to be watched.
    #[track_caller]
    pub(crate) fn begin_start(&self, flags: &[&str]) -> Starting<'_, 'home> {
        let events = self.follow("ha.stdout.log");
        let arguments = [&["start"], flags, &[self.name]].concat();
        Starting {
            instance: self,
            command: self.home.spawn(&setting::berth(), &arguments),
            events,
        }
    }

    /// Follows a file of JSON lines. What it holds now was said in an earlier life, or before.
    #[track_caller]
    pub(crate) fn follow(&self, file: &str) -> Lines<'home> {
        let path = self.path(file);
        let _entered = self.home.runtime.enter();
        let follower = if path.exists() {
            Follower::from_end(path)
        } else {
            Follower::from_start(path)
        };
        Lines {
            home: self.home,
            follower: follower.expect("a directory to watch"),
        }
    }

    /// Stops the instance, which must work.
    #[track_caller]
    pub(crate) fn stop(&self) {
        let _ = self.home.run(&["stop", self.name]).success();
    }

    /// Runs a script in the guest, as its user.
    #[track_caller]
    pub(crate) fn shell(&self, script: &str) -> Outcome {
        self.home
            .run(&["shell", "--workdir", "/", self.name, "sh", "-c", script])
    }

    /// The word in the column STATUS of `berth list`.
    #[track_caller]
    pub(crate) fn status(&self) -> String {
        let status = self
            .home
            .run(&["list", "--format", "{{.Status}}", self.name]);
        status.success().trim().to_owned()
    }

    /// The events of the latest life.
    #[track_caller]
    pub(crate) fn events(&self) -> Events {
        Events::read(&self.path("ha.stdout.log"))
    }

    /// The agent.
    #[track_caller]
    pub(crate) fn agent(&self) -> Process {
        Process::of_file(&self.path("ha.pid"))
    }

    /// The VM.
    #[track_caller]
    pub(crate) fn vm(&self) -> Process {
        let vm = Process::of_file(&self.path("qemu.pid"));
        self.note_machine();
        vm
    }

    /// The login that others share.
    #[track_caller]
    pub(crate) fn ssh_master(&self) -> Process {
        let is_master = |command: &str| command.contains("ssh ") && command.contains(" -N ");
        self.find("the ssh master", is_master)
    }

    /// The guest agent of a guest that runs at native speed.
    #[track_caller]
    pub(crate) fn guest_agent(&self) -> Process {
        self.note_machine();
        self.find("the guest agent", |command| {
            command.contains("guestagent") && command.contains(" daemon ")
        })
    }

    #[track_caller]
    fn find(&self, what: &str, is_it: impl Fn(&str) -> bool) -> Process {
        let mut found = self.home.processes();
        found.retain(|process| is_it(process.command()));
        assert_eq!(found.len(), 1, "{what}: {found:#?}");
        found.remove(0)
    }

    /// Remembers the VM, to look for its guest's processes later.
    fn note_machine(&self) {
        let pid = fs::read_to_string(self.path("qemu.pid")).ok();
        let Some(pid) = pid.and_then(|pid| pid.trim().parse().ok()) else {
            return;
        };
        let mut machines = self.home.machines.borrow_mut();
        if !machines.contains(&pid) {
            machines.push(pid);
        }
    }
}

/// The lines of a file, as they are written.
pub(crate) struct Lines<'home> {
    home: &'home Home,
    follower: Follower,
}

impl Lines<'_> {
    /// Waits for a line.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let Self { home, follower } = self;
        home.within(what, async {
            loop {
                let line = follower.next().await.expect("a file that can be read");
                let line: Value = serde_json::from_slice(&line.bytes).expect("JSON");
                if wanted(&line) {
                    return line;
                }
            }
        })
    }

    /// The next line, unless it comes too late.
    pub(crate) fn next_before(&mut self, end: Instant) -> Option<Value> {
        let Self { home, follower } = self;
        let next = async { tokio::time::timeout_at(end.into(), follower.next()).await };
        let line = home.runtime.block_on(next).ok()?;
        let line = line.expect("a file that can be read");
        Some(serde_json::from_slice(&line.bytes).expect("JSON"))
    }
}

/// An instance that somebody starts.
pub(crate) struct Starting<'instance, 'home> {
    instance: &'instance Instance<'home>,
    command: Child,
    events: Lines<'home>,
}

impl Starting<'_, '_> {
    /// Waits for an event.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let event = self.events.until(what, |event| {
            let exiting = event["status"]["exiting"] == true;
            assert!(!exiting, "the agent ends, before: {what}");
            wanted(event)
        });
        self.instance.note_machine();
        event
    }

    /// Waits for the end of `berth start`.
    #[track_caller]
    pub(crate) fn finish(self) -> Outcome {
        let outcome = self.instance.home.finish(self.command, "berth start");
        self.instance.note_machine();
        outcome
    }
}
