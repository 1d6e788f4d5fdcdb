//! A forwarder that is measured: an instance that runs, the traffic programs in its guest, and the processes that the
//! bytes pass through.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bench::processes::Process;
use crate::traffic::{client, ports};

/// Where the traffic program lies in a guest.
const PROGRAM: &str = "/tmp/berth-traffic";

/// How long a forward may take to appear: a limit against hanging.
const APPEARS: Duration = Duration::from_secs(30);

/// Ports of a side, counted from its first one: the server, and those that are opened and closed.
const SERVER: u16 = 0;
pub(super) const OPENED: u16 = 100;

/// An instance with a forwarder.
#[derive(Debug)]
pub(super) struct Side {
    /// For the head of its column.
    pub(super) name: &'static str,
    /// The host agent.
    pub(super) host_agent: Process,
    instance: String,
    ssh_config: PathBuf,
    guest_agent: &'static str,
    vm: Process,
    master: Process,
    first_port: u16,
    server: Option<Helper>,
}

/// A role of a process in a forwarder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The forwarder on the host.
    HostAgent,
    /// Its part in the guest.
    GuestAgent,
    /// OpenSSH's master on the host.
    Ssh,
    /// Its sessions in the guest.
    Sshd,
    /// What runs the guest.
    Machine,
}

impl Side {
    /// Looks at a running instance and starts the server in its guest. Each side has 1,000 ports of its own, the same in
    /// guest and host.
    pub(super) fn new(
        name: &'static str,
        directory: &Path,
        guest_agent: &'static str,
        first_port: u16,
        program: &Path,
    ) -> Result<Self> {
        let instance = directory.file_name().unwrap_or_default();
        let mut side = Self {
            name,
            host_agent: Process::of_pid_file(&directory.join("ha.pid"))?,
            instance: format!("lima-{}", instance.to_string_lossy()),
            ssh_config: directory.join("ssh.config"),
            guest_agent,
            vm: Process::of_pid_file(&directory.join("qemu.pid"))?,
            master: Process::of_ssh_master(&directory.join("ssh.sock"))?,
            first_port,
            server: None,
        };
        side.install(program)?;
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, side.port(SERVER)));
        let mut server = side.run(&["serve", &address.to_string()])?;
        server
            .read_line()
            .context("start the server in the guest")?;
        side.server = Some(server);
        side.wait_for_forward()?;
        Ok(side)
    }

    /// Where the host reaches the server in the guest.
    pub(super) fn target(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port(SERVER)))
    }

    /// A port of this side.
    pub(super) fn port(&self, number: u16) -> u16 {
        self.first_port + number
    }

    /// The guest agent, where the guest's processes can be seen.
    pub(super) fn guest_agent(&self) -> Option<Process> {
        self.vm.descendant(self.guest_agent)
    }

    /// All processes that the bytes pass through.
    pub(super) fn processes(&self) -> Vec<(Role, Vec<Process>)> {
        vec![
            (Role::HostAgent, vec![self.host_agent]),
            (Role::GuestAgent, self.guest_agent().into_iter().collect()),
            (Role::Ssh, vec![self.master]),
            (Role::Sshd, self.vm.descendants("sshd")),
            (Role::Machine, vec![self.vm]),
        ]
    }

    /// Starts the program that opens and closes ports in the guest.
    pub(super) fn start_ports(&self) -> Result<Helper> {
        self.run(&["ports"])
    }

    fn install(&self, program: &Path) -> Result<()> {
        let file = File::open(program).with_context(|| format!("open {}", program.display()))?;
        let copy = format!("cat >{PROGRAM} && chmod 755 {PROGRAM}");
        let status = self.ssh().arg(copy).stdin(file).status();
        let status = status.context("start `ssh`")?;
        if !status.success() {
            bail!(
                "{}: could not copy the traffic program: {status}",
                self.name
            );
        }
        Ok(())
    }

    /// A session of the guest's user, so that it lies in the guest's own control group.
    fn run(&self, words: &[&str]) -> Result<Helper> {
        let mut child = self
            .ssh()
            .arg(format!("exec {PROGRAM} traffic {}", words.join(" ")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start `ssh`")?;
        let input = child.stdin.take().context("it has a standard input")?;
        let output = child.stdout.take().context("it has a standard output")?;
        Ok(Helper {
            child,
            input: Some(input),
            output: BufReader::new(output),
        })
    }

    fn ssh(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F")
            .arg(&self.ssh_config)
            .arg("-T")
            .arg(&self.instance);
        ssh
    }

    /// Until a byte has come back through the forward.
    fn wait_for_forward(&self) -> Result<()> {
        let deadline = Instant::now() + APPEARS;
        while let Err(error) = client::connect_in_turn(self.target(), 1) {
            if Instant::now() > deadline {
                return Err(error.context(format!(
                    "{}: nothing forwards to the guest's port {}",
                    self.name,
                    self.port(SERVER)
                )));
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// A program in a guest that we talk with line by line. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Helper {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Helper {
    /// Sends a command; the answer is to be read.
    pub(super) fn send(&mut self, command: ports::Command) -> Result<()> {
        let input = self.input.as_mut().context("it was not told to end")?;
        writeln!(input, "{command}").context("send a command into the guest")
    }

    /// The answer: when it happened, by the clock that host and guest share.
    pub(super) fn moment(&mut self) -> Result<Duration> {
        let line = self.read_line()?;
        let nanoseconds = line.trim().parse();
        Ok(Duration::from_nanos(
            nanoseconds.with_context(|| format!("the guest answered {line:?}"))?,
        ))
    }

    fn read_line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("read an answer")?;
        if line.is_empty() {
            bail!("the program in the guest has ended");
        }
        Ok(line)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

impl Role {
    /// All of them, in the order of tables.
    pub(super) const ALL: [Self; 5] = [
        Self::HostAgent,
        Self::GuestAgent,
        Self::Ssh,
        Self::Sshd,
        Self::Machine,
    ];

    /// For tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::HostAgent => "host agent",
            Self::GuestAgent => "guest agent",
            Self::Ssh => "ssh",
            Self::Sshd => "sshd",
            Self::Machine => "stand-in for QEMU",
        }
    }
}
