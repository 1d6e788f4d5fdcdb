//! What all Unixes share: accounts, descriptors, and replacing this process by another program.
#![allow(unsafe_code, reason = "getpwuid_r has no safe form")]

use std::ffi::{CStr, OsStr};
use std::fs::{File, TryLockError};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::ptr;

use tokio::signal::unix::{SignalKind, signal};

use super::Account;

/// Numeric id of the user.
pub(crate) fn user_id() -> u32 {
    rustix::process::getuid().as_raw()
}

/// Host name, up to its first zero byte.
pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Asks the system's account database about this user; `None` when it knows nothing.
pub(crate) fn account() -> Option<Account> {
    let mut buffer = vec![0_u8; 16 * 1024];
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut found: *mut libc::passwd = ptr::null_mut();
    // SAFETY: `entry` and `found` are writable, and the buffer is writable for the length given with it.
    let failed = unsafe {
        libc::getpwuid_r(
            user_id(),
            entry.as_mut_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            &raw mut found,
        )
    };
    if failed != 0 || found.is_null() {
        return None;
    }
    // SAFETY: getpwuid_r succeeded and `found` points at `entry`, which it has filled in.
    let entry = unsafe { entry.assume_init() };
    Some(Account {
        name: text(entry.pw_name)?.to_string_lossy().into_owned(),
        comment: text(entry.pw_gecos).map_or_else(String::new, |comment| full_name(&comment)),
        home: PathBuf::from(text(entry.pw_dir)?),
    })
}

/// Copies out one string of an account.
fn text(pointer: *const libc::c_char) -> Option<std::ffi::OsString> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: a non-null field of an account points at a string with a zero byte at its end, inside the caller's buffer.
    let text = unsafe { CStr::from_ptr(pointer) };
    Some(OsStr::from_bytes(text.to_bytes()).to_owned())
}

/// The first of the comma-separated parts is the name.
fn full_name(comment: &OsStr) -> String {
    let comment = comment.to_string_lossy();
    comment.split(',').next().unwrap_or_default().to_owned()
}

/// Becomes another program. Returns only when that failed.
pub(crate) fn become_program(command: &mut Command) -> io::Result<ExitCode> {
    Err(command.exec())
}

/// A second handle of standard output, for the one who writes events to it.
pub(crate) fn standard_output() -> io::Result<OwnedFd> {
    io::stdout().as_fd().try_clone_to_owned()
}

/// Columns of the terminal on standard output, or nothing when it is none.
pub(crate) fn terminal_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Takes over the signals that ask this program to end, and returns what waits for the first of them.
pub(crate) fn wait_for_interrupt() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

/// Keeps others out of a directory until dropped.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _directory: File,
}

/// Locks a directory, and waits until nobody else has it locked; `waiting` is called before a wait.
pub(crate) fn lock_directory(path: &Path, waiting: impl FnOnce()) -> io::Result<DirectoryLock> {
    let directory = File::open(path)?;
    match directory.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            waiting();
            directory.lock()?;
        }
        Err(TryLockError::Error(why)) => return Err(why),
    }
    Ok(DirectoryLock {
        _directory: directory,
    })
}
