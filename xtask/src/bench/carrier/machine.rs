//! A guest with every carrier, and the traffic program as its only process.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Accel;
use super::carriers::Vsock;
use crate::bench::lab::free_port;
use crate::image::{Arch, Image};
use crate::traffic::carriers::{PORT, SERIAL_PORT};

/// The guest's context id.
pub(super) const GUEST_CID: u32 = 4711;

/// A disk's sector: the program, which is a disk to the guest, has to fill whole ones.
const SECTOR: u64 = 512;

/// How long programs may take to make their sockets.
const STARTED: Duration = Duration::from_secs(30);

/// A running machine, and what it runs in. Dropping it ends everything.
#[derive(Debug)]
pub(super) struct Machine {
    directory: PathBuf,
    port: u16,
    children: Vec<Child>,
}

impl Machine {
    /// Starts the machine. Its carriers answer when it has booted.
    pub(super) fn boot(image: &Image, program: &Path, accel: Accel, vsock: &Vsock) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("berth-carrier.{}", std::process::id()));
        fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
        let mut machine = Self {
            directory,
            port: free_port()?,
            children: Vec::new(),
        };
        fs::copy(program, machine.path("program")).context("copy the program")?;
        let disk = OpenOptions::new()
            .write(true)
            .open(machine.path("program"))
            .context("open the program's copy")?;
        let length = disk.metadata().context("measure the program")?.len();
        disk.set_len(length.next_multiple_of(SECTOR))
            .context("fill the last sector")?;
        if let Vsock::Program(program) = vsock {
            let options = format!(
                "guest-cid={GUEST_CID},socket={},uds-path={}",
                machine.path("vhost.sock").display(),
                machine.vsock_socket().display()
            );
            machine.start(Command::new(program).args(["--vm", &options]), "vhost.sock")?;
        }
        let arguments = machine.arguments(image, accel, vsock)?;
        let qemu = format!("qemu-system-{}", Arch::native()?.name());
        machine.start(Command::new(qemu).args(arguments), "serial.sock")?;
        Ok(machine)
    }

    /// The host's end of the virtio-serial port.
    pub(super) fn serial_socket(&self) -> PathBuf {
        self.path("serial.sock")
    }

    /// The host's end of a vsock device that is a process.
    pub(super) fn vsock_socket(&self) -> PathBuf {
        self.path("vsock.sock")
    }

    /// Port on 127.0.0.1 that leads to the guest's TCP port.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What the guest has said last, for errors.
    pub(super) fn last_words(&self) -> String {
        let console = fs::read(self.path("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&console);
        let lines: Vec<_> = text.lines().rev().take(10).map(str::escape_debug).collect();
        let lines = lines.into_iter().rev().map(|line| line.to_string());
        lines.collect::<Vec<_>>().join("\n")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Starts a program and waits for its socket.
    fn start(&mut self, command: &mut Command, socket: &str) -> Result<()> {
        let log = File::create(self.path("log")).context("create a log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("duplicate a descriptor")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        self.children.push(child);
        let socket = self.path(socket);
        let deadline = Instant::now() + STARTED;
        while !socket.exists() {
            let child = self.children.last_mut().context("it was just started")?;
            if let Some(status) = child.try_wait().context("look at a child")? {
                let said = fs::read_to_string(self.path("log")).unwrap_or_default();
                bail!(
                    "{} ended: {status}\n{said}",
                    command.get_program().display()
                );
            }
            if Instant::now() > deadline {
                bail!("{} was not made in time", socket.display());
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn arguments(&self, image: &Image, accel: Accel, vsock: &Vsock) -> Result<Vec<String>> {
        let arch = Arch::native()?;
        let machine = match arch {
            Arch::X86_64 => "q35",
            Arch::Aarch64 => "virt,gic-version=max",
        };
        let (accel, processor) = match accel {
            Accel::Tcg => ("tcg,thread=multi,tb-size=512", "max"),
            Accel::Kvm => ("kvm", "host"),
        };
        let file = |name: &str| image.dir().join(name).display().to_string();
        let ours = |name: &str| self.path(name).display().to_string();
        // The first process copies the program off its disk and becomes it.
        let first = "init=/bin/sh -- -c \"cp /dev/vdb /program; chmod 755 /program; exec /program traffic carriers\"";
        let mut words: Vec<String> = vec![
            "-nodefaults -no-user-config -display none -smp 2 -m 512".to_owned(),
            format!("-machine {machine},memory-backend=memory -accel {accel} -cpu {processor}"),
            "-object memory-backend-memfd,id=memory,size=512M,share=on".to_owned(),
            format!("-kernel {} -initrd {}", file("kernel"), file("initrd")),
            format!("-serial file:{}", ours("console")),
            format!(
                "-drive file={},format=raw,if=virtio,snapshot=on",
                file("disk.raw")
            ),
            format!(
                "-drive file={},format=raw,if=virtio,readonly=on",
                ours("program")
            ),
            format!(
                "-chardev socket,id=serial,path={},server=on,wait=off",
                ours("serial.sock")
            ),
            format!(
                "-device virtio-serial-pci -device virtserialport,chardev=serial,name={SERIAL_PORT}"
            ),
            format!(
                "-netdev user,id=net,hostfwd=tcp:127.0.0.1:{}-:{PORT}",
                self.port
            ),
            "-device virtio-net-pci,netdev=net".to_owned(),
        ];
        match vsock {
            Vsock::None => {}
            Vsock::Kernel => words.push(format!("-device vhost-vsock-pci,guest-cid={GUEST_CID}")),
            Vsock::Program(_) => words.push(format!(
                "-chardev socket,id=vsock,path={} -device vhost-user-vsock-pci,chardev=vsock",
                ours("vhost.sock")
            )),
        }
        let mut arguments: Vec<String> = words
            .iter()
            .flat_map(|words| words.split(' ').map(str::to_owned))
            .collect();
        arguments.push("-append".to_owned());
        arguments.push(format!("{} {first}", arch.kernel_command_line()));
        Ok(arguments)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("could not remove {}: {error}", self.directory.display());
        }
    }
}
