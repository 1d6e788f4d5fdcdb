//! A machine in a directory of its own, with a program in the guest that runs what the test asks for.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Nothing here takes long, but machines can be slow: after this something hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Name of the port that tests talk through.
pub(crate) const PORT: &str = "test.port";

/// In the guest: takes lines of JSON from the port, runs each as a shell command, and answers with code and output.
const AGENT: &str = r#"
import json, socket, subprocess
while True:
    port = socket.socket(socket.AF_UNIX)
    port.connect("/dev/virtio-ports/test.port")
    lines = port.makefile("rw")
    for line in lines:
        done = subprocess.run(json.loads(line), shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines.write(json.dumps([done.returncode, done.stdout]) + "\n")
        lines.flush()
"#;

/// The program under test.
pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_berth-testguest"))
}

/// What a machine is made of, before it starts.
pub(crate) struct Parts {
    dir: TempDir,
    extra: Vec<String>,
    network: String,
    networked: bool,
}

impl Parts {
    /// A disk, and a cidata volume that starts the agent at each boot.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("guest")
            .tempdir_in("/tmp")
            .unwrap();
        // A comma in a path has to be doubled on the command line.
        fs::write(dir.path().join("di,sk"), "").unwrap();
        let parts = Self {
            dir,
            extra: Vec::new(),
            network: String::new(),
            networked: true,
        };
        parts.write_cidata();
        parts
    }

    fn write_cidata(&self) {
        let seed = self.path("seed");
        fs::create_dir(&seed).unwrap();
        fs::write(seed.join("agent.py"), AGENT).unwrap();
        fs::write(
            seed.join("meta-data"),
            "instance-id: test\nlocal-hostname: tester\n",
        )
        .unwrap();
        let start = "mount LABEL=cidata /mnt && cp /mnt/agent.py /run && systemd-run --no-block --unit agent python3 /run/agent.py";
        let user_data = json!({ "bootcmd": [["sh", "-c", start]], "ssh_genkeytypes": ["ed25519"] });
        fs::write(
            seed.join("user-data"),
            format!("#cloud-config\n{user_data}\n"),
        )
        .unwrap();
        let made = Command::new("xorriso")
            .args(["-as", "mkisofs", "-quiet", "-V", "cidata", "-R", "-o"])
            .args([&self.path("cidata.iso"), &seed])
            .stderr(Stdio::null())
            .status()
            .expect("xorriso is installed");
        assert!(made.success());
    }

    /// A file of the machine.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Adds an option.
    pub(crate) fn with(mut self, words: &[&str]) -> Self {
        self.extra.extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    /// Adds to the user network's options.
    pub(crate) fn with_network(mut self, options: &str) -> Self {
        self.network += options;
        self
    }

    /// Takes the network away.
    pub(crate) fn without_network(mut self) -> Self {
        self.networked = false;
        self
    }

    fn command_line(&self) -> Vec<String> {
        let dir = self.dir.path().display();
        let network = if self.networked {
            format!(
                "-netdev user,id=net0,net=192.168.5.0/24,dhcpstart=192.168.5.15{} \
                 -device virtio-net-pci,netdev=net0,mac=52:55:55:12:34:56",
                self.network
            )
        } else {
            String::new()
        };
        let line = format!(
            "-m 512 -machine q35 -name lima-test -pidfile {dir}/pid \
             -drive file={dir}/di,,sk,format=raw,if=none,id=disk -device virtio-blk-pci,drive=disk \
             -drive id=cd,if=none,format=raw,readonly=on,file={dir}/cidata.iso \
             {network} \
             -chardev socket,id=serial,path={dir}/serial.sock,server=on,wait=off,logfile={dir}/serial.log \
             -serial chardev:serial \
             -chardev socket,id=qmp,path={dir}/qmp.sock,server=on,wait=off -qmp chardev:qmp \
             -qmp unix:{dir}/qmp2.sock,server=on,wait=off \
             -chardev socket,id=port,path={dir}/port.sock,server=on,wait=off -device virtio-serial-pci \
             -device virtserialport,chardev=port,name={PORT},id=test-port",
        );
        let words = line.split_whitespace().map(str::to_owned);
        words.chain(self.extra.iter().cloned()).collect()
    }

    /// Runs a machine that does not come up, and returns what it complains about.
    pub(crate) fn fail(&self) -> String {
        let output = program()
            .args(self.command_line())
            .stdin(Stdio::null())
            .output()
            .expect("the program starts");
        assert_eq!(output.status.code(), Some(1));
        for file in ["pid", "qmp.sock", "qmp2.sock", "port.sock", "serial.sock"] {
            assert!(!self.path(file).exists(), "{file} was left behind");
        }
        String::from_utf8(output.stderr).unwrap()
    }

    /// Starts the machine and greets its first monitor.
    pub(crate) fn boot(self) -> Machine {
        let stderr = fs::File::create(self.path("stderr")).unwrap();
        let child = program()
            .args(self.command_line())
            .stdin(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("the program starts");
        let mut machine = Machine {
            child,
            qmp: None,
            port: None,
            events: Vec::new(),
            parts: self,
        };
        machine.qmp = Some(machine.monitor("qmp.sock"));
        machine.qmp("qmp_capabilities", &json!({}));
        machine.port = Some(BufReader::new(machine.connect("port.sock")));
        machine
    }
}

/// A running machine. Dropped, it is killed.
pub(crate) struct Machine {
    pub(crate) child: Child,
    pub(crate) parts: Parts,
    qmp: Option<BufReader<UnixStream>>,
    port: Option<BufReader<UnixStream>>,
    events: Vec<Value>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            for name in ["stderr", "serial.log"] {
                let text = fs::read(self.parts.path(name)).unwrap_or_default();
                println!("{name}:\n{}", String::from_utf8_lossy(&text));
            }
        }
    }
}

impl Machine {
    /// Connects to a socket of the machine as soon as it listens.
    pub(crate) fn connect(&self, name: &str) -> UnixStream {
        let path = self.parts.path(name);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    return stream;
                }
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
            }
            std::thread::yield_now();
        }
    }

    /// Opens a monitor and reads its greeting.
    pub(crate) fn monitor(&self, name: &str) -> BufReader<UnixStream> {
        let mut stream = BufReader::new(self.connect(name));
        assert!(read_json(&mut stream)["QMP"].is_object());
        stream
    }

    /// Carries out a QMP command; events that come first are kept.
    pub(crate) fn qmp(&mut self, command: &str, arguments: &Value) -> Value {
        let stream = self.qmp.as_mut().unwrap();
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(stream.get_mut(), "{request}").unwrap();
        loop {
            let value = read_json(stream);
            if value["event"].is_null() {
                return value;
            }
            self.events.push(value);
        }
    }

    /// Carries out a command of the human monitor and returns its text.
    pub(crate) fn human(&mut self, line: &str) -> String {
        let answer = self.qmp("human-monitor-command", &json!({ "command-line": line }));
        answer["return"].as_str().expect("text").to_owned()
    }

    /// Waits for an event and returns its data; events before it are dropped.
    #[track_caller]
    pub(crate) fn await_event(&mut self, name: &str) -> Value {
        loop {
            let event = if self.events.is_empty() {
                read_json(self.qmp.as_mut().unwrap())
            } else {
                self.events.remove(0)
            };
            if event["event"] == name {
                assert!(event["timestamp"]["seconds"].is_number());
                return event["data"].clone();
            }
        }
    }

    /// Runs a shell command in the guest, as root, once it is up.
    #[track_caller]
    pub(crate) fn run(&mut self, command: &str) -> (i64, String) {
        self.ask(command);
        self.answer()
    }

    /// Runs a shell command that must succeed, and returns its output without the last line end.
    #[track_caller]
    pub(crate) fn output(&mut self, command: &str) -> String {
        let (code, output) = self.run(command);
        assert_eq!(code, 0, "{command}: {output}");
        output.trim_end().to_owned()
    }

    /// Sends a command without waiting for it.
    pub(crate) fn ask(&mut self, command: &str) {
        let port = self.port.as_mut().unwrap();
        writeln!(port.get_mut(), "{}", json!(command)).unwrap();
    }

    /// The answer to what was asked.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> (i64, String) {
        let answer = read_json(self.port.as_mut().unwrap());
        let output = answer[1].as_str().expect("output").to_owned();
        (answer[0].as_i64().expect("a code"), output)
    }

    /// Leaves the port and comes back as another host.
    pub(crate) fn reconnect_port(&mut self) {
        self.port = None;
        self.port = Some(BufReader::new(self.connect("port.sock")));
    }

    /// The connection to the port.
    pub(crate) fn port(&self) -> &UnixStream {
        self.port.as_ref().unwrap().get_ref()
    }

    /// Presses the power button and waits for the end.
    pub(crate) fn power_off(mut self) {
        assert_eq!(
            self.qmp("system_powerdown", &json!({})),
            json!({ "return": {} })
        );
        self.await_event("POWERDOWN");
        let why = self.await_event("SHUTDOWN");
        assert_eq!(why, json!({ "guest": true, "reason": "guest-shutdown" }));
        assert_eq!(self.await_end().code(), Some(0));
        self.assert_nothing_is_left();
    }

    /// Waits for the end of the process.
    pub(crate) fn await_end(&mut self) -> ExitStatus {
        await_exit(self.child.id());
        self.child.wait().unwrap()
    }

    /// Checks that a machine that ended in order has removed what it made.
    pub(crate) fn assert_nothing_is_left(&self) {
        for file in ["pid", "qmp.sock", "qmp2.sock", "port.sock", "serial.sock"] {
            assert!(!self.parts.path(file).exists(), "{file} was left behind");
        }
        let mark = self.parts.dir.path().to_str().unwrap();
        let users = processes_with(mark);
        assert!(users.is_empty(), "processes {users:?} were left behind");
    }
}

/// Processes that have a text on their command line.
pub(crate) fn processes_with(text: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    let has_text = |pid: &u32| {
        let line = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline"));
        String::from_utf8_lossy(&line.unwrap_or_default()).contains(text)
    };
    pids.filter(|pid| *pid != std::process::id())
        .filter(has_text)
        .collect()
}

/// Waits until a process is dead.
pub(crate) fn await_exit(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
    let limit = rustix::time::Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(
        rustix::event::poll(&mut polled, Some(&limit)),
        Ok(1),
        "it lives on"
    );
}

/// The next line, as JSON.
#[track_caller]
pub(crate) fn read_json(stream: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a line in time");
    assert!(line.ends_with('\n'), "the other end hung up after {line:?}");
    serde_json::from_str(&line).expect("JSON")
}
