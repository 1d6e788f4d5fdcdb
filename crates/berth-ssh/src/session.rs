//! One instance's sshd: where it is, and the ways to call `ssh` for it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use berth_process::spawn::Spec;

use crate::options::SshOptions;
use crate::tool::SshTool;

/// Which connection a command uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The `ControlMaster`'s, when there is one, else one of its own.
    Master,
    /// One of its own.
    Own,
}

/// How to reach one instance over SSH. Cheap; holds no connection.
#[derive(Debug, Clone)]
pub struct Session {
    tool: SshTool,
    options: SshOptions,
    control_path: Option<PathBuf>,
    address: SocketAddr,
}

impl Session {
    /// Describes an instance's sshd. `control_path` is the `ControlMaster`'s socket; `None` on hosts whose OpenSSH has none.
    #[must_use]
    pub fn new(
        tool: SshTool,
        options: SshOptions,
        control_path: Option<PathBuf>,
        address: SocketAddr,
    ) -> Self {
        let options = match control_path {
            Some(_) => options,
            None => options.without_control(),
        };
        Self {
            tool,
            options,
            control_path,
            address,
        }
    }

    /// Where sshd is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The `ControlMaster`'s socket.
    #[must_use]
    pub fn control_path(&self) -> Option<&Path> {
        self.control_path.as_deref()
    }

    /// The `ssh` that is called.
    pub(crate) fn tool(&self) -> &SshTool {
        &self.tool
    }

    /// The instance's options.
    pub(crate) fn options(&self) -> &SshOptions {
        &self.options
    }

    /// A command line up to and with the address; what follows is run in the guest.
    #[must_use]
    pub fn command(&self, via: Via) -> Spec {
        let options = match (via, &self.control_path) {
            (Via::Master, Some(_)) => self.options.attached(),
            (Via::Own, _) | (_, None) => self.options.without_master(),
        };
        self.with(&options, &[])
    }

    /// A command line for the `ControlMaster`'s own process, or for a request to it (`-O …`).
    pub(crate) fn control(&self, args: &[&str]) -> Spec {
        self.with(&self.options.attached(), args)
    }

    /// A command line that becomes the `ControlMaster`. Earlier options win, so `first` overrides the instance's.
    pub(crate) fn become_master(&self, first: &[(&str, &str)]) -> Spec {
        let first = first.iter().map(|(key, value)| format!("-o{key}={value}"));
        let first: Vec<String> = first.collect();
        let first: Vec<&str> = first.iter().map(String::as_str).collect();
        self.with(&self.options, &first)
    }

    fn with(&self, options: &SshOptions, args: &[&str]) -> Spec {
        self.tool
            .command()
            .args(args)
            .args(options.args())
            .arg("-p")
            .arg(self.address.port().to_string())
            .arg(self.address.ip().to_string())
    }
}
