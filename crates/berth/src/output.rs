//! Standard output, which is for results only.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;

/// Prints a result. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn print(text: &str) -> anyhow::Result<ExitCode> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(why) if why.kind() != io::ErrorKind::BrokenPipe => {
            Err(why).context("cannot write to standard output")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
