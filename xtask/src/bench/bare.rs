//! The other side: the same guest on the same machine, with nothing but a user and a key.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::json;

use super::console::{Console, stage};
use super::instance::Instance;
use super::lab::{Lab, free_port};
use super::login::Door;
use super::monitor::Monitor;
use crate::program::Program;

/// The guest's user.
const USER: &str = "bench";

/// A disk and a seed, and how berth would run them.
#[derive(Debug)]
pub(super) struct Bare<'a> {
    lab: &'a Lab,
    directory: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    original: PathBuf,
    key: PathBuf,
}

/// A boot, counted from the start of the machine's program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Booted {
    /// sshd has said who it is.
    pub(super) banner: Duration,
    /// sshd has accepted a login.
    pub(super) login: Duration,
    /// systemd has started everything.
    pub(super) multi_user: Duration,
    /// cloud-init is done.
    pub(super) cloud_init: Duration,
}

impl<'a> Bare<'a> {
    /// Takes the machine of a running instance, and a fresh disk of the same image.
    pub(super) fn like(instance: &Instance<'a>) -> Result<Self> {
        let lab = instance.lab();
        let vm = instance.vm()?;
        let program = format!("/proc/{}/exe", vm.pid());
        let bare = Self {
            lab,
            directory: lab.make_directory("bare")?,
            program: fs::read_link(&program).with_context(|| format!("read {program}"))?,
            arguments: vm.arguments()?,
            original: instance.directory(),
            key: instance.key(),
        };
        bare.copy_files()?;
        bare.write_seed()?;
        Ok(bare)
    }

    /// What the arguments name; the disk comes from the image, as large as the instance's.
    fn copy_files(&self) -> Result<()> {
        for name in ["kernel", "initrd", "qemu-efi-vars.fd", "qemu-efi-code.fd"] {
            let from = self.original.join(name);
            if from.exists() {
                fs::copy(&from, self.directory.join(name))
                    .with_context(|| format!("copy {}", from.display()))?;
            }
        }
        let disk = self.directory.join("disk");
        Program::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .args([&self.lab.image().dir().join("disk.raw"), &disk])
            .run()?;
        let size = fs::metadata(self.original.join("disk"))
            .context("look at the instance's disk")?
            .len();
        let resize = || {
            fs::OpenOptions::new()
                .write(true)
                .open(&disk)?
                .set_len(size)
        };
        resize().with_context(|| format!("resize {}", disk.display()))
    }

    /// A NoCloud volume: user and key, nothing else.
    fn write_seed(&self) -> Result<()> {
        let key = self.key.with_extension("pub");
        let key = fs::read_to_string(&key).with_context(|| format!("read {}", key.display()))?;
        let seed = self.lab.make_directory("seed")?;
        let user = json!({ "users": [{ "name": USER, "ssh_authorized_keys": [key.trim()] }] });
        for (name, text) in [
            ("user-data", format!("#cloud-config\n{user}\n")),
            (
                "meta-data",
                "instance-id: bare\nlocal-hostname: bare\n".to_owned(),
            ),
        ] {
            fs::write(seed.join(name), text).with_context(|| format!("write {name}"))?;
        }
        Program::new("genisoimage")
            .args(["-quiet", "-volid", "cidata", "-joliet", "-rock", "-output"])
            .args([&self.directory.join("cidata.iso"), &seed])
            .read()
            .context("make the seed (package genisoimage)")?;
        Ok(())
    }

    /// Boots until nothing happens in the guest any more.
    pub(super) fn boot(&self) -> Result<(Machine, Booted)> {
        let mut console = Console::follow(&self.directory, &["serial.log"])?;
        let port = free_port()?;
        let log = self.directory.join("stderr.log");
        let arguments = bare_arguments(&self.arguments, &self.original, &self.directory, port)?;
        let errors = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let begin = Instant::now();
        let child = self
            .lab
            .command(&self.program)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        let monitor = self.directory.join("qmp.sock");
        let mut machine = Machine { child, monitor };
        let door = Door {
            port,
            user: USER.to_owned(),
            key: self.key.clone(),
        };
        let limit = self.lab.machine.boot_limit();
        let opened = door
            .wait_until_open(limit)
            .with_context(|| machine.state(&log))?;
        let mut after = |text: &str| Ok::<_, anyhow::Error>(console.moment(text, limit)? - begin);
        let booted = Booted {
            banner: opened.banner - begin,
            login: opened.login - begin,
            multi_user: after(stage::MULTI_USER)?,
            cloud_init: after(stage::CLOUD_INIT)?,
        };
        Ok((machine, booted))
    }
}

/// A machine that runs. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Machine {
    child: Child,
    monitor: PathBuf,
}

impl Machine {
    /// Presses the power button and waits until the process has ended.
    pub(super) fn power_off(mut self, limit: Duration) -> Result<Duration> {
        let mut monitor = Monitor::open(&self.monitor)?;
        let begin = Instant::now();
        monitor.execute("system_powerdown")?;
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pidfd_open(pid.context("a child has a pid")?, PidfdFlags::empty())?;
        let wait = Timespec::try_from(limit).context("a wait of minutes")?;
        let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&wait))?;
        let took = begin.elapsed();
        if ended == 0 {
            bail!(
                "the bare guest did not power itself off within {} s",
                limit.as_secs()
            );
        }
        self.child.wait().context("wait for the machine")?;
        Ok(took)
    }

    fn state(&mut self, log: &Path) -> String {
        let said = fs::read_to_string(log).unwrap_or_default();
        match self.child.try_wait() {
            Ok(Some(status)) => format!("the bare machine ended ({status}): {}", said.trim_end()),
            _ => "the bare guest cannot be reached".to_owned(),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// berth's arguments for files in another directory, without the agent's port, and with a way to sshd from the beginning.
fn bare_arguments(words: &[String], from: &Path, to: &Path, port: u16) -> Result<Vec<String>> {
    let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
    let ports: Vec<&String> = words
        .iter()
        .filter(|word| word.starts_with("virtserialport,"))
        .collect();
    let chardevs: Vec<&str> = ports
        .iter()
        .filter_map(|port| part(port, "chardev="))
        .collect();
    let buses: Vec<&str> = ports
        .iter()
        .filter_map(|port| part(port, "bus=")?.split('.').next())
        .collect();
    let is_agents = |word: &String| {
        let id = part(word, "id=").unwrap_or_default();
        ports.contains(&word) || chardevs.contains(&id) || buses.contains(&id)
    };
    let mut arguments = Vec::new();
    let mut forwards = 0;
    for word in words {
        if is_agents(word) {
            // With its option.
            arguments.pop();
        } else if word.starts_with("user,") {
            forwards += 1;
            arguments.push(format!("{word},hostfwd=tcp:127.0.0.1:{port}-:22"));
        } else {
            arguments.push(word.replace(from.as_ref(), &to));
        }
    }
    if forwards != 1 {
        bail!("berth's machine has {forwards} user networks, not one");
    }
    Ok(arguments)
}

/// The value of a key in an argument of the form `driver,key=value,…`.
fn part<'a>(word: &'a str, key: &str) -> Option<&'a str> {
    word.split(',').find_map(|part| part.strip_prefix(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bare_machine_has_no_agent_port_but_a_way_in() {
        let words: Vec<String> = "-m 1024 -drive file=/h/i/disk,format=raw,id=boot-disk -netdev user,id=net0 \
            -chardev socket,id=char-serial,path=/h/i/serial.sock -serial chardev:char-serial \
            -device virtio-serial-pci,id=virtio-serial0,max_ports=1 -device virtconsole,chardev=char-x,id=console0 \
            -chardev socket,id=char-agent,path=/h/i/ga-link.sock -device virtio-serial-pci,id=virtio-serial1,max_ports=2 \
            -device virtserialport,id=agent-port,bus=virtio-serial1.0,chardev=char-agent,name=x -pidfile /h/i/qemu.pid"
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        let bare = bare_arguments(&words, Path::new("/h/i"), Path::new("/b"), 7).unwrap();
        assert_eq!(
            bare.join(" "),
            "-m 1024 -drive file=/b/disk,format=raw,id=boot-disk \
             -netdev user,id=net0,hostfwd=tcp:127.0.0.1:7-:22 \
             -chardev socket,id=char-serial,path=/b/serial.sock -serial chardev:char-serial \
             -device virtio-serial-pci,id=virtio-serial0,max_ports=1 -device virtconsole,chardev=char-x,id=console0 \
             -pidfile /b/qemu.pid"
        );
        assert!(bare_arguments(&["-m".to_owned()], Path::new("/h"), Path::new("/b"), 7).is_err());
    }
}
