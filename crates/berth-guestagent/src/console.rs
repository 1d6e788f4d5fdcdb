//! The guest's console: the one line there that tells when a boot was over.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Where lines for whoever watches the guest boot go.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    /// In order of preference: the console itself; else the kernel's log, which a quiet kernel does not show.
    devices: Vec<PathBuf>,
}

impl Console {
    /// The guest's own.
    pub(crate) fn of_guest() -> Self {
        Self {
            devices: vec!["/dev/console".into(), "/dev/kmsg".into()],
        }
    }

    /// No console at all.
    pub(crate) fn none() -> Self {
        Self {
            devices: Vec::new(),
        }
    }

    /// Prints a line, as far as a console takes it: without waiting, and without an error.
    pub(crate) fn print(&self, line: &str) {
        let text = format!("{line}\n");
        let _ = self
            .devices
            .iter()
            .find(|device| write(device, &text).is_ok());
    }
}

fn write(device: &Path, text: &str) -> io::Result<()> {
    let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
    let mut device = OpenOptions::new()
        .append(true)
        .custom_flags(flags.bits().cast_signed())
        .open(device)?;
    device.write_all(text.as_bytes())
}

#[cfg(test)]
impl Console {
    /// A file in place of a device.
    pub(crate) fn to(file: &Path) -> Self {
        Self {
            devices: vec![file.to_path_buf()],
        }
    }
}
