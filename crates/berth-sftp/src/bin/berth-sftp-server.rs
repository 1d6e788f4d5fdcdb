//! A confined SFTP server of its own, on standard input and output: what `sftp -D` and `sshfs -o passive` can speak to.
//! For tests and measurements; the host agent serves its shares itself.

use std::path::PathBuf;
use std::process::ExitCode;

use berth_sftp::{Caller, Share, serve};
use tokio_util::sync::CancellationToken;

const USAGE: &str = "usage: berth-sftp-server [-R] [-L] [-N] DIRECTORY
  -R  read-only
  -L  follow symlinks that stay beneath the directory
  -N  never wait for a disk on the thread that speaks to the client, as in the host agent";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stderr, reason = "it is a program")]
fn complain(error: &dyn std::error::Error) {
    eprint!("berth-sftp-server: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let share = share().ok_or(USAGE)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let (reader, writer) = streams()?;
        serve(share, reader, writer, CancellationToken::new()).await?;
        Ok(())
    })
}

/// What the arguments say.
fn share() -> Option<Share> {
    let mut share = Share::new(PathBuf::new());
    share.writable = true;
    share.caller = Caller::MayBlock;
    for argument in std::env::args_os().skip(1) {
        match argument.to_str() {
            Some("-R") => share.writable = false,
            Some("-L") => share.follow_symlinks = true,
            Some("-N") => share.caller = Caller::MustNotBlock,
            Some(option) if option.starts_with('-') => return None,
            _ if share.directory.as_os_str().is_empty() => share.directory = argument.into(),
            _ => return None,
        }
    }
    (!share.directory.as_os_str().is_empty()).then_some(share)
}

#[cfg(unix)]
fn streams() -> std::io::Result<(
    berth_sftp::descriptors::Reader,
    berth_sftp::descriptors::Writer,
)> {
    use std::os::fd::AsFd as _;

    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    let output = std::io::stdout().as_fd().try_clone_to_owned()?;
    berth_sftp::descriptors::stream(input, output)
}

/// There is no server to use them.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
fn streams() -> std::io::Result<(tokio::io::Stdin, tokio::io::Stdout)> {
    Ok((tokio::io::stdin(), tokio::io::stdout()))
}
