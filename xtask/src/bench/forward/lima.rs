//! Lima's host agent beside ours, on the same kind of guest. It refuses root, so it runs as a user that is made for it.
//!
//! The native-speed guest needs root. So that Lima can start it and reach its sockets, its processes keep some of
//! root's capabilities under the other user's id, and a script in place of QEMU takes root's id again.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::bench::lab::Lab;
use crate::image::Arch;
use crate::program::Program;

const USER: &str = "berth-bench";

/// To become root again, and to deal with root's files and processes.
const CAPABILITIES: &str = "+chown,+dac_override,+fowner,+kill,+setgid,+setuid";

/// Lima's two forwarders, which are an instance each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Forwarder {
    /// Through its guest agent.
    Grpc,
    /// One `ssh -O forward` for each port.
    Ssh,
}

/// An installation of Lima, and its home. Dropping it stops the instances and removes the user.
#[derive(Debug)]
pub(in crate::bench) struct Lima<'a> {
    lab: &'a Lab,
    program: PathBuf,
    home: PathBuf,
    /// What its processes find as `/etc/resolv.conf`.
    resolv_conf: Option<PathBuf>,
    started: Vec<Forwarder>,
}

impl<'a> Lima<'a> {
    /// Takes the `limactl` that LIMACTL names, if it names one.
    pub(in crate::bench) fn find(lab: &'a Lab) -> Result<Option<Self>> {
        let Some(program) = std::env::var_os("LIMACTL").filter(|path| !path.is_empty()) else {
            return Ok(None);
        };
        let program = std::path::absolute(program).context("understand LIMACTL")?;
        let home = lab.make_directory("lima")?;
        if !Program::new("id").arg(USER).succeeds() {
            Program::new("useradd")
                .args(["--create-home", "--shell", "/bin/sh", USER])
                .run()?;
        }
        let lima = Self {
            lab,
            program,
            home,
            resolv_conf: None,
            started: Vec::new(),
        };
        Program::new("chown").arg(USER).arg(&lima.home).run()?;
        lima.write_machine()?;
        Ok(Some(lima))
    }

    /// Gives it other name servers than the machine's: it knows one place to look for them.
    pub(in crate::bench) fn set_resolv_conf(&mut self, path: PathBuf) {
        self.resolv_conf = Some(path);
    }

    /// What `limactl --version` says.
    pub(in crate::bench) fn version(&self) -> Result<String> {
        let text = self.limactl(Forwarder::Grpc, &["--version"]).read()?;
        Ok(text.trim().to_owned())
    }

    /// Starts an instance with this forwarder, and returns its directory.
    pub(in crate::bench) fn start(&mut self, forwarder: Forwarder) -> Result<PathBuf> {
        let template = self.lab.image().template();
        let template = template.to_str().context("the image has a name in UTF-8")?;
        self.started.push(forwarder);
        let directory = self.home.join(forwarder.instance());
        let words = ["start", "--name", forwarder.instance(), template];
        self.limactl(forwarder, &words).read().with_context(|| {
            let log = fs::read_to_string(directory.join("ha.stderr.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(20).collect();
            let lines = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
            format!("{lines}\nthese are the last words of Lima's host agent")
        })?;
        Ok(directory)
    }

    /// In place of QEMU: the stand-in, as root again.
    fn write_machine(&self) -> Result<()> {
        let path = self.machine();
        let testguest = self.lab.testguest();
        let rootfs = self.lab.image().rootfs()?;
        let script = format!(
            "#!/bin/sh\nexport BERTH_TESTGUEST_ROOTFS='{}'\n\
             exec setpriv --reuid=0 --regid=0 --clear-groups '{}' \"$@\"\n",
            rootfs.display(),
            testguest.display()
        );
        fs::write(&path, script)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("write {}", path.display()))
    }

    fn machine(&self) -> PathBuf {
        self.home.with_file_name("lima-machine")
    }

    fn limactl(&self, forwarder: Forwarder, words: &[&str]) -> Program {
        let arch = Arch::native().map_or("", Arch::name).to_uppercase();
        let variable = |name: &str, value: &Path| format!("{name}={}", value.display());
        let mut program = match &self.resolv_conf {
            None => Program::new("setpriv"),
            Some(path) => Program::new("unshare")
                .args(["--mount", "sh", "-c"])
                .arg(r#"mount --bind "$0" /etc/resolv.conf && exec setpriv "$@""#)
                .arg(path),
        };
        program = program
            .arg(format!("--reuid={USER}"))
            .arg(format!("--regid={USER}"))
            .arg("--init-groups")
            .arg(format!("--inh-caps={CAPABILITIES}"))
            .arg(format!("--ambient-caps={CAPABILITIES}"))
            .args(["env", "-u", "BERTH_GUESTAGENT"])
            .arg(format!("USER={USER}"))
            .arg(variable("HOME", Path::new(&format!("/home/{USER}"))))
            .arg(variable("LIMA_HOME", &self.home))
            .arg(variable(&format!("QEMU_SYSTEM_{arch}"), &self.machine()));
        if forwarder == Forwarder::Ssh {
            program = program.arg("LIMA_SSH_PORT_FORWARDER=true");
        }
        program.arg(&self.program).arg("--tty=false").args(words)
    }
}

impl Drop for Lima<'_> {
    fn drop(&mut self) {
        for forwarder in &self.started {
            let words = ["stop", "--force", forwarder.instance()];
            if let Err(error) = self.limactl(*forwarder, &words).read() {
                eprintln!("an instance of Lima still runs: {error:#}");
            }
        }
        if let Err(error) = Program::new("userdel").args(["--remove", USER]).read() {
            eprintln!("the user {USER} is left behind: {error:#}");
        }
    }
}

impl Forwarder {
    fn instance(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Ssh => "ssh",
        }
    }

    /// For the head of its column.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "Lima, gRPC",
            Self::Ssh => "Lima, SSH",
        }
    }
}
