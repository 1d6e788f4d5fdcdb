//! Process handles. Type-checked in CI, run by hand.
#![allow(unsafe_code, reason = "the Windows API has no safe form")]

use std::convert::Infallible;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::os::windows::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use windows_sys::Win32::Foundation::{
    ERROR_INVALID_PARAMETER, FILETIME, HANDLE, STILL_ACTIVE, WAIT_OBJECT_0,
};
use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, GenerateConsoleCtrlEvent};
use windows_sys::Win32::System::Threading::{
    CREATE_NEW_PROCESS_GROUP, DETACHED_PROCESS, GetExitCodeProcess, GetProcessTimes, INFINITE,
    OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE, PROCESS_TERMINATE,
    TerminateProcess, WaitForSingleObject,
};

use super::Seen;
use crate::exit::{Exit, Signal};
use crate::spawn::Grouping;

/// Handles are not inherited one by one here.
pub(crate) type InheritedFd = Infallible;

/// The exit code that a process ended by `TerminateProcess` is given.
const TERMINATED: u32 = 1;

fn open(pid: u32) -> io::Result<OwnedHandle> {
    let rights = PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE | PROCESS_TERMINATE;
    // SAFETY: takes numbers only.
    let handle = unsafe { OpenProcess(rights, 0, pid) };
    if handle.is_null() {
        let why = io::Error::last_os_error();
        let none = why.raw_os_error() == i32::try_from(ERROR_INVALID_PARAMETER).ok();
        return Err(if none {
            io::ErrorKind::NotFound.into()
        } else {
            why
        });
    }
    // SAFETY: the handle was just opened and belongs to nobody else.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle.cast()) })
}

fn raw(handle: &OwnedHandle) -> HANDLE {
    handle.as_raw_handle().cast()
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn exit_code(handle: &OwnedHandle) -> io::Result<u32> {
    let mut code = 0;
    // SAFETY: the handle is open and `code` is writable.
    check(unsafe { GetExitCodeProcess(raw(handle), &raw mut code) })?;
    Ok(code)
}

/// Reads the creation time, in 100 ns since 1601.
pub(crate) fn look_at(pid: u32) -> io::Result<Seen> {
    let handle = open(pid)?;
    let mut times = [FILETIME {
        dwLowDateTime: 0,
        dwHighDateTime: 0,
    }; 4];
    let [created, exited, kernel, user] = &mut times;
    // SAFETY: the handle is open and the four times are writable.
    check(unsafe { GetProcessTimes(raw(&handle), created, exited, kernel, user) })?;
    let start_time = u64::from(created.dwHighDateTime) << 32 | u64::from(created.dwLowDateTime);
    let running = i32::try_from(exit_code(&handle)?) == Ok(STILL_ACTIVE);
    Ok(Seen {
        start_time,
        running,
    })
}

/// Nothing: creation times are absolute, so that pid and time are enough.
#[allow(clippy::unnecessary_wraps, reason = "fails on the other systems")]
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(String::new())
}

/// One process, held so that another with its pid is never taken for it.
#[derive(Debug)]
pub(crate) struct Handle {
    pid: u32,
    process: Arc<OwnedHandle>,
}

impl Handle {
    /// Takes hold of a process; an error of kind `NotFound` when there is none.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        Ok(Self {
            pid,
            process: Arc::new(open(pid)?),
        })
    }

    /// Waits for the end.
    pub(crate) async fn end(&self) -> io::Result<Exit> {
        let process = Arc::clone(&self.process);
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread of its own, not the runtime's blocking pool: that one would hold the runtime back until the process ends.
        std::thread::Builder::new()
            .name("process end".into())
            .spawn(move || {
                // SAFETY: the handle stays open while `process` lives.
                let waited = unsafe { WaitForSingleObject(raw(&process), INFINITE) };
                let result = if waited == WAIT_OBJECT_0 {
                    exit_code(&process).map(|code| Exit::Status(code.cast_signed()))
                } else {
                    Err(io::Error::last_os_error())
                };
                // Nobody listens any more: the runtime has ended.
                let _ = tell.send(result);
            })?;
        told.await.unwrap_or(Ok(Exit::Unknown))
    }

    /// Sends what comes closest to a signal; a process that is gone needs none.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let result = match signal {
            // SAFETY: takes numbers only.
            Signal::Interrupt => unsafe { GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, self.pid) },
            Signal::Terminate | Signal::HangUp | Signal::Kill => {
                // SAFETY: the handle is open.
                unsafe { TerminateProcess(raw(&self.process), TERMINATED) }
            }
        };
        match check(result) {
            Err(_) if i32::try_from(exit_code(&self.process)?) != Ok(STILL_ACTIVE) => Ok(()),
            other => other,
        }
    }
}

/// Not done here: the file is rewritten instead.
pub(crate) fn drop_beginning(_file: &File, _bytes: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Says when a file was written to: never, here. Stderr logs are cut when the child has ended.
#[derive(Debug)]
pub(crate) struct Growth;

impl Growth {
    /// Watches nothing.
    #[allow(clippy::unnecessary_wraps, reason = "fails on the other systems")]
    pub(crate) fn watch(_path: &Path) -> io::Result<Self> {
        Ok(Self)
    }

    /// Waits for ever.
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        std::future::pending().await
    }
}

/// Arranges session and group of a child that is about to be started.
pub(crate) fn set_up(command: &mut Command, grouping: Grouping, _inherited: Vec<InheritedFd>) {
    let flags = match grouping {
        Grouping::Ours => return,
        Grouping::NewGroup => CREATE_NEW_PROCESS_GROUP,
        Grouping::NewSession => CREATE_NEW_PROCESS_GROUP | DETACHED_PROCESS,
    };
    command.creation_flags(flags);
}

/// The space that a file takes: its length.
pub(crate) fn space_taken(metadata: &Metadata) -> u64 {
    metadata.len()
}

/// Modes do not exist here.
pub(crate) fn open_mode(options: &mut OpenOptions, _mode: u32) -> &mut OpenOptions {
    options
}

/// There is no such limit.
#[allow(clippy::unnecessary_wraps, reason = "fails on the other systems")]
pub(crate) fn raise_open_files() -> io::Result<Option<u64>> {
    Ok(None)
}
