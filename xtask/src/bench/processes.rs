//! What a process costs, from /proc (proc(5)).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process(u32);

/// What a process, with all its threads, has used up to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    /// Processor time.
    pub(super) processor: Duration,
    /// How often a thread went to sleep by itself, and so was woken up.
    pub(super) wake_ups: u64,
}

impl Process {
    /// The one with this id.
    pub(super) fn of_pid(pid: u32) -> Self {
        Self(pid)
    }

    /// The one that a pid file names.
    pub(super) fn of_pid_file(path: &Path) -> Result<Self> {
        let text = read(path)?;
        let pid = text.trim().parse();
        Ok(Self(pid.with_context(|| {
            format!("{} holds no pid", path.display())
        })?))
    }

    /// OpenSSH's master behind a control socket.
    pub(super) fn of_ssh_master(socket: &Path) -> Result<Self> {
        let output = Command::new("ssh")
            .args(["-F", "/dev/null", "-O", "check", "-S"])
            .arg(socket)
            .arg("any")
            .output()
            .context("start `ssh`")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let pid = said.split_once("pid=").and_then(|(_, rest)| {
            let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next();
            digits?.parse().ok()
        });
        let pid = pid.with_context(|| format!("no ssh master at {}: {said}", socket.display()));
        Ok(Self(pid?))
    }

    /// Its id.
    pub(super) fn pid(self) -> u32 {
        self.0
    }

    /// The first of its descendants whose program has this name, nearest first.
    pub(super) fn descendant(self, name: &str) -> Option<Self> {
        let mut generation = vec![self];
        while !generation.is_empty() {
            generation = generation.into_iter().flat_map(Self::children).collect();
            if let Some(found) = generation.iter().find(|process| process.program_is(name)) {
                return Some(*found);
            }
        }
        None
    }

    /// All descendants whose program has this name.
    pub(super) fn descendants(self, name: &str) -> Vec<Self> {
        let mut all = Vec::new();
        let mut generation = vec![self];
        while !generation.is_empty() {
            generation = generation.into_iter().flat_map(Self::children).collect();
            all.extend(generation.iter().filter(|process| process.program_is(name)));
        }
        all
    }

    fn children(self) -> Vec<Self> {
        let pids = self
            .tasks()
            .into_iter()
            .map(|task| format!("{task}/children"));
        let lists = pids.map(|path| fs::read_to_string(path).unwrap_or_default());
        let parse = |list: String| -> Vec<Self> {
            let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.map(Self).collect()
        };
        lists.flat_map(parse).collect()
    }

    fn program_is(self, name: &str) -> bool {
        let program = fs::read_link(format!("/proc/{}/exe", self.0)).unwrap_or_default();
        // The kernel adds " (deleted)" to the path of a program that was replaced while it ran.
        let file = program.file_name().unwrap_or_default().to_string_lossy();
        file.trim_end_matches(" (deleted)") == name
    }

    /// Directories of its threads; none of a process that is gone.
    fn tasks(self) -> Vec<String> {
        let directory = format!("/proc/{}/task", self.0);
        let Ok(entries) = fs::read_dir(&directory) else {
            return Vec::new();
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        names
            .map(|name| format!("{directory}/{}", name.to_string_lossy()))
            .collect()
    }

    /// Its arguments.
    pub(super) fn arguments(self) -> Result<Vec<String>> {
        let text = read(Path::new(&format!("/proc/{}/cmdline", self.0)))?;
        let words = text.trim_end_matches('\0').split('\0');
        Ok(words.skip(1).map(str::to_owned).collect())
    }

    /// When it was started, since the machine's boot; exact to a tick of the kernel's (10 ms), and never late.
    pub(super) fn started(self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.0);
        let text = read(Path::new(&path))?;
        // The name, which comes second, may hold anything; the start is the 22nd field.
        let fields = text
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace());
        let ticks = fields.and_then(|mut fields| fields.nth(19)?.parse::<u64>().ok());
        let ticks = ticks.with_context(|| format!("{path} holds no start time"))?;
        Ok(Duration::from_millis(
            ticks * 1000 / rustix::param::clock_ticks_per_second(),
        ))
    }

    /// Processor time of all its threads, those that have ended as well; exact to a tick of the kernel's (10 ms).
    pub(super) fn processor(self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.0);
        let text = read(Path::new(&path))?;
        // The name, which comes second, may hold anything; user and system time are the 14th and 15th field.
        let ticks = text.rsplit_once(')').and_then(|(_, rest)| {
            let mut fields = rest.split_whitespace().skip(11);
            let user: u64 = fields.next()?.parse().ok()?;
            Some(user + fields.next()?.parse::<u64>().ok()?)
        });
        let ticks = ticks.with_context(|| format!("{path} holds no times"))?;
        Ok(Duration::from_millis(
            ticks * 1000 / rustix::param::clock_ticks_per_second(),
        ))
    }

    /// How many descriptors it has open.
    pub(super) fn descriptors(self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.0);
        let entries = fs::read_dir(&path).with_context(|| format!("read {path}"))?;
        Ok(entries.count())
    }

    /// Proportional set size: its own memory, and its share of what it shares. In bytes.
    pub(super) fn memory(self) -> Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.0);
        let kibibytes = field(&read(Path::new(&path))?, "Pss:");
        Ok(kibibytes.with_context(|| format!("{path} has no Pss"))? * 1024)
    }

    /// What its threads have used; threads that have ended do not count.
    pub(super) fn usage(self) -> Result<Usage> {
        let mut usage = Usage {
            processor: Duration::ZERO,
            wake_ups: 0,
        };
        for task in self.tasks() {
            let schedule = read(Path::new(&format!("{task}/schedstat")))?;
            let nanoseconds = schedule
                .split(' ')
                .next()
                .and_then(|word| word.parse().ok());
            usage.processor +=
                Duration::from_nanos(nanoseconds.context("schedstat holds no time")?);
            let status = read(Path::new(&format!("{task}/status")))?;
            usage.wake_ups +=
                field(&status, "voluntary_ctxt_switches:").context("status holds no switches")?;
        }
        Ok(usage)
    }
}

/// Time since the machine's boot, as processes' starts are counted.
pub(super) fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).expect("the machine was booted in the past")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_process_is_found_among_our_descendants_and_measured() {
        let mut shell = Command::new("sh")
            .args(["-c", "cat -; true"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut input, mut output) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
        input.write_all(b"!").unwrap();
        // Its answer says that it runs.
        output.read_exact(&mut [0]).unwrap();
        let here = Process(std::process::id());
        let cat = here.descendant("cat").unwrap();
        assert_eq!(cat.arguments().unwrap(), ["-"]);
        assert!(cat.memory().unwrap() > 0);
        assert!(cat.started().unwrap() <= uptime());
        assert!(cat.usage().unwrap().processor > Duration::ZERO);
        assert!(cat.descriptors().unwrap() >= 3);
        assert_eq!(here.descendants("cat"), [cat]);
        assert_eq!(here.descendant("no-such-program"), None);
        drop(input);
        assert!(shell.wait().unwrap().success());
    }

    #[test]
    fn the_field_is_the_one_that_begins_so() {
        let status = "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t3\n";
        assert_eq!(field(status, "voluntary_ctxt_switches:"), Some(3));
        assert_eq!(field(status, "Pss:"), None);
    }
}
