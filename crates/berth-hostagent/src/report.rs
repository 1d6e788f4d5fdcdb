//! What to tell a person when a guest does not become ready: how far it came, and its last words.

use std::fmt::Write as _;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use berth_process::escape::escape_untrusted;

use crate::guest::GuestView;

/// How much of the console is looked at, and how many lines of it are shown.
const CONSOLE_BYTES: u64 = 8 * 1024;
const CONSOLE_LINES: usize = 8;

/// Everything known about a guest that is late.
#[derive(Debug)]
pub(crate) struct Evidence<'a> {
    /// Whether the VM process is alive.
    pub vm_alive: bool,
    /// Serial console log.
    pub serial_log: PathBuf,
    /// Where sshd should be on the host.
    pub ssh: Option<SocketAddr>,
    /// How far SSH came, e.g. `connection refused`, `banner SSH-2.0-OpenSSH_9.2`, `permission denied`.
    pub ssh_stage: Option<String>,
    /// What the guest agent said; `None` when the guest has no agent of ours.
    pub guest: Option<&'a GuestView>,
}

impl Evidence<'_> {
    /// Several lines: VM, agent, SSH, console, and what to do.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        let mut line = |label: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n  {label}: {value}");
        };
        line(
            "VM",
            if self.vm_alive {
                "running".into()
            } else {
                "gone".into()
            },
        );
        match self.guest {
            None => line("guest agent", "none in this guest".into()),
            Some(view) if !view.seen => line("guest agent", "never answered the hello".into()),
            Some(view) => {
                let stage = view.furthest().unwrap_or("none");
                let session = if view.connected {
                    "connected"
                } else {
                    "connection lost"
                };
                line("guest agent", format!("{session}, last stage: {stage}"));
            }
        }
        if let Some(address) = self.ssh {
            let stage = self.ssh_stage.as_deref().unwrap_or("not tried");
            line("ssh", format!("{address}: {stage}"));
        }
        let console = last_lines(&self.serial_log);
        if console.is_empty() {
            line("console", format!("{} is empty", self.serial_log.display()));
        } else {
            line(
                "console",
                format!("last lines of {}:", self.serial_log.display()),
            );
            for shown in console {
                let _ = write!(text, "\n    {shown}");
            }
        }
        text
    }
}

/// The last lines of a console log, escaped: the guest writes them.
fn last_lines(path: &Path) -> Vec<String> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(CONSOLE_BYTES)))?;
        file.take(CONSOLE_BYTES).read_to_end(&mut bytes)
    });
    if read.is_err() {
        return Vec::new();
    }
    let lines: Vec<_> = bytes
        .split(|&b| b == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|l| !l.is_empty())
        .collect();
    let skip = lines.len().saturating_sub(CONSOLE_LINES);
    lines[skip..]
        .iter()
        .map(|line| escape_untrusted(line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_guest_is_described_by_how_far_it_came() {
        let dir = tempfile::tempdir().unwrap();
        let serial_log = dir.path().join("serial.log");
        std::fs::write(&serial_log, "one\r\n\r\n\x1b[31mKernel panic\r\n").unwrap();
        let evidence = Evidence {
            vm_alive: true,
            serial_log,
            ssh: Some(([127, 0, 0, 1], 2222).into()),
            ssh_stage: Some("connection refused".into()),
            guest: Some(&GuestView::default()),
        };
        let text = evidence.describe();
        assert!(text.contains("VM: running"), "{text}");
        assert!(text.contains("never answered the hello"), "{text}");
        assert!(
            text.contains("127.0.0.1:2222: connection refused"),
            "{text}"
        );
        assert!(
            text.contains("Kernel panic") && !text.contains('\x1b'),
            "{text}"
        );
    }
}
