//! The same work in a guest: two shares of one instance, one served by berth, one by OpenSSH's server. Both come through the
//! agents and the guest's own `sshfs`. A mount lives as long as the guest, so each measurement has files of its own, with new names.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, UnmountFlags};

use super::work::Ground;
use super::{MountArgs, Part};
use crate::bench::instance::Instance;
use crate::bench::lab::{Lab, Machine, describe_machine, load};
use crate::bench::stats::{Goal, Samples};
use crate::binaries::Binaries;
use crate::workspace::Workspace;

/// Names of the sides, which are also those of their directories, and the word of `sftpDriver`.
const SIDES: [(&str, &str); 2] = [("berth", "builtin"), ("OpenSSH", "openssh-sftp-server")];

/// Where the program and the archive lie in the guest.
const PROGRAM: &str = "/tmp/berth-work";
const ARCHIVE: &str = "/tmp/berth-archive.tar";

/// Measures and prints.
pub(super) fn run(workspace: &Workspace, args: &MountArgs, ground: &Ground) -> Result<()> {
    let mut lab = Lab::set_up(workspace, &args.lab, Machine::Native)?;
    let program = Binaries::traffic(workspace)?;
    let system = System::with_programs(&lab)?;
    lab.set("BERTH_TESTGUEST_ROOTFS", system.0.clone());
    let template = write_template(&lab, ground)?;
    println!("bench: start berth's instance");
    let instance = Instance::create_from(&lab, &template)?;
    let guest = Guest(instance.directory().join("ssh.config"));
    guest.install(&program, PROGRAM)?;
    guest.install(ground.work().archive(), ARCHIVE)?;
    println!("{}; load {}", describe_machine(), load());
    for part in args.parts() {
        let samples = measure(part, args, ground, &guest)?;
        print(part, &samples);
    }
    println!("load at the end {}", load());
    instance.stop()?;
    Ok(())
}

/// The image's own template, with the two shares in place of what it says of mounts.
fn write_template(lab: &Lab, ground: &Ground) -> Result<PathBuf> {
    let of_image = lab.image().template();
    let text =
        fs::read_to_string(&of_image).with_context(|| format!("read {}", of_image.display()))?;
    let lines = text.lines().filter(|line| !line.starts_with("mount"));
    let mut text = lines.collect::<Vec<_>>().join("\n");
    text.push_str("\nmountType: reverse-sshfs\nmounts:\n");
    for (name, driver) in SIDES {
        let share = ground.beside(name);
        fs::create_dir(&share).with_context(|| format!("create {}", share.display()))?;
        writeln!(
            text,
            "- {{location: '{}', mountPoint: /mnt/{name}, writable: true, sshfs: {{sftpDriver: {driver}}}}}",
            share.display()
        )?;
    }
    let path = lab.make_directory("template")?.join("mounts.yaml");
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Seconds of each side.
fn measure(part: Part, args: &MountArgs, ground: &Ground, guest: &Guest) -> Result<[Samples; 2]> {
    let mut samples = [Samples::default(), Samples::default()];
    for run in 0..args.runs {
        for turn in 0..SIDES.len() {
            let side = (turn + run as usize) % SIDES.len();
            let (name, _) = SIDES[side];
            let fresh = format!("{}-{run}", part.word());
            let place = ground.beside(name).join(&fresh);
            ground.prepare_in(part, &place)?;
            let work = ground.work().words(ARCHIVE);
            let words = format!("mount {} /mnt/{name}/{fresh} {work}", part.word());
            let took = guest
                .run(&words)
                .with_context(|| format!("{part:?} on {name}"))?;
            samples[side].add(took);
            fs::remove_dir_all(&place).with_context(|| format!("remove {}", place.display()))?;
        }
    }
    Ok(samples)
}

fn print(part: Part, samples: &[Samples; 2]) {
    println!("\n{}", part.word());
    for ((name, _), samples) in SIDES.iter().zip(samples) {
        println!("  {name:<14}{samples}");
    }
    let [ours, theirs] = samples.each_ref().map(Samples::median);
    if let (Some(ours), Some(theirs)) = (ours, theirs) {
        let goal = Goal::at_least(part.goal(), theirs / ours, " x", 2);
        println!("  OpenSSH / berth{:<16}{goal}", "");
    }
}

/// The way into the guest: its `ssh.config`.
struct Guest(PathBuf);

impl Guest {
    fn ssh(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(&self.0).arg("-T").arg("lima-bench");
        ssh
    }

    fn install(&self, file: &Path, to: &str) -> Result<()> {
        let input = File::open(file).with_context(|| format!("open {}", file.display()))?;
        let copy = format!("cat >{to} && chmod 755 {to}");
        let status = self.ssh().arg(copy).stdin(input).status();
        let status = status.context("start `ssh`")?;
        if !status.success() {
            bail!("could not copy {} into the guest: {status}", file.display());
        }
        Ok(())
    }

    /// How long the work took, by the guest's own clock.
    fn run(&self, words: &str) -> Result<Duration> {
        let output = self
            .ssh()
            .arg(format!("exec {PROGRAM} traffic {words}"))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("start `ssh`")?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("the work in the guest failed: {}", output.status);
        }
        let nanoseconds = said.trim().parse();
        let nanoseconds = nanoseconds.with_context(|| format!("the guest answered {said:?}"))?;
        Ok(Duration::from_nanos(nanoseconds))
    }
}

/// The image's system with git and what else only tests need.
struct System(PathBuf);

impl System {
    fn with_programs(lab: &Lab) -> Result<Self> {
        let directory = lab.make_directory("system")?;
        let [root, upper, work] = ["root", "upper", "work"].map(|name| directory.join(name));
        for path in [&root, &upper, &work] {
            fs::create_dir(path).with_context(|| format!("create {}", path.display()))?;
        }
        let options = format!(
            "lowerdir={}:{},upperdir={},workdir={}",
            lab.image().programs()?.display(),
            lab.image().rootfs()?.display(),
            upper.display(),
            work.display()
        );
        let options = CString::new(options)?;
        let options = Some(options.as_c_str());
        rustix::mount::mount("overlay", &root, "overlay", MountFlags::empty(), options)
            .context("mount the guest's system")?;
        Ok(Self(root))
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}
