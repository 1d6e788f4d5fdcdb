//! Windows. Type-checked in CI, run by hand.
#![allow(unsafe_code, reason = "GlobalMemoryStatusEx has no safe form")]

use std::io;
use std::os::windows::io::{AsHandle as _, OwnedHandle};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use windows_sys::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX};

use super::Account;

/// Windows users have no number; a guest's first user has this one.
pub(crate) fn user_id() -> u32 {
    1000
}

/// Host name.
pub(crate) fn host_name() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_default()
}

/// This user, as the session's environment describes it.
pub(crate) fn account() -> Option<Account> {
    Some(Account {
        name: std::env::var("USERNAME").ok()?,
        comment: String::new(),
        home: PathBuf::from(std::env::var_os("USERPROFILE")?),
    })
}

/// Memory of the machine in bytes; 0 when unknown.
pub(crate) fn physical_memory() -> u64 {
    let mut status = MEMORYSTATUSEX {
        dwLength: u32::try_from(size_of::<MEMORYSTATUSEX>()).unwrap_or(0),
        ..MEMORYSTATUSEX::default()
    };
    // SAFETY: the structure is writable and says its own length, as the function demands.
    let ok = unsafe { GlobalMemoryStatusEx(&raw mut status) };
    if ok == 0 { 0 } else { status.ullTotalPhys }
}

/// Version of the system; decides nothing on Windows.
pub(crate) fn os_version() -> String {
    String::new()
}

/// An id that stays with the machine, or nothing.
pub(crate) fn machine_id() -> Option<String> {
    None
}

/// Runs another program in this one's place: Windows cannot replace a process, so its exit code is passed on.
pub(crate) fn become_program(command: &mut Command) -> io::Result<ExitCode> {
    let status = command.status()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// A second handle of standard output, for the one who writes events to it.
pub(crate) fn standard_output() -> io::Result<OwnedHandle> {
    io::stdout().as_handle().try_clone_to_owned()
}

/// Columns of the terminal on standard output, or nothing when it is none.
pub(crate) fn terminal_columns() -> Option<usize> {
    None
}

/// Takes over the console events that ask this program to end, and returns what waits for the first of them.
pub(crate) fn wait_for_interrupt() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}

/// Windows locks no directories: two starts at once are told apart by the agent's own lock only.
#[derive(Debug)]
pub(crate) struct DirectoryLock;

/// Locks nothing.
#[allow(
    clippy::unnecessary_wraps,
    reason = "the signature of the other systems"
)]
pub(crate) fn lock_directory(_: &Path, _waiting: impl FnOnce()) -> io::Result<DirectoryLock> {
    Ok(DirectoryLock)
}
