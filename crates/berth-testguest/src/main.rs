//! The native-speed guest: a stand-in for the QEMU binary.
//!
//! It takes QEMU's command line, answers on QEMU's sockets, and instead of a virtual machine boots a Debian system in
//! namespaces: real systemd, cloud-init and sshd, with the kernel and the clock of the host.
//!
//! Two processes: the front, which the host agent knows as QEMU, and one inside the namespaces for each boot, which dies
//! with the front. What is not there: block devices, firmware, a kernel of its own, input on the serial console.

mod answers;
mod arguments;
mod cgroup;
mod forward_rule;
mod inside;
mod machine;
mod network;
mod relay;
mod sys;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use arguments::Request;
use machine::Machine;

/// First argument of the process inside the namespaces.
const INSIDE: &str = "--inside";

/// Names the root file system to boot.
const ROOTFS: &str = "BERTH_TESTGUEST_ROOTFS";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let outcome = match words.first().map(String::as_str) {
        Some(INSIDE) => inside::run(),
        _ => run(&words),
    };
    outcome.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::FAILURE
    })
}

#[allow(
    clippy::print_stdout,
    reason = "the answer to a question on the command line"
)]
fn run(words: &[String]) -> Result<ExitCode> {
    match Request::parse(words)? {
        Request::Version => print!("{}", answers::version()),
        Request::Help(option) => print!("{}", answers::help(&option)),
        Request::Machine(hardware) => {
            if !rustix::process::geteuid().is_root() {
                bail!("needs root: the guest lives in namespaces and on mounts of its own");
            }
            let rootfs = std::env::var_os(ROOTFS).map(PathBuf::from).with_context(|| {
                format!("{ROOTFS} is not set: it names the root file system to boot (`cargo xtask image` makes one)")
            })?;
            return Ok(Machine::start(*hardware, rootfs)?.run());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what went wrong the way QEMU does.
#[allow(
    clippy::print_stderr,
    reason = "where QEMU complains, and its caller listens"
)]
fn complain(error: &anyhow::Error) {
    eprintln!("{}: {error:#}", program_name());
}

/// The name we were called by, as QEMU's errors begin.
fn program_name() -> String {
    let name = std::env::args_os().next().map(PathBuf::from);
    let name = name
        .as_deref()
        .and_then(std::path::Path::file_name)
        .unwrap_or_default();
    name.to_string_lossy().into_owned()
}
