//! How a process ended.

use tokio::sync::watch;

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It ended by itself with this status.
    Status(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// Whether it left a core file.
        core_dumped: bool,
    },
    /// It is gone; how is not ours to know (only a parent is told).
    Unknown,
}

impl Exit {
    /// Whether it ended by itself with status 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Status(0)
    }

    /// The end in words: `exit status 1`, `killed by signal 9 (SIGKILL)`.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Status(status) => format!("exit status {status}"),
            Self::Signal {
                number,
                core_dumped,
            } => {
                let name = signal_name(number)
                    .map(|n| format!(" ({n})"))
                    .unwrap_or_default();
                let core = if core_dumped { ", core dumped" } else { "" };
                format!("killed by signal {number}{name}{core}")
            }
            Self::Unknown => "gone, exit status unknown".to_owned(),
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

/// A signal that this crate sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT; Windows: Ctrl-Break to the process group.
    Interrupt,
    /// SIGTERM; Windows: as [`Signal::Kill`].
    Terminate,
    /// SIGHUP; Windows: as [`Signal::Kill`].
    HangUp,
    /// SIGKILL; Windows: `TerminateProcess`.
    Kill,
}

impl Signal {
    /// The POSIX name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::HangUp => "SIGHUP",
            Self::Kill => "SIGKILL",
        }
    }
}

/// Names of the signals whose numbers are the same on every system that we run on.
fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        _ => return None,
    })
}

/// Waits until a process is gone. A watcher that went away with its runtime gives [`Exit::Unknown`].
pub async fn gone(exit: &mut watch::Receiver<Option<Exit>>) -> Exit {
    match exit.wait_for(Option::is_some).await.map(|exit| *exit) {
        Ok(Some(exit)) => exit,
        _ => Exit::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_described_in_words() {
        assert_eq!(Exit::Status(1).describe(), "exit status 1");
        let killed = Exit::Signal {
            number: 9,
            core_dumped: false,
        };
        assert_eq!(killed.describe(), "killed by signal 9 (SIGKILL)");
        let crashed = Exit::Signal {
            number: 11,
            core_dumped: true,
        };
        assert_eq!(
            crashed.describe(),
            "killed by signal 11 (SIGSEGV), core dumped"
        );
        let odd = Exit::Signal {
            number: 40,
            core_dumped: false,
        };
        assert_eq!(odd.describe(), "killed by signal 40");
    }

    #[tokio::test]
    async fn a_vanished_watcher_is_an_unknown_end() {
        let (sender, mut exit) = watch::channel(None);
        drop(sender);
        assert_eq!(gone(&mut exit).await, Exit::Unknown);
    }
}
