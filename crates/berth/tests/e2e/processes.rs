//! Processes of a test: found by what they carry, watched until they are gone.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{Shutdown, SocketAddrUnix};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal};
use rustix::time::Timespec;

/// How long a process may take to be gone that has been killed, on a busy machine.
const DEATH: Duration = Duration::from_secs(30);

/// A living process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
    command: String,
}

impl Process {
    /// Takes hold of a process; `None` when there is none.
    pub(crate) fn open(pid: u32) -> Option<Self> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        let pidfd = rustix::process::pidfd_open(number, PidfdFlags::empty()).ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        Some(Self {
            pid,
            pidfd,
            command,
        })
    }

    /// The process whose pid is in a file.
    #[track_caller]
    pub(crate) fn of_file(path: &Path) -> Self {
        let text =
            fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        let pid = text
            .strip_suffix('\n')
            .expect("a line feed")
            .parse()
            .expect("a pid");
        Self::open(pid).unwrap_or_else(|| panic!("{} names nobody: {pid}", path.display()))
    }

    /// Sends a signal.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::pidfd_send_signal(&self.pidfd, signal).expect("a living process");
    }

    /// Whether it has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        !self.ends_within(Duration::ZERO)
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn await_end(&self) {
        assert!(
            self.ends_within(DEATH),
            "still there after {DEATH:?}: {} {}",
            self.pid,
            self.command
        );
    }

    /// Its command line, as far as it is known.
    pub(crate) fn command(&self) -> &str {
        &self.command
    }

    /// Breaks its connection to a unix socket, which it notices as if the other end had done it.
    #[track_caller]
    pub(crate) fn shut_down_connection_to(&self, path: &Path) {
        let open = self.descriptors().into_iter().find(|socket| {
            let peer = rustix::net::getpeername(socket).ok().flatten();
            let peer = peer.and_then(|peer| SocketAddrUnix::try_from(peer).ok());
            let peer = peer.and_then(|peer| Some(peer.path_bytes()?.to_owned()));
            peer.is_some_and(|peer| peer == path.as_os_str().as_encoded_bytes())
        });
        let socket = open.unwrap_or_else(|| {
            panic!("{} has no connection to {}", self.command, path.display());
        });
        rustix::net::shutdown(&socket, Shutdown::Both).expect("a connection");
    }

    /// Duplicates of its descriptors.
    fn descriptors(&self) -> Vec<OwnedFd> {
        let numbers = self.descriptor_numbers().into_iter();
        numbers
            .filter_map(|number| {
                rustix::process::pidfd_getfd(&self.pidfd, number, PidfdGetfdFlags::empty()).ok()
            })
            .collect()
    }

    /// The numbers of its descriptors.
    pub(crate) fn descriptor_numbers(&self) -> Vec<i32> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("a living process");
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// Its memory that is nobody else's, in KiB.
    #[track_caller]
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("a process");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        number.and_then(|number| number.parse().ok()).expect("KiB")
    }

    fn ends_within(&self, limit: Duration) -> bool {
        let mut polled = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let limit = Timespec::try_from(limit).expect("seconds");
        let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&limit)));
        ready.expect("a pidfd can be waited for") > 0
    }
}

/// Every process that was started with `text` in its environment, and every process of the guests of `machines` (pids).
pub(crate) fn belonging_to(text: &str, machines: &[u32]) -> Vec<Process> {
    let groups: Vec<String> = machines
        .iter()
        .map(|pid| format!("/berth-testguest.{pid}"))
        .collect();
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| carries(*pid, text) || is_in_group(*pid, &groups))
        .filter_map(Process::open)
        .filter(Process::is_alive)
        .collect()
}

fn carries(pid: u32, text: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    String::from_utf8_lossy(&environment).contains(text)
}

fn is_in_group(pid: u32, groups: &[String]) -> bool {
    let of_process = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let ends = |line: &str, group: &String| {
        line.split_once(group.as_str())
            .is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with('/'))
    };
    of_process
        .lines()
        .any(|line| groups.iter().any(|group| ends(line, group)))
}
